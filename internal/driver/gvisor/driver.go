// Package gvisor is the default driver: every Machine is a gVisor sandbox on this host, watched by a gondola-pilot process of its own. What a
// pilot does in the sandbox is in gvisor/runsc, which lives in the pilot's binary.
package gvisor

import (
	"debug/buildinfo"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"gondola/internal/driver"
	"gondola/internal/pilot"
)

// Config is what a Driver needs.
type Config struct {
	// PilotPath is the gondola-pilot binary. It must stay where it is as long as a Machine uses it: name it by its digest.
	PilotPath string
	// Platform of gVisor: "systrap", "ptrace" or "kvm". If empty, systrap.
	Platform string
	// StartTimeout is how long a pilot may take until it answers. If zero, 10 s.
	StartTimeout time.Duration
	// Warm says which sandboxes stand ready; its Suits is the driver's to know. If its Dir is empty, none, and none are looked for.
	Warm driver.WarmConfig
	Log  *slog.Logger
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
	if cfg.Warm.Dir != "" && runtime.GOARCH == "amd64" { // elsewhere the root of a sandbox cannot set the host name
		cfg.Warm.Suits, cfg.Warm.Log = suits, cfg.Log
		d.NewWarm(cfg.Warm)
	}
	return d
}

// longestHostname is the longest that a sandbox can be given after it was made.
const longestHostname = 64

// suits says whether a sandbox that was made for nobody can become spec's: all that its volumes and its network need of the sandbox itself must
// be the same as without them.
func suits(spec pilot.Spec) bool {
	return spec.NetNS != "" && !spec.HostNetwork && spec.Cgroup != "" && len(spec.Hostname) <= longestHostname &&
		!slices.ContainsFunc(spec.Volumes, func(v pilot.Volume) bool { return v.Kind != pilot.VolumePayload })
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
