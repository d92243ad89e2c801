package worker_test

import (
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/worker"
)

// runs returns how often a Machine has been started, and what state it is in, once nothing happens any more.
func (r *rig) runs(w *worker.Worker, id gondola.MachineID) (starts int, state gondola.State) {
	r.t.Helper()
	synctest.Wait()
	m, err := w.Get(r.t.Context(), gondola.Ref{App: app, ID: id})
	if err != nil {
		r.t.Fatal(err)
	}
	events, err := w.Events(r.t.Context(), m.Ref(), 0)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range events {
		if e.Type == "start" && e.Status == "started" {
			starts++
		}
	}
	return starts, m.State
}

func scheduled(period string, command ...string) gondola.CreateRequest {
	return gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: command}, Schedule: period}}
}

func TestSchedule_StartsOnTimeAndOnceForWhatWasMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		w, stop := r.run()
		hourly := r.create(w, scheduled("hourly", "sleep", "1m"))
		daily := r.create(w, scheduled("daily", "sleep", "1s"))
		weekly := r.create(w, scheduled("weekly", "sleep", "1s"))
		resting := scheduled("hourly", "sleep", "1s")
		resting.SkipLaunch = true
		first := r.create(w, resting)
		long := r.create(w, scheduled("hourly", "trap"))
		most := r.create(w, scheduled("hourly", "sleep", "50m"))
		want := func(what string, m gondola.Machine, starts int, state gondola.State) {
			t.Helper()
			if n, s := r.runs(w, m.ID); n != starts || s != state {
				t.Errorf("%s: %d starts and %s, want %d and %s", what, n, s, starts, state)
			}
		}
		pass := func(d time.Duration) { <-time.After(d) }
		pass(5 * time.Minute)
		want("hourly, at first", hourly, 1, gondola.Stopped)
		want("created to rest, before its time", first, 0, gondola.Created)
		pass(55*time.Minute + 30*time.Second)
		want("hourly, when its time comes", hourly, 2, gondola.Started)
		want("created to rest, when its time comes", first, 1, gondola.Stopped)
		pass(time.Hour)
		want("hourly, after two hours", hourly, 3, gondola.Started)
		want("daily, after two hours", daily, 1, gondola.Stopped)
		want("one that runs when its time comes", long, 1, gondola.Started)

		// A stop by hand is no end of the schedule; a stop lasts until the next time.
		if err := w.Stop(t.Context(), hourly.Ref(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		pass(28 * time.Minute)
		want("hourly, stopped", hourly, 3, gondola.Stopped)
		want("one that runs most of the hour", most, 3, gondola.Started)
		stop()
		pass(30 * time.Hour)
		w, stop = r.run()
		pass(5 * time.Minute)
		want("hourly, after 30 hours without its worker", hourly, 4, gondola.Stopped)
		want("daily, after 30 hours without its worker", daily, 2, gondola.Stopped)
		want("one that ended, and was due, while its worker was away", most, 4, gondola.Started)
		want("one that ran all the time", long, 1, gondola.Started)
		want("weekly, before its time", weekly, 1, gondola.Stopped)
		pass(time.Hour)
		want("hourly, after that", hourly, 5, gondola.Stopped)

		// An update that takes the schedule away ends it.
		req := gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: longRunning(), SkipLaunch: true}}
		if _, err := w.Update(t.Context(), hourly.Ref(), req); err != nil {
			t.Fatal(err)
		}
		n, _ := r.runs(w, hourly.ID)
		pass(2 * time.Hour)
		want("without its schedule", hourly, n, gondola.Stopped)
		stop()
	})
}

func TestSchedule_WaitsForRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{CPUMillis: 1000, MemoryBytes: 256 << 20})
		w, stop := r.run()
		resting := scheduled("hourly", "sleep", "1s")
		resting.SkipLaunch = true
		m := r.create(w, resting)
		other := r.create(w, gondola.CreateRequest{Config: longRunning()})
		<-time.After(90 * time.Minute)
		if n, state := r.runs(w, m.ID); n != 0 || state != gondola.Created {
			t.Errorf("without room: %d starts, %s", n, state)
		}
		if v, _ := w.Get(t.Context(), m.Ref()); len(v.Gondola.Notes) == 0 || v.Gondola.Notes[0].Reason != "ScheduleDelayed" {
			t.Errorf("notes = %+v, want why it does not start", v.Gondola.Notes)
		}
		if err := w.Destroy(t.Context(), other.Ref(), true); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * time.Minute)
		if n, state := r.runs(w, m.ID); n != 1 || state != gondola.Stopped {
			t.Errorf("with room again: %d starts, %s", n, state)
		}
		stop()
	})
}

// TestStart_OfAMachineWhoseScheduleWaitsForRoomIsAtOnce: who starts it does not wait until its schedule tries again.
func TestStart_OfAMachineWhoseScheduleWaitsForRoomIsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{CPUMillis: 1000, MemoryBytes: 256 << 20})
		w, stop := r.run()
		defer stop()
		resting := scheduled("hourly", "trap")
		resting.SkipLaunch = true
		m := r.create(w, resting)
		other := r.create(w, gondola.CreateRequest{Config: longRunning()})
		r.await(w, other.ID, gondola.Started)
		delayed := false
		for range 600 {
			<-time.After(10 * time.Second)
			v, err := w.Get(t.Context(), m.Ref())
			if err != nil {
				t.Fatal(err)
			}
			if delayed = len(v.Gondola.Notes) > 0; delayed {
				break
			}
		}
		if !delayed {
			t.Fatal("its time has not come")
		}
		if err := w.Destroy(t.Context(), other.Ref(), true); err != nil {
			t.Fatal(err)
		}
		r.await(w, other.ID, gondola.Destroyed)
		if _, err := w.Start(t.Context(), m.Ref()); err != nil {
			t.Fatal(err)
		}
		r.comesTo(w, m.ID, gondola.Started, time.Second)
	})
}
