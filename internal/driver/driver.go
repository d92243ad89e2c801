// Package driver is the contract between a worker and a way to isolate Machines (gVisor, runc, a microVM).
//
// The worker prepares everything on the host and hands a finished pilot.Spec to a Driver; the Driver starts a pilot for it, which outlives
// the worker, and finds it again after a crash. drivertest holds the suite that every Driver passes.
package driver

import (
	"context"

	"gondola"
	"gondola/internal/pilot"
)

// Driver starts, finds and ends pilots. Methods may be called at the same time for different Machines.
type Driver interface {
	// Name is what a Config asks for: "gvisor", "runc", "fake".
	Name() string
	// Capabilities says what the driver can do; a Config that needs more is refused before anything is made.
	Capabilities() Capabilities

	// Launch makes sure that a pilot runs for spec and returns its API. Where one runs already it is adopted. A pilot that finds its sandbox
	// alive in the journal takes it over; otherwise it makes it anew from the directories in spec, and restart counts go on from the
	// journal. payload is written to RunDir before the pilot starts; nil leaves what is there.
	Launch(ctx context.Context, spec pilot.Spec, payload *gondola.Payload) (pilot.API, error)
	// Adopt returns the API of the pilot that runs for spec, or pilot.ErrGone.
	Adopt(ctx context.Context, spec pilot.Spec) (pilot.API, error)
	// Alive says whether the Machine's sandbox runs, with or without a pilot. While it does, its network must not be touched.
	Alive(ctx context.Context, spec pilot.Spec) (bool, error)
	// Kill ends pilot and sandbox whatever they do and undoes what they made (mounts, cgroup, runtime state). It is idempotent and works
	// from spec.Dir, spec.RunDir, spec.Socket, spec.Cgroup, spec.Machine and spec.Instance alone; what containers have written stays only where
	// spec.KeepsRootfs.
	Kill(ctx context.Context, spec pilot.Spec) error
}

// Capabilities is what a driver can do.
type Capabilities struct {
	MultiContainer bool // several containers in one Machine
	TTY            bool // exec and containers with a terminal
	PortForward    bool // Dial reaches loopback of the Machine
	MemoryLimit    bool // limits are enforced and an overrun is told as OOMKilled
	Suspend        bool
	Adoption       bool // containers run on without their pilot
	Sysctls        bool // a Machine can have settings of the kernel of its own
	Target         bool // an ephemeral container can share the processes of another
}
