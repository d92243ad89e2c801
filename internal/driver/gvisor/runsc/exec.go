package runsc

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/runsc/specutils"

	"gondola"
	"gondola/internal/pilot"
)

// outputGrace is how long output is awaited after a command's end from processes that it left behind.
const outputGrace = time.Second

// Exec runs a command in a running container to its end; see pilot.Runtime.
func (r *Runtime) Exec(ctx context.Context, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	p, err := r.running(name)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	args, err := execArgs(p, e)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	ended := make(chan struct{})
	defer close(ended)
	var pid int32
	var output func()
	if e.TTY {
		pid, output, err = r.execTerminal(p, args, streams, ended)
	} else {
		pid, output, err = r.execPipes(p, args, streams)
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
		output()
		return gondola.ExitStatus{}, ctx.Err()
	}
	output()
	if res.err != nil {
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrUnavailable, "container %s ended while %q ran: %w", name, e.Args[0], res.err)
	}
	exit := exitOf(res.ws)
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
func (r *Runtime) execTerminal(p *process, args *control.ExecArgs, streams gondola.ExecIO, ended <-chan struct{}) (int32, func(), error) {
	term, replica, err := openTerminal()
	if err != nil {
		return 0, nil, err
	}
	args.FilePayload = control.NewFilePayload(map[int]*os.File{0: replica, 1: replica, 2: replica}, nil)
	pid, err := p.c.Sandbox.Execute(r.conf, args)
	replica.Close()
	if err != nil {
		term.close()
		return 0, nil, err
	}
	foreground := func(sig unix.Signal) { p.c.Sandbox.SignalProcess(p.c.ID, pid, sig, true) }
	term.connect(streams.Stdin, streams.Stdout, streams.Resize, foreground, ended)
	return pid, func() {
		term.drain(context.Background(), outputGrace)
		term.close()
	}, nil
}

// execPipes starts a command on pipes. The function it returns waits for the rest of the output and closes them.
func (r *Runtime) execPipes(p *process, args *control.ExecArgs, streams gondola.ExecIO) (int32, func(), error) {
	pipes, err := openPipes(streams)
	if err != nil {
		return 0, nil, err
	}
	args.FilePayload = control.NewFilePayload(pipes.fds, nil)
	pid, err := p.c.Sandbox.Execute(r.conf, args)
	closeAll(pipes.theirs)
	if err != nil {
		closeAll(pipes.ours)
		return 0, nil, err
	}
	return pid, pipes.copy(streams), nil
}

// pipes are the streams of a command without a terminal.
type pipes struct {
	fds    map[int]*os.File // as the command has them
	theirs []*os.File       // the command's ends
	ours   []*os.File
	stdin  *os.File // of ours; nil without input
	output map[*os.File]io.Writer
}

// openPipes makes a pipe for every stream there is, and /dev/null for the others.
func openPipes(streams gondola.ExecIO) (p *pipes, err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	p = &pipes{fds: map[int]*os.File{0: null, 1: null, 2: null}, theirs: []*os.File{null}, output: map[*os.File]io.Writer{}}
	defer func() {
		if err != nil {
			closeAll(p.theirs)
			closeAll(p.ours)
		}
	}()
	if streams.Stdin != nil {
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.fds[0], p.stdin, p.theirs, p.ours = read, write, append(p.theirs, read), append(p.ours, write)
	}
	for fd, w := range []io.Writer{1: streams.Stdout, 2: streams.Stderr} {
		if w == nil {
			continue
		}
		if fd == 2 && same(w, streams.Stdout) { // two copies at once would mix in it
			p.fds[2] = p.fds[1]
			continue
		}
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.fds[fd], p.theirs, p.ours = write, append(p.theirs, write), append(p.ours, read)
		p.output[read] = w
	}
	return p, nil
}

// copy copies in the background. The function it returns waits for the rest of the output, a while, and closes the pipes.
func (p *pipes) copy(streams gondola.ExecIO) func() {
	if p.stdin != nil {
		go func() { // ends with the input, or with the first write after the command's end
			io.Copy(p.stdin, streams.Stdin)
			p.stdin.Close()
		}()
	}
	var copies sync.WaitGroup
	for from, to := range p.output {
		copies.Go(func() { io.Copy(to, from) })
	}
	return func() {
		giveUp := time.AfterFunc(outputGrace, func() { closeAll(p.ours) }) // ends the copies
		copies.Wait()
		giveUp.Stop()
		closeAll(p.ours)
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// same says whether a and b are one writer.
func same(a, b io.Writer) bool {
	defer func() { recover() }() // of types that cannot be compared
	return a == b
}
