package sandbox

import (
	"context"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/pilot"
)

// Resize changes the limits of the sandbox; see pilot.Runtime.
func (r *Runtime) Resize(_ context.Context, size gondola.Size) error {
	if _, err := r.booted(); err != nil {
		return err
	}
	limits := cgroup.Limits{CPUMillis: size.Limits.CPUMillis, MemoryBytes: size.Limits.MemoryBytes}
	if limits.MemoryBytes > 0 {
		limits.MemoryBytes += gondola.Overhead.MemoryBytes // as in Boot
	}
	if err := r.tree.Resize(r.cgroup(), limits); err != nil {
		return err
	}
	return r.tree.Weigh(r.spec.Cgroup, size.Requests.CPUMillis)
}

// Limit changes the limits of a container's cgroup; see pilot.Runtime.
func (r *Runtime) Limit(_ context.Context, c pilot.Container) error {
	if _, err := r.running(c.Name); err != nil {
		return err
	}
	size := c.Config.Size()
	return r.tree.Resize(r.cgroupOf(c.Name), cgroup.Limits{CPUMillis: size.Limits.CPUMillis, MemoryBytes: size.Limits.MemoryBytes,
		Weight: size.Requests.CPUMillis, Container: c.Config.Gondola != nil})
}
