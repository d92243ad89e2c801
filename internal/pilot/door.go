package pilot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
)

const (
	doorPath     = "/.fly" // in containers; there is nothing in it but the socket
	doorSocket   = "api"
	maxVisitors  = 16      // connections of one Machine; more wait until one ends
	maxQuestion  = 1 << 20 // bytes of a request's body
	doorIdleTime = 30 * time.Second
	doorRestTime = 3 * time.Second // how long a program may take to read an answer: so long a suspension waits for it
)

// doorDir is what containers have at doorPath: a directory of its own, so that a socket that a later pilot makes is seen in it.
func doorDir(spec *Spec) string { return filepath.Join(spec.RunDir, "fly") }

// door is the unix socket /.fly/api in a Machine: its programs speak the Machines API there, without a token. A request goes on to Spec.API under
// the name of the Machine, whatever it says of itself; what it may do is decided there. The daemon behind it may come and go: while there is
// none the answer is 503.
type door struct {
	server *http.Server
	served chan struct{}
	cut    context.CancelFunc // no program is waited for any more

	mu    sync.Mutex
	conns map[net.Conn]bool // those that are open → a request is being answered
}

// openDoor serves the Machine's socket until close. Nil where the Spec has no API.
func openDoor(spec *Spec) (*door, error) {
	if spec.API == "" {
		return nil, nil
	}
	l, err := listenDoor(doorDir(spec))
	if err != nil {
		return nil, fmt.Errorf("make the socket %s/%s: %w", doorPath, doorSocket, err)
	}
	open, cut := context.WithCancel(context.Background())
	d := &door{served: make(chan struct{}), cut: cut, conns: map[net.Conn]bool{}}
	d.server = &http.Server{Handler: forward(spec), ConnState: d.note, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: doorIdleTime,
		MaxHeaderBytes: 64 << 10, ErrorLog: log.New(io.Discard, "", 0)}
	go func() {
		defer close(d.served)
		d.server.Serve(&doorListener{l, open, make(chan struct{}, maxVisitors)})
	}()
	return d, nil
}

// listenDoor makes the socket in dir, in place of one that an earlier pilot left. It is root's alone, as on Fly.io: by `exec` a program that was
// given less than its container could take it all.
func listenDoor(dir string) (net.Listener, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Chmod(0o755); err != nil { // past the umask
		return nil, err
	}
	at := fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), doorSocket) // a socket's own path may have 107 bytes
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: at})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by then it is another's path
	return l, os.Chmod(at, 0o600)
}

// forward answers by asking the daemon.
func forward(spec *Spec) http.Handler {
	api, name := spec.API, gondola.Ref{App: spec.App, ID: spec.Machine}.String()
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "gondola"
			r.Out.Header.Del("Authorization")
			r.Out.Header.Set(gondola.MachineHeader, name)
		},
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, "unix", api)
			}},
		ErrorHandler: refuse, ErrorLog: log.New(io.Discard, "", 0),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > maxQuestion {
			refuse(w, r, &http.MaxBytesError{Limit: maxQuestion})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxQuestion) // of which nobody said how long it is
		proxy.ServeHTTP(w, r)
	})
}

// refuse answers, in the API's form, a request of which nothing came.
func refuse(w http.ResponseWriter, _ *http.Request, err error) {
	code, kind := http.StatusServiceUnavailable, gondola.ErrUnavailable
	text := "the platform does not answer: if this changes something, look whether it has, and try again"
	if dial := (*net.OpError)(nil); errors.As(err, &dial) && dial.Op == "dial" {
		text = "the platform is not there at the moment: nothing was done, try again"
	}
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		code, kind, text = http.StatusRequestEntityTooLarge, gondola.ErrInvalid, fmt.Sprintf("the body is larger than the %d bytes that %s/%s takes", big.Limit, doorPath, doorSocket)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{"error": text, "status": "unknown", "details": map[string]string{"kind": kind.Error()}})
}

// note keeps what connections do.
func (d *door) note(c net.Conn, s http.ConnState) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch s {
	case http.StateNew, http.StateIdle:
		d.conns[c] = false
	case http.StateActive:
		d.conns[c] = true
	case http.StateClosed, http.StateHijacked:
		delete(d.conns, c)
	}
}

// rest waits until nobody is being answered and every answer has been read, doorRestTime at most: a suspension cuts all connections, and the
// answer to a program that suspends its own Machine shall not be lost by that.
func (d *door) rest(ctx context.Context) {
	if d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doorRestTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for d.busy() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, answering := range d.conns {
		if answering || c.(*visitor).unread() {
			return true
		}
	}
	return false
}

// close cuts all connections; none is taken any more when it returns.
func (d *door) close() {
	if d == nil {
		return
	}
	d.cut()
	d.server.Close()
	<-d.served
}

// doorListener has no more than so many connections at a time.
type doorListener struct {
	net.Listener
	open context.Context // until the door is closed
	room chan struct{}   // one for each that is open
}

func (l *doorListener) Accept() (net.Conn, error) {
	l.room <- struct{}{}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.room
		return nil, err
	}
	return &visitor{c.(*net.UnixConn), l.open, sync.OnceFunc(func() { <-l.room })}, nil
}

// visitor is a connection of a program in the Machine.
type visitor struct {
	*net.UnixConn
	open  context.Context
	leave func()
}

// Close lets the program read first what it was sent, and the end of that: a suspension in between would lose it. It has read all when it closes
// its side. Until then the connection counts as one on which a request is being answered.
func (v *visitor) Close() error {
	defer v.leave()
	if v.CloseWrite() == nil && v.SetReadDeadline(time.Now().Add(doorRestTime)) == nil {
		stop := context.AfterFunc(v.open, func() { v.UnixConn.Close() })
		io.Copy(io.Discard, v.UnixConn)
		stop()
	}
	return v.UnixConn.Close()
}

// unread says whether something was sent that the program has not read.
func (v *visitor) unread() bool {
	raw, err := v.SyscallConn()
	if err != nil {
		return false
	}
	left := 0
	err = raw.Control(func(fd uintptr) { left, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return err == nil && left > 0
}
