package worker_test

import (
	"errors"
	"testing"

	"gondola"
)

// TestDeleteVolume_OfOneThatIsBeingDestroyedMakesItNotRecoverable: its data may be gone.
func TestDeleteVolume_OfOneThatIsBeingDestroyedMakesItNotRecoverable(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	v, err := w.CreateVolume(t.Context(), app, gondola.CreateVolumeRequest{Name: "data", SizeGB: 1})
	if err != nil {
		t.Fatal(err)
	}
	ref := gondola.VolumeRef{App: app, ID: v.ID}
	busy := errors.New("device is busy")
	r.fake.FailOn(func(step string, _ gondola.MachineID) error {
		if step == "DeleteVolume" {
			return busy
		}
		return nil
	})
	if _, err := w.PurgeVolume(t.Context(), ref); !errors.Is(err, busy) {
		t.Fatalf("PurgeVolume = %v, want %v", err, busy)
	}
	if v, err := w.DeleteVolume(t.Context(), ref); !errors.Is(err, busy) || v.State != gondola.VolumeDestroying {
		t.Errorf("DeleteVolume of it = %s, %v; want it destroying, and %v", v.State, err, busy)
	}
	if _, err := w.RecoverVolume(t.Context(), ref); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("RecoverVolume of it = %v, want ErrPrecondition", err)
	}
	r.fake.FailOn(nil)
	if _, err := w.DeleteVolume(t.Context(), ref); err != nil {
		t.Errorf("DeleteVolume when the host can again = %v", err)
	}
	if _, err := w.Volume(t.Context(), ref); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Volume = %v, want ErrNotFound", err)
	}
}
