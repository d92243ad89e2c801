package worker

import (
	"cmp"
	"context"
	"errors"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// suspendTime is how long a Machine's memory may take to be written before it is asked again how that goes.
const suspendTime = 5 * time.Minute

// Suspend writes a started Machine's memory to disk and ends its sandbox; Start makes it run on. One that is suspended, or about to be, is left
// alone.
func (w *Worker) Suspend(ctx context.Context, ref gondola.Ref) error {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.change(ctx, func(ctx context.Context) error {
		if m.rec.State == gondola.Suspended || m.rec.State == gondola.Suspending {
			return nil
		}
		if !gondola.CanMove(m.rec.State, gondola.Suspending) {
			return gondola.Errorf(gondola.ErrPrecondition, "unable to suspend machine from current state: '%s'", m.rec.State)
		}
		if m.outcome != nil { // the record does not say so yet
			return gondola.Errorf(gondola.ErrPrecondition, "unable to suspend machine %s: it has ended and is about to be '%s'", m.id, m.outcome.state)
		}
		if why := cannotSuspend(m.rec.Config, m.runs, m.driver().Capabilities()); why != "" {
			return gondola.Errorf(gondola.ErrPrecondition, "unable to suspend machine %s: %s", m.id, why)
		}
		if full := w.diskFull(); full != "" {
			return gondola.Errorf(gondola.ErrPrecondition, "unable to suspend machine %s: %s", m.id, full)
		}
		m.asked = false
		m.interrupt("launch", "add", "payload", "resize")
		return m.commit(ctx, func(r *record) { r.State, r.Target = gondola.Suspending, gondola.Suspended }, event{kind: "suspend", source: "user"})
	})
}

// cannotSuspend says why a Machine of this Config can never be suspended; empty if it can
// (https://fly.io/docs/reference/suspend-resume/: no swap, no schedule, no GPU; those with swap or a GPU are refused at their creation).
func cannotSuspend(c *gondola.Config, name string, can driver.Capabilities) string {
	switch {
	case !can.Suspend:
		return "driver " + name + " cannot write its memory to disk: stop it, or run it on a driver that can (gvisor)"
	case c.UsesGateway() != "":
		return "it is in the network of a gateway, which would not know it again: stop it"
	case isPod(c):
		return "it is a Pod, which Kubernetes wants to run: scale its workload down"
	case c.Schedule != "":
		return "it has a schedule (config.schedule), which starts it from the beginning: stop it, or take the schedule away"
	}
	return ""
}

// stepSuspend is due while the Machine is being suspended.
func (m *machine) stepSuspend(ctx context.Context) (bool, error) {
	switch {
	case m.rec.Step == stepNone: // the worker went down in between: what is on disk decides
		return true, m.settle(ctx)
	case m.conn == nil:
		m.launch(ctx, false) // find it, to ask it
	case !m.asked:
		m.askSuspend(ctx)
	}
	return false, nil
}

// askSuspend has the pilot suspend the Machine. How it ended the pilot's last Status says; that it could not be done, the answer.
func (m *machine) askSuspend(ctx context.Context) {
	m.asked = true
	api := m.conn.api
	m.begin(ctx, "suspend", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithTimeout(ctx, suspendTime)
		defer cancel()
		failpoint.Hit("worker.suspend.begun")
		err := api.Suspend(ctx)
		failpoint.Hit("worker.suspend.asked")
		return func(ctx context.Context) {
			switch {
			case err == nil || errors.Is(err, pilot.ErrGone) || m.rec.State != gondola.Suspending:
			case errors.Is(err, gondola.ErrDeadline) || errors.Is(err, gondola.ErrUnavailable) || errors.Is(err, context.Canceled):
				m.asked = false
				m.disconnect()
				m.retry(err, "suspend")
			default:
				m.notSuspended(ctx, err.Error())
			}
		}
	})
}

// notSuspended records that the Machine runs on, or as much of it as there is.
func (m *machine) notSuspended(ctx context.Context, why string) {
	m.asked = false
	err := m.commit(ctx, func(r *record) { r.State, r.Target = gondola.Started, gondola.Started },
		event{kind: "suspend", source: "flyd", request: map[string]string{"error": why}})
	if err != nil {
		m.retry(err, "change of state")
	}
}

// hasSnapshot says whether the Machine can be resumed.
func (r *record) hasSnapshot() bool { return r.Spec != nil && pilot.HasSnapshot(r.Spec.Dir) }

// resumeEvent tells that a Machine runs, and how that came.
func (m *machine) resumeEvent() event {
	switch {
	case m.status.Resumed:
		return event{kind: "resume", source: "flyd"}
	case m.status.Cold != "" || m.rec.Asleep:
		return event{kind: "start", source: "flyd", request: map[string]string{"snapshot_error": cmp.Or(m.status.Cold, "the snapshot is not there any more")}}
	default:
		return event{kind: "start", source: "flyd"}
	}
}
