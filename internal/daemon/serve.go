package daemon

import (
	"context"
	"fmt"
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

// listenHTTP takes the address at once, so that a port in use is told before anything is made.
func listenHTTP(addr string, h http.Handler) (*httpTask, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w: is another program there? stop it, or set another `api` in %s", err, DefaultConfigFile)
	}
	return &httpTask{listener: l, handler: h, ready: make(chan struct{})}, nil
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
