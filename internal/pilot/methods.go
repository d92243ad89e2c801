package pilot

import (
	"context"
	"io"
	"slices"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// This file is the Supervisor's side of API.

var _ API = (*Supervisor)(nil)

// ready waits until the Supervisor can answer.
func (s *Supervisor) ready(ctx context.Context) error {
	select {
	case <-s.opened:
	case <-s.done: // perhaps both
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-s.opened:
	default:
		return ErrGone
	}
	select {
	case <-s.done:
		if !s.phase().Final() {
			return ErrGone
		}
	default:
	}
	return nil
}

// Watch implements API.
func (s *Supervisor) Watch(ctx context.Context) (<-chan Status, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	out := make(chan Status)
	go func() {
		defer close(out)
		var sent uint64
		for first := true; ; first = false {
			status, changed := s.ledger.status()
			if first || status.Seq != sent {
				select {
				case out <- status:
					sent = status.Seq
				case <-ctx.Done():
					return
				case <-changed:
					continue // the reader gets the newer one
				}
				if status.Phase.Final() {
					return
				}
			}
			select {
			case <-changed:
			case <-s.done:
				if now, _ := s.ledger.status(); now.Seq == sent {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

// Stop implements API.
func (s *Supervisor) Stop(ctx context.Context, req gondola.StopRequest) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if s.ledger.phase.Final() {
		return nil
	}
	if s.ledger.phase == Suspending {
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s is being suspended: it can be stopped when that is done", s.spec.Machine)
	}
	// A second Stop may only shorten the first.
	if old := s.ledger.stop; old != nil && old.Timeout != nil {
		if req.Timeout == nil || time.Now().Add(time.Duration(*req.Timeout)).After(old.At.Add(time.Duration(*old.Timeout))) {
			return nil
		}
	}
	failpoint.Hit("pilot.stop.begun")
	s.ledger.commitLocked(entry{Phase: Ending, Stop: &stopRecord{Signal: req.Signal, Timeout: req.Timeout, At: time.Now()}}, true)
	failpoint.Hit("pilot.stop.recorded")
	return nil
}

// target returns the container of that name, or the default one, and its record.
func (s *Supervisor) target(ctx context.Context, name string) (*Container, containerRecord, error) {
	if err := s.ready(ctx); err != nil {
		return nil, containerRecord{}, err
	}
	for _, c := range s.containers() {
		if c.Name != name && (name != "" || !isMain(c)) {
			continue
		}
		rec := s.settled(ctx, c.Name)
		if rec.Status.State.Kind != gondola.ContainerRunning {
			return nil, rec, gondola.Errorf(gondola.ErrPrecondition, "container %s of machine %s is not running", c.Name, s.spec.Machine)
		}
		return c, rec, nil
	}
	if name == "" {
		return nil, containerRecord{}, gondola.Errorf(gondola.ErrNotFound, "machine %s has only init containers: name one", s.spec.Machine)
	}
	return nil, containerRecord{}, gondola.Errorf(gondola.ErrNotFound, "machine %s has no container %q", s.spec.Machine, name)
}

// settled returns the record of a container, once a start that is under way is through: its program may have been heard of already.
func (s *Supervisor) settled(ctx context.Context, name string) (rec containerRecord) {
	s.ledger.await(ctx.Done(), func() bool {
		rec = s.ledger.container(name)
		return !rec.Begun || rec.Status.State.Kind == gondola.ContainerRunning
	})
	return rec
}

// Signal implements API.
func (s *Supervisor) Signal(ctx context.Context, container string, sig gondola.Signal) error {
	c, _, err := s.target(ctx, container)
	if err != nil {
		return err
	}
	return s.rt.Signal(ctx, c.Name, sig, false)
}

// Exec implements API.
func (s *Supervisor) Exec(ctx context.Context, opts gondola.ExecOptions, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	if len(opts.Command) == 0 {
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrInvalid, "exec: command is missing")
	}
	c, _, err := s.target(ctx, opts.Container)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	e, err := s.execIn(c, opts.Command, opts.TTY)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	ctx, leave, err := s.visitors.enter(ctx)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	defer leave()
	return s.rt.Exec(ctx, c.Name, e, streams)
}

// execIn describes a command that runs as the container does.
func (s *Supervisor) execIn(c *Container, cmd []string, tty bool) (Exec, error) {
	id, home, err := identity(&s.spec, c)
	if err != nil {
		return Exec{}, err
	}
	s.mu.Lock()
	env := slices.Clone(s.environ[c.Name])
	s.mu.Unlock()
	if env == nil { // an earlier pilot started it
		own, apps := s.secrets(c.Name)
		if _, env, _, err = command(&s.spec, c, own); err != nil {
			return Exec{}, err
		}
		env, _ = withSecrets(c, env, apps) // one that was removed meanwhile is missed at the next start
		env = defaultEnv(env, "HOME="+home)
	}
	if tty {
		env = defaultEnv(env, "TERM=xterm")
	}
	return Exec{Args: cmd, Env: env, WorkingDir: workingDir(c), Identity: id, TTY: tty}, nil
}

// run executes a command of a probe or hook.
func (s *Supervisor) run(ctx context.Context, container string, cmd []string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	return s.Exec(ctx, gondola.ExecOptions{Container: container, Command: cmd}, streams)
}

// Attach implements API.
func (s *Supervisor) Attach(ctx context.Context, container string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	c, _, err := s.target(ctx, container)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	s.mu.Lock()
	con := s.consoles[c.Name]
	s.mu.Unlock()
	if con == nil {
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrPrecondition, "container %s of machine %s is not running", c.Name, s.spec.Machine)
	}
	return con.attach(ctx, streams)
}

// Dial implements API.
func (s *Supervisor) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	return s.visitors.dial(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) { return s.rt.Dial(ctx, port) })
}

// PutPayload implements API.
func (s *Supervisor) PutPayload(ctx context.Context, p gondola.Payload) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	if err := checkPayload(p); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := WritePayload(s.spec.RunDir, p); err != nil {
		return err
	}
	failpoint.Hit("pilot.payload.recorded")
	s.payload = p
	return writeVolumes(s.spec, p)
}

// Processes implements API.
func (s *Supervisor) Processes(ctx context.Context) ([]gondola.ProcessStat, error) {
	if err := s.ready(ctx); err != nil {
		return nil, err
	}
	return s.rt.Processes(ctx)
}
