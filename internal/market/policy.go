package market

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	key := policyKey{network, owner}
	m.mu.Lock()
	m.policies[key] = set
	m.mu.Unlock()
	ws, _ := m.current()
	var silent atomic.Bool
	err = all(ws, func(w Worker) error {
		err := m.bringPolicy(ctx, w, key)
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
	keys := slices.Collect(maps.Keys(m.policies))
	m.mu.RUnlock()
	for _, k := range keys {
		if err := m.bringPolicy(ctx, w, k); err != nil && ctx.Err() == nil {
			m.log.Warn("bring policies to a worker", "worker", w.Name, "network", k.network, "owner", k.owner, "err", err)
		}
	}
}

// bringPolicy gives a worker what is set when its turn has come, so that it is left with what was set last, whoever brings it.
func (m *Market) bringPolicy(ctx context.Context, w Worker, k policyKey) error {
	unlock, err := m.locks.alone(ctx, fmt.Sprintf("the set of policies of %s in network %s at worker %s", k.owner, k.network, w.Name))
	if err != nil {
		return err
	}
	defer unlock()
	m.mu.RLock()
	set := m.policies[k]
	m.mu.RUnlock()
	return w.SetPolicies(ctx, k.network, k.owner, set)
}
