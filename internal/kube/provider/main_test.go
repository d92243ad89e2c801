package provider_test

import (
	"context"
	"errors"
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

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/fake"
	"gondola/internal/kube"
	"gondola/internal/market"
	"gondola/internal/store"
	"gondola/internal/worker"
)

const inNetns = "GONDOLA_PROVIDER_TEST_NETNS"

var (
	apiAddress  = netip.MustParseAddr("10.99.1.1")
	nodeAddress = netip.MustParseAddr("10.99.1.2")
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
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", apiAddress.String() + "/32", "dev", "lo"},
			{"addr", "add", nodeAddress.String() + "/32", "dev", "lo"}, {"route", "add", "local", "10.43.0.0/16", "dev", "lo", "src", apiAddress.String()}} {
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

// system is a platform on the fake driver, with a cluster on it.
type system struct {
	market *market.Market
	driver *fake.Driver
	host   *fake.Host
	worker *worker.Worker
	client kubernetes.Interface
	rest   *rest.Config

	dir     string
	log     *slog.Logger
	endKube func() error   // stops the cluster that runs
	stops   []func() error // undone from the last
}

var shared struct {
	sync.Once
	*system
	err error
}

func (s *system) stop() error {
	if s == nil {
		return nil
	}
	var errs []error
	for i := len(s.stops) - 1; i >= 0; i-- {
		errs = append(errs, s.stops[i]())
	}
	return errors.Join(errs...)
}

// theSystem returns the one that all tests share, each in a namespace of its own.
func theSystem(t *testing.T) *system {
	t.Helper()
	if os.Getenv(inNetns) == "" {
		t.Skip("needs root: the cluster runs in a network namespace of its own")
	}
	shared.Do(func() { shared.system, shared.err = begin() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.system
}

func begin() (*system, error) {
	s := &system{}
	dir, err := os.MkdirTemp("", "gondola-provider-")
	if err != nil {
		return nil, err
	}
	s.stops = append(s.stops, func() error { return os.RemoveAll(dir) })
	level := slog.LevelError + 1
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if err := s.platform(dir, log); err != nil {
		return s, err
	}
	s.dir, s.log = dir, log
	s.stops = append(s.stops, func() error { return s.endKube() })
	return s, s.cluster()
}

// platform starts one worker with 8 CPUs and 16 GB, and the market before it.
func (s *system) platform(dir string, log *slog.Logger) error {
	s.driver = fake.NewDriver()
	s.host = fake.NewHost(fake.HostConfig{Dir: filepath.Join(dir, "host")})
	s.stops = append(s.stops, s.driver.Close)
	w, err := worker.Open(worker.Config{Region: "fra", Number: 1, Instance: "test", Dir: filepath.Join(dir, "worker"), Host: s.host,
		Drivers: map[string]driver.Driver{"fake": s.driver}, PullBackoff: gondola.Backoff{First: 100 * time.Millisecond, Max: time.Second}, Log: log})
	if err != nil {
		return err
	}
	s.worker = w
	s.stops = append(s.stops, w.Close)
	s.task(w.Run)
	<-w.Ready()
	db, err := store.OpenServer(filepath.Join(dir, "server.db"))
	if err != nil {
		return err
	}
	s.stops = append(s.stops, db.Close)
	s.market = market.New(market.Config{Index: db, Workers: []market.Worker{{Name: "fra", Region: "fra", Number: 1, Platform: w}}, Deadline: time.Second, Log: log})
	s.task(s.market.Run)
	return nil
}

// cluster starts the cluster, anew or where an earlier one ended.
func (s *system) cluster() error {
	s.endKube = func() error { return nil }
	c, err := kube.New(kube.Config{Name: "test", Dir: filepath.Join(s.dir, "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: "fra", Region: "fra", Addresses: []netip.Addr{nodeAddress}}},
		Platform: s.market, Apps: s.market, Log: s.log})
	if err != nil {
		return err
	}
	ended := s.task(c.Run)
	last := len(s.stops) - 1
	s.endKube, s.stops = s.stops[last], s.stops[:last]
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
	if s.rest, err = clientcmd.RESTConfigFromKubeConfig(b); err != nil {
		return err
	}
	s.rest.QPS = -1
	s.client, err = kubernetes.NewForConfig(s.rest)
	return err
}

// task runs f until the system stops.
func (s *system) task(f func(context.Context) error) <-chan error {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	done := make(chan error, 1)
	go func() {
		err := f(ctx)
		ended <- err
		done <- err
	}()
	s.stops = append(s.stops, func() error {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
	return ended
}
