package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"strconv"
	"time"

	"gondola"
	"gondola/internal/stream"
)

// silence is how long a watch may say nothing; the server breaks it every 5 s.
const silence = 20 * time.Second

// Watch implements gondola.Watcher. A server that falls silent ends it.
func (c *Client) Watch(ctx context.Context, req gondola.WatchRequest) (<-chan gondola.Change, error) {
	q := url.Values{}
	if req.Offers {
		q.Set("offers", "true")
	}
	for k, v := range req.Metadata {
		q.Set("metadata."+k, v)
	}
	ctx, cancel := context.WithCancel(ctx)
	resp, err := c.send(ctx, "GET", ext("watch"), q, nil, "")
	if err != nil {
		cancel()
		return nil, err
	}
	changes := make(chan gondola.Change)
	go func() {
		defer close(changes)
		defer resp.Body.Close()
		defer cancel()
		quiet := time.AfterFunc(silence, cancel)
		defer quiet.Stop()
		lines := json.NewDecoder(resp.Body)
		for {
			var ch gondola.Change
			if lines.Decode(&ch) != nil {
				return
			}
			quiet.Stop() // a slow reader of ours is no silence of the server's
			select {
			case changes <- ch:
				quiet.Reset(silence)
			case <-ctx.Done():
				return
			}
		}
	}()
	return changes, nil
}

// Logs implements gondola.Logs.
func (c *Client) Logs(ctx context.Context, ref gondola.Ref, o gondola.LogOptions) (io.ReadCloser, error) {
	q := url.Values{}
	for name, set := range map[string]bool{"previous": o.Previous, "follow": o.Follow, "timestamps": o.Timestamps, "cri": o.CRI} {
		if set {
			q.Set(name, "true")
		}
	}
	for name, v := range map[string]string{"container": o.Container, "stream": o.Stream} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if !o.Since.IsZero() {
		q.Set("since", o.Since.Format(time.RFC3339Nano))
	}
	if o.Tail != nil {
		q.Set("tail", strconv.FormatInt(*o.Tail, 10))
	}
	if o.LimitBytes > 0 {
		q.Set("limit_bytes", strconv.FormatInt(o.LimitBytes, 10))
	}
	resp, err := c.send(ctx, "GET", extMachine(ref, "logs"), q, nil, "")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// ExecStream implements gondola.Streams.
func (c *Client) ExecStream(ctx context.Context, ref gondola.Ref, o gondola.ExecOptions, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	q := url.Values{"command": o.Command}
	if o.Container != "" {
		q.Set("container", o.Container)
	}
	if o.TTY {
		q.Set("tty", "true")
	}
	if o.Stdin {
		q.Set("stdin", "true")
	}
	return c.exec(ctx, extMachine(ref, "exec"), q, streams)
}

// Attach implements gondola.Streams.
func (c *Client) Attach(ctx context.Context, ref gondola.Ref, container string, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	q := url.Values{}
	if container != "" {
		q.Set("container", container)
	}
	return c.exec(ctx, extMachine(ref, "attach"), q, streams)
}

func (c *Client) exec(ctx context.Context, path string, q url.Values, streams gondola.ExecIO) (gondola.ExitStatus, error) {
	status, err := stream.DialExec(ctx, c.http, c.url(path, q), c.header.Clone(), streams)
	return status, streamError(path, err)
}

// Dial implements gondola.Streams. The connection can be half-closed (CloseWrite) and outlives ctx.
func (c *Client) Dial(ctx context.Context, ref gondola.Ref, port int) (io.ReadWriteCloser, error) {
	path := extMachine(ref, "dial")
	conn, err := stream.DialConn(ctx, c.http, c.url(path, url.Values{"port": {strconv.Itoa(port)}}), c.header.Clone())
	if err != nil {
		return nil, streamError(path, err)
	}
	return conn, nil
}

// ImportImage implements gondola.Images.
func (c *Client) ImportImage(ctx context.Context, archive io.Reader, reference string) ([]gondola.ImageInfo, error) {
	q := url.Values{}
	if reference != "" {
		q.Set("reference", reference)
	}
	resp, err := c.send(ctx, "POST", ext("images"), q, io.NopCloser(archive), "application/x-tar")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var images []gondola.ImageInfo
	if err := json.NewDecoder(resp.Body).Decode(&images); err != nil {
		return nil, c.broken(ctx, "POST", ext("images"), errors.Join(errors.New("the answer is cut"), err))
	}
	return images, nil
}

// ListImages implements gondola.Images.
func (c *Client) ListImages(ctx context.Context) (images []gondola.ImageInfo, err error) {
	err = c.do(ctx, "GET", ext("images"), nil, nil, &images)
	return images, err
}

// PruneImages implements gondola.Images.
func (c *Client) PruneImages(ctx context.Context) (int64, error) {
	var freed struct {
		Bytes int64 `json:"freed_bytes"`
	}
	err := c.do(ctx, "DELETE", ext("images"), nil, nil, &freed)
	return freed.Bytes, err
}
