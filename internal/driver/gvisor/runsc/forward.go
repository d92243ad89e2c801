package runsc

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	pkgcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/metric"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/pkg/sentry/socket/netstack"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/pkg/waiter"
	"gvisor.dev/gvisor/runsc/boot"

	"gondola"
)

// Dial connects to a TCP port of the sandbox, loopback included: the sandbox itself connects, and copies to a socket that we give it.
func (r *Runtime) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	if port < 1 || port > 65535 {
		return nil, gondola.Errorf(gondola.ErrInvalid, "port %d does not exist", port)
	}
	sandbox, err := r.booted()
	if err != nil {
		return nil, err
	}
	theirs, conn, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	opts := &boot.PortForwardOpts{Port: uint16(port), ContainerID: sandbox.ID, FilePayload: urpc.FilePayload{Files: []*os.File{theirs}}}
	if err := sandbox.Sandbox.PortForward(opts); err != nil {
		conn.Close()
		return nil, gondola.Errorf(gondola.ErrUnavailable, "nothing listens on port %d of machine %s (%v)", port, r.machine(), err)
	}
	return newForwarded(conn, func() {
		r.waking.Lock()
		defer r.waking.Unlock()
		sandbox.Sandbox.ExportMetrics(onlyWoken) // an error means that the sandbox is gone, and then so is the connection
	}), nil
}

// socketPair makes a connection, whose other end is for another process.
func socketPair() (theirs *os.File, ours *net.UnixConn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	theirs, file := os.NewFile(uintptr(fds[0]), "theirs"), os.NewFile(uintptr(fds[1]), "ours")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return theirs, conn.(*net.UnixConn), nil
}

// The sandbox looks whether a connection has something to read, or room to write, and only then begins to listen for news of it: what comes in
// between, it does not hear of (docs/rfd/0016-connections-into-a-sandbox.md; with google/gvisor#14618 forwarded.wake and what runs in the sandbox
// go). So whoever has a connection asks the sandbox, whenever it was quiet for a while, to tell the news once more to all who wait.

// onlyWoken is how the sandbox is asked.
var onlyWoken = control.MetricsExportOpts{OnlyMetrics: "^" + wokenPrometheus + "$"}

// quiet is after which times without a byte the sandbox is asked. The news are lost within microseconds of the last byte, or on a busy machine
// within a slice of the CPU's time, so it need not be asked for ever.
var quiet = [...]time.Duration{50 * time.Millisecond, 500 * time.Millisecond, 5 * time.Second}

// letGoTime bounds how long a sandbox has to let go of a connection, which it does at once unless it hangs.
const letGoTime = 2 * time.Second

// forwarded is a connection into a sandbox.
type forwarded struct {
	*net.UnixConn
	wake  func()
	timer *time.Timer

	mu     sync.Mutex
	asked  int  // how often since the last byte
	ended  bool // nothing more will be written
	closed bool
}

func newForwarded(conn *net.UnixConn, wake func()) *forwarded {
	f := &forwarded{UnixConn: conn, wake: wake}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.timer = time.AfterFunc(quiet[0], f.ask)
	return f
}

func (f *forwarded) Read(p []byte) (int, error) {
	n, err := f.UnixConn.Read(p)
	f.moved(n)
	return n, err
}

func (f *forwarded) Write(p []byte) (int, error) {
	n, err := f.UnixConn.Write(p)
	f.moved(n)
	return n, err
}

// moved begins the wait anew, as n bytes were carried.
func (f *forwarded) moved(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n > 0 && !f.closed {
		f.asked = 0
		f.timer.Reset(quiet[0])
	}
}

// ask runs where nothing was carried for a while.
func (f *forwarded) ask() {
	f.wake()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	switch {
	case f.closed:
	case f.asked < len(quiet):
		f.timer.Reset(quiet[f.asked])
	case f.ended:
		f.UnixConn.CloseWrite()
	}
}

// CloseWrite says that nothing more will be written. The sandbox knows no connection that is closed by half: told so, it would end both
// directions, and with them the answer. It is told when no answer has come for as long as it is asked for one.
func (f *forwarded) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.ended, f.asked = true, 0
		f.timer.Reset(quiet[0])
	}
	return nil
}

// Close ends both directions, and waits until the sandbox has let go of the connection: it cannot write a snapshot while it holds one.
func (f *forwarded) Close() error {
	f.mu.Lock()
	f.closed = true
	f.timer.Stop()
	f.mu.Unlock()
	if f.UnixConn.CloseWrite() == nil {
		f.SetReadDeadline(time.Now().Add(letGoTime))
		io.Copy(io.Discard, f.UnixConn)
	}
	return f.UnixConn.Close()
}

// What follows runs in the sandbox's process.

// wokenMetric is what is read to have wakeAll run; it says how many connections there were to tell of.
const (
	wokenMetric     = "/gondola/woken"
	wokenPrometheus = "gondola_woken"
)

// sandboxKernel is the kernel of the sandbox that this process is.
var sandboxKernel atomic.Pointer[kernel.Kernel]

// useForwarding makes wakeAll callable from outside. It must run before the sandbox boots.
func useForwarding() {
	for _, name := range platform.List() {
		if c, err := platform.Lookup(name); err == nil {
			platform.Register(name, knownPlatform{c})
		}
	}
	metric.MustRegisterCustomUint64Metric(wokenMetric, metric.Uint64Metadata{Description: "Connections that were told once more what there is to read."},
		func(...*metric.FieldValue) uint64 {
			k := sandboxKernel.Load()
			if k == nil {
				return 0
			}
			s, ok := k.RootNetworkNamespace().Stack().(*netstack.Stack)
			if !ok {
				return 0
			}
			return wakeAll(s.Stack)
		})
}

// knownPlatform is a platform that remembers whose kernel it works for, be that a new one or one from a snapshot.
type knownPlatform struct{ platform.Constructor }

func (c knownPlatform) New(opts platform.Options) (platform.Platform, error) {
	p, err := c.Constructor.New(opts)
	if err != nil {
		return nil, err
	}
	return kernelsPlatform{p}, nil
}

type kernelsPlatform struct{ platform.Platform }

// NewContext is called for each task that starts.
func (p kernelsPlatform) NewContext(ctx pkgcontext.Context) platform.Context {
	if k := kernel.KernelFromContext(ctx); k != nil {
		sandboxKernel.Store(k)
	}
	return p.Platform.NewContext(ctx)
}

// sandboxLoopback is where the sandbox connects from, and to.
var sandboxLoopback = tcpip.AddrFrom4([4]byte{127, 0, 0, 1})

// wakeAll tells all who wait for a TCP connection within s what can be done with it, and returns of how many it told.
func wakeAll(s *stack.Stack) uint64 {
	var n uint64
	for _, e := range s.RegisteredEndpoints() {
		ep, ok := e.(*tcp.Endpoint)
		if !ok {
			continue
		}
		if peer, err := ep.GetRemoteAddress(); err != nil || peer.Addr != sandboxLoopback {
			continue
		}
		// The queue of those who wait is private, and nothing public tells them anything without doing something to the connection.
		queue := *(**waiter.Queue)(reflect.ValueOf(ep).Elem().FieldByName("waiterQueue").Addr().UnsafePointer())
		if ready := ep.Readiness(queue.Events()); ready != 0 {
			queue.Notify(ready)
			n++
		}
	}
	return n
}
