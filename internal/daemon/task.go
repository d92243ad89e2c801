package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Task is a long-lived part of a daemon.
type Task interface {
	Run(ctx context.Context) error // until ctx ends; an earlier return ends the daemon
	Ready() <-chan struct{}        // closed when it serves
	String() string
}

// group runs Tasks and stops them in the reverse of the order in which they were started, each one wholly before the next.
type group struct {
	parent context.Context
	failed chan error // the first Task that ended by itself
	mu     sync.Mutex
	stops  []func() error
}

func newGroup(ctx context.Context) *group {
	return &group{parent: context.WithoutCancel(ctx), failed: make(chan error, 1)}
}

// start runs a Task.
func (g *group) start(t Task) {
	ctx, cancel := context.WithCancel(g.parent)
	done := make(chan error, 1)
	go func() {
		err := t.Run(ctx)
		if ctx.Err() == nil {
			select {
			case g.failed <- fmt.Errorf("%s: %w", t, errors.Join(err, errEnded(err))):
			default:
			}
		}
		done <- err
	}()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.stops = append(g.stops, func() error {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%s: %w", t, err)
		}
		return nil
	})
}

func errEnded(err error) error {
	if err == nil {
		return errors.New("ended by itself")
	}
	return nil
}

// ready waits until a Task serves, the daemon is told to stop or a Task has failed.
func (g *group) ready(ctx context.Context, t Task) error {
	select {
	case <-t.Ready():
		return nil
	case err := <-g.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait blocks until ctx ends or a Task fails.
func (g *group) wait(ctx context.Context) error {
	select {
	case err := <-g.failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// stop ends all Tasks, last started first.
func (g *group) stop() error {
	g.mu.Lock()
	stops := g.stops
	g.stops = nil
	g.mu.Unlock()
	var errs []error
	for i := len(stops) - 1; i >= 0; i-- {
		errs = append(errs, stops[i]())
	}
	return errors.Join(errs...)
}
