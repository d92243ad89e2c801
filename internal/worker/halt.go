package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// StopAll ends every sandbox, as its Machine's configuration wants it ended and at most until ctx ends (then they are killed), without
// changing what Machines should come to: the next Run starts those again that ran. It works without Run too. With Run, nothing is started any
// more until the worker is opened anew.
func (w *Worker) StopAll(ctx context.Context) error {
	w.mu.Lock()
	running := w.base != nil
	w.mu.Unlock()
	var mu sync.Mutex
	var errs []error
	var wg sync.WaitGroup
	for _, m := range w.all() {
		wg.Go(func() {
			var err error
			if running {
				err = m.haltRunning(ctx)
			} else {
				m.halt(ctx, m.rec)(context.WithoutCancel(ctx))
				if m.rec.Step != stepNone {
					err = gondola.Errorf(gondola.ErrUnavailable, "machine %s could not be ended: see the log", m.id)
				}
			}
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// haltRunning has the Machine's goroutine halt it.
func (m *machine) haltRunning(ctx context.Context) error {
	halted := make(chan struct{})
	err := m.do(ctx, func(context.Context) error {
		if m.halted == nil {
			m.halted, m.haltBy = halted, deadlineOf(ctx)
		} else {
			halted = m.halted
		}
		m.interrupt("launch", "add", "resize", "ask", "suspend")
		return nil
	})
	if err != nil {
		if m.w.lookup(gondola.Ref{ID: m.id}) == nil {
			return nil // destroyed meanwhile
		}
		return err
	}
	select {
	case <-halted:
		return nil
	case <-m.done:
		return nil
	case <-time.After(time.Until(deadlineOf(ctx)) + 30*time.Second):
		return gondola.Errorf(gondola.ErrDeadline, "machine %s could not be ended in time: see the log", m.id)
	}
}

// deadlineOf is when ctx ends, in an hour if never.
func deadlineOf(ctx context.Context) time.Time {
	if at, ok := ctx.Deadline(); ok {
		return at
	}
	return time.Now().Add(time.Hour)
}

// stepHalt is step while the platform goes down.
func (m *machine) stepHalt(ctx context.Context) (bool, error) {
	if m.rec.State == gondola.Destroying {
		m.clean(ctx, true)
		return false, nil
	}
	if m.rec.Step == stepNone {
		select {
		case <-m.halted:
		default:
			close(m.halted)
		}
		return false, nil
	}
	m.disconnect()
	m.rec.Halting = true
	rec, by := m.rec, m.haltBy
	m.begin(ctx, "halt", func(ctx context.Context) func(context.Context) {
		ctx, cancel := context.WithDeadline(ctx, by)
		defer cancel()
		return m.halt(ctx, rec)
	})
	return false, nil
}

// halt ends the sandbox and returns the closure that records it. Without a goroutine of the Machine it may be called by anybody, alone.
func (m *machine) halt(ctx context.Context, rec record) func(context.Context) {
	if rec.Step == stepNone || rec.Spec == nil {
		return func(context.Context) {}
	}
	// First the record: an end that is found after a crash in here is not the Machine's own.
	rec.Halting = true
	row, err := rec.row()
	if err == nil {
		err = m.w.store.Save(context.WithoutCancel(ctx), row)
		failpoint.Hit("worker.halt.recorded")
	}
	var last *pilot.Status
	if err == nil {
		if api, gone := m.driver().Adopt(ctx, *rec.Spec); gone == nil {
			if rec.State == gondola.Suspending {
				if err := api.Suspend(ctx); err != nil { // then it is started again, from the beginning
					m.log.Warn("a machine was not suspended before the platform went down", "err", err)
				}
			} else {
				last = stopAndWait(ctx, api, rec.Config)
			}
		}
		failpoint.Hit("worker.halt.stopped")
		err = m.undo(context.WithoutCancel(ctx), rec, false)
		failpoint.Hit("worker.halt.undone")
	}
	return func(ctx context.Context) {
		m.rec.Halting = true
		if err == nil {
			err = m.commit(ctx, func(r *record) {
				r.Step = stepNone
				if last != nil {
					r.DoneSeq = max(r.DoneSeq, last.Seq)
				}
			})
		}
		if err != nil {
			m.retry(err, "halt")
		}
	}
}

// stopAndWait stops a Machine through its pilot and returns the last that it told, nil if nothing.
func stopAndWait(ctx context.Context, api pilot.API, c *gondola.Config) *pilot.Status {
	ctx, cancel := context.WithTimeout(ctx, patience(c, gondola.StopRequest{}))
	defer cancel()
	updates, err := api.Watch(ctx)
	if err != nil || api.Stop(ctx, gondola.StopRequest{}) != nil {
		return nil
	}
	var last *pilot.Status
	for st := range updates {
		last = &st
	}
	return last
}
