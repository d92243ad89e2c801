package image_test

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/image"
)

// TestEnsure_ARegistryThatGoesSilentHoldsNobody: a pull ends when nothing comes any more, for everybody who waits for it, and the next one is a
// new one.
func TestEnsure_ARegistryThatGoesSilentHoldsNobody(t *testing.T) {
	for _, what := range []string{"/blobs/", "/manifests/"} {
		t.Run(what, func(t *testing.T) {
			h := newHub(t)
			ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", strings.Repeat("x", 10_000)))))
			h.interceptWith(func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, what) {
					return false
				}
				w.Header().Set("Content-Length", "10000")
				w.Write([]byte("the beginning"))
				http.NewResponseController(w).Flush()
				<-r.Context().Done()
				return true
			})
			s := open(t, image.Config{Silence: 50 * time.Millisecond})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					_, err := s.Ensure(ctx, ref, image.IfNotPresent, nil)
					wantError(t, err, gondola.ErrUnavailable, ref, "has sent nothing for 50ms")
				})
			}
			wg.Wait()
			h.interceptWith(nil)
			ensure(t, s, ref, image.IfNotPresent)
		})
	}
}

// TestEnsure_ABlobIsNoLongerThanItsManifestSays: a registry cannot fill the disk with one.
func TestEnsure_ABlobIsNoLongerThanItsManifestSays(t *testing.T) {
	h := newHub(t)
	ref := h.push(t, "app:1", imageOf(t, layer(t, reg("a", "1"))))
	var sent atomic.Int64
	h.interceptWith(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		for part := make([]byte, 1<<20); sent.Load() < 256<<20; {
			n, err := w.Write(part)
			sent.Add(int64(n))
			if err != nil {
				break
			}
		}
		return true
	})
	s := open(t, image.Config{})
	_, err := s.Ensure(t.Context(), ref, image.IfNotPresent, nil)
	wantError(t, err, gondola.ErrUnavailable, ref, "damaged")
	if n := sent.Load(); n > 64<<20 {
		t.Errorf("%d bytes were taken of a layer of a few", n)
	}
}
