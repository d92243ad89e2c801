package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// process is a run of a container.
type process struct {
	c        *container.Container
	conf     *config.Config // of its sandbox
	ended    chan struct{}  // closes when exit is set
	exit     pilot.Exit
	terminal *oci.Terminal // with a TTY that this pilot holds
}

// Start makes the root file system and starts the container in the sandbox; see pilot.Runtime.
func (r *Runtime) Start(ctx context.Context, run pilot.Run) (err error) {
	if _, err := r.booted(); err != nil {
		return err
	}
	if err := oci.CheckCapabilities(oci.Security(run.Container)); err != nil {
		return err
	}
	name := run.Container.Name
	if err := r.remove(name); err != nil {
		return fmt.Errorf("clear the last run of container %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start container %s: %w", name, err), r.remove(name))
		}
	}()
	root, err := oci.MakeRootfs(&r.spec, &run, r.volumes)
	if err != nil {
		return err
	}
	if err := r.limitGuest(ctx, run.Container); err != nil {
		r.cfg.Log.Warn("a container does not see its limits in /sys/fs/cgroup", "container", name, "err", err)
	}
	dir := r.bundle(r.id(name))
	spec, err := r.containerSpec(run, root)
	if err != nil {
		return err
	}
	if err := oci.WriteBundle(dir, spec); err != nil {
		return err
	}
	if err := os.WriteFile(r.controllers(name), []byte(guestControllers), 0o644); err != nil {
		return err
	}
	_, err = r.launch(ctx, "run", dir, run)
	return err
}

// launch has runsc start, or restore, the container whose bundle is in dir, and follows the run.
func (r *Runtime) launch(ctx context.Context, verb, dir string, run pilot.Run, args ...string) (*process, error) {
	name := run.Container.Name
	var term *oci.Terminal
	if run.TTY {
		console, err := oci.ListenConsole()
		if err != nil {
			return nil, err
		}
		defer console.Close()
		if err := r.run(ctx, verb, dir, r.id(name), [3]*os.File{}, append(args, "--console-socket="+console.Path)...); err != nil {
			return nil, err
		}
		if term, err = console.Receive(); err != nil {
			return nil, err
		}
	} else if err := r.run(ctx, verb, dir, r.id(name), [3]*os.File{run.Stdin, run.Stdout, run.Stderr}, args...); err != nil {
		return nil, err
	}
	c, err := r.load(name)
	if err != nil {
		return nil, err
	}
	p := r.follow(name, c, term)
	if term != nil {
		foreground := func(sig unix.Signal) { c.Sandbox.SignalProcess(c.ID, 0, sig, true) }
		term.Connect(run.Stdin, run.Stdout, run.Resize, foreground, p.ended)
	}
	return p, nil
}

// follow waits for the end of a run in the background.
func (r *Runtime) follow(name string, c *container.Container, term *oci.Terminal) *process {
	p := &process{c: c, ended: make(chan struct{}), terminal: term}
	r.mu.Lock()
	p.conf = r.conf
	r.runs[name] = p
	r.mu.Unlock()
	go func() {
		defer close(p.ended)
		ws, err := c.Sandbox.Wait(c.ID)
		if err != nil {
			r.cfg.Log.Info("the exit status of a container cannot be known", "container", name, "err", err)
			p.exit = pilot.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), Unknown: true}
			return
		}
		p.exit = oci.ExitOf(ws)
	}()
	return p
}

// find returns the present run of a container, also one that an earlier pilot started.
func (r *Runtime) find(name string) (*process, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	p := r.runs[name]
	r.mu.Unlock()
	if p != nil {
		return p, nil
	}
	c, err := r.load(name)
	if err != nil || c.Status != container.Running {
		return nil, gondola.Errorf(gondola.ErrNotFound, "container %s has not been started", name)
	}
	return r.follow(name, c, nil), nil
}

// running returns the present run of a container that has not ended.
func (r *Runtime) running(name string) (*process, error) {
	p, err := r.find(name)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.ended:
		return nil, gondola.Errorf(gondola.ErrPrecondition, "container %s has ended", name)
	default:
		return p, nil
	}
}

// Wait blocks until the container has ended; see pilot.Runtime.
func (r *Runtime) Wait(ctx context.Context, name string) (pilot.Exit, error) {
	p, err := r.find(name)
	if errors.Is(err, gondola.ErrNotFound) {
		return pilot.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), Unknown: true}, nil
	}
	if err != nil {
		return pilot.Exit{}, err
	}
	select {
	case <-p.ended:
	case <-ctx.Done():
		return pilot.Exit{}, ctx.Err()
	}
	if p.terminal != nil {
		p.terminal.Drain(ctx, time.Second)
	}
	return p.exit, nil
}

// Signal sends a signal; see pilot.Runtime.
func (r *Runtime) Signal(ctx context.Context, name string, sig gondola.Signal, all bool) error {
	n := sig.Number()
	if n == 0 {
		return gondola.Errorf(gondola.ErrInvalid, "signal %q is not known", sig)
	}
	p, err := r.running(name)
	if err != nil {
		return err
	}
	_, err = within(ctx, r.machine(), 0, func() (struct{}, error) {
		return struct{}{}, p.c.Sandbox.SignalContainer(p.c.ID, unix.Signal(n), all)
	})
	if err != nil {
		if strings.Contains(err.Error(), "no such process") {
			return gondola.Errorf(gondola.ErrPrecondition, "container %s has ended", name)
		}
		return fmt.Errorf("send %s to container %s: %w", sig, name, err)
	}
	return nil
}

// Delete removes an ended container; see pilot.Runtime.
func (r *Runtime) Delete(_ context.Context, name string) error {
	if err := r.remove(name); err != nil {
		return fmt.Errorf("delete container %s: %w", name, err)
	}
	return nil
}

// remove undoes Start, however far it came; what still runs is killed.
func (r *Runtime) remove(name string) error {
	r.mu.Lock()
	p := r.runs[name]
	delete(r.runs, name)
	r.mu.Unlock()
	if p != nil && p.terminal != nil {
		p.terminal.Close()
	}
	if c, err := r.load(name); err == nil {
		if err := c.Destroy(); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := driver.UnmountBelow(r.rootfs(name)); err != nil {
		return err
	}
	return errors.Join(driver.RemoveRootfs(&r.spec, name), os.RemoveAll(r.bundle(r.id(name))))
}
