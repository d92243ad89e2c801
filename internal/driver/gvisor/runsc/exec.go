package runsc

import (
	"context"
	"fmt"
	"os"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/specutils"

	"gondola"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// execCleanUp is how long a command may take to be killed when nobody waits for it any more; it includes the rest of its output.
const execCleanUp = 2 * oci.OutputGrace

// Exec runs a command in a running container to its end; see pilot.Runtime.
func (r *Runtime) Exec(ctx context.Context, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	p, err := r.running(name)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	return within(ctx, r.machine(), execCleanUp, func() (gondola.ExitStatus, error) { return r.exec(ctx, p, name, e, streams) })
}

func (r *Runtime) exec(ctx context.Context, p *process, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	args, err := execArgs(p, e)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	ended := make(chan struct{})
	defer close(ended)
	var pid int32
	var output func(context.Context) error
	if e.TTY {
		pid, output, err = execTerminal(p, args, streams, ended)
	} else {
		pid, output, err = execPipes(p, args, streams)
	}
	if err != nil {
		return gondola.ExitStatus{}, fmt.Errorf("run %q in container %s: %w", e.Args[0], name, err)
	}
	type result struct {
		ws  unix.WaitStatus
		err error
	}
	waited := make(chan result, 1)
	go func() {
		ws, err := p.c.Sandbox.WaitPID(p.c.ID, pid)
		waited <- result{ws, err}
	}()
	var res result
	select {
	case res = <-waited:
	case <-ctx.Done():
		kill := p.c.Sandbox.SignalProcess(p.c.ID, pid, unix.SIGKILL, false)
		if kill != nil {
			r.cfg.Log.Info("could not kill a command", "container", name, "err", kill)
		} else {
			<-waited
		}
		output(ctx)
		return gondola.ExitStatus{}, ctx.Err()
	}
	undelivered := output(ctx)
	if res.err != nil {
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrUnavailable, "container %s ended while %q ran: %w", name, e.Args[0], res.err)
	}
	if undelivered != nil {
		return gondola.ExitStatus{}, fmt.Errorf("deliver the output of %q: %w", e.Args[0], undelivered)
	}
	exit := oci.ExitOf(res.ws)
	return gondola.ExitStatus{Code: exit.Code, Signal: exit.Signal}, nil
}

func execArgs(p *process, e pilot.Exec) (*control.ExecArgs, error) {
	spec := p.c.Spec.Process
	// A command may do what the container may, and as root has it in effect.
	caps := specs.LinuxCapabilities{}
	if spec.Capabilities != nil {
		caps.Bounding = slices.Clone(spec.Capabilities.Bounding)
	}
	if e.Identity.UID == 0 {
		caps.Effective, caps.Permitted = caps.Bounding, caps.Bounding
	}
	taskCaps, err := specutils.Capabilities(true, &caps)
	if err != nil {
		return nil, err
	}
	groups := make([]auth.KGID, len(e.Identity.Groups))
	for i, g := range e.Identity.Groups {
		groups[i] = auth.KGID(g)
	}
	cwd := e.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	return &control.ExecArgs{
		Argv: e.Args, Envv: e.Env, WorkingDirectory: cwd,
		KUID: auth.KUID(e.Identity.UID), KGID: auth.KGID(e.Identity.GID), ExtraKGIDs: groups,
		Capabilities: taskCaps, NoNewPrivileges: spec.NoNewPrivileges, StdioIsPty: e.TTY, SupportTTYs: true,
		ContainerID: p.c.ID,
	}, nil
}

// execTerminal starts a command on a new terminal. The function it returns waits for the rest of the output and closes it.
func execTerminal(p *process, args *control.ExecArgs, streams gondola.ExecIO, ended <-chan struct{}) (int32, func(context.Context) error, error) {
	term, replica, err := oci.OpenTerminal()
	if err != nil {
		return 0, nil, err
	}
	args.FilePayload = control.NewFilePayload(map[int]*os.File{0: replica, 1: replica, 2: replica}, nil)
	pid, err := p.c.Sandbox.Execute(p.conf, args)
	replica.Close()
	if err != nil {
		term.Close()
		return 0, nil, err
	}
	foreground := func(sig unix.Signal) { p.c.Sandbox.SignalProcess(p.c.ID, pid, sig, true) }
	term.Connect(streams.Stdin, streams.Stdout, streams.Resize, foreground, ended)
	return pid, func(ctx context.Context) error {
		defer term.Close()
		return term.Drain(ctx, oci.OutputGrace)
	}, nil
}

// execPipes starts a command on pipes. The function it returns waits for the rest of the output and closes them.
func execPipes(p *process, args *control.ExecArgs, streams gondola.ExecIO) (int32, func(context.Context) error, error) {
	pipes, err := oci.OpenPipes(streams)
	if err != nil {
		return 0, nil, err
	}
	args.FilePayload = control.NewFilePayload(pipes.FDs, nil)
	pid, err := p.c.Sandbox.Execute(p.conf, args)
	if err != nil {
		pipes.Close()
		return 0, nil, err
	}
	pipes.Started()
	pipes.Copy(streams)
	return pid, func(ctx context.Context) error { return pipes.Drain(ctx, oci.OutputGrace) }, nil
}
