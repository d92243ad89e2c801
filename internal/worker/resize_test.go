package worker_test

import (
	"testing"

	"gondola"
)

// TestResize_OfAMachineThatPullsGivesBackAtOnce: nothing of it runs that could take more than it asks for now.
func TestResize_OfAMachineThatPullsGivesBackAtOnce(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 4000, MemoryBytes: 4 << 30})
	w, _ := r.run()
	noImage := func(step string, _ gondola.MachineID) error {
		if step == "EnsureImage" {
			return gondola.Errorf(gondola.ErrUnavailable, "no registry answers")
		}
		return nil
	}
	r.fake.FailOn(noImage)
	config := longRunning()
	config.Gondola = &gondola.ConfigExtension{RetryPull: true, Requests: &gondola.Resources{CPUMillis: 3000, MemoryBytes: 3 << 30}}
	m := r.create(w, gondola.CreateRequest{Config: config})
	r.await(w, m.ID, gondola.Starting)
	less := gondola.Resources{CPUMillis: 500, MemoryBytes: 1 << 30}
	m, err := w.Resize(t.Context(), m.Ref(), gondola.ResizeRequest{Size: gondola.Size{Requests: less}})
	if err != nil || m.Gondola.Allocated != less {
		t.Errorf("Resize = %s held, %v; want %s", m.Gondola.Allocated, err, less)
	}
	r.fake.FailOn(nil)
	if m = r.await(w, m.ID, gondola.Started); m.Gondola.Allocated != less {
		t.Errorf("started, the machine holds %s, want %s", m.Gondola.Allocated, less)
	}
}
