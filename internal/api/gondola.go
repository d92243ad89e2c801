package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"gondola"
	"gondola/internal/auth"
	"gondola/internal/stream"
)

// contracts are those that gondola.Platform has beyond Fly.io's API.
var contracts = []string{"watch", "logs", "streams", "files", "containers", "sizes", "services", "policies", "images", "ask", "stats", "volumes", "suspend"}

const (
	// heartbeatEvery is the silence after which a watch says that it is alive.
	heartbeatEvery = 5 * time.Second
	// sendWithin bounds one write of a watch or log to a client that does not read.
	sendWithin = 30 * time.Second
)

func (a *API) offered(c *call) error {
	out := gondola.Offered{Version: a.version, Contracts: contracts}
	if a.info != nil {
		out.Info = a.info()
	}
	return c.send(http.StatusOK, out)
}

func (a *API) watch(c *call) error {
	offers, err := c.flag("offers")
	if err != nil {
		return err
	}
	sees, err := a.visible(c.ctx(), c.who, auth.EveryOrg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx())
	defer cancel()
	changes, err := a.server.Watch(ctx, gondola.WatchRequest{Metadata: c.metadata(), Offers: offers})
	if err != nil {
		return err
	}
	w := flushing(c.w)
	c.w.Header().Set("Content-Type", "application/x-ndjson")
	c.w.WriteHeader(http.StatusOK)
	w.control.Flush()
	enc := json.NewEncoder(w)
	beat := time.NewTicker(heartbeatEvery)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			err = enc.Encode(gondola.Change{Heartbeat: true})
		case ch, ok := <-changes:
			switch {
			case !ok:
				return nil
			case ch.Heartbeat:
				continue // ours go out anyway
			case ch.Machine != nil:
				if ref := ch.Machine.Ref(); !sees(ref.App, ref.ID) {
					continue
				}
				m := shown(*ch.Machine)
				ch.Machine = &m
			}
			err = enc.Encode(ch)
			beat.Reset(heartbeatEvery)
		}
		if err != nil {
			return nil // the client has gone
		}
	}
}

// flusher sends every write at once and gives up on a client that does not read.
type flusher struct {
	w       io.Writer
	control *http.ResponseController
}

func flushing(w http.ResponseWriter) *flusher { return &flusher{w, http.NewResponseController(w)} }

func (f *flusher) Write(p []byte) (int, error) {
	f.control.SetWriteDeadline(time.Now().Add(sendWithin))
	n, err := f.w.Write(p)
	if err == nil {
		err = f.control.Flush()
	}
	f.control.SetWriteDeadline(time.Time{}) // or it would count for the silence that follows
	return n, err
}

func (a *API) logs(c *call) error {
	opts, err := c.logOptions()
	if err != nil {
		return err
	}
	r, err := a.server.Logs(c.ctx(), c.ref(), opts)
	if err != nil {
		return err
	}
	defer r.Close()
	defer context.AfterFunc(c.ctx(), func() { r.Close() })()
	c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	c.w.WriteHeader(http.StatusOK)
	w := flushing(c.w)
	w.control.Flush()
	_, err = io.Copy(w, r)
	if err != nil && c.ctx().Err() == nil {
		panic(http.ErrAbortHandler) // so that the client does not take the cut for the end
	}
	return nil
}

func (c *call) logOptions() (o gondola.LogOptions, err error) {
	o.Container, o.Stream = c.query("container"), c.query("stream")
	for name, to := range map[string]*bool{"previous": &o.Previous, "follow": &o.Follow, "timestamps": &o.Timestamps, "cri": &o.CRI} {
		if *to, err = c.flag(name); err != nil {
			return o, err
		}
	}
	if s := c.query("since"); s != "" {
		if o.Since, err = time.Parse(time.RFC3339Nano, s); err != nil {
			return o, malformedf("query parameter since=%q: use a time such as 2026-11-22T10:00:00Z", s)
		}
	}
	if c.URL.Query().Has("tail") {
		n, err := c.number("tail")
		if err != nil {
			return o, err
		}
		o.Tail = &n
	}
	if o.LimitBytes, err = c.number("limit_bytes"); err != nil {
		return o, err
	}
	if o.Stream != "" && o.Stream != "stdout" && o.Stream != "stderr" {
		return o, malformedf("query parameter stream=%q: use stdout or stderr", o.Stream)
	}
	return o, nil
}

func (a *API) execStream(c *call) (err error) {
	opts := gondola.ExecOptions{Container: c.query("container"), Command: c.URL.Query()["command"]}
	if opts.TTY, err = c.flag("tty"); err != nil {
		return err
	}
	if opts.Stdin, err = c.flag("stdin"); err != nil {
		return err
	}
	if len(opts.Command) == 0 {
		return malformedf("query parameter command is missing: send it once per argument")
	}
	if err := c.upgrades(); err != nil {
		return err
	}
	ref := c.ref()
	stream.ServeExec(c.w, c.Request, func(ctx context.Context, io gondola.ExecIO) (gondola.ExitStatus, error) {
		return a.server.ExecStream(ctx, ref, opts, io)
	})
	return nil
}

// upgrades returns an error for a request that does not ask for a WebSocket; without one there is nothing to stream on.
func (c *call) upgrades() error {
	if !strings.EqualFold(c.Header.Get("Upgrade"), "websocket") {
		return malformedf("header Upgrade=%.80q: this path is a WebSocket, so send Upgrade: websocket", c.Header.Get("Upgrade"))
	}
	return nil
}

func (a *API) attach(c *call) error {
	if err := c.upgrades(); err != nil {
		return err
	}
	ref, container := c.ref(), c.query("container")
	stream.ServeExec(c.w, c.Request, func(ctx context.Context, io gondola.ExecIO) (gondola.ExitStatus, error) {
		return a.server.Attach(ctx, ref, container, io)
	})
	return nil
}

func (a *API) dial(c *call) error {
	port, err := strconv.ParseUint(c.query("port"), 10, 16)
	if err != nil || port == 0 {
		return malformedf("query parameter port=%q: use a port from 1 to 65535", c.query("port"))
	}
	if err := c.upgrades(); err != nil {
		return err
	}
	ref := c.ref()
	stream.ServeConn(c.w, c.Request, func(ctx context.Context) (io.ReadWriteCloser, error) {
		return a.server.Dial(ctx, ref, int(port))
	})
	return nil
}

func (a *API) putPayload(c *call) error {
	var p gondola.Payload
	if err := c.decode(&p); err != nil {
		return err
	}
	if err := a.server.PutPayload(c.ctx(), c.ref(), p); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) setServices(c *call) error {
	var services []gondola.VirtualService
	if err := c.decode(&services); err != nil {
		return err
	}
	if err := a.server.SetServices(c.ctx(), c.PathValue("network"), services); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) entrances(c *call) error {
	list, err := a.server.Entrances(c.ctx())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, list)
}

func (a *API) ask(c *call) error {
	var ask gondola.Ask
	if err := c.decode(&ask); err != nil {
		return err
	}
	got, err := a.server.Ask(c.ctx(), ask)
	if err != nil {
		return err
	}
	if got.Bids == nil {
		got.Bids = []gondola.Bid{}
	}
	if got.Refusals == nil {
		got.Refusals = []gondola.Refusal{}
	}
	return c.send(http.StatusOK, got)
}

func (a *API) importImage(c *call) error {
	// The upload may take longer than any deadline of the listener.
	control := http.NewResponseController(c.w)
	if err := control.SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	images, err := a.server.ImportImage(c.ctx(), c.Body, c.query("reference"))
	return a.sendImages(c, images, err)
}

func (a *API) listImages(c *call) error {
	images, err := a.server.ListImages(c.ctx())
	return a.sendImages(c, images, err)
}

func (a *API) sendImages(c *call, images []gondola.ImageInfo, err error) error {
	if err != nil {
		return err
	}
	if images == nil {
		images = []gondola.ImageInfo{}
	}
	return c.send(http.StatusOK, images)
}

func (a *API) pruneImages(c *call) error {
	freed, err := a.server.PruneImages(c.ctx())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, freedAnswer{freed})
}
