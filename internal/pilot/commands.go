package pilot

import (
	"context"
	"sync"

	"gondola"
)

// commands are those that Exec runs: a Machine that is suspended has none.
type commands struct {
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
	cancels map[int]context.CancelFunc
	next    int
}

// enter lets a command begin; leave is called when it has ended.
func (c *commands) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return ctx, nil, gondola.Errorf(gondola.ErrPrecondition, "the machine is being suspended")
	}
	ctx, cancel := context.WithCancel(ctx)
	if c.cancels == nil {
		c.cancels = map[int]context.CancelFunc{}
	}
	n := c.next
	c.next++
	c.cancels[n] = cancel
	c.running.Add(1)
	return ctx, func() {
		cancel()
		c.mu.Lock()
		delete(c.cancels, n)
		c.mu.Unlock()
		c.running.Done()
	}, nil
}

// close ends all commands and lets none begin until open.
func (c *commands) close() {
	c.mu.Lock()
	c.closed = true
	for _, cancel := range c.cancels {
		cancel()
	}
	c.mu.Unlock()
	c.running.Wait()
}

func (c *commands) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = false
}
