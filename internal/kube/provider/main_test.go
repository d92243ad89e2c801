package provider_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/kube"
	"gondola/internal/kube/kubetest"
)

var (
	apiAddress  = netip.MustParseAddr("10.99.1.1")
	nodeAddress = netip.MustParseAddr("10.99.1.2")
)

func TestMain(m *testing.M) {
	code := kubetest.InNetNS(m, apiAddress, nodeAddress)
	if s := shared.system; s != nil {
		if err := s.end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// system is a platform on the fake driver, with a cluster on it.
type system struct {
	*kubetest.Machines
	*kubetest.Cluster

	log *slog.Logger
}

var shared struct {
	sync.Once
	*system
	err error
}

// theSystem returns the one that all tests share, each in a namespace of its own.
func theSystem(t *testing.T) *system {
	t.Helper()
	kubetest.NeedNetNS(t)
	shared.Do(func() { shared.system, shared.err = begin() })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.system
}

func begin() (s *system, err error) {
	level := slog.LevelError + 1
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	s = &system{log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	s.Machines, err = kubetest.StartMachines(kubetest.Options{Backoff: gondola.Backoff{First: 100 * time.Millisecond, Max: time.Second}, Log: s.log})
	if err != nil {
		return nil, err
	}
	return s, s.cluster()
}

// cluster starts the cluster, anew or where an earlier one ended.
func (s *system) cluster() (err error) {
	s.Cluster, err = kubetest.Start(kube.Config{Name: "test", Dir: filepath.Join(s.Dir, "cluster"), Address: apiAddress, Upstream: []string{},
		Nodes:    []kube.NodeConfig{{Name: "fra", Region: "fra", Addresses: []netip.Addr{nodeAddress}}},
		Platform: s.Market, Apps: s.Market, Log: s.log})
	return err
}

func (s *system) end() (err error) {
	if s.Cluster != nil {
		err = s.Cluster.Stop()
	}
	return errors.Join(err, s.Machines.Stop())
}
