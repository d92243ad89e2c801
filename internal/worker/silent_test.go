package worker_test

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

// silent is a driver whose pilots, from a moment on, take connections and do not answer.
type silent struct {
	driver.Driver
	on   atomic.Bool
	kill time.Duration // that it takes to end a sandbox
}

func (d *silent) Adopt(ctx context.Context, s pilot.Spec) (pilot.API, error) {
	if d.on.Load() {
		return silentPilot{}, nil
	}
	return d.Driver.Adopt(ctx, s)
}

func (d *silent) Kill(ctx context.Context, s pilot.Spec) error {
	<-time.After(d.kill)
	return d.Driver.Kill(ctx, s)
}

type silentPilot struct{ pilot.API }

func (silentPilot) Watch(ctx context.Context) (<-chan pilot.Status, error) {
	<-ctx.Done()
	return nil, gondola.Errorf(gondola.ErrDeadline, "the pilot: %w", ctx.Err())
}

// comesTo waits until a Machine is in a state, and no longer than most.
func (r *rig) comesTo(w *worker.Worker, id gondola.MachineID, state gondola.State, most time.Duration) {
	r.t.Helper()
	began := time.Now()
	_, err := w.Wait(r.t.Context(), gondola.Ref{App: app, ID: id}, gondola.WaitRequest{States: []gondola.State{state}, Timeout: most})
	if err != nil {
		r.t.Fatalf("Wait for %s = %v after %s", state, err, time.Since(began))
	}
}

// TestPilotThatDoesNotAnswer_DelaysNobody: the worker comes up without it, and its Machine can be stopped and destroyed.
func TestPilotThatDoesNotAnswer_DelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		pilots := &silent{Driver: r.driver}
		r.via = pilots
		w, stop := r.run()
		var ms []gondola.Machine
		for range 3 {
			m := r.create(w, gondola.CreateRequest{Config: longRunning()})
			ms = append(ms, r.await(w, m.ID, gondola.Started))
		}
		stop()
		pilots.on.Store(true)
		w, stop = r.run()
		defer stop()
		if err := w.Stop(t.Context(), ms[0].Ref(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := w.Destroy(t.Context(), ms[1].Ref(), true); err != nil {
			t.Fatal(err)
		}
		r.comesTo(w, ms[1].ID, gondola.Destroyed, time.Second)
		r.comesTo(w, ms[0].ID, gondola.Stopped, time.Minute)
		pilots.on.Store(false)
		<-time.After(time.Minute)
		r.answers(w, ms[2].Ref())
		if m, err := w.Get(t.Context(), ms[2].Ref()); err != nil || m.Gondola.SandboxID != ms[2].Gondola.SandboxID {
			t.Errorf("the machine is in sandbox %s (%v), want it in that of before, %s", m.Gondola.SandboxID, err, ms[2].Gondola.SandboxID)
		}
	})
}

// TestStop_ThatIsOutOfPatienceWaitsWithoutHaste: neither the pause before the pilot is looked for again nor the end of the sandbox, which takes its
// time, is waited for in a circle: the clock of the test would stand still.
func TestStop_ThatIsOutOfPatienceWaitsWithoutHaste(t *testing.T) {
	awake := time.AfterFunc(20*time.Second, func() { panic("the goroutine of a Machine runs in a circle") })
	defer awake.Stop()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		pilots := &silent{Driver: r.driver, kill: 10 * time.Second}
		r.via = pilots
		w, stop := r.run()
		m := r.create(w, gondola.CreateRequest{Config: longRunning()})
		r.await(w, m.ID, gondola.Started)
		stop()
		pilots.on.Store(true)
		w, stop = r.run()
		defer stop()
		if err := w.Stop(t.Context(), m.Ref(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		r.comesTo(w, m.ID, gondola.Stopped, time.Minute)
	})
}

// booting is a driver whose new pilots answer late.
type booting struct {
	driver.Driver
	late     time.Duration
	launches atomic.Int64
}

func (d *booting) Launch(ctx context.Context, s pilot.Spec, p *gondola.Payload) (pilot.API, error) {
	d.launches.Add(1)
	api, err := d.Driver.Launch(ctx, s, p)
	return latePilot{api, time.Now().Add(d.late)}, err
}

type latePilot struct {
	pilot.API
	from time.Time
}

func (p latePilot) Watch(ctx context.Context) (<-chan pilot.Status, error) {
	select {
	case <-time.After(time.Until(p.from)):
		return p.API.Watch(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// TestPilotThatBootsForLong_IsWaitedForAndFoundAgain: a Machine that takes its time is no failed one.
func TestPilotThatBootsForLong_IsWaitedForAndFoundAgain(t *testing.T) {
	for name, late := range map[string]time.Duration{"within its time": time.Minute, "beyond it": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, gondola.Resources{})
				pilots := &booting{Driver: r.driver, late: late}
				r.via = pilots
				w, stop := r.run()
				defer stop()
				m := r.create(w, gondola.CreateRequest{Config: longRunning()})
				<-time.After(3 * time.Minute)
				r.comesTo(w, m.ID, gondola.Started, time.Second)
				if n := pilots.launches.Load(); n != 1 {
					t.Errorf("it was launched %d times, want once", n)
				}
			})
		})
	}
}
