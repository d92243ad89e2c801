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
	c, calls, whole := busy(t, 2, "0")
	if err := c.Signal(t.Context(), ref, "SIGTERM"); err != nil || calls.Load() != 3 || whole.Load() != 3 {
		t.Errorf("Signal = %v after %d calls, %d with the whole body; want 3", err, calls.Load(), whole.Load())
	}
}

func TestRetry_GivesUpAtOnceWhereTheWaitIsTooLong(t *testing.T) {
	for name, after := range map[string]string{"in seconds": "3600", "by a date": time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)} {
		c, calls, _ := busy(t, 9, after)
		if _, err := c.Get(t.Context(), ref); !errors.Is(err, gondola.ErrRateLimited) || err.Error() != "Too Many Requests" || calls.Load() != 1 {
			t.Errorf("%s: Get = %v after %d calls", name, err, calls.Load())
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	c, calls, _ := busy(t, 9, "") // a second, where nothing is said
	begin := time.Now()
	if _, err := c.Get(ctx, ref); !errors.Is(err, gondola.ErrRateLimited) || calls.Load() != 1 || time.Since(begin) > 450*time.Millisecond {
		t.Errorf("Get with little time = %v after %d calls and %s", err, calls.Load(), time.Since(begin))
	}
}
