package stream_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/stream"
)

type runFunc = func(ctx context.Context, io gondola.ExecIO) (gondola.ExitStatus, error)

func execServer(t *testing.T, run runFunc) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { stream.ServeExec(w, r, run) }))
	t.Cleanup(s.Close)
	return s.URL
}

func TestExec_CarriesStreamsAndStatus(t *testing.T) {
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		in, err := io.ReadAll(s.Stdin)
		if err != nil {
			return gondola.ExitStatus{}, err
		}
		s.Stdout.Write(bytes.ToUpper(in))
		io.WriteString(s.Stderr, "warning")
		return gondola.ExitStatus{Code: 137, Signal: 9}, nil
	})
	var out, errOut bytes.Buffer
	got, err := stream.DialExec(t.Context(), nil, url, nil, gondola.ExecIO{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut})
	if err != nil || got != (gondola.ExitStatus{Code: 137, Signal: 9}) {
		t.Fatalf("DialExec = %v, %v", got, err)
	}
	if out.String() != "HELLO" || errOut.String() != "warning" {
		t.Errorf("stdout %q, stderr %q", out.String(), errOut.String())
	}
}

func TestExec_UnconnectedStreamsAreNilAtTheServer(t *testing.T) {
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		if s.Stdin != nil || s.Stderr != nil || s.Resize != nil || s.Stdout == nil {
			return gondola.ExitStatus{Code: 1}, nil
		}
		return gondola.ExitStatus{}, nil
	})
	got, err := stream.DialExec(t.Context(), nil, url, nil, gondola.ExecIO{Stdout: io.Discard})
	if err != nil || got.Code != 0 {
		t.Errorf("DialExec = %v, %v; the server saw other streams than stdout", got, err)
	}
}

func TestExec_BigDataPassesWholeBothWays(t *testing.T) {
	const size = 24 << 20
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		in, err := io.ReadAll(s.Stdin)
		if err != nil {
			return gondola.ExitStatus{}, err
		}
		_, err = s.Stdout.Write(in) // one message of 24 MiB
		return gondola.ExitStatus{}, err
	})
	data := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	var out bytes.Buffer
	if _, err := stream.DialExec(t.Context(), nil, url, nil, gondola.ExecIO{Stdin: bytes.NewReader(data), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), data) {
		t.Errorf("%d bytes came back, want %d equal ones", out.Len(), size)
	}
}

func TestExec_ErrorsKeepKindMessageAndRefusals(t *testing.T) {
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		return gondola.ExitStatus{}, &gondola.Error{Kind: gondola.ErrNotFound, Message: "no container \"web\"", Refusals: []gondola.Refusal{{Worker: "gru", Reason: "why"}}}
	})
	_, err := stream.DialExec(t.Context(), nil, url, nil, gondola.ExecIO{})
	if !errors.Is(err, gondola.ErrNotFound) || err.Error() != "no container \"web\"" || len(gondola.Refusals(err)) != 1 {
		t.Errorf("DialExec error = %#v", err)
	}
}

func TestExec_RunEndsWhenTheClientLeaves(t *testing.T) {
	started, ended := make(chan struct{}), make(chan struct{})
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		close(started)
		<-ctx.Done()
		close(ended)
		return gondola.ExitStatus{}, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	_, err := stream.DialExec(ctx, nil, url, nil, gondola.ExecIO{Stdout: io.Discard})
	if !errors.Is(err, gondola.ErrDeadline) {
		t.Errorf("DialExec error = %v, want a deadline", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the command ran on after its client had left")
	}
}

func TestExec_StdinCutShortIsAnError(t *testing.T) {
	read := make(chan error, 1)
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		_, err := io.ReadAll(s.Stdin)
		read <- err
		return gondola.ExitStatus{}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	go func() { io.WriteString(w, "half"); cancel() }()
	stream.DialExec(ctx, nil, url, nil, gondola.ExecIO{Stdin: r})
	if err := <-read; err == nil {
		t.Error("a client that was cut off looked like the end of its stdin")
	}
}

func TestExec_LostServerIsUnavailable(t *testing.T) {
	started := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
			close(started)
			<-ctx.Done()
			return gondola.ExitStatus{}, ctx.Err()
		})
	}))
	defer s.Close()
	// The client's connection goes through this one, so that it can be cut.
	var cut net.Conn
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (c net.Conn, err error) {
		cut, err = new(net.Dialer).DialContext(ctx, network, addr)
		return cut, err
	}}}
	go func() { <-started; cut.Close() }()
	_, err := stream.DialExec(t.Context(), hc, s.URL, nil, gondola.ExecIO{Stdout: io.Discard})
	if !errors.Is(err, gondola.ErrUnavailable) {
		t.Errorf("DialExec error = %v, want unavailable", err)
	}
}

func TestExec_SizesArriveAndTheNewestWins(t *testing.T) {
	url := execServer(t, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
		for {
			select {
			case size := <-s.Resize:
				if size == (gondola.TerminalSize{Width: 132, Height: 50}) {
					return gondola.ExitStatus{}, nil
				}
			case <-ctx.Done():
				return gondola.ExitStatus{}, ctx.Err()
			}
		}
	})
	sizes := make(chan gondola.TerminalSize, 3)
	sizes <- gondola.TerminalSize{Width: 80, Height: 24}
	sizes <- gondola.TerminalSize{Width: 100, Height: 30}
	sizes <- gondola.TerminalSize{Width: 132, Height: 50}
	close(sizes)
	if _, err := stream.DialExec(t.Context(), nil, url, nil, gondola.ExecIO{Resize: sizes}); err != nil {
		t.Error(err)
	}
}

func TestExec_OverAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		stream.ServeExec(w, r, func(ctx context.Context, s gondola.ExecIO) (gondola.ExitStatus, error) {
			return gondola.ExitStatus{Code: len(r.Header.Get("X-Test"))}, nil
		})
	})}
	go s.Serve(l)
	defer s.Close()
	hc := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	got, err := stream.DialExec(t.Context(), hc, "http://pilot/exec", http.Header{"X-Test": {"seven77"}}, gondola.ExecIO{})
	if err != nil || got.Code != 7 {
		t.Errorf("DialExec = %v, %v", got, err)
	}
}

func TestDial_RefusalKeepsStatusAndBody(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, `{"error":"no token"}`, http.StatusUnauthorized)
	}))
	defer s.Close()
	_, err := stream.DialExec(t.Context(), nil, s.URL, nil, gondola.ExecIO{})
	var status *stream.StatusError
	if !errors.As(err, &status) || status.Code != 401 || !strings.Contains(string(status.Body), "no token") {
		t.Errorf("DialExec error = %v", err)
	}
}

func connServer(t *testing.T, dial func(ctx context.Context) (io.ReadWriteCloser, error)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { stream.ServeConn(w, r, dial) }))
	t.Cleanup(s.Close)
	return s.URL
}

// tcpServer serves one connection by serve.
func tcpServer(t *testing.T, serve func(c *net.TCPConn)) func(ctx context.Context) (io.ReadWriteCloser, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := l.Accept(); err == nil {
			serve(c.(*net.TCPConn))
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestConn_HalfCloseIsCarriedAndTheAnswerStillComes(t *testing.T) {
	url := connServer(t, tcpServer(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c) // ends only when the client half-closes
		c.Write(bytes.ToUpper(b))
	}))
	c, err := stream.DialConn(t.Context(), nil, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "question")
	if err := c.(stream.HalfCloser).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "QUESTION" {
		t.Errorf("answer = %q, %v", b, err)
	}
}

func TestConn_BytesBeforeCloseArrive(t *testing.T) {
	const size = 3 << 20
	got := make(chan int, 1)
	url := connServer(t, tcpServer(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		got <- len(b)
	}))
	c, err := stream.DialConn(t.Context(), nil, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	if n := <-got; n != size {
		t.Errorf("%d bytes arrived, want %d", n, size)
	}
}

func TestConn_ServerEndReachesTheClient(t *testing.T) {
	url := connServer(t, tcpServer(t, func(c *net.TCPConn) { io.WriteString(c, "bye") }))
	c, err := stream.DialConn(t.Context(), nil, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Errorf("ReadAll = %q, %v", b, err)
	}
}

func TestConn_DialErrorComesOutOfDialConn(t *testing.T) {
	url := connServer(t, func(ctx context.Context) (io.ReadWriteCloser, error) {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "nothing listens on port 81")
	})
	_, err := stream.DialConn(t.Context(), nil, url, nil)
	if !errors.Is(err, gondola.ErrPrecondition) || err.Error() != "nothing listens on port 81" {
		t.Errorf("DialConn error = %v", err)
	}
}

func TestConn_OutlivesTheContextOfItsDial(t *testing.T) {
	url := connServer(t, tcpServer(t, func(c *net.TCPConn) { io.Copy(c, c) }))
	ctx, cancel := context.WithCancel(t.Context())
	c, err := stream.DialConn(ctx, nil, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	cancel()
	io.WriteString(c, "still here")
	b := make([]byte, 10)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still here" {
		t.Errorf("read %q, %v", b, err)
	}
}

func TestConn_AbandonedDialEnds(t *testing.T) {
	ended := make(chan struct{})
	url := connServer(t, func(ctx context.Context) (io.ReadWriteCloser, error) {
		defer close(ended)
		<-ctx.Done()
		return nil, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := stream.DialConn(ctx, nil, url, nil); !errors.Is(err, gondola.ErrDeadline) {
		t.Errorf("DialConn error = %v, want a deadline", err)
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the server went on dialing")
	}
}
