package pilot

import (
	"context"
	"errors"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// kill is a reason to end a container that runs.
type kill struct {
	note  string         // for people; empty: none
	grace *time.Duration // until SIGKILL; if nil, the container's own
	last  bool           // the stop signal waits for the end of those that need the container
}

// rekill is how often SIGKILL is repeated while a container does not end.
const rekill = 5 * time.Second

// signalTime is how long a sandbox has to take a signal: one that does not take SIGKILL in that time hangs. What it is asked before must not
// take the container's time to end, but for the least that a signal needs.
const (
	signalTime      = 3 * time.Second
	leastSignalTime = 500 * time.Millisecond
)

// defaultGrace is how long a container has to end where its Config does not say.
const defaultGrace = 5 * time.Second

func (s *Supervisor) stopping() bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.stoppingLocked()
}

func (s *Supervisor) stoppingLocked() bool { return s.ledger.phase == Ending }

func (s *Supervisor) stopRequest() stopRecord {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if s.ledger.stop == nil {
		return stopRecord{}
	}
	return *s.ledger.stop
}

// deadline is when a container that was asked to end at the time began is killed. It is asked again whenever something changes, for a second
// Stop may leave less time.
func (s *Supervisor) deadline(c *Container, k kill, began time.Time) time.Time {
	grace := defaultGrace
	if c.Config.Stop != nil && c.Config.Stop.Timeout != nil {
		grace = time.Duration(*c.Config.Stop.Timeout)
	}
	if k.grace != nil {
		grace = *k.grace
	}
	at := began.Add(grace)
	if !s.stopping() {
		return at
	}
	req := s.stopRequest()
	if req.Timeout == nil {
		return at
	}
	asked := req.At.Add(time.Duration(*req.Timeout))
	if k.grace != nil && at.Before(asked) {
		return at
	}
	return asked
}

// leastGrace is how long a container of a Pod has from its stop signal, however little of the Pod's grace period is left: as with a kubelet
// (minimumGracePeriodInSeconds in its kuberuntime package). A sidecar's turn may come when nothing is.
const leastGrace = 2 * time.Second

// terminate ends a container: pre-stop hook, stop signal, and SIGKILL when its time is over.
func (s *Supervisor) terminate(ctx context.Context, c *Container, k kill, exits <-chan Exit) (Exit, bool) {
	if k.note != "" {
		s.ledger.note(false, c.Name, "Killing", k.note)
	}
	began := time.Now()
	exit, ended := s.preStop(ctx, c, func() time.Time { return s.deadline(c, k, began) }, exits)
	if ended || ctx.Err() != nil {
		return exit, ended
	}
	if k.last {
		if exit, ended = s.outlive(ctx, c, exits); ended || ctx.Err() != nil {
			return exit, ended
		}
	}
	signal := gondola.Signal("SIGTERM")
	if c.Config.Stop != nil && c.Config.Stop.Signal != nil && *c.Config.Stop.Signal != "" {
		signal = *c.Config.Stop.Signal
	}
	if req := s.stopRequest(); req.Signal != "" {
		signal = req.Signal
	}
	if err := s.signal(ctx, c, signal, false, min(time.Until(s.deadline(c, k, began)), signalTime)); err != nil && ctx.Err() == nil {
		s.log.Warn("a container cannot be asked to end", "container", c.Name, "err", err)
	}
	failpoint.Hit("pilot.stop.signalled")
	var least time.Time
	if s.kubernetes() && !s.atOnce() {
		least = time.Now().Add(leastGrace)
	}
	for {
		if exit, ended := s.awaitExit(ctx, exits, func() time.Time { return later(s.deadline(c, k, began), least) }); ended || ctx.Err() != nil {
			return exit, ended
		}
		err := s.signal(ctx, c, "SIGKILL", true, signalTime)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return s.hang(ctx, c)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Warn("a container cannot be killed", "container", c.Name, "err", err)
		}
		again := time.Now().Add(rekill)
		if exit, ended := s.awaitExit(ctx, exits, func() time.Time { return again }); ended || ctx.Err() != nil {
			return exit, ended
		}
	}
}

// outlive waits until nothing runs any more that needs the container, or it ends itself.
func (s *Supervisor) outlive(ctx context.Context, c *Container, exits <-chan Exit) (exit Exit, ended bool) {
	for {
		_, changed := s.ledger.status()
		if !s.dependents(c) {
			return Exit{}, false
		}
		select {
		case e := <-exits:
			return e, true
		case <-changed:
		case <-ctx.Done():
			return Exit{}, false
		}
	}
}

// atOnce says whether the Machine was told to stop with no time at all, as for a Pod that is deleted by force.
func (s *Supervisor) atOnce() bool {
	if !s.stopping() {
		return false
	}
	req := s.stopRequest()
	return req.Timeout != nil && *req.Timeout == 0
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// signal sends a signal; context.DeadlineExceeded if the sandbox does not take it in time.
func (s *Supervisor) signal(ctx context.Context, c *Container, sig gondola.Signal, all bool, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, max(within, leastSignalTime))
	defer cancel()
	return s.rt.Signal(ctx, c.Name, sig, all)
}

// hang ends a sandbox that does not even take a SIGKILL for one of its containers, and with it all of them; it waits for that.
func (s *Supervisor) hang(ctx context.Context, c *Container) (Exit, bool) {
	s.log.Error("the sandbox does not answer and is killed", "container", c.Name)
	s.hanging.Do(func() { close(s.hung) })
	<-ctx.Done()
	return Exit{}, false
}

// endedWithSandbox records the end of what ran in a sandbox that had to be killed while it was to end anyway.
func (s *Supervisor) endedWithSandbox() {
	for _, c := range s.containers() {
		rec := s.ledger.container(c.Name)
		if !rec.Begun || rec.Done {
			continue
		}
		s.ended(c, gondola.ContainerState{Kind: gondola.ContainerExited, Reason: "Error", ExitCode: 137, Signal: 9,
			StartedAt: rec.Status.State.StartedAt, FinishedAt: time.Now(), Message: "The sandbox did not answer and was killed."})
	}
}

// awaitExit waits for the end of a run until the deadline, which may move.
func (s *Supervisor) awaitExit(ctx context.Context, exits <-chan Exit, deadline func() time.Time) (Exit, bool) {
	for {
		_, changed := s.ledger.status()
		left := time.Until(deadline())
		if left <= 0 {
			select {
			case e := <-exits:
				return e, true
			default:
				return Exit{}, false
			}
		}
		timer := time.NewTimer(left)
		select {
		case e := <-exits:
			timer.Stop()
			return e, true
		case <-timer.C:
		case <-changed:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return Exit{}, false
		}
	}
}

// preStop runs the pre-stop hook, whose time counts as the container's. A hook that fails is noted and changes nothing.
func (s *Supervisor) preStop(ctx context.Context, c *Container, deadline func() time.Time, exits <-chan Exit) (exit Exit, ended bool) {
	ext := c.Config.Gondola
	if ext == nil || ext.PreStop == nil || time.Until(deadline()) <= 0 {
		return Exit{}, false
	}
	hctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.hook(hctx, c, ext.PreStop) }()
	for {
		_, changed := s.ledger.status()
		timer := time.NewTimer(max(0, time.Until(deadline())))
		select {
		case e := <-exits:
			timer.Stop()
			cancel()
			<-done
			return e, true
		case err := <-done:
			timer.Stop()
			if err != nil && ctx.Err() == nil {
				s.log.Warn("a pre-stop hook failed", "container", c.Name, "err", err)
				s.ledger.note(true, c.Name, "FailedPreStopHook", "PreStopHook failed")
			}
			return Exit{}, false
		case <-timer.C:
			if time.Until(deadline()) <= 0 {
				cancel()
				<-done
				s.ledger.note(true, c.Name, "FailedPreStopHook", "PreStopHook did not end in time")
				return Exit{}, false
			}
		case <-changed:
			timer.Stop()
		}
	}
}
