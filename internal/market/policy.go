package market

import (
	"context"
	"errors"
	"sync/atomic"

	"gondola"
)

// policyKey is whose policies of which network.
type policyKey struct{ network, owner string }

// SetPolicies implements gondola.Policies: on all workers at once. One that does not answer gets them when it does again (Run); until then
// it keeps those that it has.
func (m *Market) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	if err := set.Validate(); err != nil {
		return err
	}
	_, err := m.setPolicies(ctx, network, owner, set)
	return err
}

// setPolicies does that, and says whether a worker did not answer.
func (m *Market) setPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) (away bool, err error) {
	m.mu.Lock()
	m.policies[policyKey{network, owner}] = set
	m.mu.Unlock()
	ws, _ := m.current()
	var silent atomic.Bool
	err = all(ws, func(w Worker) error {
		err := w.SetPolicies(ctx, network, owner, set)
		if errors.Is(err, gondola.ErrUnavailable) {
			m.log.Warn("policies wait for a worker", "worker", w.Name, "network", network, "owner", owner, "err", err)
			silent.Store(true)
			return nil
		}
		return err
	})
	return silent.Load(), err
}

// bringPolicies gives a worker what was set while it was away.
func (m *Market) bringPolicies(ctx context.Context, w Worker) {
	m.mu.RLock()
	var keys []policyKey
	for k := range m.policies {
		keys = append(keys, k)
	}
	m.mu.RUnlock()
	for _, k := range keys {
		m.mu.RLock()
		set := m.policies[k] // as it is now: it may have been set again
		m.mu.RUnlock()
		if err := w.SetPolicies(ctx, k.network, k.owner, set); err != nil && ctx.Err() == nil {
			m.log.Warn("bring policies to a worker", "worker", w.Name, "network", k.network, "owner", k.owner, "err", err)
		}
	}
}
