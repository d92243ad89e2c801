// Package gvisor is the default driver: every Machine is a gVisor sandbox on this host, watched by a gondola-pilot process of its own. What a
// pilot does in the sandbox is in gvisor/runsc, which lives in the pilot's binary.
package gvisor

import (
	"debug/buildinfo"
	"log/slog"
	"strings"
	"sync"
	"time"

	"gondola/internal/driver"
)

// Config is what a Driver needs.
type Config struct {
	// PilotPath is the gondola-pilot binary. It must stay where it is as long as a Machine uses it: name it by its digest.
	PilotPath string
	// Platform of gVisor: "systrap", "ptrace" or "kvm". If empty, systrap.
	Platform string
	// StartTimeout is how long a pilot may take until it answers. If zero, 10 s.
	StartTimeout time.Duration
	Log          *slog.Logger
}

// Driver is a driver.Driver.
type Driver struct {
	driver.Pilots
	version func() string // of gVisor
}

// New returns the driver of this host.
func New(cfg Config) *Driver {
	d := &Driver{driver.Pilots{Path: cfg.PilotPath, StartTimeout: cfg.StartTimeout, Log: cfg.Log},
		sync.OnceValue(func() string { return readVersion(cfg.PilotPath) })}
	if cfg.Platform != "" {
		d.Args = []string{"--platform=" + cfg.Platform}
	}
	return d
}

var _ driver.Driver = (*Driver)(nil)

// Name returns "gvisor".
func (d *Driver) Name() string { return "gvisor" }

// Capabilities says what gVisor can do.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{MultiContainer: true, TTY: true, PortForward: true, MemoryLimit: true, Suspend: true, Adoption: true, Target: true}
}

// Version is that of the gVisor in the pilot's binary.
func (d *Driver) Version() string { return d.version() }

func readVersion(pilot string) string {
	info, err := buildinfo.ReadFile(pilot)
	if err != nil {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == "gvisor.dev/gvisor" {
			return strings.TrimPrefix(dep.Version, "v")
		}
	}
	return "unknown"
}
