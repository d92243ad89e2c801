package worker_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

// TestReady_WaitsForNoPull: a Machine that ran before, and whose image is gone and cannot be pulled, is known not to run.
func TestReady_WaitsForNoPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		w, stop := r.run()
		config := longRunning()
		config.Gondola = &gondola.ConfigExtension{RetryPull: true}
		m := r.create(w, gondola.CreateRequest{Config: config})
		r.await(w, m.ID, gondola.Started)
		stop()
		if err := r.driver.KillPilot(m.ID); err != nil {
			t.Fatal(err)
		}
		if err := r.driver.KillSandbox(m.ID); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(r.dir, "host", "images")); err != nil {
			t.Fatal(err)
		}
		r.fake.FailOn(func(step string, _ gondola.MachineID) error {
			if step == "EnsureImage" {
				return gondola.Errorf(gondola.ErrUnavailable, "no registry answers")
			}
			return nil
		})
		w, stop = r.run() // which waits until it is ready
		defer stop()
		r.until(w, m.ID, "its image is pulled again", func(m gondola.Machine) bool {
			return len(m.Gondola.Containers) > 0 && m.Gondola.Containers[0].State.Reason == "ImagePullBackOff"
		})
	})
}

// stuck is a driver that does not come to an end with looking for a pilot.
type stuck struct{ driver.Driver }

func (stuck) Adopt(ctx context.Context, _ pilot.Spec) (pilot.API, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestReady_WaitsNoLongerThanAMinuteAndSaysForWhom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, gondola.Resources{})
		w, stop := r.run()
		m := r.create(w, gondola.CreateRequest{Config: longRunning()})
		r.await(w, m.ID, gondola.Started)
		stop()
		log := &said{}
		r.via, r.change = stuck{r.driver}, func(c *worker.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) }
		w = r.open()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		select {
		case <-w.Ready():
		case <-time.After(61 * time.Second):
			t.Error("the worker is not ready after a minute")
		}
		if !log.has(string(m.ID)) {
			t.Error("the log does not say which machine is missing")
		}
		cancel()
		<-done
		w.Close()
	})
}
