package pilot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// SupervisorConfig says what a Supervisor supervises.
type SupervisorConfig struct {
	Spec    Spec
	Runtime Runtime
	Log     *slog.Logger // If nil, nothing is logged.

	// Final, if set, is called just before a final Phase is recorded, when nothing of the Machine is left.
	Final func()
	// LogBytes is the size at which a container's log is rotated. If zero, the Spec's.
	LogBytes int64
	// Volatile leaves out the fsyncs: after a power loss the journal may be older than what happened. For tests and simulations.
	Volatile bool
}

// Supervisor runs one Machine: it implements API in this process. Run does the work; methods called before it wait for it.
type Supervisor struct {
	spec     Spec
	rt       Runtime
	log      *slog.Logger
	logBytes int64
	volatile bool
	final    func()
	prober   *prober
	disk     DiskMeter
	door     *door // of Run; nil: the Machine has none

	opened  chan struct{} // closed when the ledger is there and tells the present
	opening sync.Once
	done    chan struct{} // closed when Run returns
	hung    chan struct{} // closed when the sandbox has been found to hang
	hanging sync.Once
	ledger  *ledger

	mu       sync.Mutex
	payload  gondola.Payload
	consoles map[string]*console // container → its streams while it runs
	environ  map[string][]string // container → the variables that this pilot started it with
	overrun  map[string]bool     // container → it was killed for its memory
	added    []*Container        // ephemeral ones, beside those of spec
	begin    func(*Container)    // starts to supervise one more; nil while there may be none
	size     Size                // that sandbox and containers are to have

	visitors    visitors
	suspending  chan struct{}       // of 1: the Phase is Suspending
	kept        map[string]*console // container → its streams while nobody supervises it: the Machine is being suspended, or was resumed
	unsuspended string              // why the last Suspend failed
	cold        string              // why the Machine was not resumed; of boot

	resizing sync.Mutex    // held by the one Resize under way
	resized  chan struct{} // of 1: size has changed
}

// NewSupervisor returns a Supervisor that does nothing until Run.
func NewSupervisor(cfg SupervisorConfig) *Supervisor {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{spec: cfg.Spec, rt: cfg.Runtime, log: cfg.Log.With("machine", cfg.Spec.Machine), logBytes: cmp.Or(cfg.LogBytes, cfg.Spec.LogBytes),
		volatile: cfg.Volatile, final: cfg.Final, opened: make(chan struct{}), done: make(chan struct{}), hung: make(chan struct{}), consoles: map[string]*console{}, kept: map[string]*console{}, environ: map[string][]string{},
		overrun: map[string]bool{}, size: cfg.Spec.Size(), resized: make(chan struct{}, 1), suspending: make(chan struct{}, 1)}
	s.prober = &prober{spec: &s.spec, rt: s.rt, exec: s.run}
	return s
}

// errLost is why the containers' goroutines end when the sandbox has died.
var errLost = errors.New("the sandbox has died")

// Run supervises until a final Phase, and returns nil then. When ctx ends before, it lets go of everything at once and returns the context's
// error: the containers run on, and a later Supervisor takes them over.
func (s *Supervisor) Run(ctx context.Context) error {
	defer close(s.done)
	door, err := openDoor(&s.spec)
	if err != nil {
		return err
	}
	defer door.close()
	s.door = door
	adopted, err := s.boot(ctx)
	if err != nil {
		return err
	}
	if phase := s.phase(); phase.Final() {
		return nil
	}
	defer s.ledger.close()
	for {
		if s.phase() == Suspending {
			if s.suspend(ctx) {
				return s.finish(Suspended, "", false)
			}
			adopted = true
		}
		if err := s.superviseAll(ctx, adopted); err != errSuspend {
			return err
		}
	}
}

// superviseAll supervises until a final Phase (nil), until ctx ends, or until the Machine is to be suspended: then it returns errSuspend, and the
// containers run on.
func (s *Supervisor) superviseAll(ctx context.Context, adopted bool) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	s.accept(func(c *Container) { wg.Go(func() { s.supervise(inner, c, false) }) }) // before anybody can see that one runs
	wg.Go(func() { s.acceptUntilEnd(inner) })
	for i := range s.spec.Containers {
		wg.Go(func() { s.supervise(inner, &s.spec.Containers[i], adopted) })
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	stopWatch := s.watchMemory(inner)
	defer stopWatch()
	stopChecks := s.watchChecks(inner)
	defer stopChecks()
	select {
	case <-ended:
	case <-s.suspending:
		s.door.rest(ctx) // while logs are still read
		cancel(errSuspend)
		<-ended
	case <-s.rt.Gone():
		cancel(errLost)
		<-ended
	case <-s.hung:
		cancel(errLost)
		<-ended
		return s.finishHung()
	case <-ctx.Done():
		<-ended
	}
	if s.allDone() {
		return s.finish(Ended, "", false)
	}
	if context.Cause(inner) == errLost {
		if s.rt.OOM() {
			s.endedForMemory()
			if s.allDone() {
				return s.finish(Ended, "", true)
			}
			return s.finish(Lost, "the sandbox has used more memory than its limit", true)
		}
		return s.finish(Lost, "the sandbox has died", false)
	}
	if ctx.Err() == nil && context.Cause(inner) == errSuspend {
		return errSuspend
	}
	return ctx.Err()
}

// boot reads journal and payload and makes or takes over the sandbox.
func (s *Supervisor) boot(ctx context.Context) (adopted bool, err error) {
	began := time.Now()
	l, size, err := readLedger(s.spec.Dir, s.log)
	if err != nil {
		return false, err
	}
	last, snapshot := l.phase, HasSnapshot(s.spec.Dir)
	if err := l.open(s.spec.Dir, size, !s.volatile); err != nil {
		return false, err
	}
	failpoint.Hit("pilot.boot.read")
	same := l.version == s.spec.Version
	if err := l.begin(s.spec, last == Ended || last == Suspended && !snapshot); err != nil {
		l.close()
		return false, err
	}
	s.ledger = l
	if snapshot && s.phase() == Suspending { // all that is left is to end the sandbox
		s.open()
		return false, nil
	}
	// Where containers of an earlier pilot may have died meanwhile, nobody is told that they run before that is known.
	if !l.anyBegun() {
		s.open()
	}
	defer s.open()
	if err := s.prepare(); err != nil {
		return false, s.fail(err)
	}
	failpoint.Hit("pilot.boot.prepared")
	if same && (last == Resuming || snapshot && last == Booting) {
		// Nobody knows how far an earlier pilot came with the sandbox, which has used up the network. The next pilot has a new one: it resumes, or
		// where the snapshot is void by now, starts from the beginning.
		defer s.ledger.close()
		return false, s.finish(Lost, "the pilot that resumed the machine has died", false)
	}
	if snapshot {
		if ok, err := s.resume(ctx); ok || err != nil {
			if err != nil {
				return false, s.fail(err)
			}
			return true, nil
		}
	}
	if adopted, err = s.rt.Boot(ctx, s.spec); err != nil {
		return false, s.fail(err)
	}
	failpoint.Hit("pilot.boot.made")
	if adopted && !same { // what runs is of an old Version
		if err := s.rt.Destroy(ctx, s.spec); err != nil {
			return false, s.fail(err)
		}
		if adopted, err = s.rt.Boot(ctx, s.spec); err != nil {
			return false, s.fail(err)
		}
	}
	if adopted {
		if phase := s.phase(); phase != Ending && phase != Suspending {
			s.ledger.commit(entry{Phase: Running})
		}
		return true, nil
	}
	if s.phase() == Suspending { // there is nothing left to suspend
		s.ledger.commit(entry{Phase: Booting})
	}
	if s.phase() == Ending && s.stopRequest().At.Before(began) { // that stop came to its end with the old sandbox; this is a new start
		if err := s.ledger.begin(s.spec, true); err != nil {
			return false, s.fail(err)
		}
	}
	s.ledger.sandboxMade(&s.spec, s.cold)
	failpoint.Hit("pilot.boot.recorded")
	return false, nil
}

// open lets those in who ask.
func (s *Supervisor) open() { s.opening.Do(func() { close(s.opened) }) }

// prepare makes the files that containers see.
func (s *Supervisor) prepare() error {
	if err := writeEtc(s.spec); err != nil {
		return err
	}
	s.mu.Lock() // a payload that is put meanwhile is read here, or comes after
	defer s.mu.Unlock()
	p, err := readPayload(s.spec.RunDir)
	if err != nil {
		return err
	}
	s.payload = p
	return writeVolumes(s.spec, p)
}

// fail ends the Machine because its sandbox cannot be made, unless the pilot itself was told to go.
func (s *Supervisor) fail(err error) error {
	defer s.ledger.close()
	if errors.Is(err, context.Canceled) {
		return err
	}
	s.log.Error("the sandbox cannot be made", "err", err)
	if errors.Is(err, ErrLost) {
		return s.finish(Lost, err.Error(), false)
	}
	return s.finish(Failed, err.Error(), false)
}

// finish undoes the sandbox and records the final phase.
func (s *Supervisor) finish(phase Phase, message string, oom bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := s.rt.Destroy(ctx, s.spec)
	if err != nil {
		err = fmt.Errorf("end the sandbox: %w", err)
		s.log.Error("the sandbox left something behind", "err", err)
	}
	if s.final != nil {
		s.final()
	}
	failpoint.Hit("pilot.finish.destroyed")
	s.ledger.commit(entry{Phase: phase, Message: message, OOM: oom})
	failpoint.Hit("pilot.finish.recorded")
	return err
}

// finishHung ends a sandbox that hangs.
func (s *Supervisor) finishHung() error {
	if s.stopping() {
		s.endedWithSandbox()
		if s.allDone() {
			return s.finish(Ended, "", false)
		}
	}
	return s.finish(Lost, "the sandbox did not answer and was killed", false)
}

func (s *Supervisor) phase() Phase {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.phase
}

func (s *Supervisor) allDone() bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	for _, c := range s.ledger.containers {
		if !c.Done {
			return false
		}
	}
	return true
}

// up records that the Machine runs: its first container has been started, or has failed to.
func (s *Supervisor) up() {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if s.ledger.phase == Booting {
		s.ledger.commitLocked(entry{Phase: Running}, true)
	}
}

// backoff is the Machine's way to wait before restarts.
func (s *Supervisor) backoff() gondola.Backoff {
	if s.kubernetes() {
		return gondola.KubernetesBackoff
	}
	return gondola.FlyBackoff
}

func (s *Supervisor) kubernetes() bool { return s.spec.RestartBackoff == "kubernetes" }

// watchMemory kills containers that use more memory than their own limit. The returned function ends it.
func (s *Supervisor) watchMemory(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			limits, due := s.memoryLimits(), tick.C
			if len(limits) == 0 { // a Resize may give some
				due = nil
				tick.Stop()
			}
			select {
			case <-due:
				s.checkMemory(ctx, limits)
			case <-s.resized:
				tick.Reset(time.Second)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// memoryLimits returns the containers that have a limit of their own.
func (s *Supervisor) memoryLimits() map[string]int64 {
	limits := map[string]int64{}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, size := range s.size.Containers {
		if size.Limits.MemoryBytes > 0 {
			limits[name] = size.Limits.MemoryBytes
		}
	}
	return limits
}

func (s *Supervisor) checkMemory(ctx context.Context, limits map[string]int64) {
	usage, err := s.rt.Usage(ctx)
	if err != nil {
		if ctx.Err() == nil {
			s.log.Warn("memory of containers cannot be read", "err", err)
		}
		return
	}
	for name, used := range usage {
		limit, ok := limits[name]
		if !ok || used <= limit || s.ledger.container(name).Status.State.Kind != gondola.ContainerRunning {
			continue
		}
		s.mu.Lock()
		s.overrun[name] = true
		s.mu.Unlock()
		if err := s.rt.Signal(ctx, name, "SIGKILL", true); err != nil && ctx.Err() == nil {
			s.log.Warn("a container over its memory limit cannot be killed", "container", name, "err", err)
		}
	}
}
