// Package oracle_test asks a kubelet: on one API server it makes every Pod twice, for Gondola's provider on driver/fake and for a real kubelet over a
// container runtime in memory, lets the same things happen to both, and compares the two statuses after each step. A life is a Pod and its steps;
// there is a table of them, and random ones. What the containers do is told them by a stage, which both sides have in common.
//
// A difference is a bug of Gondola until it is shown to be none; those that are left out of the comparison are in normal_test.go by name.
// Not covered: the death of a sandbox, hooks, probes by HTTP, TCP and gRPC, images that cannot be pulled or are changed, resizes, readiness gates,
// volumes, Events.
package oracle_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"gondola"
	"gondola/internal/kube"
	"gondola/internal/kube/kubetest"
)

const inNetns = "GONDOLA_ORACLE_NETNS"

var (
	apiAddress = netip.MustParseAddr("10.99.2.1")
	addresses  = map[side]netip.Addr{gondolas: netip.MustParseAddr("10.99.2.2"), kubelets: netip.MustParseAddr("10.99.2.3")}

	random = flag.Int("lives", 10, "how many random lives there are")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := kubetest.InNetNS(m, apiAddress, addresses[gondolas], addresses[kubelets])
	if h := shared.house; h != nil {
		if err := h.end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// house is a cluster with two nodes: Gondola's, on the fake driver, and a kubelet's.
type house struct {
	*kubetest.Machines
	*kubetest.Cluster
	stage *stage
	pods  *pods

	log        *slog.Logger
	kubeletDir string
}

var shared struct {
	sync.Once
	*house
	err error
}

// theHouse returns the one in which all lives are lived.
func theHouse(t *testing.T) *house {
	t.Helper()
	kubetest.NeedNetNS(t)
	shared.Do(func() { shared.house, shared.err = begin() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.house
}

func begin() (*house, error) {
	level := slog.LevelError + 1
	if os.Getenv("GONDOLA_ORACLE_LOG") != "" {
		level = slog.LevelInfo
	}
	h := &house{stage: newStage(), log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	var err error
	if h.Machines, err = kubetest.StartMachines(kubetest.Options{Total: gondola.Resources{CPUMillis: 1_000_000, MemoryBytes: 1 << 40}, // room for all lives
		Programs: h.stage.programs(), Log: h.log}); err != nil {
		return nil, err
	}
	for _, step := range []func() error{h.cluster, h.namespaces, h.kubelet} {
		if err := step(); err != nil {
			return h, err
		}
	}
	h.pods = watchPods(h.Client, h.Machines.Run)
	return h, nil
}

func (h *house) cluster() (err error) {
	h.Cluster, err = kubetest.Start(kube.Config{Name: "oracle", Dir: filepath.Join(h.Dir, "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: string(gondolas), Region: "fra", Addresses: []netip.Addr{addresses[gondolas]}}},
		Platform: h.Market, Apps: h.Market, Log: h.log})
	return err
}

func (h *house) end() (err error) {
	if h.Cluster != nil {
		err = h.Cluster.Stop()
	}
	_ = os.RemoveAll(h.kubeletDir) // what it still writes is left
	return errors.Join(err, h.Machines.Stop())
}

// namespaces makes one per side, so that the two Pods of a life have the same name.
func (h *house) namespaces() error {
	for _, s := range sides {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: string(s)}}
		if _, err := h.Client.CoreV1().Namespaces().Create(context.Background(), ns, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := within(30*time.Second, func(ctx context.Context) (bool, error) {
			_, err := h.Client.CoreV1().ServiceAccounts(string(s)).Get(ctx, "default", metav1.GetOptions{})
			return err == nil, nil
		}); err != nil {
			return fmt.Errorf("service account of namespace %s: %w", s, err)
		}
	}
	return nil
}

// kubelet starts the real one and waits until its node is Ready. It runs, and writes its files, until the process ends.
func (h *house) kubelet() error {
	var err error
	if h.kubeletDir, err = os.MkdirTemp("", "gondola-oracle-"); err != nil {
		return err
	}
	if err := startKubelet(context.Background(), string(kubelets), addresses[kubelets], h.kubeletDir, h.REST, h.stage); err != nil {
		return err
	}
	err = within(60*time.Second, func(ctx context.Context) (bool, error) {
		n, err := h.Client.CoreV1().Nodes().Get(ctx, string(kubelets), metav1.GetOptions{})
		if err != nil {
			return false, nil
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("the kubelet's node is not Ready: %w", err)
	}
	return nil
}

func within(d time.Duration, f wait.ConditionWithContextFunc) error {
	return wait.PollUntilContextTimeout(context.Background(), 50*time.Millisecond, d, true, f)
}
