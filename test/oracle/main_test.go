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
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/fake"
	"gondola/internal/kube"
	"gondola/internal/market"
	"gondola/internal/store"
	"gondola/internal/worker"
)

const inNetns = "GONDOLA_ORACLE_NETNS"

var (
	apiAddress = netip.MustParseAddr("10.99.2.1")
	addresses  = map[side]netip.Addr{gondolas: netip.MustParseAddr("10.99.2.2"), kubelets: netip.MustParseAddr("10.99.2.3")}

	random = flag.Int("lives", 10, "how many random lives there are")
)

// TestMain runs the tests in a network namespace of their own: nothing of the cluster is seen outside.
func TestMain(m *testing.M) {
	flag.Parse()
	if os.Geteuid() == 0 && os.Getenv(inNetns) == "" {
		cmd := exec.Command(os.Args[0], os.Args[1:]...)
		cmd.Env = append(os.Environ(), inNetns+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inNetns) != "" {
		link := [][]string{{"link", "set", "lo", "up"}, {"addr", "add", apiAddress.String() + "/32", "dev", "lo"},
			{"route", "add", "local", "10.43.0.0/16", "dev", "lo", "src", apiAddress.String()}}
		for _, a := range addresses {
			link = append(link, []string{"addr", "add", a.String() + "/32", "dev", "lo"})
		}
		for _, args := range link {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %v: %v: %s\n", args, err, out)
				os.Exit(1)
			}
		}
	}
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// house is a cluster with two nodes: Gondola's, on the fake driver, and a kubelet's.
type house struct {
	stage  *stage
	driver *fake.Driver
	market *market.Market
	client kubernetes.Interface
	rest   *rest.Config
	pods   *pods

	dir   string
	log   *slog.Logger
	stops []func() error // undone from the last
}

var shared struct {
	sync.Once
	*house
	err error
}

func (h *house) stop() error {
	if h == nil {
		return nil
	}
	var errs []error
	for i := len(h.stops) - 1; i >= 0; i-- {
		errs = append(errs, h.stops[i]())
	}
	return errors.Join(errs...)
}

// theHouse returns the one in which all lives are lived.
func theHouse(t *testing.T) *house {
	t.Helper()
	if os.Getenv(inNetns) == "" {
		t.Skip("needs root: the cluster runs in a network namespace of its own")
	}
	shared.Do(func() { shared.house, shared.err = begin() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.house
}

func begin() (*house, error) {
	h := &house{stage: newStage()}
	dir, err := os.MkdirTemp("", "gondola-oracle-")
	if err != nil {
		return nil, err
	}
	h.dir = dir
	h.stops = append(h.stops, func() error { _ = os.RemoveAll(dir); return nil }) // the kubelet writes on until the process ends
	level := slog.LevelError + 1
	if os.Getenv("GONDOLA_ORACLE_LOG") != "" {
		level = slog.LevelInfo
	}
	h.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	for _, step := range []func() error{h.platform, h.cluster, h.namespaces, h.kubelet} {
		if err := step(); err != nil {
			return h, err
		}
	}
	h.pods = watchPods(h.client, h.task)
	return h, nil
}

// platform starts one worker with room for all lives, and the market before it.
func (h *house) platform() error {
	h.driver = fake.NewDriver()
	for name, p := range h.stage.programs() {
		h.driver.Programs[name] = p
	}
	h.stops = append(h.stops, h.driver.Close)
	host := fake.NewHost(fake.HostConfig{Dir: filepath.Join(h.dir, "host"), Total: gondola.Resources{CPUMillis: 1_000_000, MemoryBytes: 1 << 40}})
	w, err := worker.Open(worker.Config{Region: "fra", Number: 1, Instance: "oracle", Dir: filepath.Join(h.dir, "worker"), Host: host,
		Drivers: map[string]driver.Driver{"fake": h.driver}, Log: h.log})
	if err != nil {
		return err
	}
	h.stops = append(h.stops, w.Close)
	h.task(w.Run)
	<-w.Ready()
	db, err := store.OpenServer(filepath.Join(h.dir, "server.db"))
	if err != nil {
		return err
	}
	h.stops = append(h.stops, db.Close)
	h.market = market.New(market.Config{Index: db, Workers: []market.Worker{{Name: "fra", Region: "fra", Number: 1, Platform: w}}, Deadline: 5 * time.Second, Log: h.log})
	h.task(h.market.Run)
	return nil
}

func (h *house) cluster() error {
	c, err := kube.New(kube.Config{Name: "oracle", Dir: filepath.Join(h.dir, "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: string(gondolas), Region: "fra", Addresses: []netip.Addr{addresses[gondolas]}}},
		Platform: h.market, Apps: h.market, Log: h.log})
	if err != nil {
		return err
	}
	ended := h.task(c.Run)
	select {
	case <-c.Ready():
	case err := <-ended:
		return fmt.Errorf("cluster ended before it was ready: %w", err)
	case <-time.After(90 * time.Second):
		return errors.New("cluster not ready after 90 s")
	}
	b, err := c.Kubeconfig()
	if err != nil {
		return err
	}
	if h.rest, err = clientcmd.RESTConfigFromKubeConfig(b); err != nil {
		return err
	}
	h.rest.QPS = -1
	h.client, err = kubernetes.NewForConfig(h.rest)
	return err
}

// namespaces makes one per side, so that the two Pods of a life have the same name.
func (h *house) namespaces() error {
	for _, s := range sides {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: string(s)}}
		if _, err := h.client.CoreV1().Namespaces().Create(context.Background(), ns, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := within(30*time.Second, func(ctx context.Context) (bool, error) {
			_, err := h.client.CoreV1().ServiceAccounts(string(s)).Get(ctx, "default", metav1.GetOptions{})
			return err == nil, nil
		}); err != nil {
			return fmt.Errorf("service account of namespace %s: %w", s, err)
		}
	}
	return nil
}

// kubelet starts the real one and waits until its node is Ready. It runs until the process ends.
func (h *house) kubelet() error {
	if err := startKubelet(context.Background(), string(kubelets), addresses[kubelets], filepath.Join(h.dir, "kubelet"), h.rest, h.stage); err != nil {
		return err
	}
	err := within(60*time.Second, func(ctx context.Context) (bool, error) {
		n, err := h.client.CoreV1().Nodes().Get(ctx, string(kubelets), metav1.GetOptions{})
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

// task runs f until the house stops.
func (h *house) task(f func(context.Context) error) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		ended <- err
		done <- err
	}()
	h.stops = append(h.stops, func() error {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return ended
}
