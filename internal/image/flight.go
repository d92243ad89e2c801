package image

import (
	"context"
	"sync"
)

// flight lets callers who want the same thing at the same time share one run of it. The run goes on as long as one of them waits.
type flight struct {
	mu    sync.Mutex
	calls map[string]*call
}

type call struct {
	cancel  context.CancelFunc
	waiters int
	done    chan struct{} // closed when rec and err are set
	rec     record
	err     error
}

// do runs fn unless a run for key is under way, and returns what came of it, or ctx's error.
func (f *flight) do(ctx context.Context, key string, fn func(context.Context) (record, error)) (record, error) {
	f.mu.Lock()
	c := f.calls[key]
	if c == nil {
		runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		c = &call{cancel: cancel, done: make(chan struct{})}
		if f.calls == nil {
			f.calls = map[string]*call{}
		}
		f.calls[key] = c
		go func() {
			c.rec, c.err = fn(runCtx)
			f.mu.Lock()
			if f.calls[key] == c {
				delete(f.calls, key)
			}
			f.mu.Unlock()
			cancel()
			close(c.done)
		}()
	}
	c.waiters++
	f.mu.Unlock()

	select {
	case <-c.done:
		return c.rec, c.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	c.waiters--
	last := c.waiters == 0
	if last && f.calls[key] == c {
		delete(f.calls, key) // nobody may join a run that is being cancelled
	}
	f.mu.Unlock()
	if last {
		c.cancel()
		<-c.done
	}
	return record{}, ctx.Err()
}
