// Package gvisor is the default driver: every Machine is a gVisor sandbox on this host, watched by a gondola-pilot process of its own.
//
// The package starts pilots, finds them again and ends them; what a pilot does in the sandbox is in gvisor/runsc, which lives in the pilot's
// binary. A pilot is in a session and a cgroup of its own, so neither the end of the daemon nor a signal to its process group reaches it.
// Everything that a Machine has on the host is found by its directories, its cgroup and the process records in them.
package gvisor

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
)

const (
	pilotRecord   = "pilot.json"   // in Spec.Dir: the pilot's process and binary
	sandboxRecord = "sandbox.json" // in Spec.RunDir: the sandbox's process, written by gvisor/runsc
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
	cfg     Config
	version func() string // of gVisor
}

// New returns the driver of this host.
func New(cfg Config) *Driver {
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Driver{cfg, sync.OnceValue(func() string { return readVersion(cfg.PilotPath) })}
}

var _ driver.Driver = (*Driver)(nil)

// Name returns "gvisor".
func (d *Driver) Name() string { return "gvisor" }

// Capabilities says what gVisor can do.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{MultiContainer: true, TTY: true, PortForward: true, MemoryLimit: true, Adoption: true}
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

// Launch makes sure that a pilot runs for spec; see driver.Driver.
func (d *Driver) Launch(ctx context.Context, spec pilot.Spec, payload *gondola.Payload) (pilot.API, error) {
	if api, err := d.Adopt(ctx, spec); err == nil && !final(ctx, api) {
		return api, nil
	}
	// One that does not answer, or only says its last words, must not run beside the new one.
	if err := driver.KillRecorded(ctx, filepath.Join(spec.Dir, pilotRecord)); err != nil {
		return nil, err
	}
	if err := d.prepare(spec, payload); err != nil {
		return nil, fmt.Errorf("launch machine %s: %w", spec.Machine, err)
	}
	if err := d.start(ctx, spec); err != nil {
		return nil, fmt.Errorf("launch machine %s: %w", spec.Machine, err)
	}
	return pilot.NewClient(spec.Socket), nil
}

// final says whether a pilot has nothing left to do.
func final(ctx context.Context, api pilot.API) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	statuses, err := api.Watch(ctx)
	if err != nil {
		return true // it has just gone
	}
	s, ok := <-statuses
	return !ok || s.Phase.Final()
}

// prepare writes what a pilot reads at its start.
func (d *Driver) prepare(spec pilot.Spec, payload *gondola.Payload) error {
	for _, dir := range []string{spec.Dir, spec.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(spec.Socket), 0o711); err != nil {
		return err
	}
	if err := pilot.WriteSpec(spec); err != nil {
		return err
	}
	if payload != nil {
		if err := pilot.WritePayload(spec.RunDir, *payload); err != nil {
			return err
		}
	}
	if spec.Cgroup == "" {
		return nil
	}
	return makeCgroups(pilotCgroup(spec))
}

// start starts a pilot and waits until it answers.
func (d *Driver) start(ctx context.Context, spec pilot.Spec) error {
	logPath := filepath.Join(spec.Dir, "pilot.log")
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"run"}
	if d.cfg.Platform != "" {
		args = append(args, "--platform="+d.cfg.Platform)
	}
	cmd := exec.Command(d.cfg.PilotPath, append(args, spec.Dir)...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the pilot: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // it is a child of this process until one of the two ends
	if err := driver.RecordProcess(filepath.Join(spec.Dir, pilotRecord), cmd.Process.Pid, d.cfg.PilotPath); err != nil {
		d.cfg.Log.Info("a pilot ended at once", "machine", spec.Machine, "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.cfg.StartTimeout)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if answers(ctx, spec.Socket) {
			return nil
		}
		select {
		case err := <-ended:
			return gondola.Errorf(gondola.ErrUnavailable, "the pilot ended at once (%v): %s", err, tail(logPath))
		case <-ctx.Done():
			cmd.Process.Kill()
			return gondola.Errorf(gondola.ErrUnavailable, "the pilot does not answer on %s: %s", spec.Socket, tail(logPath))
		case <-tick.C:
		}
	}
}

// tail returns the last line of a log, for an error message.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// answers says whether a pilot listens on a socket.
func answers(ctx context.Context, socket string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// Adopt returns the API of the pilot that runs for spec, or pilot.ErrGone.
func (d *Driver) Adopt(ctx context.Context, spec pilot.Spec) (pilot.API, error) {
	if !answers(ctx, spec.Socket) {
		return nil, pilot.ErrGone
	}
	return pilot.NewClient(spec.Socket), nil
}

// Alive says whether the Machine's sandbox runs.
func (d *Driver) Alive(_ context.Context, spec pilot.Spec) (bool, error) {
	p, err := driver.ReadProcess(filepath.Join(spec.RunDir, sandboxRecord))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("machine %s: %w", spec.Machine, err)
	}
	return p.Alive(), nil
}

// Kill ends pilot and sandbox and undoes what they made; see driver.Driver.
func (d *Driver) Kill(ctx context.Context, spec pilot.Spec) error {
	errs := []error{
		driver.KillRecorded(ctx, filepath.Join(spec.Dir, pilotRecord)), // first, or it would make another sandbox
		driver.KillRecorded(ctx, filepath.Join(spec.RunDir, sandboxRecord)),
	}
	if spec.Cgroup != "" {
		errs = append(errs, removeCgroups(ctx, spec.Cgroup))
	}
	for _, dir := range []string{filepath.Join(spec.Dir, "rootfs"), filepath.Join(spec.RunDir, "runsc"), filepath.Join(spec.RunDir, "bundles"), filepath.Join(spec.RunDir, "volumes")} {
		errs = append(errs, driver.UnmountBelow(dir), os.RemoveAll(dir))
	}
	for _, file := range []string{spec.Socket, filepath.Join(spec.Dir, pilotRecord), filepath.Join(spec.RunDir, sandboxRecord)} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("kill machine %s: %w", spec.Machine, err)
	}
	return nil
}
