package fake

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"sync"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/pilot"
)

// sandbox is the containers of a Machine. It lives in the Driver, so it outlives pilots; each has a runtime on it.
type sandbox struct {
	spec  pilot.Spec
	gone  chan struct{}
	ports listeners

	programs sync.WaitGroup // that have not returned

	mu         sync.Mutex
	dead, oom  bool
	containers map[string]*container
	streams    map[string]*streams // container → those of its newest run
}

// streams are the pipes of a run.
type streams struct {
	attempt               int
	stdin, stdout, stderr *pipe
}

// container is a run of a container.
type container struct {
	run     pilot.Run
	view    *view
	main    *process
	execs   map[*process]bool
	streams *streams
	began   time.Time
}

// die ends everything at once.
func (b *sandbox) die(oom bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return
	}
	b.dead, b.oom = true, oom
	close(b.gone) // first: what follows is not the end of containers but of the sandbox
	for _, c := range b.containers {
		c.killAllLocked()
	}
	for _, s := range b.streams {
		s.close()
	}
}

func (s *streams) close() {
	for _, p := range []*pipe{s.stdin, s.stdout, s.stderr} {
		if p != nil {
			p.Close()
		}
	}
}

// killAllLocked kills every process of the container.
func (c *container) killAllLocked() {
	c.main.signal("SIGKILL")
	for p := range c.execs {
		p.signal("SIGKILL")
	}
}

// runtime is a pilot.Runtime on a sandbox of the Driver.
type runtime struct {
	driver *Driver
	key    key
	box    *sandbox // from Boot on
}

var (
	_ pilot.Runtime  = (*runtime)(nil)
	_ pilot.Plumbing = (*runtime)(nil)
)

func (r *runtime) Boot(ctx context.Context, spec pilot.Spec) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	d := r.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	if box := d.boxes[r.key]; box != nil && !box.isDead() {
		r.box = box
		return true, nil
	}
	if err := driver.ClearRootfs(&spec); err != nil { // of a sandbox that died with its host
		return false, err
	}
	r.box = &sandbox{spec: spec, gone: make(chan struct{}), containers: map[string]*container{}, streams: map[string]*streams{}}
	d.boxes[r.key] = r.box
	return false, nil
}

func (b *sandbox) isDead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dead
}

func (r *runtime) Gone() <-chan struct{} { return r.box.gone }

func (r *runtime) OOM() bool {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	return r.box.oom
}

func (r *runtime) Destroy(_ context.Context, spec pilot.Spec) error {
	r.driver.destroy(r.key)
	if pilot.HasSnapshot(spec.Dir) { // it needs them
		return nil
	}
	r.driver.discard(r.key)
	return driver.ClearRootfs(&spec)
}

// Plumb implements pilot.Plumbing.
func (r *runtime) Plumb(run pilot.Run) (io.WriteCloser, io.ReadCloser, io.ReadCloser) {
	box := r.box
	if box == nil { // of a Restore to come
		r.driver.mu.Lock()
		p := r.driver.parked[r.key]
		r.driver.mu.Unlock()
		if box = (&sandbox{streams: map[string]*streams{}}); p != nil {
			box = p.box
		}
	}
	s := box.plumb(run)
	var stdin io.WriteCloser
	if s.stdin != nil {
		stdin = s.stdin
	}
	if s.stderr == nil {
		return stdin, &pipeReader{p: s.stdout}, nil
	}
	return stdin, &pipeReader{p: s.stdout}, &pipeReader{p: s.stderr}
}

func (b *sandbox) plumb(run pilot.Run) *streams {
	b.mu.Lock()
	defer b.mu.Unlock()
	name := run.Container.Name
	if s := b.streams[name]; s != nil && s.attempt == run.Attempt {
		return s
	}
	s := &streams{attempt: run.Attempt, stdout: newPipe()}
	if !run.TTY {
		s.stderr = newPipe()
	}
	if ext := run.Container.Config.Gondola; ext != nil && ext.Stdin {
		s.stdin = newPipe()
	}
	if b.dead {
		s.close()
	}
	b.streams[name] = s
	return s
}

func (r *runtime) Start(_ context.Context, run pilot.Run) error {
	name := run.Container.Name
	prog, err := r.driver.program(run.Args)
	if err != nil {
		r.box.plumb(run).close()
		return err
	}
	b := r.box
	s := b.plumb(run)
	c := &container{began: time.Now(), run: run, main: newProcess(run.TTY), execs: map[*process]bool{}, streams: s, view: &view{
		root: driver.RunRootfs(&b.spec, &run.Container, run.Attempt), tree: run.Container.Tree, mounts: run.Mounts, memory: driver.Rootfs(&b.spec, ".memory")}}
	if err := c.view.addFiles(run.Files); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dead {
		return errors.New("the sandbox is dead")
	}
	if b.containers[name] != nil {
		return fmt.Errorf("container %s exists already", name)
	}
	b.containers[name] = c
	env := b.env(c, run.Args, run.Env, run.WorkingDir, run.Identity)
	env.Stdout, env.Stderr, env.Stdin = s.stdout, s.stderr, emptyReader{}
	if s.stdin != nil {
		env.Stdin = s.stdin
	}
	released := func() { s.close() }
	if run.TTY {
		term := &terminal{in: newPipe(), out: s.stdout}
		env.Stdin, env.Stdout, env.Stderr = term.in, term, term
		released = func() { s.close(); term.in.Close() }
		c.main.start(prog, env, &b.programs, released)
		if s.stdin != nil {
			go term.feed(s.stdin, c.main.signal)
		}
		go resizing(c.main, run.Resize)
		return nil
	}
	c.main.start(prog, env, &b.programs, released)
	return nil
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, io.EOF }

func resizing(p *process, sizes <-chan gondola.TerminalSize) {
	for {
		select {
		case s, ok := <-sizes:
			if !ok {
				return
			}
			p.resize(s)
		case <-p.finished:
			return
		}
	}
}

// env is the world of a process in c.
func (b *sandbox) env(c *container, args, vars []string, dir string, id pilot.Identity) program.Env {
	return program.Env{Args: args, Env: vars, Dir: dir, UID: id.UID, GID: id.GID, Groups: id.Groups, Path: c.view.path,
		Listen: func(port int) (net.Listener, error) {
			l, err := b.ports.listen(port)
			if err == nil {
				go func() {
					<-c.main.finished
					l.Close()
				}()
			}
			return l, err
		},
		Alloc: func(n int64) { b.alloc(c, n) }}
}

// alloc adds to the memory of a container. Beyond the sandbox's limit all of it dies.
func (b *sandbox) alloc(c *container, n int64) {
	b.mu.Lock()
	c.main.memory += n
	var sum int64
	for _, other := range b.containers {
		if !other.main.ended() {
			sum += other.main.memory
		}
	}
	over := b.spec.Limits.MemoryBytes > 0 && sum > b.spec.Limits.MemoryBytes
	b.mu.Unlock()
	if over {
		b.die(true)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.finished:
		return true
	default:
		return false
	}
}

// addFiles puts the files of a Config into the root file system.
func (v *view) addFiles(files []gondola.File) error {
	for _, f := range files {
		data, err := base64.StdEncoding.DecodeString(f.RawValue)
		if err != nil {
			return gondola.Errorf(gondola.ErrInvalid, "file %s: raw_value is not base64", f.GuestPath)
		}
		at := v.path(f.GuestPath)
		mode := os.FileMode(f.Mode)
		if mode == 0 {
			mode = 0o644
		}
		if err := os.WriteFile(at, data, mode); err != nil {
			return err
		}
	}
	return nil
}

// lookup returns a container.
func (r *runtime) lookup(name string) (*container, error) {
	if r.box == nil {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "the sandbox is not there")
	}
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	c := r.box.containers[name]
	if c == nil {
		return nil, gondola.Errorf(gondola.ErrNotFound, "container %s not found", name)
	}
	return c, nil
}

func (r *runtime) Wait(ctx context.Context, name string) (pilot.Exit, error) {
	c, err := r.lookup(name)
	if err != nil {
		return pilot.Exit{}, err
	}
	select {
	case <-c.main.finished:
		if r.box.isDead() {
			return pilot.Exit{Unknown: true}, nil
		}
		return c.main.exit, nil
	case <-r.box.gone:
		return pilot.Exit{Unknown: true}, nil
	case <-ctx.Done():
		return pilot.Exit{}, ctx.Err()
	}
}

func (r *runtime) Signal(_ context.Context, name string, sig gondola.Signal, all bool) error {
	c, err := r.lookup(name)
	if err != nil {
		return err
	}
	c.main.signal(sig)
	if !all {
		return nil
	}
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	for p := range c.execs {
		p.signal(sig)
	}
	return nil
}

func (r *runtime) Delete(_ context.Context, name string) error {
	c, err := r.lookup(name)
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !c.main.ended() {
		return fmt.Errorf("container %s runs", name)
	}
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	for p := range c.execs {
		p.signal("SIGKILL")
	}
	delete(r.box.containers, name)
	return driver.RemoveRootfs(&r.box.spec, name)
}

func (r *runtime) Exec(ctx context.Context, name string, e pilot.Exec, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	c, err := r.lookup(name)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	prog, err := r.driver.program(e.Args)
	if err != nil {
		return gondola.ExitStatus{Code: 127}, err
	}
	env := r.box.env(c, e.Args, e.Env, e.WorkingDir, e.Identity)
	env.Stdin, env.Stdout, env.Stderr = orEmpty(streams.Stdin), orDiscard(streams.Stdout), orDiscard(streams.Stderr)
	var term *terminal
	if e.TTY {
		term = &terminal{in: newPipe(), out: env.Stdout}
		env.Stdin, env.Stdout, env.Stderr = term.in, term, term
	}
	r.box.mu.Lock()
	if c.main.ended() || r.box.dead {
		r.box.mu.Unlock()
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrPrecondition, "container %s is not running", name)
	}
	p := newProcess(e.TTY)
	p.start(prog, env, &r.box.programs, func() {})
	c.execs[p] = true
	r.box.mu.Unlock()
	defer func() {
		r.box.mu.Lock()
		defer r.box.mu.Unlock()
		delete(c.execs, p)
	}()
	if term != nil {
		defer term.in.Close()
		if streams.Stdin != nil {
			go term.feed(streams.Stdin, p.signal)
		}
		go resizing(p, streams.Resize)
	}
	select {
	case <-p.finished:
	case <-c.main.finished:
		p.signal("SIGKILL")
	case <-ctx.Done():
		p.signal("SIGKILL")
		return gondola.ExitStatus{}, ctx.Err()
	}
	<-p.finished
	return gondola.ExitStatus{Code: p.exit.Code, Signal: p.exit.Signal}, nil
}

func orEmpty(r io.Reader) io.Reader {
	if r == nil {
		return emptyReader{}
	}
	return r
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

func (r *runtime) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if r.box == nil {
		return nil, gondola.Errorf(gondola.ErrUnavailable, "dial tcp 127.0.0.1:%d: connection refused", port)
	}
	return r.box.ports.dial(ctx, port)
}

func (r *runtime) Usage(context.Context) (map[string]int64, error) {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	usage := map[string]int64{}
	for name, c := range r.box.containers {
		if !c.main.ended() {
			usage[name] = c.main.memory
		}
	}
	return usage, nil
}

func (r *runtime) Stats(context.Context) (gondola.MachineStats, error) {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	m := gondola.MachineStats{Time: time.Now(), Containers: []gondola.ContainerStats{}}
	for name, c := range r.box.containers {
		if c.main.ended() {
			continue
		}
		cpu := int64(time.Since(c.began)) / 10 // a tenth of a core each
		m.Containers = append(m.Containers, gondola.ContainerStats{Name: name, Processes: 1, CPU: gondola.CPUStats{UsageNanos: cpu},
			Memory: gondola.MemoryStats{Usage: c.main.memory, WorkingSet: c.main.memory, RSS: c.main.memory}})
		m.CPU.UsageNanos, m.Processes, m.Memory.Usage = m.CPU.UsageNanos+cpu, m.Processes+1, m.Memory.Usage+c.main.memory
	}
	m.Memory.WorkingSet, m.Memory.RSS = m.Memory.Usage, m.Memory.Usage
	return m, nil
}

func (r *runtime) Processes(context.Context) ([]gondola.ProcessStat, error) {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	var out []gondola.ProcessStat
	for _, c := range r.box.containers {
		if !c.main.ended() {
			out = append(out, gondola.ProcessStat{PID: len(out) + 1, Command: path.Base(c.run.Args[0]), Directory: c.run.WorkingDir, RSS: c.main.memory,
				ListenSockets: []gondola.ListenSocket{}})
		}
	}
	return out, nil
}

func (r *runtime) Resize(_ context.Context, size gondola.Size) error {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	r.box.spec.Requests, r.box.spec.Limits = size.Requests, size.Limits
	return nil
}

func (r *runtime) Limit(_ context.Context, c pilot.Container) error {
	r.box.mu.Lock()
	defer r.box.mu.Unlock()
	run := r.box.containers[c.Name]
	if run == nil || run.main.ended() {
		return gondola.Errorf(gondola.ErrPrecondition, "container %s has ended", c.Name)
	}
	run.run.Container = c
	return nil
}
