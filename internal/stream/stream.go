// Package stream carries the streams of an exec, an attach or a port-forward over one WebSocket.
//
// Frames of an exec are binary messages whose first byte is the channel: 0 stdin, 1 stdout, 2 stderr, 3 the outcome (JSON, last), 4 a
// terminal size (JSON), 5 end of stdin. Which streams the client connected is announced by the header Gondola-Streams of its request, a comma
// list of stdin, stdout, stderr and resize. Frames of a connection are its bytes, as binary messages; text messages are JSON and say the rest:
// whether the connection was made (first, from the server) and that one side has sent its last byte. The API, its client and the pilot's
// socket use the same frames.
//
// Messages of any size pass, nothing is buffered beyond one message, so a slow reader slows its writer down. Both sides ping; a peer that has
// gone ends the call. Errors cross with their gondola kind, message and refusals.
package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
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

// streamsHeader announces the connected streams.
const streamsHeader = "Gondola-Streams"

const (
	pingEvery   = 10 * time.Second
	pongWithin  = 30 * time.Second
	controlSize = 4 << 20 // largest JSON message read
)

// StatusError is the answer of a server that did not open a WebSocket: an HTTP status and the first kilobyte of its body.
type StatusError struct {
	Code int
	Body []byte
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("server answered %d %s: %s", e.Code, http.StatusText(e.Code), strings.TrimSpace(string(e.Body)))
}

// accept turns a request into a WebSocket; on failure it has answered.
func accept(w http.ResponseWriter, r *http.Request) (*websocket.Conn, error) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1)
	return ws, nil
}

// dial opens a WebSocket. Errors are a *StatusError, ErrDeadline or ErrUnavailable.
func dial(ctx context.Context, hc *http.Client, url string, header http.Header) (*websocket.Conn, error) {
	ws, resp, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: hc, HTTPHeader: header})
	switch {
	case err == nil:
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

// keepalive pings until ctx ends and calls lost when the peer does not answer. While busy, the reader of this side is held up by a slow
// consumer and cannot see a pong: then only a failed write counts.
func keepalive(ctx context.Context, ws *websocket.Conn, busy *atomic.Bool, lost context.CancelFunc) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wait, cancel := context.WithTimeout(ctx, pongWithin)
		err := ws.Ping(wait)
		late := wait.Err() != nil
		cancel()
		if err != nil && !(late && busy.Load()) {
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
