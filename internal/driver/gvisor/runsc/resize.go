package runsc

import (
	"context"
	"fmt"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// Resize changes the limits of the sandbox; see pilot.Runtime. The number of its CPUs stays what it was made with.
func (r *Runtime) Resize(_ context.Context, size gondola.Size) error {
	if _, err := r.booted(); err != nil {
		return err
	}
	r.mu.Lock()
	r.limits = size.Limits
	r.mu.Unlock()
	if r.spec.Cgroup == "" {
		return nil
	}
	if err := r.limitSandbox(size.Limits); err != nil {
		return err
	}
	return cgroup.Host().Weigh(r.spec.Cgroup, size.Requests.CPUMillis)
}

// limitSandbox gives a sandbox that runs, and has a cgroup, the limits with which one would be made whose containers have these.
func (r *Runtime) limitSandbox(limits gondola.Resources) error {
	l := oci.SandboxLimits(limits)
	return cgroup.Host().Resize(r.sandboxCgroup(), cgroup.Limits{CPUMillis: l.CPUMillis, MemoryBytes: l.MemoryBytes})
}

// Limit shows a container that runs its new limits; see pilot.Runtime. They are kept by the sandbox's, and by the pilot, which looks at what
// containers use.
func (r *Runtime) Limit(_ context.Context, c pilot.Container) error {
	if _, err := r.running(c.Name); err != nil {
		return err
	}
	if err := r.writeGuest(r.guestFiles(c)); err != nil {
		return fmt.Errorf("show the limits of container %s: %w", c.Name, err)
	}
	return nil
}
