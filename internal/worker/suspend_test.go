package worker_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"gondola"
	"gondola/internal/worker"
)

// slowHost tells when it is asked to release a Machine, and does so when it may.
type slowHost struct {
	worker.Host
	asked chan struct{}
	may   chan struct{}
}

func (h *slowHost) Release(ctx context.Context, id gondola.MachineID, disk bool) error {
	select {
	case h.asked <- struct{}{}:
		<-h.may
	default:
	}
	return h.Host.Release(ctx, id, disk)
}

func TestSuspend_OfWhatHasJustEndedDoesNotStartItAgain(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	h := &slowHost{Host: r.host, asked: make(chan struct{}), may: make(chan struct{})}
	r.host = h
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"run"}}, Restart: &gondola.RestartPolicy{Policy: "no"}}})
	r.await(w, m.ID, gondola.Started)
	if err := w.Signal(t.Context(), m.Ref(), "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-h.asked:
	case <-time.After(15 * time.Second):
		t.Fatal("a machine that has ended is not taken off the host")
	}
	if err := w.Suspend(t.Context(), m.Ref()); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Suspend of a machine that has ended = %v, want ErrPrecondition", err)
	}
	close(h.may)
	m = r.await(w, m.ID, gondola.Stopped)
	var starts int
	for _, e := range m.Events {
		if e.Type == "start" {
			starts++
		}
	}
	if starts != 1 {
		t.Errorf("it was started %d times, want once: %+v", starts, m.Events)
	}
}
