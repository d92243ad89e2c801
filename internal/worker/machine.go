package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
	"gondola/internal/store"
)

// machine is one Machine. Everything below "owned" belongs to its goroutine (run); others send it closures with do.
//
// It is level-triggered: next looks at the record (State, Target, Step) and at what is known of the sandbox, and begins the one job that is due.
// Jobs do what takes time; they work on a copy of the record and hand back a closure that the goroutine applies.
type machine struct {
	w      *Worker
	id     gondola.MachineID
	app    gondola.AppName
	log    *slog.Logger
	inbox  chan func(context.Context)
	done   chan struct{} // closed when the goroutine has ended
	found  func()        // tells Run that it is known what became of the Machine
	stats  sampler
	origin trace.SpanContext // of the request that created it, in this process
	runs   string            // the name of its driver, which never changes

	// Owned.
	rec       record
	events    []gondola.Event // newest first, the last 20
	lastEvent time.Time
	seq       uint64
	job       *job
	booting   func(error)                       // ends the span from the start of the pilot until its containers run; nil: there is none
	conn      *connection                       // to its pilot, nil if there is none
	status    *pilot.Status                     // last heard of the present run
	pulling   map[string]gondola.ContainerState // container → why it waits, while images are pulled
	additions map[string]addition               // ephemeral container → what holds it up, while the pilot does not have it
	resizing  resizing                          // while the record says Resized
	notes     notes
	outcome   *outcome // the sandbox is over and is being cleaned up
	asked     bool     // the pilot was told to stop
	killAt    time.Time
	pauseTo   time.Time // nothing is tried before
	failures  int       // of the present job in a row
	payloads  int       // how many were put
	losses    int       // of the sandbox in a row
	lastLoss  time.Time
	halted    chan struct{} // set while the platform goes down; closed when nothing of the Machine is on the host
	haltBy    time.Time     // what has not ended then is killed
}

// job is something under way.
type job struct {
	name   string
	cancel context.CancelFunc
	apply  chan func(context.Context) // of 1
}

// connection is a pilot that is being watched.
type connection struct {
	api     pilot.API
	updates <-chan pilot.Status
	cancel  context.CancelFunc
	stale   uint64 // what is not later than this Seq is of an earlier run
	heard   bool   // at least one Status of the present run came
	up      func() // to be called when the sandbox is up or the connection ends; may be called again
}

// outcome says how a run ended, before everything is given back.
type outcome struct {
	state           gondola.State // Stopped, Failed or LaunchFailed
	reason, message string
}

func newMachine(w *Worker, row store.Machine, events []gondola.Event) (*machine, error) {
	m := &machine{w: w, id: row.ID, app: row.App, log: w.log.With("machine", row.ID), inbox: make(chan func(context.Context)),
		done: make(chan struct{}), found: func() {}, rec: record{Machine: row}, events: events, seq: w.store.Boots() << 32}
	if err := json.Unmarshal(row.Detail, &m.rec.detail); err != nil {
		return nil, fmt.Errorf("record of machine %s: %w", row.ID, err)
	}
	m.runs = m.rec.Driver
	if len(events) > 0 {
		m.lastEvent = time.UnixMilli(events[0].Timestamp)
	}
	m.notes.restore(m.rec.Notes, m.rec.Final)
	switch {
	case row.State == gondola.Started && m.rec.Step == stepNone:
		m.rec.State = gondola.Starting // the platform went down
	case m.rec.Step == stepRun && m.rec.Spec != nil:
		// What its journal says, until its pilot is found: else its containers would seem to be created again.
		if st, err := pilot.ReadStatus(m.rec.Spec.Dir); err == nil && st.Version == m.rec.Spec.Version {
			m.status = &st
			m.notes.heard(st)
		}
	}
	return m, nil
}

func (m *machine) driver() driver.Driver { return m.w.cfg.Drivers[m.runs] }

// run owns the Machine until it is destroyed or ctx ends.
func (m *machine) run(ctx context.Context) {
	defer close(m.done)
	defer func() { m.found() }()
	defer m.disconnect()
	for {
		m.next(ctx)
		if m.rec.State.Final() {
			return
		}
		if m.job == nil || m.rec.Step == stepNone {
			m.found()
		}
		var apply chan func(context.Context)
		if m.job != nil {
			apply = m.job.apply
		}
		var updates <-chan pilot.Status
		if m.conn != nil {
			updates = m.conn.updates
		}
		wake, stop := m.alarm()
		select {
		case <-ctx.Done():
			stop()
			return
		case f := <-m.inbox:
			f(ctx)
		case f := <-apply:
			m.job.cancel()
			m.job = nil
			f(ctx)
		case st, ok := <-updates:
			if ok {
				m.heard(ctx, st)
			} else {
				m.hungUp(ctx)
			}
		case <-wake:
		}
		stop()
	}
}

// alarm rings when a pause ends or patience with a stop does. While a job is under way nothing is due: its end is waited for.
func (m *machine) alarm() (<-chan time.Time, func()) {
	if m.job != nil {
		return nil, func() {}
	}
	at := m.pauseTo
	if kill := m.patientTo(); !kill.IsZero() && (at.IsZero() || kill.Before(at)) {
		at = kill
	}
	if _, next := m.unknown(); !next.IsZero() && (at.IsZero() || next.Before(at)) {
		at = next
	}
	if next := m.due(); next.After(time.Now()) && (at.IsZero() || next.Before(at)) {
		at = next
	}
	if next := m.resizing.next; m.rec.Resized && next.After(time.Now()) && (at.IsZero() || next.Before(at)) {
		at = next
	}
	if at.IsZero() {
		return nil, func() {}
	}
	t := time.NewTimer(time.Until(at))
	return t.C, func() { t.Stop() }
}

// do runs f on the Machine's goroutine and returns its error. f may have run although ctx ended.
func (m *machine) do(ctx context.Context, f func(ctx context.Context) error) error {
	result := make(chan error, 1)
	select {
	case m.inbox <- func(ctx context.Context) { result <- f(ctx) }:
	case <-m.done:
		return m.gone()
	case <-ctx.Done():
		return deadline(ctx, "machine %s does not answer", m.id)
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return deadline(ctx, "machine %s does not answer", m.id)
	}
}

// answer is do, or change, for an f that returns something. It has nothing of f where there is an error: f may be at work still.
func answer[T any](ctx context.Context, do func(context.Context, func(context.Context) error) error, f func(context.Context) (T, error)) (T, error) {
	var v, nothing T
	err := do(ctx, func(ctx context.Context) (err error) {
		v, err = f(ctx)
		return err
	})
	if err != nil {
		return nothing, err
	}
	return v, nil
}

func (m *machine) gone() error {
	if m.w.lookup(gondola.Ref{ID: m.id}) == nil {
		return gondola.Errorf(gondola.ErrPrecondition, "machine %s is destroyed: create another", m.id)
	}
	return gondola.Errorf(gondola.ErrUnavailable, "worker %s is going down: try again when it is back", m.w.cfg.Name)
}

// deadline is a context's end in the words of the contract.
func deadline(ctx context.Context, format string, args ...any) error {
	return gondola.Errorf(gondola.ErrDeadline, format+": %w", append(args, ctx.Err())...)
}

// begin starts a job; f runs beside the goroutine, and what it returns on it.
func (m *machine) begin(ctx context.Context, name string, f func(ctx context.Context) func(context.Context)) {
	jctx, cancel := context.WithCancel(ctx)
	j := &job{name: name, cancel: cancel, apply: make(chan func(context.Context), 1)}
	m.job = j
	m.w.tasks.Go(func() { j.apply <- f(jctx) })
}

// interrupt makes the job under way give up soon, if it is one of these. It ends a pause and forgets failures.
func (m *machine) interrupt(names ...string) {
	for _, n := range names {
		if m.job != nil && m.job.name == n {
			m.job.cancel()
		}
	}
	m.pauseTo, m.failures = time.Time{}, 0
}

// next begins what is due. It makes changes of State that need no work at once.
func (m *machine) next(ctx context.Context) {
	if kill := m.patientTo(); !kill.IsZero() && !time.Now().Before(kill) {
		m.pauseTo = time.Time{} // whatever was to be tried again: it is too late
	}
	for ctx.Err() == nil && m.job == nil && !time.Now().Before(m.pauseTo) {
		m.pauseTo = time.Time{}
		again, err := m.step(ctx)
		if err != nil && ctx.Err() == nil {
			m.retry(err, "change of state")
		}
		if !again || err != nil {
			return
		}
	}
}

// step does one thing that is due and says whether there may be more.
func (m *machine) step(ctx context.Context) (again bool, err error) {
	if m.halted != nil {
		return m.stepHalt(ctx)
	}
	if m.outcome != nil && m.rec.State != gondola.Destroying {
		m.clean(ctx, false)
		return false, nil
	}
	if done, err := m.stepSchedule(ctx); !done || err != nil {
		return true, err
	}
	switch r := &m.rec; r.State {
	case gondola.Created:
		if r.Target != gondola.Started {
			return false, nil
		}
		m.rec.State = gondola.Starting // Target says it on disk; the row follows with the next step
		m.show()
		return true, nil
	case gondola.Starting, gondola.Started:
		return m.stepUp(ctx)
	case gondola.Stopping, gondola.Restarting, gondola.Updating:
		return m.stepDown(ctx)
	case gondola.Destroying:
		m.clean(ctx, true)
		return false, nil
	case gondola.Stopped, gondola.Failed, gondola.LaunchFailed:
		if r.Target == gondola.Destroyed { // auto_destroy
			return true, m.commit(ctx, func(r *record) { r.State = gondola.Destroying }, event{kind: "destroy", source: "flyd"})
		}
		return false, nil
	case gondola.Suspending:
		return m.stepSuspend(ctx)
	case gondola.Suspended, gondola.Replacing, gondola.Replaced, gondola.Migrated, gondola.Destroyed:
		return false, nil
	}
	return false, fmt.Errorf("machine %s is in unknown state %q", m.id, m.rec.State)
}

// stepUp is due while the Machine should run.
func (m *machine) stepUp(ctx context.Context) (bool, error) {
	if m.conn == nil {
		m.launch(ctx, true)
		return false, nil
	}
	if m.rec.State == gondola.Starting && m.conn.heard && m.status.Phase == pilot.Running {
		failpoint.Hit("worker.start.running")
		return true, m.commit(ctx, func(r *record) { r.State, r.Ran, r.Asleep = gondola.Started, true, false }, m.resumeEvent())
	}
	if k, _ := m.unknown(); k != nil {
		m.add(ctx, *k)
		return false, nil
	}
	if m.rec.Resized {
		return m.stepResize(ctx)
	}
	return false, nil
}

// stepDown is due while the present sandbox has to end.
func (m *machine) stepDown(ctx context.Context) (bool, error) {
	switch {
	case m.rec.Step == stepNone && (m.rec.hasSnapshot() || m.rec.Spec != nil && m.rec.Spec.KeepRootfs):
		m.clean(ctx, false) // discards what was kept of it
		return false, nil
	case m.rec.Step == stepNone:
		return true, m.settle(ctx)
	case m.rec.Kill, !m.patientTo().IsZero() && !time.Now().Before(m.killAt):
		m.outcome = &outcome{state: gondola.Stopped}
		return true, nil
	case m.conn == nil:
		m.bePatient()
		m.launch(ctx, false) // find it, to ask it
		return false, nil
	case !m.asked:
		m.ask(ctx)
	}
	return false, nil
}

// patientTo is when a sandbox that has to end is killed; the zero time where nothing waits for that, as in a clean-up.
func (m *machine) patientTo() time.Time {
	down := m.rec.State == gondola.Stopping || m.rec.State == gondola.Restarting || m.rec.State == gondola.Updating
	if !down || m.rec.Step == stepNone || m.outcome != nil || m.halted != nil {
		return time.Time{}
	}
	return m.killAt
}

// bePatient begins the time that a stop may take, also where the pilot is not found that could be asked. It returns what the pilot is asked.
func (m *machine) bePatient() (req gondola.StopRequest) {
	if m.rec.Stop != nil {
		req = *m.rec.Stop
	}
	if m.killAt.IsZero() {
		m.killAt = time.Now().Add(patience(m.rec.Config, req))
	}
	return req
}

// ask tells the pilot to stop.
func (m *machine) ask(ctx context.Context) {
	m.asked = true
	api, req := m.conn.api, m.bePatient()
	m.begin(ctx, "ask", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		failpoint.Hit("worker.stop.begun")
		err := api.Stop(ctx, req)
		failpoint.Hit("worker.stop.asked")
		return func(context.Context) {
			if err != nil {
				m.log.Warn("the pilot cannot be told to stop", "err", err)
				m.asked = false
				m.disconnect()
				m.retry(err, "stop")
			}
		}
	})
}

// patience is how long a stop may take before the sandbox is killed: the pilot itself kills what does not obey.
func patience(c *gondola.Config, req gondola.StopRequest) time.Duration {
	longest := 5 * time.Second
	if req.Timeout != nil {
		longest = time.Duration(*req.Timeout)
	} else {
		for _, k := range c.AllContainers() {
			if k.Stop != nil && k.Stop.Timeout != nil {
				longest = max(longest, time.Duration(*k.Stop.Timeout))
			}
		}
	}
	return longest + 30*time.Second
}

// retry tries again after a failure, the first time at once, as a pilot that died leaves nothing to wait for; then after 1 s, doubling to 30 s.
func (m *machine) retry(err error, what string) {
	wait := gondola.Backoff{First: time.Second, Max: 30 * time.Second}.Wait(m.failures)
	m.failures++
	m.pauseTo = time.Now().Add(wait)
	m.log.Warn(what+" failed; tried again", "in", wait, "err", err)
}

// disconnect forgets the pilot, which goes on.
func (m *machine) disconnect() {
	if m.conn != nil {
		m.conn.cancel()
		m.conn.up()
		m.conn = nil
		m.resizing.next = time.Time{} // the next pilot is told at once
		if m.job != nil && (m.job.name == "add" || m.job.name == "resize") {
			m.job.cancel()
		}
	}
}
