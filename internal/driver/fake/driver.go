// Package fake is a Driver and a Host without root, processes or a network: Machines are goroutines in this process, supervised by real
// pilot.Supervisors. It serves tests and simulations of thousands of Machines.
//
// A Driver stands for the host: a worker that is dropped and opened again on the same Driver finds its Machines running.
package fake

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"sync"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/pilot"
)

// Driver is a driver.Driver. Its zero value is not ready: use NewDriver.
type Driver struct {
	// Programs are what containers can run beside the built-in ones, by the base name of their first argument. Set it before the first Launch.
	Programs map[string]Program
	// Log gets what the pilots log. If nil, nobody.
	Log *slog.Logger
	// LogBytes is the size at which logs are rotated. If zero, the pilot's default.
	LogBytes int64

	mu     sync.Mutex
	boxes  map[key]*sandbox
	parked map[key]*parked
	pilots map[key]*running
}

// key is a Machine of an installation.
type key struct {
	instance string
	machine  gondola.MachineID
}

func keyOf(spec pilot.Spec) key { return key{spec.Instance, spec.Machine} }

// running is a pilot that runs.
type running struct {
	*pilot.Supervisor
	cancel context.CancelFunc
	over   chan struct{} // closed when the Machine has come to a final phase
	done   chan struct{} // closed when the pilot has returned
}

var _ driver.Driver = (*Driver)(nil)

// NewDriver returns a Driver with no Machines. Its containers run "/program" (package drivertest/program), and sleep, true, false and echo.
func NewDriver() *Driver {
	return &Driver{boxes: map[key]*sandbox{}, parked: map[key]*parked{}, pilots: map[key]*running{}, Programs: map[string]Program{
		"program": program.Main,
		"sleep":   builtin("sleep"), "echo": builtin("print"),
		"true":  func(program.Env) int { return 0 },
		"false": func(program.Env) int { return 1 },
	}}
}

// builtin is a program that is one command of package program.
func builtin(command string) Program {
	return func(e program.Env) int {
		e.Args = append([]string{e.Args[0], command}, e.Args[1:]...)
		return program.Main(e)
	}
}

func (d *Driver) program(args []string) (Program, error) {
	if len(args) == 0 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "no command")
	}
	dir, name := path.Split(args[0])
	p, ok := d.Programs[name]
	if !ok || dir != "" && dir != "/" && dir != "/bin/" && dir != "/usr/bin/" {
		return nil, gondola.Errorf(gondola.ErrNotFound, "exec: %q: executable file not found in $PATH", args[0])
	}
	return p, nil
}

// Name implements driver.Driver.
func (d *Driver) Name() string { return "fake" }

// Capabilities implements driver.Driver.
func (d *Driver) Capabilities() driver.Capabilities {
	return driver.Capabilities{MultiContainer: true, TTY: true, PortForward: true, MemoryLimit: true, Suspend: true, Adoption: true}
}

// Launch implements driver.Driver.
func (d *Driver) Launch(ctx context.Context, spec pilot.Spec, payload *gondola.Payload) (pilot.API, error) {
	k := keyOf(spec)
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.pilots[k] != nil {
		r := d.pilots[k]
		if r.alive() {
			return r, nil
		}
		d.mu.Unlock()
		select { // it has nothing to do any more but to return
		case <-r.done:
		case <-ctx.Done():
		}
		d.mu.Lock()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if d.pilots[k] == r {
			delete(d.pilots, k)
		}
	}
	if payload != nil {
		if err := pilot.WritePayload(spec.RunDir, *payload); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{cancel: cancel, done: make(chan struct{}), over: make(chan struct{})}
	r.Supervisor = pilot.NewSupervisor(pilot.SupervisorConfig{Spec: spec, Runtime: &runtime{driver: d, key: k}, Log: d.Log,
		LogBytes: d.LogBytes, Volatile: true, Final: func() { close(r.over) }})
	d.pilots[k] = r
	go func() {
		defer close(r.done)
		if err := r.Run(ctx); err != nil && ctx.Err() == nil && d.Log != nil {
			d.Log.Error("a pilot has failed", "machine", spec.Machine, "err", err)
		}
	}()
	return r, nil
}

func (r *running) alive() bool {
	if r == nil {
		return false
	}
	select {
	case <-r.done:
		return false
	case <-r.over:
		return false
	default:
		return true
	}
}

// Adopt implements driver.Driver.
func (d *Driver) Adopt(_ context.Context, spec pilot.Spec) (pilot.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.pilots[keyOf(spec)]; r.alive() {
		return r, nil
	}
	return nil, pilot.ErrGone
}

// Alive implements driver.Driver.
func (d *Driver) Alive(_ context.Context, spec pilot.Spec) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	box := d.boxes[keyOf(spec)]
	return box != nil && !box.isDead(), nil
}

// Kill implements driver.Driver.
func (d *Driver) Kill(ctx context.Context, spec pilot.Spec) error {
	k := keyOf(spec)
	if err := d.endPilot(ctx, k); err != nil {
		return err
	}
	return (&runtime{driver: d, key: k}).Destroy(ctx, spec)
}

// destroy ends the sandbox of a Machine, if there is one.
func (d *Driver) destroy(k key) {
	d.mu.Lock()
	box := d.boxes[k]
	delete(d.boxes, k)
	d.mu.Unlock()
	if box != nil {
		box.die(false)
		box.programs.Wait() // or one would write in a directory that is being removed
	}
}

// endPilot ends the pilot of a Machine as kill -9 would: its containers run on.
func (d *Driver) endPilot(ctx context.Context, k key) error {
	d.mu.Lock()
	r := d.pilots[k]
	delete(d.pilots, k)
	d.mu.Unlock()
	if r == nil {
		return nil
	}
	r.cancel()
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// find returns the key of a Machine that has a pilot or a sandbox.
func (d *Driver) find(id gondola.MachineID) (key, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k := range d.boxes {
		if k.machine == id {
			return k, true
		}
	}
	for k := range d.pilots {
		if k.machine == id {
			return k, true
		}
	}
	return key{}, false
}

// KillSandbox lets the sandbox of a Machine die, as kill -9 or a crash would; its pilot ends with pilot.Lost.
func (d *Driver) KillSandbox(id gondola.MachineID) error {
	k, ok := d.find(id)
	d.mu.Lock()
	box := d.boxes[k]
	d.mu.Unlock()
	if !ok || box == nil {
		return gondola.Errorf(gondola.ErrNotFound, "machine %s has no sandbox", id)
	}
	box.die(false)
	return nil
}

// KillPilot lets the pilot of a Machine die; its containers run on.
func (d *Driver) KillPilot(id gondola.MachineID) error {
	k, ok := d.find(id)
	if !ok {
		return gondola.Errorf(gondola.ErrNotFound, "machine %s has no pilot", id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return d.endPilot(ctx, k)
}

// Reboot is a power loss of the host: every pilot and every sandbox is gone, directories on disk stay. The caller empties the RunDirs.
func (d *Driver) Reboot() error { return d.Close() }

// Close ends all Machines.
func (d *Driver) Close() error {
	d.mu.Lock()
	keys := map[key]bool{}
	for k := range d.boxes {
		keys[k] = true
	}
	for k := range d.pilots {
		keys[k] = true
	}
	for k := range d.parked {
		keys[k] = true
	}
	d.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for k := range keys {
		if err := d.endPilot(ctx, k); err != nil {
			return fmt.Errorf("end machine %s: %w", k.machine, err)
		}
		d.destroy(k)
		d.discard(k)
	}
	return nil
}
