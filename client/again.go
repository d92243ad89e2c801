package client

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"gondola"
)

// Distances between tries.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 2 * time.Second
)

// patience is how long a call waits in all for a server that has too many requests.
const patience = time.Minute

// repeat is do for what may safely be done again: what reads, and changes of which the root package says that doing them again is harmless.
func (c *Client) repeat(ctx context.Context, method, path string, query url.Values, in, out any) error {
	return c.again(ctx, isPassing, c.retries, func() error {
		_, err := c.once(ctx, method, path, query, in, out)
		return err
	})
}

// again calls until there is no error, or one that does not pass, at most retries times more (negative: without end), or until ctx ends. It
// returns the last error.
func (c *Client) again(ctx context.Context, passes func(error) bool, retries int, call func() error) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := call()
		if err == nil || retries == 0 || !passes(err) {
			return err
		}
		retries--
		var wanted later
		wait := time.NewTimer(pause)
		if errors.As(err, &wanted) && wanted.after > pause {
			wait.Reset(wanted.after)
		}
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return err
		}
	}
}

// isPassing says whether the same call may go well in a moment.
func isPassing(err error) bool {
	var l later
	return errors.Is(err, gondola.ErrUnavailable) || errors.As(err, &l) && !l.refused
}

// patiently does a call again as long as the answer is 429: the server did nothing of it. It gives up where the time it was told to wait goes
// beyond patience or beyond ctx.
func (c *Client) patiently(ctx context.Context, call func() error) error {
	end := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	return c.again(ctx, func(err error) bool {
		var l later
		return errors.As(err, &l) && l.refused && time.Now().Add(l.after).Before(end)
	}, -1, call)
}

// later is an error of a server that said when to come again.
type later struct {
	error
	after   time.Duration
	refused bool // by 429
}

func (l later) Unwrap() error { return l.error }

// comeLater returns the error with what the header Retry-After of the answer says, seconds or a date. Without one, after 429 that is a second.
func comeLater(err error, resp *http.Response) error {
	header, l := resp.Header.Get("Retry-After"), later{err, time.Second, resp.StatusCode == http.StatusTooManyRequests}
	if n, bad := strconv.ParseUint(header, 10, 31); bad == nil {
		l.after = time.Duration(n) * time.Second
	} else if at, bad := http.ParseTime(header); bad == nil {
		l.after = time.Until(at)
	} else if !l.refused {
		return err
	}
	return l
}

// pages reads a list page by page; read takes each and returns the next cursor, if the body has it, and how many there were.
func pages[P any](ctx context.Context, c *Client, path string, query url.Values, read func(page P) (next string, n int)) error {
	q := url.Values{}
	for k, v := range query {
		q[k] = v
	}
	for {
		var page P
		var next string
		err := c.again(ctx, isPassing, c.retries, func() error {
			page = *new(P)
			header, err := c.once(ctx, "GET", path, q, nil, &page)
			next = header.Get("fly-next-cursor")
			return err
		})
		if err != nil {
			return err
		}
		more, n := read(page)
		if next == "" {
			next = more
		}
		if next == "" || n == 0 {
			return nil
		}
		q.Set("cursor", next)
	}
}
