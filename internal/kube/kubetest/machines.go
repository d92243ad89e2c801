package kubetest

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/fake"
	"gondola/internal/market"
	"gondola/internal/store"
	"gondola/internal/worker"
)

// Machines is a platform of one worker on driver/fake, in region "fra", that all tests of a package share: gondolatest.New is for one test's.
type Machines struct {
	Market *market.Market
	Worker *worker.Worker
	Driver *fake.Driver
	Host   *fake.Host
	Dir    string // of all its files, and of a cluster's; Stop removes it

	stops []func() error // undone from the last
}

// Options shape Machines.
type Options struct {
	Total    gondola.Resources       // of the worker; if zero, 8 CPUs and 16 GB
	Programs map[string]fake.Program // that containers can run beside the built-in ones
	Backoff  gondola.Backoff         // of pulls that fail; if zero, the worker's own
	Log      *slog.Logger            // If nil, nobody gets what is logged.
}

// StartMachines starts a platform.
func StartMachines(o Options) (*Machines, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "gondola-kubetest-")
	if err != nil {
		return nil, err
	}
	m := &Machines{Dir: dir, Driver: fake.NewDriver(), Host: fake.NewHost(fake.HostConfig{Dir: filepath.Join(dir, "host"), Total: o.Total})}
	m.stops = append(m.stops, func() error { return os.RemoveAll(dir) }, m.Driver.Close)
	for name, p := range o.Programs {
		m.Driver.Programs[name] = p
	}
	if err := m.start(o); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

func (m *Machines) start(o Options) (err error) {
	m.Worker, err = worker.Open(worker.Config{Region: "fra", Number: 1, Instance: "test", Dir: filepath.Join(m.Dir, "worker"), Host: m.Host,
		Drivers: map[string]driver.Driver{"fake": m.Driver}, PullBackoff: o.Backoff, Log: o.Log})
	if err != nil {
		return err
	}
	m.stops = append(m.stops, m.Worker.Close)
	m.Run(m.Worker.Run)
	<-m.Worker.Ready()
	db, err := store.OpenServer(filepath.Join(m.Dir, "server.db"))
	if err != nil {
		return err
	}
	m.stops = append(m.stops, db.Close)
	m.Market = market.New(market.Config{Index: db, Workers: []market.Worker{{Name: "fra", Region: "fra", Number: 1, Platform: m.Worker}},
		Deadline: 5 * time.Second, Log: o.Log}) // a busy machine shall fail no test
	m.Run(m.Market.Run)
	return nil
}

// Run runs f until Stop, which ends it before what was there earlier.
func (m *Machines) Run(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	m.stops = append(m.stops, func() error {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			return err
		}
		return nil
	})
}

// Stop ends all and removes its files.
func (m *Machines) Stop() error {
	var errs []error
	for _, stop := range slices.Backward(m.stops) {
		errs = append(errs, stop())
	}
	m.stops = nil
	return errors.Join(errs...)
}
