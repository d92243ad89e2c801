package pilot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"gondola"
	"gondola/internal/failpoint"
)

// unknownExit is how long a lost exit status waits for the news that the sandbox has died.
const unknownExit = 5 * time.Second

// supervise is the goroutine of one container: it starts it when it is its turn, and again as its policy says, until it has ended for good.
// It returns early when ctx ends; all it knows is in the ledger.
func (s *Supervisor) supervise(ctx context.Context, c *Container, adopted bool) {
	rec := s.ledger.container(c.Name)
	if adopted && rec.Begun {
		if rec.Status.State.Kind == gondola.ContainerRunning {
			s.takeOver(ctx, c)
		} else {
			s.undoStart(ctx, c)
		}
	}
	clean := !adopted
	for ctx.Err() == nil && !s.ledger.container(c.Name).Done {
		if !s.awaitTurn(ctx, c) || !s.awaitBackoff(ctx, c) {
			s.giveUp(ctx, c)
			continue
		}
		if !clean { // the earlier pilot may have died before this
			s.remove(ctx, c)
		}
		clean = true
		s.start(ctx, c)
	}
}

// awaitTurn waits for the dependencies; false means that the container is not to start any more.
func (s *Supervisor) awaitTurn(ctx context.Context, c *Container) bool {
	var t turn
	s.ledger.await(ctx.Done(), func() bool {
		var initializing bool
		t, initializing = s.turn(c)
		if t == turnWait {
			s.showWaiting(c, initializing)
		}
		return t != turnWait || s.over(c)
	})
	return t == turnStart && !s.over(c) && ctx.Err() == nil
}

// showWaiting names what a container that never ran waits for.
func (s *Supervisor) showWaiting(c *Container, initializing bool) {
	if !initializing {
		return
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		if r.Status.State.Reason != "ContainerCreating" {
			return false
		}
		r.Status.State.Reason = "PodInitializing"
		return true
	})
}

// awaitBackoff waits until a container that has failed may start again; false means that it is not to.
func (s *Supervisor) awaitBackoff(ctx context.Context, c *Container) bool {
	rec := s.ledger.container(c.Name)
	last := rec.Status.State
	if last.Kind == gondola.ContainerWaiting && last.Reason == "CrashLoopBackOff" && rec.Status.Last != nil {
		last = *rec.Status.Last
	}
	if last.Kind != gondola.ContainerExited {
		return true
	}
	backoff := s.backoff()
	if !s.kubernetes() {
		backoff = backoff.Within(c.Config.Restart.Retries())
	}
	wait := backoff.Wait(rec.Row - 1) // Row counts the restart that is due
	left := time.Until(last.FinishedAt.Add(wait))
	if left <= 0 {
		return !s.over(c)
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		if r.Status.State.Kind != gondola.ContainerExited {
			return false
		}
		r.wait(gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "CrashLoopBackOff",
			Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", wait, c.Name, s.spec.label())})
		return true
	}, gondola.Note{Warning: true, Reason: "BackOff",
		Message: fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, s.spec.label())})
	return s.pause(ctx, c, left)
}

// pause waits for d; false if c is not to run any more or ctx ends before.
func (s *Supervisor) pause(ctx context.Context, c *Container, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	stopped := s.ledger.await(ctx.Done(), func() bool { return s.over(c) })
	return !stopped && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// giveUp records that a container does not start any more, unless it is only the pilot that goes.
func (s *Supervisor) giveUp(ctx context.Context, c *Container) {
	if ctx.Err() != nil {
		return
	}
	s.ledger.change(c.Name, true, func(r *containerRecord) bool {
		r.Done = true
		r.rest()
		return true
	})
}

// start runs a container once.
func (s *Supervisor) start(ctx context.Context, c *Container) {
	defer s.up()
	n := s.ledger.container(c.Name).Runs
	run, err := s.prepareRun(c, n)
	if err != nil {
		s.cannotConfigure(ctx, c, err)
		return
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		r.wait(gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"})
		r.Runs, r.Starts, r.Begun, r.Hooked = r.Runs+1, r.Starts+1, true, false
		r.Status.RestartCount = r.Starts - 1
		r.Status.ContainerID = fmt.Sprintf("gondola://%s/%s/%d", s.spec.Machine, c.Name, n)
		r.Status.Ready, r.Status.Started = false, false
		return true
	})
	failpoint.Hit("pilot.container.recorded")
	size := run.Container.Config.Size()
	s.mu.Lock()
	s.environ[c.Name] = run.Env
	s.mu.Unlock()
	con, err := s.openConsole(c, &run)
	if err == nil {
		if err = s.rt.Start(ctx, run); err != nil && !s.goneSoon(ctx) {
			con.finish(gondola.ExitStatus{Code: 128})
		} else if err != nil {
			con.close()
		}
	}
	if ctx.Err() != nil && err != nil {
		return // the next pilot undoes what was begun
	}
	if err != nil {
		s.cannotStart(ctx, c, err)
		return
	}
	failpoint.Hit("pilot.container.started")
	con.started()
	hooked := c.Config.Gondola != nil && c.Config.Gondola.PostStart != nil
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		r.Status.State, r.Earlier = gondola.ContainerState{Kind: gondola.ContainerRunning, StartedAt: time.Now()}, nil
		r.Status.Size = &size
		if !hooked && !has(c, startupProbe) { // in one step with the news that it runs
			r.Status.Started, r.Status.Ready = true, !has(c, readinessProbe)
		}
		return true
	}, gondola.Note{Reason: "Created", Message: "Container created"}, gondola.Note{Reason: "Started", Message: "Container started"})
	failpoint.Hit("pilot.container.running")
	s.up()
	s.attend(ctx, c, con)
}

// prepareRun works out everything that a run needs but its streams.
func (s *Supervisor) prepareRun(c *Container, n int) (Run, error) {
	own, apps := s.secrets(c.Name)
	args, env, vars, err := command(&s.spec, c, own)
	if err != nil {
		return Run{}, err
	}
	env, missing := withSecrets(c, env, apps)
	if missing != "" {
		return Run{}, secretMissing(c, missing)
	}
	id, home, err := identity(&s.spec, c)
	if err != nil {
		return Run{}, err
	}
	mounted, err := mounts(&s.spec, c, n, vars)
	if err != nil {
		return Run{}, err
	}
	files, secret, err := secretFiles(&s.spec, c, n, apps)
	if err != nil {
		return Run{}, err
	}
	ext := c.Config.Gondola
	return Run{Container: s.sized(c), Attempt: n, Args: args, Env: defaultEnv(env, "HOME="+home), WorkingDir: workingDir(c), Identity: id,
		Mounts: append(mounted, secret...), Files: files, TTY: ext != nil && ext.TTY}, nil
}

func workingDir(c *Container) string {
	if c.WorkingDir == "" {
		return "/"
	}
	return c.WorkingDir
}

// secrets are the values of a container's secret variables, and the App's.
func (s *Supervisor) secrets(container string) (own, apps map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.payload.Env[container], s.payload.Secrets
}

func (s *Supervisor) openConsole(c *Container, run *Run) (*console, error) {
	log, err := openLogFile(s.spec.Dir, c.Name, run.Attempt, s.logBytes)
	if err != nil {
		return nil, err
	}
	con, err := openConsole(s.rt, s.spec, run, log)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.consoles[c.Name] = con
	delete(s.overrun, c.Name)
	s.mu.Unlock()
	return con, nil
}

// cannotConfigure shows that a container cannot even be described to the Runtime, and waits before the next try.
func (s *Supervisor) cannotConfigure(ctx context.Context, c *Container, err error) {
	if !s.kubernetes() {
		s.cannotStart(ctx, c, err)
		return
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		r.wait(gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "CreateContainerConfigError", Message: err.Error()})
		return true
	})
	s.ledger.note(true, c.Name, "Failed", "Error: "+err.Error())
	s.up()
	s.pause(ctx, c, s.backoff().First)
}

// cannotStart records a run that could not be started; whether there is another try is the policy's.
func (s *Supervisor) cannotStart(ctx context.Context, c *Container, err error) {
	s.log.Warn("a container cannot be started", "container", c.Name, "err", err)
	s.ledger.note(true, c.Name, "Failed", "Error: "+err.Error())
	now := time.Now()
	s.ended(c, gondola.ContainerState{Kind: gondola.ContainerExited, Reason: "StartError", Message: err.Error(), ExitCode: 128,
		StartedAt: now, FinishedAt: now})
	s.remove(ctx, c)
}

// takeOver goes on with a container that an earlier pilot has started.
func (s *Supervisor) takeOver(ctx context.Context, c *Container) {
	s.mu.Lock()
	con := s.kept[c.Name]
	delete(s.kept, c.Name)
	s.mu.Unlock()
	if con != nil {
		s.attend(ctx, c, con)
		return
	}
	rec := s.ledger.container(c.Name)
	run := Run{Container: *c, Attempt: rec.run(), TTY: c.Config.Gondola != nil && c.Config.Gondola.TTY}
	var err error
	con, err = s.openConsole(c, &run)
	if err != nil {
		s.log.Error("the output of a container that runs cannot be read; it is started again", "container", c.Name, "err", err)
		s.undoStart(ctx, c)
		return
	}
	con.started()
	s.attend(ctx, c, con)
}

// undoStart removes a run of which the earlier pilot did not know whether it had started.
func (s *Supervisor) undoStart(ctx context.Context, c *Container) {
	if err := s.rt.Signal(ctx, c.Name, "SIGKILL", true); err == nil {
		s.rt.Wait(ctx, c.Name)
	}
	s.ledger.change(c.Name, true, func(r *containerRecord) bool {
		r.Begun, r.Starts = false, max(r.Starts-1, 0)
		r.Status.State = gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"}
		return true
	})
}

func (s *Supervisor) remove(ctx context.Context, c *Container) {
	if err := s.rt.Delete(ctx, c.Name); err != nil && ctx.Err() == nil {
		s.log.Warn("an ended container cannot be removed", "container", c.Name, "err", err)
	}
}

// attend stays with a container that runs, until it has ended.
func (s *Supervisor) attend(ctx context.Context, c *Container, con *console) {
	rec := s.ledger.container(c.Name)
	exit, known := s.live(ctx, c)
	s.mu.Lock()
	if !known && context.Cause(ctx) == errSuspend {
		s.kept[c.Name] = con // a Runtime that copies between a terminal and these streams goes on with them if nothing comes of it
		s.mu.Unlock()
		return
	}
	delete(s.consoles, c.Name)
	overrun := s.overrun[c.Name]
	s.mu.Unlock()
	if !known {
		if context.Cause(ctx) == errLost {
			con.finish(gondola.ExitStatus{Code: 137, Signal: 9})
		} else {
			con.close()
		}
		return
	}
	if overrun || exit.OOM {
		exit = Exit{Code: 137, Signal: 9, OOM: true}
	}
	if dropped := con.finish(gondola.ExitStatus{Code: exit.Code, Signal: exit.Signal}); dropped > 0 {
		s.log.Error("output of a container was lost: its log cannot be written (is the disk full?)", "container", c.Name, "bytes", dropped)
	}
	state := gondola.ContainerState{Kind: gondola.ContainerExited, Reason: "Completed", ExitCode: exit.Code, Signal: exit.Signal,
		StartedAt: rec.Status.State.StartedAt, FinishedAt: time.Now(),
		Message: lastWords(&s.spec, c, rec.run(), exit.Code != 0, con.log)}
	switch {
	case exit.OOM:
		state.Reason = "OOMKilled"
	case exit.Unknown:
		state.Reason = "ContainerStatusUnknown"
	case exit.Code != 0:
		state.Reason = "Error"
	}
	failpoint.Hit("pilot.container.ended")
	s.ended(c, state)
	failpoint.Hit("pilot.container.closed")
	s.remove(ctx, c)
}

// ended records the end of a run and decides whether there is another one.
func (s *Supervisor) ended(c *Container, state gondola.ContainerState) {
	s.ledger.change(c.Name, true, func(r *containerRecord) bool {
		if state.FinishedAt.Sub(state.StartedAt) >= s.backoff().Forget {
			r.Row = 0
		}
		good := state.ExitCode == 0
		again := r.Again
		r.Again = false
		r.Done = s.overLocked(c) || !again && (isInit(c) && good || !c.Config.Restarts(state.ExitCode, r.retries(s.backoff().Forget, state.FinishedAt, s.kubernetes())))
		if !r.Begun { // it never began: there is no run whose end this is, but the try counts as one
			r.Runs, r.Starts = r.Runs+1, r.Starts+1
			r.Status.RestartCount = r.Starts - 1
		}
		if !r.Done && !again {
			r.Row++
			if !s.kubernetes() {
				r.Failed = append(within(r.Failed, s.backoff().Forget, state.FinishedAt), state.FinishedAt)
			}
		}
		if r.Begun {
			state.ContainerID = r.Status.ContainerID
		}
		r.Begun, r.Earlier = false, nil
		r.Status.State = state
		if !r.Done && again { // nobody is to take its end for the container's
			r.wait(gondola.ContainerState{Kind: gondola.ContainerWaiting, Reason: "ContainerCreating"})
		}
		r.Status.Ready, r.Status.Started = r.Done && isInit(c) && good, false
		return true
	})
}

// live waits for the end of a container that runs, and meanwhile runs its hooks and probes and stops it when that is due. known is false
// when the pilot has to go, or the sandbox has died, before the container's end is known.
func (s *Supervisor) live(ctx context.Context, c *Container) (exit Exit, known bool) {
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exits := make(chan Exit, 1)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		if e, ok := s.waitExit(ctx, c); ok {
			exits <- e
		}
	}()
	defer func() { <-waited }()
	kills := make(chan kill, 1)
	health := make(chan struct{})
	go func() {
		defer close(health)
		s.watchRun(rctx, c, func(k kill) {
			select {
			case kills <- k:
			default: // it is being killed
			}
		})
	}()
	defer func() { cancel(); <-health }()
	turns := make(chan struct{})
	go func() {
		defer close(turns)
		s.ledger.await(rctx.Done(), func() bool {
			// The pre-stop hooks of a Pod begin at once; only the signals come in turn.
			return s.over(c) && (s.kubernetes() || !s.dependents(c)) || s.again(c.Name)
		})
	}()
	defer func() { cancel(); <-turns }()
	select {
	case e := <-exits:
		return e, true
	case <-waited:
		select {
		case e := <-exits:
			return e, true
		default:
			return Exit{}, false
		}
	case k := <-kills:
		return s.terminate(ctx, c, k, exits)
	case <-turns:
		if ctx.Err() != nil {
			return Exit{}, false
		}
		k := kill{note: "Stopping container " + c.Name, last: true}
		if s.again(c.Name) {
			k = kill{note: "Container " + c.Name + " resize requires restart"}
		}
		return s.terminate(ctx, c, k, exits)
	case <-ctx.Done():
		return Exit{}, false
	}
}

// goneSoon says whether the sandbox turns out to have died with a container that was killed: the two are told by different ways, and on a
// busy host at different times. If it has, ctx has ended when goneSoon returns: nothing may be started in what is left of it.
func (s *Supervisor) goneSoon(ctx context.Context) bool {
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-s.rt.Gone():
		<-ctx.Done()
	case <-ctx.Done():
	case <-timer.C:
	}
	return ctx.Err() != nil
}

// waitExit asks the Runtime until it knows. ok is false when ctx ends first.
func (s *Supervisor) waitExit(ctx context.Context, c *Container) (exit Exit, ok bool) {
	for try := 1; ; try++ {
		exit, err := s.rt.Wait(ctx, c.Name)
		if ctx.Err() != nil {
			return Exit{}, false
		}
		if err == nil && !exit.Unknown {
			return exit, exit.Code != 137 || s.stopping() || !s.goneSoon(ctx)
		}
		if err != nil {
			s.log.Warn("the end of a container cannot be waited for", "container", c.Name, "err", err)
		}
		// Most likely the sandbox has died, and that is told separately.
		timer := time.NewTimer(unknownExit)
		select {
		case <-s.rt.Gone():
			timer.Stop()
			<-ctx.Done() // see goneSoon
			return Exit{}, false
		case <-ctx.Done():
			timer.Stop()
			return Exit{}, false
		case <-timer.C:
		}
		if err == nil || errors.Is(err, gondola.ErrNotFound) || try == 3 {
			return Exit{Code: 137, Unknown: true}, true
		}
	}
}
