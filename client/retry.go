package client

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"
)

// patience is how long a call waits in all for a server that has too many requests.
const patience = time.Minute

// tooMany is a 429 and the time after which the server will listen.
type tooMany struct {
	error
	after time.Duration
}

func (e tooMany) Unwrap() error { return e.error }

// retryAfter reads the header Retry-After, seconds or a date. Without one, a second.
func retryAfter(header string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(header, 10, 31); err == nil {
		return max(time.Duration(n)*time.Second, 100*time.Millisecond)
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(at.Sub(now), 100*time.Millisecond)
	}
	return time.Second
}

// patiently does a call again as long as the answer is 429: the server did nothing of it. It gives up where the time it was told to wait goes
// beyond patience or beyond ctx.
func (c *Client) patiently(ctx context.Context, call func() (*http.Response, error)) (*http.Response, error) {
	end := time.Now().Add(patience)
	if d, ok := ctx.Deadline(); ok && d.Before(end) {
		end = d
	}
	for {
		resp, err := call()
		var busy tooMany
		if !errors.As(err, &busy) || time.Now().Add(busy.after).After(end) {
			return resp, err
		}
		timer := time.NewTimer(busy.after)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}
