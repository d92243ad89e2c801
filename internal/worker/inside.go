package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// maxOutput is how much of each stream Exec keeps.
const maxOutput = 1 << 20

// pilot returns the API of the pilot of a Machine that runs, else ErrPrecondition.
func (w *Worker) pilot(ctx context.Context, ref gondola.Ref) (pilot.API, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return nil, err
	}
	return answer(ctx, m.do, func(context.Context) (pilot.API, error) {
		running := m.rec.State == gondola.Started || m.rec.State == gondola.Starting || m.rec.State == gondola.Stopping
		switch {
		case running && m.conn != nil:
			return m.conn.api, nil
		case m.rec.State == gondola.Started:
			return nil, gondola.Errorf(gondola.ErrUnavailable, "machine %s is being found again: try once more", m.id)
		}
		return nil, gondola.Errorf(gondola.ErrPrecondition, "machine %s is not running: it is %s", m.id, m.rec.State)
	})
}

// piloted turns a pilot's errors into the contract's.
func (w *Worker) piloted(err error) error {
	if errors.Is(err, pilot.ErrGone) {
		return gondola.Errorf(gondola.ErrUnavailable, "the machine's pilot is being started again: try once more")
	}
	return err
}

// Signal sends a signal to the main container.
func (w *Worker) Signal(ctx context.Context, ref gondola.Ref, sig gondola.Signal) error {
	if sig.Number() == 0 {
		return gondola.Errorf(gondola.ErrInvalid, "signal %q is not known: use a name such as SIGTERM", sig)
	}
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return err
	}
	return w.piloted(api.Signal(ctx, "", sig))
}

// Processes lists what runs in a Machine.
func (w *Worker) Processes(ctx context.Context, ref gondola.Ref) ([]gondola.ProcessStat, error) {
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return nil, err
	}
	ps, err := api.Processes(ctx)
	if ps == nil {
		ps = []gondola.ProcessStat{}
	}
	return ps, w.piloted(err)
}

// Exec runs a command to its end and returns the first MiB of each stream.
func (w *Worker) Exec(ctx context.Context, ref gondola.Ref, req gondola.ExecRequest) (gondola.ExecResult, error) {
	if len(req.Command) == 0 {
		return gondola.ExecResult{}, gondola.Errorf(gondola.ErrInvalid, "command is missing")
	}
	if req.Timeout < 0 {
		return gondola.ExecResult{}, gondola.Errorf(gondola.ErrInvalid, "timeout must not be negative")
	}
	if req.Timeout == 0 {
		req.Timeout = 30
	}
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return gondola.ExecResult{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(req.Timeout)*time.Second)
	defer cancel()
	var stdout, stderr capped
	streams := gondola.ExecIO{Stdout: &stdout, Stderr: &stderr}
	if req.Stdin != "" {
		streams.Stdin = strings.NewReader(req.Stdin)
	}
	st, err := api.Exec(ctx, gondola.ExecOptions{Container: req.Container, Command: req.Command, Stdin: req.Stdin != ""}, streams)
	if err != nil {
		if ctx.Err() != nil {
			return gondola.ExecResult{}, deadline(ctx, "%q did not end within %d s", req.Command[0], req.Timeout)
		}
		return gondola.ExecResult{}, w.piloted(err)
	}
	return gondola.ExecResult{ExitCode: st.Code, ExitSignal: st.Signal, Stdout: stdout.String(), Stderr: stderr.String()}, nil
}

// capped keeps the first MiB of what is written to it and swallows the rest.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), maxOutput-c.Len())])
	return len(p), nil
}

// ExecStream runs a command with its streams connected.
func (w *Worker) ExecStream(ctx context.Context, ref gondola.Ref, opts gondola.ExecOptions, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	if len(opts.Command) == 0 {
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrInvalid, "command is missing")
	}
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	st, err := api.Exec(ctx, opts, streams)
	return st, w.piloted(err)
}

// Attach connects to a container's own streams.
func (w *Worker) Attach(ctx context.Context, ref gondola.Ref, container string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	st, err := api.Attach(ctx, container, streams)
	return st, w.piloted(err)
}

// Dial connects to a TCP port inside the Machine.
func (w *Worker) Dial(ctx context.Context, ref gondola.Ref, port int) (io.ReadWriteCloser, error) {
	if port < 1 || port > 65535 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "port %d: want 1 to 65535", port)
	}
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return nil, err
	}
	c, err := api.Dial(ctx, port)
	return c, w.piloted(err)
}

// Logs reads what a container wrote, straight from the Machine's directory: also while its pilot is away and after it has stopped.
func (w *Worker) Logs(ctx context.Context, ref gondola.Ref, opts gondola.LogOptions) (io.ReadCloser, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return nil, err
	}
	var dir string
	var config *gondola.Config
	err = m.do(ctx, func(context.Context) error {
		if config = m.rec.Config; m.rec.Spec != nil {
			dir = m.rec.Spec.Dir
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	all := config.AllContainers()
	known := false
	for _, k := range all {
		if opts.Container == "" && !isInit(k) {
			opts.Container = k.Name
		}
		known = known || k.Name == opts.Container
	}
	if !known {
		return nil, gondola.Errorf(gondola.ErrNotFound, "machine %s has no container %q", ref.ID, opts.Container)
	}
	if dir == "" {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "container %s of machine %s has not been started yet", opts.Container, ref.ID)
	}
	return pilot.OpenLog(ctx, dir, opts)
}

// SetServices programs the virtual services of a network on this host.
func (w *Worker) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	return w.cfg.Host.SetServices(ctx, network, services)
}

// Entrances tells where the world can come in to this host.
func (w *Worker) Entrances(context.Context) ([]gondola.Entrance, error) {
	e, err := w.cfg.Host.Entrance()
	if err != nil {
		return nil, err
	}
	e.Worker = w.cfg.Name
	return []gondola.Entrance{e}, nil
}
