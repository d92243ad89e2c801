package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// sweep ends a sandbox, dead or alive, and removes all that Boot and Start made. Volumes on disk stay.
func (r *Runtime) sweep(ctx context.Context, spec pilot.Spec) error {
	var errs []error
	// The root goes first: with the sandbox all containers end at once, while their own deletion would wait for each.
	if c, err := r.load(oci.PauseName); err == nil {
		if err := c.Destroy(); err != nil {
			r.cfg.Log.Info("runsc could not delete the sandbox, killing what is left", "err", err)
		}
	}
	if rec, err := driver.ReadProcess(filepath.Join(spec.RunDir, driver.SandboxRecord)); err == nil && rec.Alive() {
		if err := unix.Kill(rec.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill sandbox process %d: %w", rec.PID, err))
		}
	}
	if spec.Cgroup != "" {
		errs = append(errs, cgroup.Host().Remove(ctx, r.sandboxCgroup()))
	}
	failpoint.Hit("pilot.sandbox.killed")
	errs = append(errs, driver.ClearSandbox(spec))
	for _, name := range []string{driver.SandboxRecord, haltedMark} {
		if err := os.Remove(filepath.Join(spec.RunDir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
