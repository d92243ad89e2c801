package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// Kind is what of a sandbox is fixed when it is made: its guest sees so many cores and so much memory for as long as it lives.
type Kind struct {
	Limits    gondola.Resources
	Processes int64
}

// WarmConfig says which sandboxes stand ready.
type WarmConfig struct {
	Dir      string // of their places. On a tmpfs; short, since paths of sockets are. Nothing else is in it
	Instance string // of the installation, as in pilot.Spec
	Size     int    // how many there are. If zero, none, and Launch is as without a Warm; what an earlier one left is removed all the same
	First    Kind   // what is ready before anything was asked for
	// Suits says whether a sandbox that was made without knowing spec can be made its Machine's.
	Suits func(spec pilot.Spec) bool
	Log   *slog.Logger // If nil, none.
}

// Warm keeps pilots that stand ready, each with a sandbox that is made and not started, of the kinds that were asked for last. It is a Task;
// before Run and after it there are none.
//
// A pilot that stands ready waits at its standard input for the directory of a Machine, and with it becomes that Machine's: until then it ends,
// with its sandbox, when the daemon does. What one leaves that was killed is found by its places, below Dir and in the cgroup of its name, and
// removed at the next Run. New ones are made while no Machine starts.
type Warm struct {
	cfg   WarmConfig
	d     *Pilots
	off   bool // none are to stand ready
	ready chan struct{}
	wake  chan struct{} // of 1

	mu       sync.Mutex
	kinds    []Kind // asked for last, the last one first
	stock    []*started
	given    []*started // to Machines, while their processes live
	starting int        // Machines that are being launched, or are not up
	quiet    time.Time  // when the last one was

	over      chan struct{} // closed when Run ends
	following sync.WaitGroup
}

// quietTime is how long after a Machine is up sandboxes are made again: meanwhile a burst goes on.
const quietTime = 300 * time.Millisecond

// upTime is how long a Machine that does not come up may keep sandboxes from being made.
const upTime = 20 * time.Second

// warmRetry is when a sandbox that could not be made ready is tried again.
const warmRetry = time.Minute

// NewWarm returns the Warm of d, whose Launches take what stands ready from then on.
func (d *Pilots) NewWarm(cfg WarmConfig) *Warm {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	d.Warm = &Warm{cfg: cfg, d: d, off: cfg.Size == 0, ready: make(chan struct{}), wake: make(chan struct{}, 1), over: make(chan struct{}), kinds: []Kind{cfg.First}}
	return d.Warm
}

// started is a pilot's process.
type started struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has, with err
	err   error

	// Of one that stands ready:
	kind Kind
	spec pilot.Spec // its places
	tell *os.File   // its standard input
}

// launching notes a Launch of spec, and that it has ended, with a pilot or none.
func (w *Warm) launching(spec pilot.Spec) (ended func(pilot.API)) {
	if w == nil || w.off {
		return func(pilot.API) {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.starting++
	if kind := (Kind{spec.Limits, spec.Processes}); w.cfg.Suits(spec) {
		w.kinds = slices.DeleteFunc(w.kinds, func(k Kind) bool { return k == kind })
		w.kinds = append([]Kind{kind}, w.kinds...)
		w.kinds = w.kinds[:min(len(w.kinds), max(w.cfg.Size, 1))]
	}
	return func(api pilot.API) {
		w.following.Go(func() {
			w.awaitUp(api)
			w.mu.Lock()
			w.starting--
			w.quiet = time.Now()
			w.mu.Unlock()
			w.look()
		})
	}
}

// awaitUp waits until a Machine is up, or over.
func (w *Warm) awaitUp(api pilot.API) {
	if api == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	go func() {
		select {
		case <-w.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	statuses, err := api.Watch(ctx)
	if err != nil {
		return
	}
	for s := range statuses {
		if s.Phase != pilot.Booting {
			return
		}
	}
}

// look makes Run look at what is due.
func (w *Warm) look() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// take returns a pilot that stands ready for spec, or nil. It is the caller's to tell.
func (w *Warm) take(spec pilot.Spec) *started {
	if w == nil || w.off || !w.cfg.Suits(spec) {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, p := range w.stock {
		if p.kind == (Kind{spec.Limits, spec.Processes}) && p.alive() {
			w.stock, w.given = slices.Delete(w.stock, i, i+1), append(w.given, p)
			return p
		}
	}
	return nil
}

func (p *started) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// left says whether its places are still there.
func (p *started) left() bool {
	_, err := os.Stat(p.spec.Dir)
	return err == nil
}

// String names the Task.
func (w *Warm) String() string { return "warm sandboxes" }

// Ready implements the Task: the first Launch waits for nothing.
func (w *Warm) Ready() <-chan struct{} { return w.ready }

// Standing says how many sandboxes stand ready.
func (w *Warm) Standing() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, p := range w.stock {
		if p.alive() {
			n++
		}
	}
	return n
}

// Run keeps sandboxes ready until ctx ends, and removes first what an earlier one left.
func (w *Warm) Run(ctx context.Context) error {
	close(w.ready)
	if w.off {
		w.collect(context.WithoutCancel(ctx))
		<-ctx.Done()
		return nil
	}
	w.mu.Lock()
	w.quiet = time.Now() // the rest of the daemon starts as well
	w.mu.Unlock()
	w.collect(ctx)
	defer w.drain(context.WithoutCancel(ctx))
	defer w.following.Wait()
	defer close(w.over)
	retry := time.Time{}
	for ctx.Err() == nil {
		kind, spare, wait := w.due(time.Now(), retry)
		if spare != nil {
			w.end(context.WithoutCancel(ctx), spare)
			continue
		}
		if wait == 0 {
			p, err := w.make(ctx, kind)
			if err != nil && ctx.Err() == nil {
				w.cfg.Log.Warn("no sandbox stands ready", "retry in", warmRetry, "err", err)
				retry = time.Now().Add(warmRetry)
			}
			if err == nil {
				w.mu.Lock()
				w.stock = append(w.stock, p)
				w.mu.Unlock()
				go func() { // which is the end of the process as well
					<-p.ended
					w.look()
				}()
				continue
			}
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-w.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// due says what there is to do now: to end one that is of no use, or that died before it had left its places, to make one of a kind (wait is zero), or nothing for a while.
func (w *Warm) due(now, retry time.Time) (kind Kind, spare *started, wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	const long = time.Hour
	w.given = slices.DeleteFunc(w.given, func(p *started) bool { return !p.alive() && !p.left() })
	if w.starting > 0 {
		return kind, nil, long
	}
	if wait = max(w.quiet.Add(quietTime).Sub(now), retry.Sub(now)); wait > 0 {
		return kind, nil, wait
	}
	if i := slices.IndexFunc(w.given, func(p *started) bool { return !p.alive() }); i >= 0 {
		spare = w.given[i]
		w.given = slices.Delete(w.given, i, i+1)
		return kind, spare, 0
	}
	stock := slices.Clone(w.stock)
	for i := range w.cfg.Size {
		want := w.kinds[i%len(w.kinds)]
		have := slices.IndexFunc(stock, func(p *started) bool { return p.kind == want && p.alive() })
		if have < 0 {
			kind, wait = want, 0
			if len(stock) > 0 && len(w.stock) >= w.cfg.Size {
				spare = w.spareLocked()
			}
			return kind, spare, 0
		}
		stock = slices.Delete(stock, have, have+1)
	}
	return kind, nil, long
}

// spareLocked takes one out of the stock that is dead or of a kind that is not wanted any more, or of which there are too many.
func (w *Warm) spareLocked() *started {
	stock := slices.Clone(w.stock)
	for i := range w.cfg.Size {
		if have := slices.IndexFunc(stock, func(p *started) bool { return p.kind == w.kinds[i%len(w.kinds)] && p.alive() }); have >= 0 {
			stock = slices.Delete(stock, have, have+1)
		}
	}
	if len(stock) == 0 {
		return nil
	}
	w.stock = slices.DeleteFunc(w.stock, func(p *started) bool { return p == stock[0] })
	return stock[0]
}

// places is where one that stands ready has its things.
func (w *Warm) places(name string) pilot.Spec {
	dir := filepath.Join(w.cfg.Dir, name)
	// With a dot in its name nobody takes its cgroup for a Machine's.
	return pilot.Spec{Machine: gondola.MachineID("warm." + name), Instance: w.cfg.Instance, Dir: dir, RunDir: dir, Socket: filepath.Join(dir, "sock"),
		Cgroup: filepath.Join("gondola", w.cfg.Instance, "warm."+name)}
}

// make starts a pilot that makes a sandbox, and waits until it stands ready.
func (w *Warm) make(ctx context.Context, kind Kind) (_ *started, err error) {
	spec := w.places(string(gondola.NewMachineID()[:10])) // no Machine's id
	spec.Limits, spec.Processes = kind.Limits, kind.Processes
	p := &started{kind: kind, spec: spec}
	defer func() {
		if err != nil {
			w.end(context.WithoutCancel(ctx), p)
		}
	}()
	if err := prepare(spec, nil); err != nil {
		return nil, err
	}
	logPath := filepath.Join(spec.Dir, pilotLog)
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	asked, tell, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer asked.Close()
	p.tell = tell
	said, says, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer said.Close()
	cmd := w.d.command("warm", spec.Dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = asked, says, log
	err = p.start(cmd)
	says.Close()
	if err != nil {
		return nil, err
	}
	if err := RecordProcess(filepath.Join(spec.Dir, pilotRecord), cmd.Process.Pid, w.d.Path); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { said.SetReadDeadline(time.Now()) })
	defer stop()
	if _, err := said.Read(make([]byte, 1)); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("the pilot ended: %s", tail(logPath))
		}
		return nil, errors.Join(err, ctx.Err())
	}
	return p, nil
}

// start starts the process.
func (p *started) start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the pilot: %w", err)
	}
	p.cmd, p.ended = cmd, make(chan struct{})
	go func() { // it is a child of this process until one of the two ends
		p.err = cmd.Wait()
		close(p.ended)
	}()
	return nil
}

// end ends one that no Machine has, and removes what is left of its places.
func (w *Warm) end(ctx context.Context, p *started) {
	if p.tell != nil {
		p.tell.Close()
	}
	if p.cmd != nil {
		timer := time.NewTimer(5 * time.Second)
		defer timer.Stop()
		select {
		case <-p.ended:
		case <-timer.C:
		}
	}
	if err := errors.Join(w.d.Kill(ctx, p.spec), os.RemoveAll(p.spec.Dir)); err != nil {
		w.cfg.Log.Warn("a sandbox that stood ready has left something behind", "dir", p.spec.Dir, "err", err)
	}
}

// drain ends all that no Machine has.
func (w *Warm) drain(ctx context.Context) {
	w.mu.Lock()
	stock := w.stock
	w.stock, w.cfg.Size = nil, 0
	w.mu.Unlock()
	for _, p := range stock {
		p.tell.Close() // all at once
	}
	for _, p := range stock {
		w.end(ctx, p)
	}
	w.collect(ctx) // what those left that were given away and killed
}

// collect removes what pilots left that were killed. One that lives is about to end, or is becoming a Machine's, and then cleans up by itself.
func (w *Warm) collect(ctx context.Context) {
	entries, err := os.ReadDir(w.cfg.Dir)
	if err != nil {
		return // there never were any
	}
	for _, e := range entries {
		spec := w.places(e.Name())
		if p, err := ReadProcess(filepath.Join(spec.Dir, pilotRecord)); err == nil && p.Alive() {
			continue
		}
		w.end(ctx, &started{spec: spec})
	}
}
