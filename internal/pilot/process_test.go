package pilot_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

// processes is a pilot.Runtime whose containers are plain processes of this host, with the FIFOs that the pilot makes: what isolates nothing
// but has real streams, signals and exit codes. It outlives Supervisors, as a sandbox does.
type processes struct {
	mu      sync.Mutex
	booted  bool
	gone    chan struct{}
	running map[string]*process
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	exit pilot.Exit
}

func newProcesses(t *testing.T) *processes {
	p := &processes{gone: make(chan struct{}), running: map[string]*process{}}
	t.Cleanup(func() { p.Destroy(context.Background(), pilot.Spec{}) })
	return p
}

func (p *processes) Boot(context.Context, pilot.Spec) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	adopted := p.booted
	p.booted = true
	return adopted, nil
}

func (p *processes) Gone() <-chan struct{} { return p.gone }
func (p *processes) OOM() bool             { return false }

func (p *processes) Checkpoint(context.Context, string, func() error) error {
	return gondola.Errorf(gondola.ErrUnsupported, "processes of this host cannot be suspended")
}

func (p *processes) Restore(context.Context, pilot.Spec, string, []pilot.Run, func() error) error {
	return gondola.Errorf(gondola.ErrUnsupported, "processes of this host cannot be resumed")
}

func (p *processes) Destroy(context.Context, pilot.Spec) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, r := range p.running {
		syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		<-r.done
		delete(p.running, name)
	}
	p.booted = false
	return nil
}

func (p *processes) Start(_ context.Context, run pilot.Run) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[run.Container.Name] != nil {
		return errors.New("exists already")
	}
	r := &process{cmd: exec.Command(run.Args[0], run.Args[1:]...), done: make(chan struct{})}
	r.cmd.Env = run.Env
	if run.Stdin != nil {
		r.cmd.Stdin = run.Stdin
	}
	r.cmd.Stdout, r.cmd.Stderr = run.Stdout, run.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		return err
	}
	p.running[run.Container.Name] = r
	go func() {
		r.cmd.Wait()
		ws := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
		r.exit = pilot.Exit{Code: ws.ExitStatus()}
		if ws.Signaled() {
			r.exit = pilot.Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
		}
		close(r.done)
	}()
	return nil
}

func (p *processes) find(name string) (*process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.running[name]; r != nil {
		return r, nil
	}
	return nil, gondola.Errorf(gondola.ErrNotFound, "container %s not found", name)
}

func (p *processes) Wait(ctx context.Context, name string) (pilot.Exit, error) {
	r, err := p.find(name)
	if err != nil {
		return pilot.Exit{}, err
	}
	select {
	case <-r.done:
		return r.exit, nil
	case <-ctx.Done():
		return pilot.Exit{}, ctx.Err()
	}
}

func (p *processes) Signal(_ context.Context, name string, sig gondola.Signal, all bool) error {
	r, err := p.find(name)
	if err != nil {
		return err
	}
	pid := r.cmd.Process.Pid
	if all {
		pid = -pid
	}
	return syscall.Kill(pid, syscall.Signal(sig.Number()))
}

func (p *processes) Delete(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.running, name)
	return nil
}

func (p *processes) Exec(ctx context.Context, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	if _, err := p.find(name); err != nil {
		return gondola.ExitStatus{}, err
	}
	cmd := exec.CommandContext(ctx, e.Args[0], e.Args[1:]...)
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = e.Env, streams.Stdin, streams.Stdout, streams.Stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return gondola.ExitStatus{Code: exit.ExitCode()}, nil
	}
	return gondola.ExitStatus{}, err
}

func (p *processes) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func (p *processes) Stats(context.Context) (gondola.MachineStats, error) {
	return gondola.MachineStats{}, nil
}

func (p *processes) Usage(context.Context) (map[string]int64, error) { return nil, nil }

func (p *processes) Processes(context.Context) ([]gondola.ProcessStat, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []gondola.ProcessStat
	for name, r := range p.running {
		out = append(out, gondola.ProcessStat{PID: r.cmd.Process.Pid, Command: name})
	}
	return out, nil
}

// testSpec returns a Spec of one container for processes that runs a shell script.
func testSpec(t *testing.T, script string) pilot.Spec {
	dir := t.TempDir()
	s := pilot.Spec{Machine: "m1", Version: "01", Dir: filepath.Join(dir, "disk"), RunDir: filepath.Join(dir, "run"),
		Socket: filepath.Join(dir, "s"), Hostname: "h", Containers: []pilot.Container{{Name: "main", Args: []string{"/bin/sh", "-c", script}}}}
	for _, d := range []string{s.Dir, s.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.Containers[0].Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartNo}
	return s
}

func (p *processes) Resize(context.Context, gondola.Size) error   { return nil }
func (p *processes) Limit(context.Context, pilot.Container) error { return nil }
