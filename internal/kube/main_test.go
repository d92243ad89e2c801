package kube_test

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"gondola/internal/kube"
	"gondola/internal/kube/kubetest"
)

var (
	address     = netip.MustParseAddr("10.99.0.1")
	nodeAddress = netip.MustParseAddr("10.99.0.2")
	farAddress  = netip.MustParseAddr("10.99.0.3")
)

func TestMain(m *testing.M) { os.Exit(kubetest.InNetNS(m, address, nodeAddress, farAddress)) }

// running is a cluster that runs.
type running struct {
	*kubetest.Cluster
	config kube.Config
}

// start runs a cluster and returns when it is ready.
func start(t testing.TB, cfg kube.Config) *running {
	t.Helper()
	before := cpuTime()
	c, err := kubetest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v of CPU time", cpuTime()-before)
	return &running{c, cfg}
}

// cpuTime is what this process has used of the CPUs so far.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func config(t testing.TB, dir string) kube.Config {
	return kube.Config{Name: "test", Dir: dir, Address: address, Upstream: []string{},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/108")},
		Nodes: []kube.NodeConfig{{Name: "local", Region: "local", Addresses: []netip.Addr{nodeAddress}},
			{Name: "fra", Region: "fra", Addresses: []netip.Addr{farAddress}}},
		Log:      slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
		Progress: func(step string, took time.Duration) { fmt.Printf("    %6.3f s %s\n", took.Seconds(), step) }}
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
