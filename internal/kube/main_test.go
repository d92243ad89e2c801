package kube_test

import (
	"context"
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

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gondola/internal/kube"
)

const inNetns = "GONDOLA_KUBE_TEST_NETNS"

var address = netip.MustParseAddr("10.99.0.1")

// TestMain runs the tests in a network namespace of their own, with an address on lo for the cluster: nothing of them is seen outside.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inNetns) == "" {
		os.Exit(inNamespace())
	}
	if os.Getenv(inNetns) != "" {
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", address.String() + "/32", "dev", "lo"}, {"addr", "add", "10.99.0.2/32", "dev", "lo"},
			{"route", "add", "local", "10.43.0.0/16", "dev", "lo", "src", address.String()}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %v: %v: %s\n", args, err, out)
				os.Exit(1)
			}
		}
	}
	code := m.Run()
	shared.stop()
	os.Exit(code)
}

func inNamespace() int {
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNetns+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// running is a cluster that runs.
type running struct {
	*kube.Cluster
	cancel context.CancelFunc
	done   chan error
}

// start runs a cluster and returns when it is ready.
func start(cfg kube.Config) (*running, error) {
	c, err := kube.New(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{c, cancel, make(chan error, 1)}
	go func() { r.done <- c.Run(ctx) }()
	select {
	case <-c.Ready():
		return r, nil
	case err := <-r.done:
		cancel()
		return nil, fmt.Errorf("ended before it was ready: %w", err)
	case <-time.After(time.Minute):
		cancel()
		return nil, fmt.Errorf("not ready after a minute; end: %w", <-r.done)
	}
}

func (r *running) stop() error {
	r.cancel()
	return <-r.done
}

func config(dir string) kube.Config {
	return kube.Config{Name: "test", Dir: dir, Address: address, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: "local", Region: "local", Addresses: []netip.Addr{netip.MustParseAddr("10.99.0.2")}}},
		Log:      slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: logLevel()})),
		Progress: func(step string, took time.Duration) { fmt.Printf("    %6.3f s %s\n", took.Seconds(), step) }}
}

func logLevel() slog.Level {
	if testing.Verbose() {
		return slog.LevelWarn
	}
	return slog.LevelError + 1 // Kubernetes' parts log errors at every start and end
}

// shared is the one cluster of all tests; whoever needs it calls theCluster.
var shared sharedCluster

type sharedCluster struct {
	once sync.Once
	dir  string
	err  error

	mu sync.Mutex
	c  *running
}

func theCluster(t *testing.T) *running {
	t.Helper()
	if os.Getenv(inNetns) == "" {
		t.Skip("needs root: the cluster runs in a network namespace of its own")
	}
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "gondola-kube-"); shared.err == nil {
			shared.c, shared.err = start(config(filepath.Join(shared.dir, "test")))
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.c
}

func (s *sharedCluster) stop() {
	if s.c != nil {
		s.c.stop()
	}
	if s.dir != "" {
		os.RemoveAll(s.dir)
	}
}

func clientFor(t *testing.T, c *running) (kubernetes.Interface, *rest.Config) {
	t.Helper()
	b, err := c.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return client, cfg
}
