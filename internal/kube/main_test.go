package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"gondola/internal/kube"
)

const inNetns = "GONDOLA_KUBE_TEST_NETNS"

var (
	address     = netip.MustParseAddr("10.99.0.1")
	nodeAddress = netip.MustParseAddr("10.99.0.2")
	farAddress  = netip.MustParseAddr("10.99.0.3")
)

// TestMain runs the tests in a network namespace of their own, with addresses on lo for the cluster: nothing of them is seen outside.
func TestMain(m *testing.M) {
	if os.Geteuid() == 0 && os.Getenv(inNetns) == "" {
		os.Exit(inNamespace())
	}
	if os.Getenv(inNetns) != "" {
		setUp := [][]string{{"link", "set", "lo", "up"}, {"route", "add", "local", "10.43.0.0/16", "dev", "lo"}, {"-6", "route", "add", "local", "fd43::/108", "dev", "lo"}}
		for _, a := range []netip.Addr{address, nodeAddress, farAddress} {
			setUp = append(setUp, []string{"addr", "add", a.String() + "/32", "dev", "lo"})
		}
		for _, args := range setUp {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "ip %v: %v: %s\n", args, err, out)
				os.Exit(1)
			}
		}
	}
	os.Exit(m.Run())
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
	config kube.Config
	cancel context.CancelFunc
	done   chan error
}

// start runs a cluster and returns when it is ready.
func start(t testing.TB, cfg kube.Config) *running {
	t.Helper()
	c, err := kube.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{c, cfg, cancel, make(chan error, 1)}
	before := cpuTime()
	go func() { r.done <- c.Run(ctx) }()
	select {
	case <-c.Ready():
		t.Logf("ready after %v of CPU time", cpuTime()-before)
	case err := <-r.done:
		t.Fatalf("the cluster ended before it was ready: %v", err)
	case <-time.After(time.Minute):
		cancel()
		t.Fatalf("not ready after a minute; its end: %v", <-r.done)
	}
	return r
}

// cpuTime is what this process has used of the CPUs so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// stop ends the cluster and returns what Run did.
func (r *running) stop() error {
	r.cancel()
	err := <-r.done
	r.done <- err // for whoever stops it again
	return err
}

func config(t testing.TB, dir string) kube.Config {
	return kube.Config{Name: "test", Dir: dir, Address: address, Upstream: []string{},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/108")},
		Nodes: []kube.NodeConfig{{Name: "local", Region: "local", Addresses: []netip.Addr{nodeAddress}},
			{Name: "fra", Region: "fra", Addresses: []netip.Addr{farAddress}}},
		Log:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Progress: func(step string, took time.Duration) { fmt.Printf("    %6.3f s %s\n", took.Seconds(), step) }}
}

// admin returns clients with the administrator's kubeconfig.
func (r *running) admin(t testing.TB) (kubernetes.Interface, *rest.Config) {
	t.Helper()
	b, err := r.Kubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := clientcmd.RESTConfigFromKubeConfig(b)
	if err != nil {
		t.Fatal(err)
	}
	cfg.QPS = -1
	return kubernetes.NewForConfigOrDie(cfg), cfg
}

// eventually waits until f returns "", and fails with what it said last.
func eventually(t *testing.T, within time.Duration, f func() string) {
	t.Helper()
	deadline, tick := time.After(within), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		why := f()
		if why == "" {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("after %v: %s", within, why)
		case <-tick.C:
		}
	}
}
