// Package worker is the source of truth about the Machines of one host.
//
// Each Machine is owned by a goroutine (machine.go): requests are sent to it, and what it decides is recorded in the worker's file (what the
// Machine should come to, and the step begun) before it is done. Every step can be done again, so a worker that boots after kill -9 or a power
// cut reads its file, finds its running pilots and goes on, with nothing remote. Capacity and a Machine's row are committed together: a worker
// never sells what it does not have. It knows no Apps, no other worker and no placement.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/seal"
	"gondola/internal/store"
)

// Config is what a Worker is made of.
type Config struct {
	Name     gondola.WorkerName // If empty, the region's.
	Region   gondola.Region     // If empty, gondola.DefaultRegion.
	Number   uint16             // within the fleet, given at joining
	Instance string             // of the installation, for pilot.Spec
	Dir      string             // holds worker.db and the key that seals payloads
	Host     Host

	Drivers       map[string]driver.Driver // by name: those of the Machines on record too
	Allowed       []string                 // of Drivers, what new Machines may ask for; if empty, all
	DefaultDriver string                   // for Machines that name none; with one driver, that one
	Capacity      gondola.Resources        // If zero, Host.Total().
	DNS           gondola.DNSConfig        // for Machines that say nothing: nameservers, searches, options

	Processes int64 // that a Machine may have, threads included; if zero, as many as there can be
	LogBytes  int64 // size at which a container's log is rotated; if zero, the pilot's default

	PullBackoff gondola.Backoff // between pulls that failed; if zero, the kubelet's
	KeepImages  uint64          // free bytes on the disk of Dir above which unused images stay; if zero, 5 GiB
	Log         *slog.Logger    // If nil, none.
}

// Worker runs Machines. It implements gondola.Platform for them; a Ref without App means any. Methods that change something wait until Run
// has found the Machines of before; those that read, and StopAll, work from Open on.
type Worker struct {
	cfg     Config
	log     *slog.Logger
	store   *store.Worker
	key     *seal.Key
	hub     *hub
	ledger  *ledger
	running chan struct{} // closed once every Machine on record has its goroutine
	ready   chan struct{} // closed once each has been found again or started anew, or after readyTime
	slots   chan struct{} // bounds how many Machines are being started at a time, until their sandboxes are up
	disks   *disks
	counts  counts
	opened  time.Time

	diskFree atomic.Int64    // bytes that new Volumes may take, of the last look
	told     map[string]bool // leftovers that were logged; of collectLoop

	cordoned atomic.Bool
	images   atomic.Pointer[[]string]         // references in the host's store
	pressure atomic.Pointer[gondola.Pressure] // on the host, when it was last looked at

	creating sync.Mutex // held while a Machine's name, number and capacity are committed

	mu       sync.Mutex
	machines map[gondola.MachineID]*machine // those not destroyed
	names    map[name]gondola.MachineID
	base     context.Context // of Run; nil before
	tasks    sync.WaitGroup
}

// name is what is unique among the Machines that are there.
type name struct {
	app  gondola.AppName
	name string
}

var _ gondola.Platform = (*Worker)(nil)

// Open opens the worker's file and key in cfg.Dir, made if missing, and reads its Machines. Nothing happens to them before Run.
func Open(cfg Config) (*Worker, error) {
	if cfg.Region == "" {
		cfg.Region = gondola.DefaultRegion
	}
	if cfg.Name == "" {
		cfg.Name = gondola.WorkerName(cfg.Region)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Capacity == (gondola.Resources{}) {
		cfg.Capacity = cfg.Host.Total()
	}
	if cfg.PullBackoff == (gondola.Backoff{}) {
		cfg.PullBackoff = gondola.KubernetesBackoff
	}
	if cfg.KeepImages == 0 {
		cfg.KeepImages = 5 << 30
	}
	if cfg.DefaultDriver == "" && len(cfg.Drivers) == 1 {
		for name := range cfg.Drivers {
			cfg.DefaultDriver = name
		}
	}
	if len(cfg.Allowed) == 0 {
		cfg.Allowed = slices.Sorted(maps.Keys(cfg.Drivers))
	}
	for _, name := range cfg.Allowed {
		if _, ok := cfg.Drivers[name]; !ok {
			return nil, gondola.Errorf(gondola.ErrInvalid, "worker %s: driver %q is allowed and not one of its drivers", cfg.Name, name)
		}
	}
	if _, ok := cfg.Drivers[cfg.DefaultDriver]; !ok {
		return nil, gondola.Errorf(gondola.ErrInvalid, "worker %s: its default driver %q is not one of its drivers", cfg.Name, cfg.DefaultDriver)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open worker %s: %w", cfg.Name, err)
	}
	key, err := seal.OpenKey(filepath.Join(cfg.Dir, "key"))
	if err != nil {
		return nil, fmt.Errorf("open worker %s: %w", cfg.Name, err)
	}
	db, err := store.OpenWorker(filepath.Join(cfg.Dir, "worker.db"))
	if err != nil {
		return nil, fmt.Errorf("open worker %s: %w", cfg.Name, err)
	}
	w := &Worker{cfg: cfg, log: cfg.Log.With("worker", cfg.Name, "number", cfg.Number), store: db, key: key, hub: newHub(), ledger: newLedger(cfg.Capacity),
		running: make(chan struct{}), ready: make(chan struct{}), slots: make(chan struct{}, max(4, 2*runtime.NumCPU())),
		disks: newDisks(), opened: time.Now(), told: map[string]bool{},
		machines: map[gondola.MachineID]*machine{}, names: map[name]gondola.MachineID{}}
	if err := w.load(context.Background()); err != nil {
		db.Close()
		return nil, fmt.Errorf("open worker %s: %w", cfg.Name, err)
	}
	return w, nil
}

// load reads the Machines on record.
func (w *Worker) load(ctx context.Context) error {
	cordoned, _, err := w.store.Setting(ctx, "cordoned")
	if err != nil {
		return err
	}
	w.cordoned.Store(cordoned == "true")
	volumes, err := w.store.Volumes(ctx)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		w.disks.add(v)
	}
	w.diskChanged()
	rows, err := w.store.Machines(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		events, err := w.store.Events(ctx, row.ID, shownEvents)
		if err != nil {
			return err
		}
		m, err := newMachine(w, row, events)
		if err != nil {
			return err
		}
		w.machines[row.ID], w.names[name{row.App, row.Name}] = m, row.ID
		w.ledger.restore(row.ID, row.Number, row.Allocated)
		w.disks.hold(row.ID, m.rec.volumes())
		m.show()
		// Policies that cannot be carried out leave the Machine as isolated as it is until they are set anew; they must not keep all Machines down.
		if err := w.cfg.Host.Describe(ctx, m.subject()); err != nil {
			m.log.Error("policies of the machine cannot be carried out", "err", err)
		}
	}
	return nil
}

// Close lets go of the worker's file; Machines run on. Call it after Run has returned.
func (w *Worker) Close() error { return w.store.Close() }

// String returns the worker's name, for logs.
func (w *Worker) String() string { return "worker " + string(w.cfg.Name) }

// readyTime is how long Machines that are not found may keep requests waiting.
const readyTime = time.Minute

// Ready closes once Run has found every Machine on record again: adopted, started anew, or told why not. It closes after a minute at the latest.
func (w *Worker) Ready() <-chan struct{} { return w.ready }

// Run owns the Machines until ctx ends, and leaves them running then. It is called once.
func (w *Worker) Run(ctx context.Context) error {
	w.mu.Lock()
	if w.base != nil {
		w.mu.Unlock()
		return errors.New("worker: Run was called twice")
	}
	w.base = ctx
	found, missing := make(chan gondola.MachineID, len(w.machines)), map[gondola.MachineID]bool{}
	for _, m := range w.machines {
		missing[m.id] = true
		m.found = sync.OnceFunc(func() { found <- m.id })
		w.tasks.Go(func() { m.run(ctx) })
	}
	w.mu.Unlock()
	close(w.running)
	w.tasks.Go(func() { w.collectLoop(ctx) })
	w.tasks.Go(func() { w.heartbeatLoop(ctx) })
	w.tasks.Go(func() {
		defer close(w.ready)
		w.awaitFound(found, missing)
	})
	<-ctx.Done()
	w.tasks.Wait()
	w.hub.close()
	return nil
}

// awaitFound waits for those that are missing, and for readyTime at most.
func (w *Worker) awaitFound(found <-chan gondola.MachineID, missing map[gondola.MachineID]bool) {
	late := time.NewTimer(readyTime)
	defer late.Stop()
	for len(missing) > 0 {
		select {
		case id := <-found:
			delete(missing, id)
		case <-late.C:
			w.log.Warn("machines of before are not found yet; they are looked for while others are served", "machines", slices.Sorted(maps.Keys(missing)))
			return
		}
	}
}

// awaitRun waits until requests can be taken.
func (w *Worker) awaitRun(ctx context.Context) error {
	select {
	case <-w.running: // also where ctx has ended: that is then the reason why the request fails
		return nil
	default:
	}
	select {
	case <-w.running:
		return nil
	case <-ctx.Done():
		return gondola.Errorf(gondola.ErrUnavailable, "worker %s is not up yet: try again", w.cfg.Name)
	}
}

// Memory returns how many bytes of memory its Machines hold, which is what they asked for.
func (w *Worker) Memory() map[gondola.MachineID]int64 { return w.ledger.memory() }

// CordonWorker says whether the worker takes no new Machines. It is remembered.
func (w *Worker) CordonWorker(ctx context.Context, on bool) error {
	if err := w.store.SetSetting(ctx, "cordoned", fmt.Sprint(on)); err != nil {
		return err
	}
	w.cordoned.Store(on)
	w.offerChanged()
	return nil
}

// lookup returns the Machine that ref names, nil if it is not there or is destroyed.
func (w *Worker) lookup(ref gondola.Ref) *machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.machines[ref.ID]
	if m == nil || ref.App != "" && m.app != ref.App {
		return nil
	}
	return m
}

// machine is lookup for requests: it waits for Run and returns ErrNotFound, or ErrPrecondition for a Machine that was destroyed.
func (w *Worker) machine(ctx context.Context, ref gondola.Ref) (*machine, error) {
	if err := w.awaitRun(ctx); err != nil {
		return nil, err
	}
	if m := w.lookup(ref); m != nil {
		return m, nil
	}
	if _, err := w.destroyed(ctx, ref); err != nil {
		return nil, err
	}
	return nil, gondola.Errorf(gondola.ErrPrecondition, "machine %s is destroyed: create another", ref.ID)
}

// destroyed returns a destroyed Machine that is still on record, or ErrNotFound.
func (w *Worker) destroyed(ctx context.Context, ref gondola.Ref) (gondola.Machine, error) {
	row, err := w.store.Machine(ctx, ref.ID)
	if err != nil {
		return gondola.Machine{}, err
	}
	if ref.App != "" && row.App != ref.App || row.DestroyedAt.IsZero() && row.State != gondola.Destroyed {
		return gondola.Machine{}, gondola.Errorf(gondola.ErrNotFound, "machine not found: there is none with id %q in app %q", ref.ID, ref.App)
	}
	events, err := w.store.Events(ctx, ref.ID, shownEvents)
	if err != nil {
		return gondola.Machine{}, err
	}
	m, err := newMachine(w, row, events)
	if err != nil {
		return gondola.Machine{}, err
	}
	return *m.view(), nil
}

// forget takes a destroyed Machine off the maps; it is for the Machine's own goroutine.
func (w *Worker) forget(m *machine) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.machines, m.id)
	if n := (name{m.app, m.rec.Name}); w.names[n] == m.id {
		delete(w.names, n)
	}
}

// all returns the Machines that are there.
func (w *Worker) all() []*machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	ms := make([]*machine, 0, len(w.machines))
	for _, m := range w.machines {
		ms = append(ms, m)
	}
	return ms
}

// pause waits, and says whether ctx is still good.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
