package fake

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"gondola"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/pilot"
)

// Program is what a container runs: a function that returns an exit code. It must return soon after Env.Done closes.
type Program = func(program.Env) int

// process is a program that runs: a container's first one, or one of an exec.
type process struct {
	done     context.Context    // ends when the program has to go
	kill     context.CancelFunc // ends done
	finished chan struct{}      // closed at the end
	signals  chan gondola.Signal

	mu      sync.Mutex
	over    bool
	trapped bool
	exit    pilot.Exit
	memory  int64
	size    *gondola.TerminalSize
}

// newProcess returns a process that does not run yet.
func newProcess(tty bool) *process {
	p := &process{finished: make(chan struct{}), signals: make(chan gondola.Signal, 16)}
	p.done, p.kill = context.WithCancel(context.Background())
	if tty {
		p.size = &gondola.TerminalSize{Width: 80, Height: 24}
	}
	return p
}

// start runs a program among the others of its sandbox. released is called once its exit is known.
func (p *process) start(run Program, env program.Env, others *sync.WaitGroup, released func()) {
	env.Done = p.done.Done()
	env.Trap = func() <-chan gondola.Signal {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.trapped = true
		return p.signals
	}
	env.Size = func() (gondola.TerminalSize, bool) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.size == nil {
			return gondola.TerminalSize{}, false
		}
		return *p.size, true
	}
	others.Go(func() {
		code := run(env)
		p.end(pilot.Exit{Code: code & 255})
	})
	go func() {
		<-p.finished
		released()
	}()
}

// end records how the process has ended, once. A killed program may go on for a moment; nobody sees it any more.
func (p *process) end(exit pilot.Exit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.over, p.exit = true, exit
	p.kill()
	close(p.finished)
}

// signal delivers a signal: to the program if it traps it, else as the kernel's default.
func (p *process) signal(sig gondola.Signal) {
	p.mu.Lock()
	trapped := p.trapped
	p.mu.Unlock()
	if sig != "SIGKILL" && trapped {
		select {
		case p.signals <- sig:
		default: // like the kernel, which keeps one of a kind
		}
		return
	}
	switch sig {
	case "SIGWINCH", "SIGCONT":
		return
	}
	p.end(pilot.Exit{Code: 128 + sig.Number(), Signal: sig.Number()})
}

func (p *process) resize(s gondola.TerminalSize) {
	p.mu.Lock()
	p.size = &s
	p.mu.Unlock()
	p.signal("SIGWINCH")
}

// view is a container's file system: its mounts, and a directory over its image.
type view struct {
	root, tree string
	mounts     []pilot.Mount
	memory     string // directory of the memory volumes
}

// path returns where a path of the container is on the host.
func (v *view) path(p string) string {
	p = path.Clean("/" + p)
	var best *pilot.Mount
	for i := range v.mounts {
		m := &v.mounts[i]
		at := path.Clean(m.Path)
		if (p == at || strings.HasPrefix(p, strings.TrimSuffix(at, "/")+"/")) && (best == nil || len(at) > len(path.Clean(best.Path))) {
			best = m
		}
	}
	if best != nil {
		source := best.Source
		if source == "" && best.Volume != nil {
			source = filepath.Join(v.memory, best.Volume.Name)
			os.MkdirAll(filepath.Join(source, best.SubPath), 0o777)
		}
		return filepath.Join(source, best.SubPath, strings.TrimPrefix(p, path.Clean(best.Path)))
	}
	at := filepath.Join(v.root, p)
	if _, err := os.Stat(at); err != nil && v.tree != "" {
		if _, err := os.Stat(filepath.Join(v.tree, p)); err == nil {
			return filepath.Join(v.tree, p)
		}
	}
	os.MkdirAll(filepath.Dir(at), 0o755)
	return at
}

// terminal is a small line discipline between a reader and writer of the outside and a program: ^C is SIGINT, ^D the end of input, a
// carriage return a newline, input is echoed, and newlines of the output get a carriage return.
type terminal struct {
	in  *pipe // what the program reads
	out io.Writer
}

func (t *terminal) Write(b []byte) (int, error) {
	if _, err := t.out.Write([]byte(strings.ReplaceAll(string(b), "\n", "\r\n"))); err != nil {
		return 0, err
	}
	return len(b), nil
}

// feed hands input to the program until it ends.
func (t *terminal) feed(r io.Reader, signal func(gondola.Signal)) {
	buf := make([]byte, 1024)
	for {
		n, err := r.Read(buf)
		for _, b := range buf[:n] {
			switch b {
			case 3:
				t.Write([]byte("^C"))
				signal("SIGINT")
			case 4:
				t.in.Close()
			case '\r':
				b = '\n'
				fallthrough
			default:
				t.Write([]byte{b})
				t.in.Write([]byte{b})
			}
		}
		if err != nil {
			return
		}
	}
}

// listeners are the TCP ports of a sandbox.
type listeners struct {
	mu    sync.Mutex
	ports map[int]*listener
}

func (l *listeners) listen(port int) (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports[port] != nil {
		return nil, fmt.Errorf("listen tcp 127.0.0.1:%d: address already in use", port)
	}
	if l.ports == nil {
		l.ports = map[int]*listener{}
	}
	n := &listener{all: l, port: port, conns: make(chan net.Conn), closed: make(chan struct{})}
	l.ports[port] = n
	return n, nil
}

func (l *listeners) dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	l.mu.Lock()
	n := l.ports[port]
	l.mu.Unlock()
	if n == nil {
		return nil, gondola.Errorf(gondola.ErrUnavailable, "dial tcp 127.0.0.1:%d: connection refused", port)
	}
	ours, theirs := net.Pipe()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.closed:
		return nil, gondola.Errorf(gondola.ErrUnavailable, "dial tcp 127.0.0.1:%d: connection refused", port)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	all    *listeners
	port   int
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (n *listener) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.closed:
		return nil, net.ErrClosed
	}
}

func (n *listener) Close() error {
	n.once.Do(func() {
		close(n.closed)
		n.all.mu.Lock()
		defer n.all.mu.Unlock()
		if n.all.ports[n.port] == n {
			delete(n.all.ports, n.port)
		}
	})
	return nil
}

func (n *listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: n.port} }
