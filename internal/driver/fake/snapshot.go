package fake

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// parked is the sandbox of a suspended Machine. A goroutine cannot be written to disk: it stays where it is, out of everybody's reach, and the
// snapshot holds but a name for it. So a fake Machine does not survive the Driver suspended, as a real one does not survive the loss of its disk.
type parked struct {
	name string
	box  *sandbox
}

// snapshotName is the file of a snapshot with the name of its sandbox.
const snapshotName = "sandbox"

// Checkpoint implements pilot.Runtime.
func (r *runtime) Checkpoint(_ context.Context, dir string, commit func() error) error {
	if r.box.isDead() {
		return errors.New("the sandbox is dead")
	}
	p := &parked{name: gondola.NewULID(time.Now()), box: r.box}
	if err := os.WriteFile(filepath.Join(dir, snapshotName), []byte(p.name), 0o600); err != nil {
		return err
	}
	if err := commit(); err != nil {
		return err
	}
	r.driver.mu.Lock()
	defer r.driver.mu.Unlock()
	delete(r.driver.boxes, r.key)
	r.driver.parked[r.key] = p
	return nil
}

// Restore implements pilot.Runtime.
func (r *runtime) Restore(_ context.Context, _ pilot.Spec, dir string, _ []pilot.Run, begin func() error) error {
	r.driver.destroy(r.key)
	name, err := os.ReadFile(filepath.Join(dir, snapshotName))
	if err != nil {
		return err
	}
	r.driver.mu.Lock()
	p := r.driver.parked[r.key]
	r.driver.mu.Unlock()
	if p == nil || p.name != string(name) || p.box.isDead() {
		return gondola.Errorf(gondola.ErrNotFound, "the sandbox of the snapshot is not there")
	}
	if err := begin(); err != nil {
		return err
	}
	r.driver.mu.Lock()
	defer r.driver.mu.Unlock()
	delete(r.driver.parked, r.key)
	r.driver.boxes[r.key], r.box = p.box, p.box
	return nil
}

// discard ends the suspended sandbox of a Machine, if there is one.
func (d *Driver) discard(k key) {
	d.mu.Lock()
	p := d.parked[k]
	delete(d.parked, k)
	d.mu.Unlock()
	if p != nil {
		p.box.die(false)
	}
}
