package market

import (
	"context"
	"errors"
	"sync"

	"gondola"
)

// CreateApp implements gondola.Apps.
func (m *Market) CreateApp(ctx context.Context, app gondola.NewApp) (gondola.App, error) {
	return m.index.CreateApp(ctx, app)
}

// App implements gondola.Apps.
func (m *Market) App(ctx context.Context, name gondola.AppName) (gondola.App, error) {
	return m.index.App(ctx, name)
}

// ListApps implements gondola.Apps.
func (m *Market) ListApps(ctx context.Context, org string) ([]gondola.App, error) {
	return m.index.ListApps(ctx, org)
}

// DeleteApp implements gondola.Apps. It destroys the App's Machines, waits until they are gone, deletes its Volumes, and lets go of the App last: where a worker
// does not answer it fails, and can be done again.
func (m *Market) DeleteApp(ctx context.Context, name gondola.AppName) error {
	unlock, err := m.apps.alone(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	app, err := m.index.App(ctx, name)
	if err != nil {
		return err
	}
	entries, err := m.index.ByApp(ctx, name, false)
	if err != nil {
		return err
	}
	errs := make([]error, len(entries))
	var wg sync.WaitGroup
	for i, e := range entries {
		wg.Go(func() { errs[i] = m.destroyForGood(ctx, gondola.Ref{App: name, ID: e.ID}) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	if err := m.deleteVolumes(ctx, name); err != nil {
		return err
	}
	if err := m.dropNetworkPolicies(ctx, app); err != nil {
		return err
	}
	return m.index.DeleteApp(ctx, name)
}

// destroyForGood destroys a Machine, whoever holds its lease, and waits until it is gone.
func (m *Market) destroyForGood(ctx context.Context, ref gondola.Ref) error {
	if l, err := m.Lease(ctx, ref); err == nil {
		ctx = gondola.WithLease(ctx, l.Nonce)
	}
	err := m.Destroy(ctx, ref, true)
	if err == nil {
		_, err = m.Wait(ctx, ref, gondola.WaitRequest{States: []gondola.State{gondola.Destroyed}})
	}
	if errors.Is(err, gondola.ErrNotFound) {
		return nil
	}
	return err
}

// appLocks keep the deletion of an App apart from Creates in it, so that none slips in and outlives it.
type appLocks struct {
	mu   sync.Mutex
	apps map[gondola.AppName]*appLock
}

type appLock struct {
	users   int           // those that hold or want it
	shared  int           // those that hold it together
	held    bool          // by one alone
	changed chan struct{} // closed when somebody lets go
}

// use waits until nobody deletes the App, and keeps it from being deleted until the returned function is called.
func (l *appLocks) use(ctx context.Context, name gondola.AppName) (func(), error) {
	return l.lock(ctx, name, func(a *appLock) bool { return !a.held }, func(a *appLock) { a.shared++ }, func(a *appLock) { a.shared-- })
}

// alone waits until nobody uses the App.
func (l *appLocks) alone(ctx context.Context, name gondola.AppName) (func(), error) {
	return l.lock(ctx, name, func(a *appLock) bool { return !a.held && a.shared == 0 }, func(a *appLock) { a.held = true }, func(a *appLock) { a.held = false })
}

func (l *appLocks) lock(ctx context.Context, name gondola.AppName, free func(*appLock) bool, take, give func(*appLock)) (func(), error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.apps == nil {
		l.apps = map[gondola.AppName]*appLock{}
	}
	a := l.apps[name]
	if a == nil {
		a = &appLock{changed: make(chan struct{})}
		l.apps[name] = a
	}
	a.users++
	for !free(a) {
		changed := a.changed
		l.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = gondola.Errorf(gondola.ErrDeadline, "app %s is being changed by another call: %w", name, ctx.Err())
		}
		l.mu.Lock()
		if err != nil {
			l.leaveLocked(name, a)
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
		l.leaveLocked(name, a)
	}, nil
}

func (l *appLocks) leaveLocked(name gondola.AppName, a *appLock) {
	if a.users--; a.users == 0 {
		delete(l.apps, name)
	}
}
