package stream

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coder/websocket"

	"gondola"
)

// notice is a text message of a connection; one field is set.
type notice struct {
	Open  bool     `json:"open,omitempty"`  // the server has connected; bytes may flow
	Error *failure `json:"error,omitempty"` // the server could not connect, instead of Open
	EOF   bool     `json:"eof,omitempty"`   // this side has sent its last byte
}

// HalfCloser is a connection that can end one direction. What DialConn returns is one; what dial of ServeConn returns may be.
type HalfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// ServeConn connects by dial and carries bytes between that connection and the client at the other end of r, until both directions have ended
// or one side has gone. dial's ctx lasts as long as the connection. Errors of dial are what DialConn returns.
func ServeConn(w http.ResponseWriter, r *http.Request, dial func(ctx context.Context) (io.ReadWriteCloser, error)) {
	ws, err := accept(w, r)
	if err != nil {
		return // answered
	}
	defer ws.CloseNow()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	// The client is read while dial is still at work, so that its leaving ends the attempt.
	near := newConn(ctx, ws)
	defer near.end()
	target, err := dial(near.ctx)
	if err != nil {
		if near.say(notice{Error: failureOf(err)}) == nil {
			ws.Close(websocket.StatusNormalClosure, "")
		}
		return
	}
	defer target.Close()
	if near.say(notice{Open: true}) != nil {
		return
	}
	join(near, target)
}

// join copies both ways. An end of file is passed on as a half-close; an error ends both directions.
func join(near *conn, target io.ReadWriteCloser) {
	stop := context.AfterFunc(near.ctx, func() { target.Close() })
	defer stop()
	delivered := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(delivered)
		_, err := io.Copy(target, near)
		if half, ok := target.(HalfCloser); err == nil && ok {
			err = half.CloseWrite()
		}
		if err != nil {
			near.cancel()
		}
	})
	wg.Go(func() {
		_, err := io.Copy(near, target)
		if err == nil {
			err = near.CloseWrite()
		}
		if err != nil {
			near.cancel()
		}
	})
	near.wg.Go(func() { near.lingerGone(delivered) })
	wg.Wait()
	target.Close()
	<-near.ctx.Done() // the client closes when it has read all; before, what is on its way would be lost to a reset
}

// lingerGone ends the connection once the peer has closed it and its last bytes are delivered, or nobody takes them.
func (c *conn) lingerGone(delivered <-chan struct{}) {
	select {
	case <-c.gone:
	case <-c.ctx.Done():
		return
	}
	patience := time.NewTimer(lastWords)
	defer patience.Stop()
	select {
	case <-delivered:
	case <-patience.C:
	case <-c.ctx.Done():
	}
	c.cancel()
}

// DialConn opens a connection through the ServeConn behind url. ctx bounds the connecting, not the connection. The result can be half-closed (HalfCloser).
// Errors are those of the server's dial, a *StatusError where the server did not open the stream, ErrDeadline and ErrUnavailable.
func DialConn(ctx context.Context, hc *http.Client, url string, header http.Header) (io.ReadWriteCloser, error) {
	ws, err := dial(ctx, hc, url, header)
	if err != nil {
		return nil, err
	}
	c := newConn(context.WithoutCancel(ctx), ws)
	select {
	case n, said := <-c.opened:
		switch {
		case !said:
			c.end()
			return nil, gondola.Errorf(gondola.ErrUnavailable, "connect to %s: the connection was lost", url)
		case n.Open:
			return c, nil
		default:
			c.Close()
			return nil, n.Error.err()
		}
	case <-ctx.Done():
		c.end()
		return nil, gondola.Errorf(gondola.ErrDeadline, "connect to %s: %w", url, ctx.Err())
	}
}

// conn is one end of a connection over a WebSocket.
type conn struct {
	ws     *wire
	ctx    context.Context // ends when the peer has gone or this end is closed
	cancel context.CancelFunc
	opened chan notice   // the peer's first word; closed when there is no more to come
	gone   chan struct{} // closed when nothing more can be received
	in     *io.PipeReader
	wg     sync.WaitGroup

	writing sync.Mutex
	ended   bool // CloseWrite was called
}

func newConn(ctx context.Context, ws *wire) *conn {
	c := &conn{ws: ws, opened: make(chan notice, 1), gone: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	in, out := io.Pipe()
	c.in = in
	c.wg.Go(func() { c.receive(out) })
	c.wg.Go(func() { ws.keepalive(c.ctx, c.cancel) })
	return c
}

// receive hands the peer's bytes to out until the connection ends. A connection that the peer closed in order is not cancelled: its last bytes
// are still to be read.
func (c *conn) receive(out *io.PipeWriter) {
	defer close(c.gone)
	defer close(c.opened)
	for {
		kind, body, err := c.ws.message(c.ctx)
		if err != nil {
			if websocket.CloseStatus(err) == websocket.StatusNormalClosure {
				err = io.EOF
			} else {
				c.cancel()
			}
			out.CloseWithError(err)
			return
		}
		if kind == websocket.MessageBinary {
			io.Copy(out, body) // fails when nobody reads any more; the rest is dropped
			io.Copy(io.Discard, body)
			continue
		}
		var n notice
		if err := readJSON(body, &n); err != nil {
			out.CloseWithError(err)
			c.cancel()
			return
		}
		switch {
		case n.EOF:
			out.Close()
		case n.Open || n.Error != nil:
			select {
			case c.opened <- n:
			default: // said before
			}
		}
	}
}

func (c *conn) say(n notice) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return c.ws.Write(c.ctx, websocket.MessageText, b)
}

func (c *conn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *conn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.ended {
		return 0, io.ErrClosedPipe
	}
	if err := c.ws.Write(c.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite says that nothing more will be written.
func (c *conn) CloseWrite() error {
	c.writing.Lock()
	defer c.writing.Unlock()
	if c.ended {
		return nil
	}
	c.ended = true
	return c.say(notice{EOF: true})
}

// Close ends both directions; what was written before still arrives.
func (c *conn) Close() error {
	c.in.CloseWithError(io.ErrClosedPipe)
	err := c.ws.Close(websocket.StatusNormalClosure, "")
	c.end()
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		return nil
	}
	return err
}

func (c *conn) end() {
	c.cancel()
	c.in.CloseWithError(io.ErrClosedPipe)
	c.ws.CloseNow()
	c.wg.Wait()
}
