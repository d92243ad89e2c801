package storage_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gondola"
	"gondola/internal/gondolatest"
	"gondola/internal/kube"
)

const inNetns = "GONDOLA_STORAGE_TEST_NETNS"

var (
	apiAddress = netip.MustParseAddr("10.99.2.1")
	nearNode   = netip.MustParseAddr("10.99.2.2")
	farNode    = netip.MustParseAddr("10.99.2.3")
)

// TestMain runs the tests in a network namespace of their own: nothing of the cluster is seen outside.
func TestMain(m *testing.M) {
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
		for _, args := range []string{"link set lo up", "addr add 10.99.2.1/32 dev lo", "addr add 10.99.2.2/32 dev lo", "addr add 10.99.2.3/32 dev lo",
			"route add local 10.43.0.0/16 dev lo src 10.99.2.1"} {
			if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %s: %v: %s\n", args, err, out)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
}

// cluster is one that runs over two regions.
type cluster struct {
	*gondolatest.Platform
	client  kubernetes.Interface
	dynamic dynamic.Interface
}

// begin starts a cluster over the regions near and far, whose disks have so many GiB free.
func begin(t *testing.T, near, far int64) *cluster {
	t.Helper()
	if os.Getenv(inNetns) == "" {
		t.Skip("needs root: the cluster runs in a network namespace of its own")
	}
	machines := gondolatest.New(t, gondolatest.Options{Regions: []gondola.Region{"near", "far"}, Total: gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30},
		Disk: map[gondola.Region]int64{"near": near << 30, "far": far << 30}})
	c := &cluster{Platform: machines}
	k, err := kube.New(kube.Config{Name: "test", Dir: filepath.Join(t.TempDir(), "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: "near", Region: "near", Addresses: []netip.Addr{nearNode}}, {Name: "far", Region: "far", Addresses: []netip.Addr{farNode}}},
		Platform: machines.Client, Apps: machines.Client,
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("end of the cluster: %v", err)
		}
	})
	select {
	case <-k.Ready():
	case <-time.After(time.Minute):
		t.Fatal("cluster not ready after a minute")
	}
	c.connect(t, k)
	return c
}

func (c *cluster) connect(t *testing.T, k *kube.Cluster) {
	t.Helper()
	b, err := k.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	var cfg *rest.Config
	if cfg, err = clientcmd.RESTConfigFromKubeConfig(b); err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	c.client, c.dynamic = kubernetes.NewForConfigOrDie(cfg), dynamic.NewForConfigOrDie(cfg)
	eventually(t, "classes are there", func() error {
		_, err := c.client.StorageV1().StorageClasses().Get(t.Context(), "gondola-retain", metav1.GetOptions{})
		return err
	})
}

// eventually tries f until it succeeds, for half a minute.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick, end := time.NewTicker(50*time.Millisecond), time.After(30*time.Second)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// event waits for an Event about an object whose message has these words.
func (c *cluster) event(t *testing.T, namespace, name, reason, words string) {
	t.Helper()
	eventually(t, reason+" of "+name, func() error {
		list, err := c.client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var have []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, words) {
				return nil
			}
			have = append(have, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("no Event %s with %q; there are %q", reason, words, have)
	})
}

// namespace makes one for the test, with its service account.
func (c *cluster) namespace(t *testing.T, name string) {
	t.Helper()
	if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "service account default", func() error {
		_, err := c.client.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
}
