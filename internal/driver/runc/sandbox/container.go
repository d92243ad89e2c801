package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// run is a run of a container.
type run struct {
	ended chan struct{} // closes when exit is set
	exit  pilot.Exit
}

// Start makes the root file system and starts the container in the sandbox; see pilot.Runtime.
func (r *Runtime) Start(ctx context.Context, start pilot.Run) (err error) {
	pause, err := r.booted()
	if err != nil {
		return err
	}
	sec := oci.Security(start.Container)
	if err := errors.Join(oci.CheckCapabilities(sec), gondola.CheckSysctls(sec.Sysctls)); err != nil {
		return err
	}
	name := start.Container.Name
	if err := r.remove(ctx, name); err != nil {
		return fmt.Errorf("clear the last run of container %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start container %s: %w", name, err), r.remove(context.WithoutCancel(ctx), name))
		}
	}()
	root, err := oci.MakeRootfs(&r.spec, &start, r.volumes)
	if err != nil {
		return err
	}
	spec, err := r.containerSpec(start, root, pause)
	if err != nil {
		return err
	}
	dir := r.bundle(name)
	if err := oci.WriteBundle(dir, spec); err != nil {
		return err
	}
	o := order{Command: r.command(dir), ID: r.id(name), Name: name, Cgroup: r.cgroupOf(name), TTY: start.TTY, Stdin: start.Stdin != nil}
	if err := startMonitor(ctx, dir, o, [3]*os.File{start.Stdin, start.Stdout, start.Stderr}); err != nil {
		return err
	}
	p := r.follow(name)
	if start.TTY && start.Resize != nil {
		go r.resize(dir, start.Resize, p.ended)
	}
	return nil
}

func (r *Runtime) command(dir string) command {
	return command{Runc: r.cfg.Runc, Root: r.state(), Log: filepath.Join(dir, "runc.log")}
}

// resize tells the kernel the size of the terminal of a container, which its monitor has.
func (r *Runtime) resize(dir string, sizes <-chan gondola.TerminalSize, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			if err := resizeTerminal(dir, size); err != nil {
				r.cfg.Log.Info("a terminal could not be resized", "err", err)
			}
		}
	}
}

func resizeTerminal(dir string, size gondola.TerminalSize) error {
	p, err := driver.ReadProcess(filepath.Join(dir, initFile))
	if err != nil || !p.Alive() {
		return err
	}
	// The size belongs to both sides of a terminal, and the container's first process has the other one.
	tty, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/0", p.PID), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer tty.Close()
	return unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Height, Col: size.Width})
}

// follow waits for the end of a run in the background.
func (r *Runtime) follow(name string) *run {
	p := &run{ended: make(chan struct{})}
	r.mu.Lock()
	r.runs[name] = p
	dir, group := r.bundle(name), r.cgroupOf(name)
	r.mu.Unlock()
	go func() {
		defer close(p.ended)
		var err error
		if p.exit, err = awaitMonitor(dir); err != nil {
			r.cfg.Log.Info("the exit status of a container cannot be known", "container", name, "err", err)
			p.exit = unknown
			r.tree.Signal(group, unix.SIGKILL) // nobody would hear of its end
		}
	}()
	return p
}

// unknown is the end of a container of which nobody has written down how it came.
var unknown = pilot.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), Unknown: true}

// find returns the present run of a container, also one that an earlier pilot started.
func (r *Runtime) find(name string) (*run, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	p := r.runs[name]
	r.mu.Unlock()
	if p != nil {
		return p, nil
	}
	if _, err := os.Stat(filepath.Join(r.bundle(name), lockFile)); err != nil {
		return nil, gondola.Errorf(gondola.ErrNotFound, "container %s has not been started", name)
	}
	return r.follow(name), nil
}

// running returns the first process of a container that has not ended.
func (r *Runtime) running(name string) (driver.Process, error) {
	p, err := r.find(name)
	if err != nil {
		return driver.Process{}, err
	}
	over := gondola.Errorf(gondola.ErrPrecondition, "container %s has ended", name)
	select {
	case <-p.ended:
		return driver.Process{}, over
	default:
	}
	first, err := driver.ReadProcess(filepath.Join(r.bundle(name), initFile))
	if err != nil || !first.Alive() {
		return driver.Process{}, over
	}
	return first, nil
}

// Wait blocks until the container has ended; see pilot.Runtime.
func (r *Runtime) Wait(ctx context.Context, name string) (pilot.Exit, error) {
	p, err := r.find(name)
	if errors.Is(err, gondola.ErrNotFound) {
		return unknown, nil
	}
	if err != nil {
		return pilot.Exit{}, err
	}
	select {
	case <-p.ended:
		return p.exit, nil
	case <-ctx.Done():
		return pilot.Exit{}, ctx.Err()
	}
}

// Signal sends a signal; see pilot.Runtime.
func (r *Runtime) Signal(_ context.Context, name string, sig gondola.Signal, all bool) error {
	n := unix.Signal(sig.Number())
	if n == 0 {
		return gondola.Errorf(gondola.ErrInvalid, "signal %q is not known", sig)
	}
	first, err := r.running(name)
	if err != nil {
		return err
	}
	if all {
		r.tree.Signal(r.cgroupOf(name), n)
		return nil
	}
	fd, err := unix.PidfdOpen(first.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		if first.Alive() { // asked only now, when the number can no longer become another's
			err = unix.PidfdSendSignal(fd, n, nil, 0)
		} else {
			err = unix.ESRCH
		}
	}
	if errors.Is(err, unix.ESRCH) {
		return gondola.Errorf(gondola.ErrPrecondition, "container %s has ended", name)
	}
	if err != nil {
		return fmt.Errorf("send %s to container %s: %w", sig, name, err)
	}
	return nil
}

// Delete removes an ended container; see pilot.Runtime.
func (r *Runtime) Delete(ctx context.Context, name string) error {
	if err := r.remove(ctx, name); err != nil {
		return fmt.Errorf("delete container %s: %w", name, err)
	}
	return nil
}

// started returns the names of the containers that have been started and not removed, in their order: those of the Spec and those added since.
func (r *Runtime) started() []string {
	orders, _ := filepath.Glob(filepath.Join(r.spec.RunDir, "bundles", "*", orderFile)) // the pattern is well formed
	var names []string
	for _, file := range orders {
		var o order
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &o) == nil {
			names = append(names, o.Name)
		}
	}
	slices.Sort(names)
	return names
}

// remove undoes Start, however far it came; what still runs is killed. What runc knows of a container is a directory below its root and the
// cgroup, so it need not be asked.
func (r *Runtime) remove(ctx context.Context, name string) error {
	r.mu.Lock()
	delete(r.runs, name)
	r.mu.Unlock()
	if err := r.tree.Remove(ctx, r.cgroupOf(name)); err != nil {
		return err
	}
	// A monitor whose container has ended goes by itself, having written that down. One that is still starting a container does not.
	if err := letEnd(ctx, r.bundle(name)); err != nil {
		return err
	}
	if err := r.tree.Remove(ctx, r.cgroupOf(name)); err != nil {
		return err
	}
	if err := driver.UnmountBelow(r.rootfs(name)); err != nil {
		return err
	}
	return errors.Join(driver.RemoveRootfs(&r.spec, name), os.RemoveAll(filepath.Join(r.state(), r.id(name))), os.RemoveAll(r.bundle(name)))
}

// letEnd gives the monitor of a bundle a moment to end by itself, and ends it then.
func letEnd(ctx context.Context, dir string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		awaitMonitor(dir)
	}()
	timer := time.NewTimer(2 * oci.OutputGrace)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	case <-ctx.Done():
	}
	return endMonitor(context.WithoutCancel(ctx), dir)
}
