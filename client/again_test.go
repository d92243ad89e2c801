package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/client"
)

// busy answers 429 a few times, then 200, and counts.
func busy(t *testing.T, refusals int32, after string) (*client.Client, *atomic.Int32, *atomic.Int32) {
	t.Helper()
	var calls, whole atomic.Int32
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b, _ := io.ReadAll(r.Body); string(b) == `{"signal":"SIGTERM"}` {
			whole.Add(1)
		}
		if calls.Add(1) <= refusals {
			if after != "" {
				w.Header().Set("Retry-After", after)
			}
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		io.WriteString(w, `{"ok":true}`)
	}))
	t.Cleanup(s.Close)
	c, err := client.New(client.Config{URL: s.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, &calls, &whole
}

func TestRetry_TooManyRequestsAreAskedAgainWithTheirWholeBody(t *testing.T) {
	for after, refusals := range map[string]int32{"0": 2, "": 1} { // a second, where nothing is said
		c, calls, whole := busy(t, refusals, after)
		if err := c.Signal(t.Context(), ref, "SIGTERM"); err != nil || calls.Load() != refusals+1 || whole.Load() != refusals+1 {
			t.Errorf("Retry-After %q: Signal = %v after %d calls, %d with the whole body; want %d", after, err, calls.Load(), whole.Load(), refusals+1)
		}
	}
}

func TestRetry_GivesUpAtOnceWhereTheWaitIsTooLong(t *testing.T) {
	for name, after := range map[string]string{"in seconds": "3600", "by a date": time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)} {
		c, calls, _ := busy(t, 9, after)
		if _, err := c.Get(t.Context(), ref); !errors.Is(err, gondola.ErrRateLimited) || err.Error() != "Too Many Requests" || calls.Load() != 1 {
			t.Errorf("%s: Get = %v after %d calls", name, err, calls.Load())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	c, calls, _ := busy(t, 9, "50")
	if _, err := c.Get(ctx, ref); !errors.Is(err, gondola.ErrRateLimited) || calls.Load() != 1 || ctx.Err() != nil {
		t.Errorf("Get with less time than it should wait = %v after %d calls, at its deadline: %v", err, calls.Load(), ctx.Err())
	}
}
