package stream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"gondola"
	"gondola/internal/stream"
)

// stall is how long a slow reader looks at its first page, far beyond every limit of the connection.
const stall = 10 * time.Minute

// noticed is how long it may take until a peer that vanished is found gone.
const noticed = time.Minute

// line is a network in a synctest bubble whose connections are as TCP's: each direction holds some bytes, a close follows what was sent before
// it, and a peer that sends to a closed end loses what was on its way back.
type line struct {
	accepted chan net.Conn
	chunks   int           // what each direction holds, in writes
	cut      chan struct{} // when closed nothing passes any more, and nobody is told
	over     chan struct{}
	carriers sync.WaitGroup
}

// newLine serves h and returns the client that reaches it.
func newLine(t *testing.T, chunks int, h http.HandlerFunc) (*line, *http.Client) {
	t.Helper()
	l := &line{accepted: make(chan net.Conn), chunks: chunks, cut: make(chan struct{}), over: make(chan struct{})}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.carriers.Add(1)
		defer l.carriers.Done()
		h(w, r)
	})}
	l.carriers.Go(func() { s.Serve(l) })
	t.Cleanup(func() { s.Close(); l.carriers.Wait() })
	return l, &http.Client{Transport: &http.Transport{DialContext: l.dial}}
}

func (l *line) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case <-l.over:
		return nil, net.ErrClosed
	}
}

func (l *line) Close() error   { close(l.over); return nil }
func (l *line) Addr() net.Addr { return &net.TCPAddr{} }

func (l *line) dial(context.Context, string, string) (net.Conn, error) {
	client, near := net.Pipe()
	server, far := net.Pipe()
	reset := make(chan struct{})
	var once sync.Once
	abort := func() { once.Do(func() { close(reset); near.Close(); far.Close() }) }
	l.carry(near, far, reset, abort)
	l.carry(far, near, reset, abort)
	l.carriers.Go(func() {
		select {
		case <-l.over:
			abort()
		case <-reset:
		}
	})
	l.accepted <- server
	return client, nil
}

// carry is one direction of a connection.
func (l *line) carry(to, from net.Conn, reset <-chan struct{}, abort func()) {
	sent := make(chan []byte, l.chunks)
	l.carriers.Go(func() {
		defer close(sent)
		for {
			b := make([]byte, 4<<10)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			select {
			case sent <- b[:n]:
			case <-reset:
				return
			}
		}
	})
	l.carriers.Go(func() {
		for b := range sent {
			select {
			case <-l.cut:
				<-reset
				return
			default:
			}
			if _, err := to.Write(b); err != nil {
				abort()
				return
			}
		}
		select {
		case <-l.cut:
		default:
			to.Close()
		}
	})
}

// page is a writer that stalls at its first write.
type page struct {
	got  bytes.Buffer
	once sync.Once
}

func (p *page) Write(b []byte) (int, error) {
	p.once.Do(func() { time.Sleep(stall) })
	return p.got.Write(b)
}

// pages is what a command prints, more than a page.
var pages = bytes.Repeat([]byte("0123456789abcdef"), 8<<10)

func TestExec_SlowReaderOfItsOutputLosesNothing(t *testing.T) {
	// Sockets that hold nothing, a part of the output, and all of it and the outcome.
	for _, chunks := range []int{0, 8, 1000} {
		synctest.Test(t, func(t *testing.T) {
			_, hc := newLine(t, chunks, func(w http.ResponseWriter, r *http.Request) {
				stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
					_, err := io.CopyBuffer(s.Stdout, struct{ io.Reader }{bytes.NewReader(pages)}, make([]byte, 1000))
					return gondola.ExitStatus{Code: 3}, err
				})
			})
			var out page
			got, err := stream.DialExec(t.Context(), hc, "http://server", nil, gondola.ExecIO{Stdout: &out})
			if err != nil || got.Code != 3 || !bytes.Equal(out.got.Bytes(), pages) {
				t.Errorf("with %d chunks in the sockets: %d of %d bytes, %v, %v", chunks, out.got.Len(), len(pages), got, err)
			}
		})
	}
}

func TestExec_QuietCommandOutlivesASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hc := newLine(t, 0, func(w http.ResponseWriter, r *http.Request) {
			stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
				io.WriteString(s.Stdout, "first")
				select {
				case <-time.After(stall / 2):
					_, err := io.WriteString(s.Stdout, " second")
					return gondola.ExitStatus{}, err
				case <-ctx.Done():
					return gondola.ExitStatus{}, ctx.Err()
				}
			})
		})
		var out page
		if _, err := stream.DialExec(t.Context(), hc, "http://server", nil, gondola.ExecIO{Stdout: &out}); err != nil || out.got.String() != "first second" {
			t.Errorf("%q, %v", out.got.String(), err)
		}
	})
}

func TestExec_SlowReaderOfItsInputLosesNothing(t *testing.T) {
	for _, chunks := range []int{0, 8, 1000} {
		synctest.Test(t, func(t *testing.T) {
			var in page
			_, hc := newLine(t, chunks, func(w http.ResponseWriter, r *http.Request) {
				stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
					_, err := io.Copy(&in, s.Stdin)
					return gondola.ExitStatus{}, err
				})
			})
			_, err := stream.DialExec(t.Context(), hc, "http://server", nil, gondola.ExecIO{Stdin: bytes.NewReader(pages)})
			if err != nil || !bytes.Equal(in.got.Bytes(), pages) {
				t.Errorf("with %d chunks in the sockets: %d of %d bytes, %v", chunks, in.got.Len(), len(pages), err)
			}
		})
	}
}

// ends are the two ends of a connection that can be half-closed.
type end struct {
	*io.PipeReader
	*io.PipeWriter
}

func ends() (a, b end) {
	ar, bw := io.Pipe()
	br, aw := io.Pipe()
	return end{ar, aw}, end{br, bw}
}

func (e end) CloseWrite() error { return e.PipeWriter.Close() }
func (e end) Close() error {
	e.PipeReader.CloseWithError(net.ErrClosed)
	return e.PipeWriter.Close()
}

// connect returns both ends of a connection that goes over a line, and that.
func connect(t *testing.T, chunks int) (c io.ReadWriteCloser, far end, l *line) {
	near, far := ends()
	l, hc := newLine(t, chunks, func(w http.ResponseWriter, r *http.Request) {
		stream.ServeConn(w, r, func(context.Context) (io.ReadWriteCloser, error) { return near, nil })
	})
	c, err := stream.DialConn(t.Context(), hc, "http://server", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, far, l
}

func TestConn_SlowReadersAtBothEndsLoseNothing(t *testing.T) {
	for _, chunks := range []int{0, 8, 1000} {
		synctest.Test(t, func(t *testing.T) {
			c, far, _ := connect(t, chunks)
			var up, down page
			var wg sync.WaitGroup
			for _, way := range []struct {
				from, to io.ReadWriter
				got      *page
			}{{c, far, &up}, {far, c, &down}} {
				wg.Go(func() {
					way.from.Write(pages)
					way.from.(stream.HalfCloser).CloseWrite()
				})
				wg.Go(func() {
					if _, err := io.Copy(way.got, way.to); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if !bytes.Equal(up.got.Bytes(), pages) || !bytes.Equal(down.got.Bytes(), pages) {
				t.Errorf("with %d chunks in the sockets: %d up and %d down of %d bytes", chunks, up.got.Len(), down.got.Len(), len(pages))
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestConn_SlowReaderOfAnAnswerLosesNothing(t *testing.T) {
	for _, chunks := range []int{0, 8, 1000} {
		synctest.Test(t, func(t *testing.T) {
			c, far, _ := connect(t, chunks)
			defer c.Close()
			c.(stream.HalfCloser).CloseWrite()
			go func() { far.Write(pages); far.Close() }()
			var down page
			if _, err := io.Copy(&down, c); err != nil || !bytes.Equal(down.got.Bytes(), pages) {
				t.Errorf("with %d chunks in the sockets: %d of %d bytes, %v", chunks, down.got.Len(), len(pages), err)
			}
		})
	}
}

func TestExec_PeerThatVanishesIsNoticedWhileAWriteToItIsHeldUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Time, 1)
		l, hc := newLine(t, 8, func(w http.ResponseWriter, r *http.Request) {
			stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
				for {
					if _, err := s.Stdout.Write(pages); err != nil {
						ended <- time.Now()
						return gondola.ExitStatus{}, err
					}
				}
			})
		})
		began := time.Now()
		time.AfterFunc(stall/2, func() { close(l.cut) })
		var out page
		_, err := stream.DialExec(t.Context(), hc, "http://server", nil, gondola.ExecIO{Stdout: &out})
		if took := time.Since(began); !errors.Is(err, gondola.ErrUnavailable) || took < stall || took > stall+noticed {
			t.Errorf("DialExec = %v after %s, want unavailable soon after its reader went on", err, took)
		}
		if took := (<-ended).Sub(began); took < stall/2 || took > stall/2+noticed {
			t.Errorf("the command went on for %s, of which the client was there for %s", took, stall/2)
		}
	})
}

func TestConn_PeerThatVanishesIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far, l := connect(t, 8)
		defer c.Close()
		time.Sleep(stall)
		close(l.cut)
		cut := time.Now()
		for name, r := range map[string]io.Reader{"client": c, "target": far} {
			if _, err := r.Read(make([]byte, 1)); err == nil || time.Since(cut) > noticed {
				t.Errorf("the %s noticed after %s: %v", name, time.Since(cut), err)
			}
		}
	})
}

func TestExec_ClientThatSendsNothingIsNotTakenForGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, hc := newLine(t, 8, func(w http.ResponseWriter, r *http.Request) {
			stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
				select {
				case <-time.After(stall):
					return gondola.ExitStatus{Code: 3}, nil
				case <-ctx.Done():
					return gondola.ExitStatus{}, ctx.Err()
				}
			})
		})
		ws, _, err := websocket.Dial(t.Context(), "http://server", &websocket.DialOptions{HTTPClient: hc})
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		for {
			_, frame, err := ws.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(frame) == 0 {
				continue
			}
			if want := "\x03" + `{"code":3}`; string(frame) != want {
				t.Errorf("the outcome is %q, want %q", frame, want)
			}
			return
		}
	})
}
