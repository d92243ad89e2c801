package pilot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"syscall"

	"gondola"
	"gondola/internal/stream"
)

// Client is the API of a pilot process, over its socket. It needs no closing: idle connections end with the pilot.
type Client struct {
	socket string
	http   *http.Client
}

var _ API = (*Client)(nil)

// NewClient returns a Client for the pilot that serves on socket, which need not be there yet.
func NewClient(socket string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}
	return &Client{socket: socket, http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// url is the address of a path; the host is only for show.
func (c *Client) url(path string, query url.Values) string {
	u := url.URL{Scheme: "http", Host: "pilot", Path: path, RawQuery: query.Encode()}
	return u.String()
}

// do sends a request and reads its answer into result, unless that is nil. The caller closes the body of the response if it asks for it.
func (c *Client) do(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var in io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("ask the pilot: %w", err)
		}
		in = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url(path, nil), in)
	if err != nil {
		return nil, fmt.Errorf("ask the pilot: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.lost(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e wireError
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if json.Unmarshal(data, &e) != nil || e.Message == "" {
		return nil, gondola.Errorf(gondola.ErrUnsupported, "the pilot answered %s to %s %s: it may be older than this program", resp.Status, method, path)
	}
	if i := slices.IndexFunc(wireKinds(), func(k error) bool { return k.Error() == e.Kind }); i >= 0 {
		return nil, &gondola.Error{Kind: wireKinds()[i], Message: e.Message}
	}
	return nil, errors.New(e.Message)
}

// lost says what an error of the connection means.
func (c *Client) lost(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return gondola.Errorf(gondola.ErrDeadline, "the pilot on %s: %w", c.socket, ctx.Err())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE),
		errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w: %v", ErrGone, err)
	}
	return gondola.Errorf(gondola.ErrUnavailable, "the pilot on %s: %w", c.socket, err)
}

// call is do for answers that are read at once.
func (c *Client) call(ctx context.Context, method, path string, body, result any) error {
	resp, err := c.do(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if result == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(result)
	}
	if err != nil {
		return c.lost(ctx, err)
	}
	return nil
}

// Watch implements API.
func (c *Client) Watch(ctx context.Context) (<-chan Status, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/watch", nil)
	if err != nil {
		return nil, err
	}
	out := make(chan Status)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		in := json.NewDecoder(resp.Body)
		for {
			var s Status
			if in.Decode(&s) != nil {
				return
			}
			select {
			case out <- s:
			case <-ctx.Done():
				return
			}
			if s.Phase.Final() {
				return
			}
		}
	}()
	return out, nil
}

// Stop implements API.
func (c *Client) Stop(ctx context.Context, req gondola.StopRequest) error {
	return c.call(ctx, http.MethodPost, "/v1/stop", req, nil)
}

// Suspend implements API.
func (c *Client) Suspend(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, "/v1/suspend", nil, nil)
}

// Signal implements API.
func (c *Client) Signal(ctx context.Context, container string, sig gondola.Signal) error {
	return c.call(ctx, http.MethodPost, "/v1/signal", signalRequest{container, sig}, nil)
}

// PutPayload implements API.
func (c *Client) PutPayload(ctx context.Context, p gondola.Payload) error {
	p.Credentials = nil
	return c.call(ctx, http.MethodPut, "/v1/payload", p, nil)
}

// AddContainer implements API.
func (c *Client) AddContainer(ctx context.Context, k Container) error {
	return c.call(ctx, http.MethodPost, "/v1/containers", k, nil)
}

// Resize implements API.
func (c *Client) Resize(ctx context.Context, size Size) error {
	return c.call(ctx, http.MethodPut, "/v1/size", size, nil)
}

// Processes implements API.
func (c *Client) Processes(ctx context.Context) (ps []gondola.ProcessStat, err error) {
	return ps, c.call(ctx, http.MethodGet, "/v1/processes", nil, &ps)
}

// Exec implements API.
func (c *Client) Exec(ctx context.Context, opts gondola.ExecOptions, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	data, err := json.Marshal(opts)
	if err != nil {
		return gondola.ExitStatus{}, fmt.Errorf("exec: %w", err)
	}
	status, err := stream.DialExec(ctx, c.http, c.url("/v1/exec", url.Values{"options": {string(data)}}), nil, streams)
	return status, c.streamError(ctx, err)
}

// Attach implements API.
func (c *Client) Attach(ctx context.Context, container string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	status, err := stream.DialExec(ctx, c.http, c.url("/v1/attach", url.Values{"container": {container}}), nil, streams)
	return status, c.streamError(ctx, err)
}

// Dial implements API.
func (c *Client) Dial(ctx context.Context, port int) (io.ReadWriteCloser, error) {
	conn, err := stream.DialConn(ctx, c.http, c.url("/v1/dial", url.Values{"port": {strconv.Itoa(port)}}), nil)
	return conn, c.streamError(ctx, err)
}

// streamError tells a pilot that is gone from a stream that failed.
func (c *Client) streamError(ctx context.Context, err error) error {
	if err == nil || !errors.Is(err, gondola.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	var d net.Dialer
	conn, dialErr := d.DialContext(ctx, "unix", c.socket)
	if dialErr != nil {
		return c.lost(ctx, dialErr)
	}
	conn.Close()
	return err
}
