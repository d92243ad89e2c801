package market

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"gondola"
	"gondola/internal/store"
)

// Redialling a lost worker begins at once and slows down to maxPause.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// Watch implements gondola.Watcher: the streams of all workers in one. A worker that is lost is dialled again until ctx ends; between its Lost
// and its next Synced all of its Machines are sent anew. Workers that come later join in.
func (m *Market) Watch(ctx context.Context, req gondola.WatchRequest) (<-chan gondola.Change, error) {
	out := make(chan gondola.Change, 256)
	go func() {
		defer close(out)
		m.followAll(ctx, req, func(_ Worker, _ time.Time, ch gondola.Change) {
			select {
			case out <- ch:
			case <-ctx.Done():
			}
		})
	}()
	return out, nil
}

// followAll follows every worker, those that come later too, until ctx ends. each is called from several goroutines, in order for one worker,
// with the moment before the present stream of that worker began.
func (m *Market) followAll(ctx context.Context, req gondola.WatchRequest, each func(w Worker, begun time.Time, ch gondola.Change)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	type followed struct {
		worker gondola.Platform
		stop   func() // and wait
	}
	following := map[gondola.WorkerName]followed{}
	leave := func(name gondola.WorkerName) {
		following[name].stop()
		delete(following, name)
		each(Worker{Name: name}, time.Time{}, gondola.Change{Worker: name, Lost: true})
	}
	for {
		ws, changed := m.current()
		here := map[gondola.WorkerName]bool{}
		for _, w := range ws {
			here[w.Name] = true
			if old, ok := following[w.Name]; ok && old.worker == w.Platform {
				continue
			} else if ok {
				leave(w.Name) // another worker of that name
			}
			one, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			wg.Go(func() { defer close(done); follow(one, w, req, each) })
			following[w.Name] = followed{w.Platform, func() { cancel(); <-done }}
		}
		for name := range following {
			if !here[name] {
				leave(name)
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			for _, f := range following {
				f.stop()
			}
			return
		}
	}
}

// follow watches one worker and dials it again whenever its stream ends.
func follow(ctx context.Context, w Worker, req gondola.WatchRequest, each func(w Worker, begun time.Time, ch gondola.Change)) {
	pause, lost := firstPause, false
	for ctx.Err() == nil {
		begun := time.Now()
		changes, err := w.Watch(ctx, req)
		if err == nil {
			for ch := range changes {
				if ch.Heartbeat {
					continue // they tell this link is up; the next one has its own
				}
				ch.Worker = w.Name
				each(w, begun, ch)
				pause, lost = firstPause, false
			}
		}
		if ctx.Err() != nil {
			return
		}
		if !lost {
			each(w, begun, gondola.Change{Worker: w.Name, Lost: true})
			lost = true
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
		pause = min(2*pause, maxPause)
	}
}

// Run keeps the index in step with the workers until ctx ends: it takes out what they have destroyed, puts in what they have, and gives the
// virtual services to those that were away.
func (m *Market) Run(ctx context.Context) error {
	r := &reconciler{m: m, ctx: ctx, streams: map[gondola.WorkerName]*beginning{}, unread: map[gondola.WorkerName]bool{}}
	ws, _ := m.current()
	for _, w := range ws {
		r.unread[w.Name] = true
	}
	if len(ws) == 0 {
		m.readOnce()
	}
	m.recallNetworkPolicies(ctx)
	m.followAll(ctx, gondola.WatchRequest{Offers: true}, r.change)
	return nil
}

// Ready closes once Run has read every worker that was there at its beginning, or found that it does not answer.
func (m *Market) Ready() <-chan struct{} { return m.ready }

func (m *Market) String() string { return "market" }

// underWay is how old a row must be to count as one whose create has arrived, or never will.
const underWay = time.Minute

// reconciler is the state of Run.
type reconciler struct {
	m   *Market
	ctx context.Context

	mu      sync.Mutex
	streams map[gondola.WorkerName]*beginning
	unread  map[gondola.WorkerName]bool // of those there at the beginning
}

// read says that a worker has been read, or is away.
func (r *reconciler) read(name gondola.WorkerName) {
	r.mu.Lock()
	delete(r.unread, name)
	all := len(r.unread) == 0
	r.mu.Unlock()
	if all {
		r.m.readOnce()
	}
}

// beginning is what a worker has said since its stream began, until it is Synced.
type beginning struct {
	begun  time.Time
	has    map[gondola.MachineID]store.Entry
	synced bool
}

func (r *reconciler) change(w Worker, begun time.Time, ch gondola.Change) {
	switch {
	case ch.Lost:
		r.m.log.Warn("worker does not answer", "worker", w.Name)
		r.m.heard(w.Name, nil)
		r.read(w.Name)
	case ch.Offer != nil:
		r.m.heard(w.Name, ch.Offer)
	case ch.Machine != nil:
		r.machine(w, begun, *ch.Machine)
	case ch.Synced:
		r.synced(w, begun)
		r.read(w.Name)
	}
}

// of returns the beginning of the present stream of a worker.
func (r *reconciler) of(name gondola.WorkerName, begun time.Time) *beginning {
	b := r.streams[name]
	if b == nil || !b.begun.Equal(begun) {
		b = &beginning{begun: begun, has: map[gondola.MachineID]store.Entry{}}
		r.streams[name] = b
	}
	return b
}

func (r *reconciler) machine(w Worker, begun time.Time, mach gondola.Machine) {
	gone := mach.State.Final()
	r.m.mu.Lock()
	if gone {
		delete(r.m.seen, mach.ID)
	} else {
		r.m.seen[mach.ID] = short(mach)
	}
	r.m.mu.Unlock()
	r.mu.Lock()
	if b := r.of(w.Name, begun); !b.synced && gone {
		delete(b.has, mach.ID)
	} else if !b.synced {
		b.has[mach.ID] = store.Entry{App: mach.Ref().App, Name: mach.Name, ID: mach.ID, Worker: w.Name, CreatedAt: mach.CreatedAt}
	}
	r.mu.Unlock()
	if gone {
		if err := r.m.index.Remove(r.ctx, mach.ID); err != nil && r.ctx.Err() == nil {
			r.m.log.Warn("take a destroyed machine out of the index", "machine", mach.ID, "err", err)
		}
	}
}

func (r *reconciler) synced(w Worker, begun time.Time) {
	r.mu.Lock()
	b := r.of(w.Name, begun)
	entries := slices.Collect(maps.Values(b.has))
	b.has, b.synced = nil, true
	r.mu.Unlock()
	if err := r.m.index.Rebuild(r.ctx, w.Name, entries, begun.Add(-underWay)); err != nil && r.ctx.Err() == nil {
		r.m.log.Warn("make the index agree with a worker", "worker", w.Name, "err", err)
	}
	r.m.readVolumes(r.ctx, w, begun.Add(-underWay))
	r.m.log.Info("worker answers", "worker", w.Name, "machines", len(entries))
	r.m.bringPolicies(r.ctx, w)
	r.m.resumePolicies(r.ctx)
	r.m.bringServices(r.ctx, w)
}
