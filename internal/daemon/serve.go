package daemon

import (
	"context"
	"net"
	"net/http"
	"time"
)

// httpTask serves HTTP on an address.
type httpTask struct {
	listener net.Listener
	handler  http.Handler
	ready    chan struct{}
}

func serveHTTP(l net.Listener, h http.Handler) *httpTask {
	return &httpTask{listener: l, handler: h, ready: make(chan struct{})}
}

func (t *httpTask) String() string         { return "API on " + t.listener.Addr().String() }
func (t *httpTask) Ready() <-chan struct{} { return t.ready }

func (t *httpTask) Run(ctx context.Context) error {
	s := &http.Server{Handler: t.handler, ReadHeaderTimeout: 10 * time.Second}
	close(t.ready)
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		s.Close() // streams that nobody ended
	}
	<-done
	return nil
}
