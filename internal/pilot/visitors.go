package pilot

import (
	"context"
	"io"
	"sync"

	"gondola"
	"gondola/internal/stream"
)

// visitors are the commands of Exec and the connections of Dial: a Machine that is suspended has none.
type visitors struct {
	mu      sync.Mutex
	closed  bool
	inside  sync.WaitGroup
	cancels map[int]context.CancelFunc
	next    int
}

// enter lets one in, whose context ends when he is to leave; leave is called when he has.
func (v *visitors) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return ctx, nil, gondola.Errorf(gondola.ErrPrecondition, "the machine is being suspended")
	}
	ctx, cancel := context.WithCancel(ctx)
	if v.cancels == nil {
		v.cancels = map[int]context.CancelFunc{}
	}
	n := v.next
	v.next++
	v.cancels[n] = cancel
	v.inside.Add(1)
	return ctx, func() {
		cancel()
		v.mu.Lock()
		delete(v.cancels, n)
		v.mu.Unlock()
		v.inside.Done()
	}, nil
}

// close has all leave and lets none in until open.
func (v *visitors) close() {
	v.mu.Lock()
	v.closed = true
	for _, cancel := range v.cancels {
		cancel()
	}
	v.mu.Unlock()
	v.inside.Wait()
}

func (v *visitors) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = false
}

// visit is a connection into the Machine.
type visit struct {
	io.ReadWriteCloser
	closeOnce func() error
}

// dial connects, for as long as the connection is open and the visitors may be inside.
func (v *visitors) dial(ctx context.Context, dial func(context.Context) (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	stay, leave, err := v.enter(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(stay, cancel)
	conn, err := dial(ctx)
	if err != nil {
		leave()
		return nil, err
	}
	c := &visit{conn, sync.OnceValue(func() error {
		defer leave()
		return conn.Close()
	})}
	context.AfterFunc(stay, func() { c.Close() })
	return c, nil
}

// Close implements io.Closer.
func (c *visit) Close() error { return c.closeOnce() }

// CloseWrite implements stream.HalfCloser, where the connection can be half closed.
func (c *visit) CloseWrite() error {
	if half, ok := c.ReadWriteCloser.(stream.HalfCloser); ok {
		return half.CloseWrite()
	}
	return nil
}
