// Package stream carries the streams of an exec, an attach or a port-forward over one WebSocket.
//
// Frames of an exec are binary messages whose first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome (JSON, last), 4 a
// terminal size (JSON), 5 end of stdin. Which streams the client connected is announced by the header Gondola-Streams of its request, a comma
// list of stdin, stdout, stderr and resize. Frames of a connection are its bytes, as binary messages; text messages are JSON and say the rest:
// whether the connection was made (first, from the server) and that one side has sent its last byte. The API, its client and the pilot's
// socket use the same frames.
//
// Messages of any size pass, nothing is buffered beyond one message, so a slow reader slows its writer down, for as long as it likes. After the
// outcome the client closes. Errors cross with their gondola kind, message and refusals.
//
// An empty binary message is a beat and says nothing else. Both sides send one every 10 s, and announce that by the header Gondola-Beats. Such a
// peer, or one that pings, is taken for gone when this side has waited 30 to 40 s for anything from it, and that ends the call; it is found so also
// while writes to it are held up. Only who is held up by its own consumer hears nothing meanwhile: it misses the peer when the consumer goes on, or
// when the kernel gives up sending the beats (Linux: after about 15 minutes). Other peers are gone when TCP says so. WebSocket's own pings would not
// do: the library gives each 5 s to be written, which a slow reader outlasts.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"gondola"
)

// Channels of an exec.
const (
	chStdin byte = iota
	chStdout
	chStderr
	chOutcome
	chResize
	chEndOfStdin
)

const (
	streamsHeader = "Gondola-Streams" // announces the connected streams
	beatsHeader   = "Gondola-Beats"   // announces that who sends it beats
)

const (
	beatEvery   = 10 * time.Second
	missedBeats = 3
	lastWords   = 30 * time.Second // how long what was sent last may take to be delivered where nobody waits for it any more
	controlSize = 4 << 20          // largest JSON message read
)

// StatusError is the answer of a server that did not open a WebSocket: an HTTP status and the first kilobyte of its body.
type StatusError struct {
	Code int
	Body []byte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("server answered %d %s: %s", e.Code, http.StatusText(e.Code), strings.TrimSpace(string(e.Body)))
}

// wire is one end of the WebSocket.
type wire struct {
	*websocket.Conn
	reads atomic.Uint64 // goes up when a read begins and when it ends, so it is odd while this side waits for the peer
	beats atomic.Bool   // the peer beats or pings
}

// accept turns a request into a WebSocket; on failure it has answered.
func accept(w http.ResponseWriter, r *http.Request) (*wire, error) {
	ws := &wire{}
	ws.beats.Store(r.Header.Get(beatsHeader) != "")
	w.Header().Set(beatsHeader, "true")
	var err error
	if ws.Conn, err = websocket.Accept(w, r, &websocket.AcceptOptions{OnPingReceived: ws.pinged}); err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return ws, nil
}

// dial opens a WebSocket. Errors are a *StatusError, ErrDeadline or ErrUnavailable.
func dial(ctx context.Context, hc *http.Client, url string, header http.Header) (*wire, error) {
	h := http.Header{}
	maps.Copy(h, header)
	h.Set(beatsHeader, "true")
	ws := &wire{}
	var resp *http.Response
	var err error
	ws.Conn, resp, err = websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: hc, HTTPHeader: h, OnPingReceived: ws.pinged})
	switch {
	case err == nil:
		ws.beats.Store(resp.Header.Get(beatsHeader) != "")
		ws.SetReadLimit(-1)
		return ws, nil
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return nil, &StatusError{Code: resp.StatusCode, Body: body}
	case ctx.Err() != nil:
		return nil, gondola.Errorf(gondola.ErrDeadline, "connect to %s: %w", url, ctx.Err())
	default:
		return nil, gondola.Errorf(gondola.ErrUnavailable, "connect to %s: %w", url, err)
	}
}

// message returns the next message; it must be read to its end before the next call.
func (w *wire) message(ctx context.Context) (websocket.MessageType, io.Reader, error) {
	w.reads.Add(1)
	defer w.reads.Add(1)
	kind, r, err := w.Reader(ctx)
	return kind, body{w, r}, err
}

// body is what is in a message.
type body struct {
	wire *wire
	io.Reader
}

func (b body) Read(p []byte) (int, error) {
	b.wire.reads.Add(1)
	defer b.wire.reads.Add(1)
	return b.Reader.Read(p[:min(len(p), 8<<10)]) // ends when that much is there, also over a slow line
}

// pinged is called within a read.
func (w *wire) pinged(context.Context, []byte) bool {
	w.reads.Add(2)
	w.beats.Store(true)
	return true
}

// keepalive beats until ctx ends, and calls lost when the peer is gone.
func (w *wire) keepalive(ctx context.Context, lost func()) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { w.beat(ctx, lost) })
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	last, missed := uint64(0), 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := w.reads.Load()
		if n != last || n%2 == 0 || !w.beats.Load() {
			last, missed = n, 0
			continue
		}
		if missed++; missed == missedBeats {
			lost()
			return
		}
	}
}

// beat is held up as long as the peer reads nothing.
func (w *wire) beat(ctx context.Context, lost func()) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.Write(ctx, websocket.MessageBinary, nil) != nil {
			lost()
			return
		}
	}
}

// failure is an error on the wire.
type failure struct {
	Kind     string            `json:"kind,omitempty"`
	Message  string            `json:"message"`
	Refusals []gondola.Refusal `json:"refusals,omitempty"`
}

var kinds = []error{gondola.ErrInvalid, gondola.ErrNotFound, gondola.ErrNameTaken, gondola.ErrConflict, gondola.ErrPrecondition, gondola.ErrCapacity,
	gondola.ErrDeadline, gondola.ErrUnauthorized, gondola.ErrForbidden, gondola.ErrUnsupported, gondola.ErrUnavailable, gondola.ErrImage}

func failureOf(err error) *failure {
	if err == nil {
		return nil
	}
	f := &failure{Message: err.Error(), Refusals: gondola.Refusals(err)}
	if i := slices.IndexFunc(kinds, func(k error) bool { return errors.Is(err, k) }); i >= 0 {
		f.Kind = kinds[i].Error()
	} else if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		f.Kind = gondola.ErrDeadline.Error()
	}
	return f
}

func (f *failure) err() error {
	if f == nil {
		return nil
	}
	if i := slices.IndexFunc(kinds, func(k error) bool { return k.Error() == f.Kind }); i >= 0 {
		return &gondola.Error{Kind: kinds[i], Message: f.Message, Refusals: f.Refusals}
	}
	return errors.New(f.Message)
}

// readJSON reads the rest of a control message.
func readJSON(r io.Reader, into any) error {
	b, err := io.ReadAll(io.LimitReader(r, controlSize))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, into)
}
