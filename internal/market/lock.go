package market

import (
	"context"
	"fmt"
	"sync"

	"gondola"
)

// locks keep calls apart that would undo each other's work: the deletion of an App from whatever makes something in it, so that nothing slips in and
// outlives it, and two creates of one Machine. What is locked goes by words, which whoever waits too long for it is told.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	users   int           // those that hold or want it
	shared  int           // those that hold it together
	alone   bool          // held by one
	changed chan struct{} // closed when somebody lets go
}

// lockOf is what an App goes by.
func lockOf(app gondola.AppName) string { return "app " + string(app) }

// locksOf are what the Machine of a request goes by: its name, its id, both or neither. All take them in this order.
func locksOf(app gondola.AppName, req gondola.CreateRequest) (all []string) {
	if req.Name != "" {
		all = append(all, fmt.Sprintf("machine %q of app %s", req.Name, app))
	}
	if req.Gondola != nil && req.Gondola.ID != "" {
		all = append(all, "machine with id "+string(req.Gondola.ID))
	}
	return all
}

// use waits until nobody has it alone, and keeps it from that until the returned function is called.
func (l *locks) use(ctx context.Context, what string) (func(), error) {
	return l.lock(ctx, what, func(a *lock) bool { return !a.alone }, func(a *lock) { a.shared++ }, func(a *lock) { a.shared-- })
}

// alone waits until nobody else has it.
func (l *locks) alone(ctx context.Context, what string) (func(), error) {
	return l.lock(ctx, what, func(a *lock) bool { return !a.alone && a.shared == 0 }, func(a *lock) { a.alone = true }, func(a *lock) { a.alone = false })
}

func (l *locks) lock(ctx context.Context, what string, free func(*lock) bool, take, give func(*lock)) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	a := l.held[what]
	if a == nil {
		a = &lock{changed: make(chan struct{})}
		l.held[what] = a
	}
	a.users++
	for !free(a) {
		changed := a.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = gondola.Errorf(gondola.ErrDeadline, "%s is being changed by another call: %w", what, ctx.Err())
		}
		l.mu.Lock()
		if err != nil {
			l.leaveLocked(what, a)
			return nil, err
		}
	}
	take(a)
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		give(a)
		close(a.changed)
		a.changed = make(chan struct{})
		l.leaveLocked(what, a)
	}, nil
}

func (l *locks) leaveLocked(what string, a *lock) {
	if a.users--; a.users == 0 {
		delete(l.held, what)
	}
}
