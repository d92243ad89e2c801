package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// Exec runs a command in a running container to its end; see pilot.Runtime.
func (r *Runtime) Exec(ctx context.Context, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	if _, err := r.running(name); err != nil {
		return gondola.ExitStatus{}, err
	}
	dir, err := os.MkdirTemp(r.spec.RunDir, "exec-")
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	defer os.RemoveAll(dir)
	if err := r.writeProcess(dir, name, e); err != nil {
		return gondola.ExitStatus{}, err
	}
	ended := make(chan struct{})
	var pid int
	var output func(context.Context) error
	if e.TTY {
		pid, output, err = r.execTerminal(ctx, dir, name, streams, ended)
	} else {
		pid, output, err = r.execPipes(ctx, dir, name, streams)
	}
	if err != nil {
		close(ended)
		return gondola.ExitStatus{}, fmt.Errorf("run %q in container %s: %w", e.Args[0], name, err)
	}
	exit, err := waitCommand(ctx, pid)
	close(ended)
	undelivered := output(ctx)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	if undelivered != nil {
		return gondola.ExitStatus{}, fmt.Errorf("deliver the output of %q: %w", e.Args[0], undelivered)
	}
	return gondola.ExitStatus{Code: exit.Code, Signal: exit.Signal}, nil
}

// waitCommand waits for the end of a command, which is a child of this process, and kills it when ctx ends first.
func waitCommand(ctx context.Context, pid int) (pilot.Exit, error) {
	type end struct {
		exit pilot.Exit
		err  error
	}
	waited := make(chan end, 1)
	go func() {
		var ws unix.WaitStatus
		err := unix.EINTR
		for errors.Is(err, unix.EINTR) {
			_, e := unix.Wait4(pid, &ws, 0, nil)
			err, _ = e.(unix.Errno)
			if e == nil {
				waited <- end{exit: oci.ExitOf(ws)}
				return
			}
		}
		waited <- end{err: fmt.Errorf("wait for process %d: %w", pid, err)}
	}()
	select {
	case e := <-waited:
		return e.exit, e.err
	case <-ctx.Done():
		unix.Kill(pid, unix.SIGKILL) // not waited for yet, so the number is still its own
		<-waited
		return pilot.Exit{}, ctx.Err()
	}
}

// writeProcess writes what runc is to run. A command may do what the container may, and as root has it in effect.
func (r *Runtime) writeProcess(dir, name string, e pilot.Exec) error {
	b, err := os.ReadFile(filepath.Join(r.bundle(name), "config.json"))
	if err != nil {
		return err
	}
	var spec specs.Spec
	if err := json.Unmarshal(b, &spec); err != nil {
		return err
	}
	b, err = json.Marshal(oci.ExecProcess(spec.Process, e))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "process.json"), b, 0o600)
}

// execTerminal starts a command on a new terminal. The function it returns waits for the rest of the output and closes it.
func (r *Runtime) execTerminal(ctx context.Context, dir, name string, streams gondola.ExecIO, ended <-chan struct{}) (int, func(context.Context) error, error) {
	console, err := oci.ListenConsole()
	if err != nil {
		return 0, nil, err
	}
	defer console.Close()
	pid, err := r.command(dir).exec(ctx, dir, r.id(name), filepath.Join(dir, "process.json"), [3]*os.File{}, console.Path)
	if err != nil {
		return 0, nil, err
	}
	term, err := console.Receive()
	if err != nil {
		unix.Kill(pid, unix.SIGKILL)
		unix.Wait4(pid, nil, 0, nil)
		return 0, nil, err
	}
	term.Connect(streams.Stdin, streams.Stdout, streams.Resize, nil, ended)
	return pid, func(ctx context.Context) error {
		defer term.Close()
		return term.Drain(ctx, oci.OutputGrace)
	}, nil
}

// execPipes starts a command on pipes. The function it returns waits for the rest of the output and closes them.
func (r *Runtime) execPipes(ctx context.Context, dir, name string, streams gondola.ExecIO) (int, func(context.Context) error, error) {
	pipes, err := oci.OpenPipes(streams)
	if err != nil {
		return 0, nil, err
	}
	stdio := [3]*os.File{pipes.FDs[0], pipes.FDs[1], pipes.FDs[2]}
	pid, err := r.command(dir).exec(ctx, dir, r.id(name), filepath.Join(dir, "process.json"), stdio, "")
	if err != nil {
		pipes.Close()
		return 0, nil, err
	}
	pipes.Started()
	pipes.Copy(streams)
	return pid, func(ctx context.Context) error { return pipes.Drain(ctx, oci.OutputGrace) }, nil
}
