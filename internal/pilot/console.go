package pilot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
)

// Plumbing is implemented by a Runtime whose containers live in this process: it has their streams in memory. For any other Runtime the
// pilot makes FIFOs in RunDir/fifo.
type Plumbing interface {
	// Plumb returns the pilot's ends of the streams of a container's run: the same ones every time, also to a later pilot. stdin is nil
	// unless wanted. Output ends with io.EOF when the run does. Closing an output end loses nothing of it.
	Plumb(run Run) (stdin io.WriteCloser, stdout, stderr io.ReadCloser)
}

// attachBuffer is how far an attached reader may fall behind the container before it is dropped.
const attachBuffer = 4 << 20

// console is the streams of one run of a container: it copies its output to the log and to those attached, and their input to its stdin.
type console struct {
	log    *logFile
	stdin  io.WriteCloser // nil: none
	once   bool           // stdin closes with the first attached reader's
	out    []io.ReadCloser
	files  []*os.File // the container's ends
	resize chan gondola.TerminalSize
	pumps  sync.WaitGroup

	mu       sync.Mutex
	attached map[*attachment]bool
	ended    bool
	exit     gondola.ExitStatus
}

// openConsole makes or reopens the streams of a run and sets the files in run.
func openConsole(rt Runtime, spec Spec, run *Run, log *logFile) (*console, error) {
	ext := run.Container.Config.Gondola
	c := &console{log: log, attached: map[*attachment]bool{}}
	wantStdin := ext != nil && ext.Stdin
	c.once = wantStdin && ext.StdinOnce
	if run.TTY {
		c.resize = make(chan gondola.TerminalSize, 1)
		run.Resize = c.resize
	}
	if p, ok := rt.(Plumbing); ok {
		stdin, stdout, stderr := p.Plumb(*run)
		c.stdin = stdin
		c.out = []io.ReadCloser{stdout}
		if stderr != nil {
			c.out = append(c.out, stderr)
		}
	} else if err := c.openFIFOs(spec.RunDir, run, wantStdin); err != nil {
		c.close()
		return nil, err
	}
	for i, r := range c.out {
		c.pumps.Go(func() { CopyOutput(consoleOutput{c, i}, r) })
	}
	return c, nil
}

// openFIFOs opens the FIFOs of a container, each end on its own so that both can be closed alone. Outputs are read-write on both sides: a
// writer never sees EPIPE while no pilot reads, and what it wrote stays in the pipe.
func (c *console) openFIFOs(runDir string, run *Run, stdin bool) error {
	dir := filepath.Join(runDir, "fifo")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make streams: %w", err)
	}
	open := func(stream string, flag int) (*os.File, error) {
		path := filepath.Join(dir, run.Container.Name+"."+stream)
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make stream %s: %w", path, err)
		}
		// Not os.OpenFile, which would make the container's ends non-blocking.
		fd, err := unix.Open(path, flag|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open stream %s: %w", path, err)
		}
		return os.NewFile(uintptr(fd), path), nil
	}
	// A process wants blocking streams. With a terminal it is the Runtime that copies, and what it reads must end when it is closed.
	mode := 0
	if run.TTY {
		mode = unix.O_NONBLOCK
	}
	pair := func(stream string) (theirs *os.File, err error) {
		ours, err := open(stream, os.O_RDWR|unix.O_NONBLOCK)
		if err != nil {
			return nil, err
		}
		c.out = append(c.out, ours)
		if theirs, err = open(stream, os.O_RDWR|mode); err != nil {
			return nil, err
		}
		c.files = append(c.files, theirs)
		return theirs, nil
	}
	var err error
	if run.Stdout, err = pair("stdout"); err != nil {
		return err
	}
	if !run.TTY {
		if run.Stderr, err = pair("stderr"); err != nil {
			return err
		}
	}
	if !stdin {
		return nil
	}
	ours, err := open("stdin", os.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	c.stdin = ours
	// With StdinOnce the container must see the end of its input, so it must not hold a writing end itself.
	flag := os.O_RDWR
	if c.once {
		flag = os.O_RDONLY
	}
	if run.Stdin, err = open("stdin", flag|mode); err != nil {
		return err
	}
	c.files = append(c.files, run.Stdin)
	return nil
}

// started closes the container's ends in this process, which the container has by now. With a terminal the Runtime goes on using them.
func (c *console) started() {
	if c.resize == nil {
		c.closeTheirs()
	}
}

func (c *console) closeTheirs() {
	for _, f := range c.files {
		f.Close()
	}
	c.files = nil
}

// consoleOutput is one output of a console, as the writer that its pump copies to.
type consoleOutput struct {
	c      *console
	stream int
}

func (o consoleOutput) Write(p []byte) (int, error) {
	o.c.output(o.stream, p)
	return len(p), nil
}

func (c *console) output(stream int, p []byte) {
	c.log.write(stream, p)
	c.mu.Lock()
	defer c.mu.Unlock()
	for a := range c.attached {
		if !a.put(stream, p) {
			delete(c.attached, a)
		}
	}
}

// finish is called when the run has ended: it reads what is left, and ends log and attached readers.
func (c *console) finish(exit gondola.ExitStatus) (dropped int64) {
	for _, r := range c.out {
		if f, ok := r.(*os.File); ok {
			f.SetReadDeadline(time.Unix(1, 0))
		}
	}
	c.pumps.Wait()
	c.mu.Lock()
	c.ended, c.exit = true, exit
	for a := range c.attached {
		a.end(exit, nil)
	}
	c.attached = nil
	c.mu.Unlock()
	c.closeEnds()
	return c.log.close(true)
}

// close lets go of the streams while the container runs on.
func (c *console) close() {
	c.closeEnds()
	c.pumps.Wait()
	c.mu.Lock()
	c.ended = true
	for a := range c.attached {
		a.end(gondola.ExitStatus{}, ErrGone)
	}
	c.attached = nil
	c.mu.Unlock()
	c.log.close(false)
}

func (c *console) closeEnds() {
	c.closeTheirs()
	for _, r := range c.out {
		r.Close()
	}
	c.mu.Lock()
	stdin := c.stdin
	c.stdin = nil
	c.mu.Unlock()
	if f, ok := stdin.(*os.File); ok { // a stdin in memory belongs to the container
		f.Close()
	}
}

// attach connects io to the streams until the run ends or ctx does.
func (c *console) attach(ctx context.Context, io gondola.ExecIO) (gondola.ExitStatus, error) {
	a := &attachment{io: io, more: make(chan struct{}, 1)}
	c.mu.Lock()
	if c.ended {
		exit := c.exit
		c.mu.Unlock()
		return exit, nil
	}
	c.attached[a] = true
	stdin := c.stdin
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.attached, a)
		c.mu.Unlock()
	}()
	if io.Stdin != nil && stdin != nil {
		go c.input(io.Stdin, stdin) // ends with io.Stdin, whose owner closes it after attach
	}
	if io.Resize != nil && c.resize != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go c.resizing(ctx, io.Resize)
	}
	return a.copy(ctx)
}

func (c *console) input(r io.Reader, stdin io.WriteCloser) {
	_, err := io.Copy(stdin, r)
	if err == nil && c.once {
		stdin.Close()
	}
}

func (c *console) resizing(ctx context.Context, sizes <-chan gondola.TerminalSize) {
	for {
		select {
		case size, ok := <-sizes:
			if !ok {
				return
			}
			select {
			case c.resize <- size:
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// attachment is one reader of a console. The pump never waits for it.
type attachment struct {
	io   gondola.ExecIO
	more chan struct{} // has a token when queue or done changed

	mu    sync.Mutex
	queue []chunk
	size  int
	done  bool
	exit  gondola.ExitStatus
	err   error
}

type chunk struct {
	stream int
	data   []byte
}

// put adds output; false means that the reader is too slow and has been dropped.
func (a *attachment) put(stream int, p []byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size+len(p) > attachBuffer {
		a.done, a.err = true, gondola.Errorf(gondola.ErrUnavailable, "attach: the reader is more than %d MB behind the container; read its log instead", attachBuffer>>20)
		a.wake()
		return false
	}
	a.queue = append(a.queue, chunk{stream, append([]byte(nil), p...)})
	a.size += len(p)
	a.wake()
	return true
}

func (a *attachment) end(exit gondola.ExitStatus, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.done, a.exit, a.err = true, exit, err
	a.wake()
}

func (a *attachment) wake() {
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// copy writes what comes until the end.
func (a *attachment) copy(ctx context.Context) (gondola.ExitStatus, error) {
	for {
		a.mu.Lock()
		queue, done := a.queue, a.done
		a.queue, a.size = nil, 0
		a.mu.Unlock()
		for _, c := range queue {
			w := a.io.Stdout
			if c.stream == 1 {
				w = a.io.Stderr
			}
			if w == nil {
				continue
			}
			if _, err := w.Write(c.data); err != nil {
				return gondola.ExitStatus{}, fmt.Errorf("attach: %w", err)
			}
		}
		if done {
			return a.exit, a.err
		}
		select {
		case <-a.more:
		case <-ctx.Done():
			return gondola.ExitStatus{}, ctx.Err()
		}
	}
}
