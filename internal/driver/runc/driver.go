// Package runc is the driver for trusted work and for the host's own speed: the containers of a Machine are processes of the host's kernel, in
// namespaces and cgroups that the program runc makes. It is weaker isolation than gVisor's: a hole in the kernel is a hole in the wall. What a
// pilot does with runc is in runc/sandbox, which lives in the pilot's binary.
package runc

import (
	"cmp"
	"log/slog"
	"os/exec"
	"path/filepath"
	"time"

	"gondola"
	"gondola/internal/driver"
)

// Config is what a Driver needs.
type Config struct {
	// PilotPath is the gondola-pilot binary. It must stay where it is as long as a Machine uses it: name it by its digest.
	PilotPath string
	// Path of runc. If empty, the one in PATH.
	Path string
	// StartTimeout is how long a pilot may take until it answers. If zero, 10 s.
	StartTimeout time.Duration
	Log          *slog.Logger
}

// Driver is a driver.Driver.
type Driver struct{ driver.Pilots }

var _ driver.Driver = (*Driver)(nil)

// New returns the driver of this host. Where runc is not installed it still finds and ends the Machines of before.
func New(cfg Config) *Driver {
	path, err := Find(cfg.Path)
	if err != nil {
		path = cfg.Path // the pilot will say that it is not there
	}
	return &Driver{driver.Pilots{Path: cfg.PilotPath, Args: []string{"--driver=runc", "--runc=" + cmp.Or(path, "runc")}, StartTimeout: cfg.StartTimeout, Log: cfg.Log}}
}

// Find returns the path of the program runc, or ErrUnsupported where it is not installed. If path is empty, PATH is searched.
func Find(path string) (string, error) {
	name := cmp.Or(path, "runc")
	found, err := exec.LookPath(name)
	if err == nil {
		found, err = filepath.Abs(found)
	}
	if err != nil {
		return "", gondola.Errorf(gondola.ErrUnsupported, "driver runc: the program %s is not on this host: install it (apt-get install runc), or do not allow the driver", name)
	}
	return found, nil
}

// Name returns "runc".
func (d *Driver) Name() string { return "runc" }

// Capabilities says what runc can do.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{MultiContainer: true, TTY: true, PortForward: true, MemoryLimit: true, Adoption: true, Sysctls: true, Target: true}
}
