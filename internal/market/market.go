// Package market finds places for Machines and routes every call about one to the worker that has it.
//
// An Ask goes to the workers of the wanted regions at once, under one deadline; their Bids are ranked by a pure function; the best is taken, or
// the request fails at once and says what would have worked. Where the workers are many, those are asked first that by their standing offers have
// room, and the others only if none of these takes it. An Ask never goes to a region that was not named, never waits and never tries again.
// The workers hold the truth: the index here only says which worker to ask, and is made to agree with what they say (Run).
package market

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"gondola"
	"gondola/internal/seal"
	"gondola/internal/store"
)

// Index is what a Market needs of the server's file; *store.Server is one.
type Index interface {
	gondola.Apps
	Reserve(ctx context.Context, app gondola.AppName, name string, id gondola.MachineID, worker gondola.WorkerName) (store.Entry, bool, error)
	Move(ctx context.Context, id gondola.MachineID, from, to gondola.WorkerName) (bool, error)
	Forget(ctx context.Context, id gondola.MachineID, worker gondola.WorkerName) error
	Remove(ctx context.Context, id gondola.MachineID) error
	Lookup(ctx context.Context, app gondola.AppName, id gondola.MachineID) (store.Entry, error)
	LookupName(ctx context.Context, app gondola.AppName, name string) (store.Entry, error)
	ByApp(ctx context.Context, app gondola.AppName, removed bool) ([]store.Entry, error)
	WorkersOf(ctx context.Context, app gondola.AppName, removed bool) ([]gondola.WorkerName, error)
	Rebuild(ctx context.Context, worker gondola.WorkerName, entries []store.Entry, asOf time.Time) error
	VolumeIndex
	NetworkPolicyIndex
	SecretIndex
}

// Worker is one that takes Machines: in this process, or a client of it.
type Worker struct {
	Name   gondola.WorkerName
	Region gondola.Region
	Number uint16 // given by the server when it joined
	Host   string // workers of one host share its image store; if empty, this worker is alone
	gondola.Platform
}

// Config is what a Market is made of.
type Config struct {
	Index   Index
	Workers []Worker
	Key     *seal.Key // seals the secrets of Apps; if nil, there are none: ErrUnsupported
	// Observe hears how every purchase of a Machine ended, by the regions that were asked; if nil, nobody does.
	Observe  func(regions []gondola.Region, outcome Outcome, took time.Duration)
	Deadline time.Duration // for the answers to an Ask; if zero, 50 ms
	Log      *slog.Logger  // If nil, none.
}

// Outcome is how a purchase ended.
type Outcome string

const (
	Placed  Outcome = "placed"  // a worker took the Machine
	Refused Outcome = "refused" // no worker had room
	Failed  Outcome = "failed"  // anything else
)

// Market implements gondola.Server over the workers of a fleet. Methods may be called at the same time.
type Market struct {
	index    Index
	deadline time.Duration
	observe  func(regions []gondola.Region, outcome Outcome, took time.Duration)
	log      *slog.Logger
	locks    locks
	policing sync.Mutex // held while the policies of an App change
	key      *seal.Key
	sealing  sync.Mutex // held from sealing secrets until they are on record
	ready    chan struct{}
	readOnce func() // closes ready

	mu       sync.RWMutex
	workers  []Worker      // in the order they came; replaced as a whole
	changed  chan struct{} // closed when workers changes, and made anew
	services map[string][]gondola.VirtualService
	policies map[policyKey]gondola.PolicySet
	seen     map[gondola.MachineID]gondola.Machine // what workers last said, in short; kept by Run
	offers   offers                                // kept by Run
}

var _ gondola.Server = (*Market)(nil)

// New returns a Market. Run keeps its index in step with the workers.
func New(cfg Config) *Market {
	m := &Market{index: cfg.Index, key: cfg.Key, deadline: cfg.Deadline, observe: cfg.Observe, log: cfg.Log, workers: slices.Clone(cfg.Workers), changed: make(chan struct{}),
		services: map[string][]gondola.VirtualService{}, policies: map[policyKey]gondola.PolicySet{}, seen: map[gondola.MachineID]gondola.Machine{}, offers: offers{}}
	m.ready = make(chan struct{})
	m.readOnce = sync.OnceFunc(func() { close(m.ready) })
	if m.deadline == 0 {
		m.deadline = 50 * time.Millisecond
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	return m
}

// SetWorkers replaces the workers. Streams of those that stay are not disturbed.
func (m *Market) SetWorkers(ws []Worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(slices.Clone(ws))
}

// AddWorker adds a worker, or replaces the one of that name.
func (m *Market) AddWorker(w Worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ws := slices.Clone(m.workers)
	if i := slices.IndexFunc(ws, func(o Worker) bool { return o.Name == w.Name }); i >= 0 {
		ws[i] = w
	} else {
		ws = append(ws, w)
	}
	m.setLocked(ws)
}

// RemoveWorker lets a worker go; its Machines are listed as unreachable until one of its name comes.
func (m *Market) RemoveWorker(name gondola.WorkerName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.setLocked(slices.DeleteFunc(slices.Clone(m.workers), func(w Worker) bool { return w.Name == name }))
}

func (m *Market) setLocked(ws []Worker) {
	m.workers = ws
	close(m.changed)
	m.changed = make(chan struct{})
}

// current returns the workers of the moment, not to be changed, and a channel that closes when that moment has passed.
func (m *Market) current() ([]Worker, <-chan struct{}) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.workers, m.changed
}

func (m *Market) worker(name gondola.WorkerName) (Worker, error) {
	ws, _ := m.current()
	if i := slices.IndexFunc(ws, func(w Worker) bool { return w.Name == name }); i >= 0 {
		return ws[i], nil
	}
	return Worker{}, gondola.Errorf(gondola.ErrUnavailable, "worker %s is not connected", name)
}

// regions of the workers, in the order they came.
func regionsOf(ws []Worker) (regions []gondola.Region) {
	for _, w := range ws {
		if !slices.Contains(regions, w.Region) {
			regions = append(regions, w.Region)
		}
	}
	return regions
}

// route finds the worker of a Machine and returns the Machine's full Ref.
func (m *Market) route(ctx context.Context, ref gondola.Ref) (Worker, gondola.Ref, error) {
	e, err := m.index.Lookup(ctx, ref.App, ref.ID)
	if err != nil {
		if errors.Is(err, gondola.ErrNotFound) && ref.App != "" {
			if _, noApp := m.index.App(ctx, ref.App); noApp != nil {
				err = noApp
			}
		}
		return Worker{}, ref, err
	}
	w, err := m.worker(e.Worker)
	return w, gondola.Ref{App: e.App, ID: e.ID}, err
}

// to calls the worker of a Machine.
func to[T any](ctx context.Context, m *Market, ref gondola.Ref, call func(w Worker, ref gondola.Ref) (T, error)) (T, error) {
	w, ref, err := m.route(ctx, ref)
	if err != nil {
		var zero T
		return zero, err
	}
	return call(w, ref)
}

// do is to for calls that return nothing.
func (m *Market) do(ctx context.Context, ref gondola.Ref, call func(w Worker, ref gondola.Ref) error) error {
	_, err := to(ctx, m, ref, func(w Worker, ref gondola.Ref) (struct{}, error) { return struct{}{}, call(w, ref) })
	return err
}

// Get implements gondola.Machines.
func (m *Market) Get(ctx context.Context, ref gondola.Ref) (gondola.Machine, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.Machine, error) { return w.Get(ctx, ref) })
}

// Update implements gondola.Machines.
func (m *Market) Update(ctx context.Context, ref gondola.Ref, req gondola.UpdateRequest) (gondola.Machine, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.Machine, error) {
		if err := m.withSecrets(ctx, ref.App, &req.CreateRequest); err != nil {
			return gondola.Machine{}, err
		}
		return w.Update(ctx, ref, req)
	})
}

// Start implements gondola.Machines.
func (m *Market) Start(ctx context.Context, ref gondola.Ref) (gondola.StartResult, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.StartResult, error) {
		if err := m.refreshSecrets(ctx, w, ref); err != nil {
			return gondola.StartResult{}, err
		}
		return w.Start(ctx, ref)
	})
}

// Stop implements gondola.Machines.
func (m *Market) Stop(ctx context.Context, ref gondola.Ref, req gondola.StopRequest) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.Stop(ctx, ref, req) })
}

// Suspend implements gondola.Machines.
func (m *Market) Suspend(ctx context.Context, ref gondola.Ref) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.Suspend(ctx, ref) })
}

// Restart implements gondola.Machines.
func (m *Market) Restart(ctx context.Context, ref gondola.Ref, req gondola.RestartRequest) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error {
		if err := m.refreshSecrets(ctx, w, ref); err != nil {
			return err
		}
		return w.Restart(ctx, ref, req)
	})
}

// Signal implements gondola.Machines.
func (m *Market) Signal(ctx context.Context, ref gondola.Ref, sig gondola.Signal) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.Signal(ctx, ref, sig) })
}

// Destroy implements gondola.Machines. The name is free again once the worker says that the Machine is gone.
func (m *Market) Destroy(ctx context.Context, ref gondola.Ref, force bool) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error {
		err := w.Destroy(ctx, ref, force)
		if err == nil || errors.Is(err, gondola.ErrNotFound) {
			m.removeIfGone(ctx, w, ref)
		}
		return err
	})
}

// removeIfGone takes a destroyed Machine's row out of the index; where it is still being destroyed, Run does.
func (m *Market) removeIfGone(ctx context.Context, w Worker, ref gondola.Ref) bool {
	mach, err := w.Get(ctx, ref)
	gone := err == nil && mach.State.Final()
	if gone {
		if err := m.index.Remove(ctx, ref.ID); err != nil {
			m.log.Warn("a destroyed machine stays in the index until its worker is read again", "machine", ref, "err", err)
		}
	}
	return gone
}

// Wait implements gondola.Machines.
func (m *Market) Wait(ctx context.Context, ref gondola.Ref, req gondola.WaitRequest) (gondola.WaitResult, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.WaitResult, error) { return w.Wait(ctx, ref, req) })
}

// Exec implements gondola.Machines.
func (m *Market) Exec(ctx context.Context, ref gondola.Ref, req gondola.ExecRequest) (gondola.ExecResult, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.ExecResult, error) { return w.Exec(ctx, ref, req) })
}

// Events implements gondola.Machines.
func (m *Market) Events(ctx context.Context, ref gondola.Ref, limit int) ([]gondola.Event, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) ([]gondola.Event, error) { return w.Events(ctx, ref, limit) })
}

// Processes implements gondola.Machines.
func (m *Market) Processes(ctx context.Context, ref gondola.Ref) ([]gondola.ProcessStat, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) ([]gondola.ProcessStat, error) { return w.Processes(ctx, ref) })
}

// SetMetadata implements gondola.Machines.
func (m *Market) SetMetadata(ctx context.Context, ref gondola.Ref, version gondola.Version, values map[string]*string) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.SetMetadata(ctx, ref, version, values) })
}

// Cordon implements gondola.Machines.
func (m *Market) Cordon(ctx context.Context, ref gondola.Ref) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.Cordon(ctx, ref) })
}

// Uncordon implements gondola.Machines.
func (m *Market) Uncordon(ctx context.Context, ref gondola.Ref) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.Uncordon(ctx, ref) })
}

// Versions implements gondola.Machines.
func (m *Market) Versions(ctx context.Context, ref gondola.Ref) ([]gondola.MachineVersion, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) ([]gondola.MachineVersion, error) { return w.Versions(ctx, ref) })
}

// Logs implements gondola.Logs.
func (m *Market) Logs(ctx context.Context, ref gondola.Ref, opts gondola.LogOptions) (io.ReadCloser, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (io.ReadCloser, error) { return w.Logs(ctx, ref, opts) })
}

// ExecStream implements gondola.Streams.
func (m *Market) ExecStream(ctx context.Context, ref gondola.Ref, opts gondola.ExecOptions, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.ExitStatus, error) {
		return w.ExecStream(ctx, ref, opts, streams)
	})
}

// Attach implements gondola.Streams.
func (m *Market) Attach(ctx context.Context, ref gondola.Ref, container string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.ExitStatus, error) {
		return w.Attach(ctx, ref, container, streams)
	})
}

// Dial implements gondola.Streams.
func (m *Market) Dial(ctx context.Context, ref gondola.Ref, port int) (io.ReadWriteCloser, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (io.ReadWriteCloser, error) { return w.Dial(ctx, ref, port) })
}

// PutPayload implements gondola.Files.
func (m *Market) PutPayload(ctx context.Context, ref gondola.Ref, p gondola.Payload) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.PutPayload(ctx, ref, p) })
}
