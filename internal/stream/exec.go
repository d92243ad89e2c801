package stream

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"

	"gondola"
)

// outcome is the last frame of an exec.
type outcome struct {
	gondola.ExitStatus
	Error *failure `json:"error,omitempty"`
}

// ServeExec runs run with the streams of the client at the other end of r and sends it the outcome. Streams that the client did not connect
// are nil. The ctx of run ends when the client goes away or r's context does. It returns after run has.
func ServeExec(w http.ResponseWriter, r *http.Request, run func(ctx context.Context, io gondola.ExecIO) (gondola.ExitStatus, error)) {
	ws, err := accept(w, r)
	if err != nil {
		return // answered
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	// The connection outlives the run's context: the outcome is still to be sent.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	s := &execServer{ws: ws, ctx: ctx, gone: make(chan struct{})}
	streams := s.connect(r.Header.Get(streamsHeader))
	var wg sync.WaitGroup
	wg.Go(func() { s.read(life); cancel(); close(s.gone) })
	wg.Go(func() { ws.keepalive(life, func() { cancel(); end() }) })

	status, err := run(ctx, streams)
	defer context.AfterFunc(r.Context(), func() { time.AfterFunc(lastWords, end) })()
	s.finish(life, outcome{status, failureOf(err)})
	end()
	cancel()
	ws.CloseNow()
	wg.Wait()
}

// execServer is the server's end of an exec.
type execServer struct {
	ws     *wire
	ctx    context.Context // of the run
	stdin  *io.PipeWriter
	out    []*frameWriter
	resize chan gondola.TerminalSize
	gone   chan struct{} // closed when nothing more can be received
}

func (s *execServer) connect(announced string) (streams gondola.ExecIO) {
	has := map[string]bool{}
	for name := range strings.SplitSeq(announced, ",") {
		has[strings.TrimSpace(name)] = true
	}
	if has["stdin"] {
		streams.Stdin, s.stdin = io.Pipe()
	}
	if has["stdout"] {
		streams.Stdout = s.writer(chStdout)
	}
	if has["stderr"] {
		streams.Stderr = s.writer(chStderr)
	}
	if has["resize"] {
		s.resize = make(chan gondola.TerminalSize, 1)
		streams.Resize = s.resize
	}
	return streams
}

func (s *execServer) writer(channel byte) *frameWriter {
	w := &frameWriter{ctx: s.ctx, ws: s.ws, channel: channel}
	s.out = append(s.out, w)
	return w
}

// read hands the client's frames on until the connection ends.
func (s *execServer) read(ctx context.Context) {
	defer s.endStdin(io.ErrUnexpectedEOF)
	for {
		channel, body, err := nextFrame(ctx, s.ws)
		if err != nil {
			return
		}
		switch channel {
		case chStdin:
			if s.stdin == nil {
				break
			}
			io.Copy(s.stdin, body) // fails when nobody reads any more; the rest is dropped
		case chEndOfStdin:
			s.endStdin(nil)
		case chResize:
			var size gondola.TerminalSize
			if readJSON(body, &size) == nil && s.resize != nil {
				newest(s.resize, size)
			}
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return
		}
	}
}

func (s *execServer) endStdin(err error) {
	if s.stdin != nil {
		s.stdin.CloseWithError(err) // nil: io.EOF
	}
}

// finish sends the outcome and waits for the client to close, when it has read all, so that no frame is lost to a reset.
func (s *execServer) finish(ctx context.Context, o outcome) {
	for _, w := range s.out {
		w.close()
	}
	s.endStdin(io.ErrClosedPipe)
	b, err := json.Marshal(o)
	if err != nil {
		return
	}
	if s.ws.Write(ctx, websocket.MessageBinary, append([]byte{chOutcome}, b...)) == nil {
		<-s.gone
	}
}

// newest puts v into a channel of one place, in the stead of an older value.
func newest(c chan gondola.TerminalSize, v gondola.TerminalSize) {
	for {
		select {
		case c <- v:
			return
		default:
		}
		select {
		case <-c:
		default:
		}
	}
}

// nextFrame returns the channel of the next frame and a reader of what follows; it must be read to its end before the next call.
func nextFrame(ctx context.Context, ws *wire) (byte, io.Reader, error) {
	for {
		_, body, err := ws.message(ctx)
		if err != nil {
			return 0, nil, err
		}
		var channel [1]byte
		if _, err := io.ReadFull(body, channel[:]); err == io.EOF {
			continue // a beat
		} else if err != nil {
			return 0, nil, err
		}
		return channel[0], body, nil
	}
}

// frameWriter sends what is written as frames of one channel.
type frameWriter struct {
	ctx     context.Context
	ws      *wire
	channel byte

	mu     sync.Mutex
	buf    []byte
	closed bool
}

func (w *frameWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	if len(p) == 0 {
		return 0, nil
	}
	w.buf = append(append(w.buf[:0], w.channel), p...)
	if err := w.ws.Write(w.ctx, websocket.MessageBinary, w.buf); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *frameWriter) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
}

// DialExec runs a command behind url with the given streams to its end. hc may be nil for http.DefaultClient and may speak to a unix socket;
// url begins with http or https. Errors are those of the server's run, a *StatusError where the server did not open the stream, ErrDeadline
// when ctx ended and ErrUnavailable when the connection broke. A Read of streams.Stdin that blocks may outlive the call.
func DialExec(ctx context.Context, hc *http.Client, url string, header http.Header, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	h := header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set(streamsHeader, strings.Join(announce(streams), ","))
	ws, err := dial(ctx, hc, url, h)
	if err != nil {
		return gondola.ExitStatus{}, err
	}
	defer ws.CloseNow()
	run, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { ws.keepalive(run, cancel) })
	if streams.Resize != nil {
		wg.Go(func() { sendResizes(run, ws, streams.Resize) })
	}
	if streams.Stdin != nil {
		go sendStdin(run, ws, streams.Stdin) // not waited for: its Read cannot be interrupted
	}
	o, err := receive(run, ws, streams)
	var local *localError
	switch {
	case err == nil:
		ws.Close(websocket.StatusNormalClosure, "")
		return o.ExitStatus, o.Error.err()
	case errors.As(err, &local):
		return gondola.ExitStatus{}, local.err
	case ctx.Err() != nil:
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrDeadline, "the command was abandoned: %w", ctx.Err())
	default:
		return gondola.ExitStatus{}, gondola.Errorf(gondola.ErrUnavailable, "the connection was lost before the command ended: %w", err)
	}
}

func announce(streams gondola.ExecIO) (names []string) {
	if streams.Stdin != nil {
		names = append(names, "stdin")
	}
	if streams.Stdout != nil {
		names = append(names, "stdout")
	}
	if streams.Stderr != nil {
		names = append(names, "stderr")
	}
	if streams.Resize != nil {
		names = append(names, "resize")
	}
	return names
}

// localError is a failure to write the output on this side.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }

// receive writes the server's output until the outcome arrives.
func receive(ctx context.Context, ws *wire, streams gondola.ExecIO) (o outcome, err error) {
	for {
		channel, body, err := nextFrame(ctx, ws)
		if err != nil {
			return o, err
		}
		var to io.Writer
		switch channel {
		case chStdout:
			to = streams.Stdout
		case chStderr:
			to = streams.Stderr
		case chOutcome:
			return o, readJSON(body, &o)
		}
		if to == nil {
			to = io.Discard
		}
		if err := copyMessage(to, body); err != nil {
			return o, err
		}
	}
}

// copyMessage is io.Copy that tells a failed writer from a failed reader.
func copyMessage(to io.Writer, from io.Reader) error {
	var b bytes.Buffer
	for {
		b.Reset()
		n, err := io.CopyN(&b, from, 64<<10)
		if n > 0 {
			if _, err := to.Write(b.Bytes()); err != nil {
				return &localError{err}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func sendStdin(ctx context.Context, ws *wire, stdin io.Reader) {
	w := &frameWriter{ctx: ctx, ws: ws, channel: chStdin}
	buf := make([]byte, 32<<10)
	for {
		n, err := stdin.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			ws.Write(ctx, websocket.MessageBinary, []byte{chEndOfStdin})
			return
		}
	}
}

func sendResizes(ctx context.Context, ws *wire, sizes <-chan gondola.TerminalSize) {
	for {
		select {
		case <-ctx.Done():
			return
		case size, ok := <-sizes:
			if !ok {
				return
			}
			b, _ := json.Marshal(size)
			if ws.Write(ctx, websocket.MessageBinary, append([]byte{chResize}, b...)) != nil {
				return
			}
		}
	}
}
