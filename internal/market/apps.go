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
	unlock, err := m.locks.alone(ctx, lockOf(name))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := m.index.App(ctx, name); err != nil {
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
	if err := m.dropNetworkPolicies(ctx, name); err != nil {
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
