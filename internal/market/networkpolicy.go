package market

import (
	"context"
	"errors"
	"slices"
	"time"

	"gondola"
	"gondola/internal/store"
)

// NetworkPolicyIndex is where the policies of Apps are on record, and where workers may have some that are not any more.
type NetworkPolicyIndex interface {
	gondola.NetworkPolicies
	AppsWithNetworkPolicies(ctx context.Context) ([]gondola.AppName, error)
	PolicedWithoutPolicies(ctx context.Context) ([]store.Policed, error)
	ForgetPoliced(ctx context.Context, p store.Policed) error
}

// carryWithin is how long workers have to carry policies out. What is on record is not given up when its caller goes away.
const carryWithin = 30 * time.Second

// PutNetworkPolicy implements gondola.NetworkPolicies. It is recorded first: what could not be carried out is when Run begins again.
func (m *Market) PutNetworkPolicy(ctx context.Context, app gondola.AppName, p gondola.NetworkPolicy) (gondola.NetworkPolicy, error) {
	if err := p.Validate(); err != nil {
		return p, err
	}
	unlock, err := m.locks.use(ctx, lockOf(app))
	if err != nil {
		return p, err
	}
	defer unlock()
	m.policing.Lock()
	defer m.policing.Unlock()
	if p, err = m.index.PutNetworkPolicy(ctx, app, p); err != nil {
		return p, err
	}
	return p, m.carryOut(ctx, app)
}

// ListNetworkPolicies implements gondola.NetworkPolicies.
func (m *Market) ListNetworkPolicies(ctx context.Context, app gondola.AppName) ([]gondola.NetworkPolicy, error) {
	if _, err := m.index.App(ctx, app); err != nil {
		return nil, err
	}
	return m.index.ListNetworkPolicies(ctx, app)
}

// DeleteNetworkPolicy implements gondola.NetworkPolicies. It is recorded first: what could not be carried out is when a worker is read again, or when
// it is asked for once more, which is ErrNotFound all the same.
func (m *Market) DeleteNetworkPolicy(ctx context.Context, app gondola.AppName, id string) error {
	unlock, err := m.locks.use(ctx, lockOf(app))
	if err != nil {
		return err
	}
	defer unlock()
	m.policing.Lock()
	defer m.policing.Unlock()
	if _, err := m.index.App(ctx, app); err != nil {
		return err
	}
	gone := m.index.DeleteNetworkPolicy(ctx, app, id)
	if gone != nil && !errors.Is(gone, gondola.ErrNotFound) {
		return gone
	}
	if err := m.carryOut(ctx, app); err != nil {
		return err
	}
	return gone
}

// carryOut has the workers do what is on record of an App. m.policing is held.
func (m *Market) carryOut(ctx context.Context, app gondola.AppName) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), carryWithin)
	defer cancel()
	key, set, err := m.policiesOf(ctx, app)
	if err != nil {
		return err
	}
	if len(set.Policies) == 0 {
		return m.endPolicies(ctx, app)
	}
	return m.SetPolicies(ctx, key.network, key.owner, set)
}

// policiesOf are the policies of an App as they are on record.
func (m *Market) policiesOf(ctx context.Context, name gondola.AppName) (key policyKey, set gondola.PolicySet, err error) {
	app, err := m.index.App(ctx, name)
	if err != nil {
		return key, set, err
	}
	list, err := m.index.ListNetworkPolicies(ctx, name)
	for _, p := range list {
		set.Policies = append(set.Policies, p.Policy(name))
	}
	return policyKey{app.Network, policyOwner(name)}, set, err
}

// policyOwner is whose policies those of an App are.
func policyOwner(app gondola.AppName) string { return "app:" + string(app) }

// endPolicies takes from the workers what is not on record any more of an App, of all where it is empty. That they may have it is forgotten when all
// have answered. m.policing is held.
func (m *Market) endPolicies(ctx context.Context, app gondola.AppName) error {
	list, err := m.index.PolicedWithoutPolicies(ctx)
	errs := []error{err}
	for _, p := range list {
		if app != "" && p.App != app {
			continue
		}
		away, err := m.setPolicies(ctx, p.Network, policyOwner(p.App), gondola.PolicySet{})
		if err == nil && !away {
			err = m.index.ForgetPoliced(ctx, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// resumePolicies does for a worker that has been read what deletions could not.
func (m *Market) resumePolicies(ctx context.Context) {
	m.policing.Lock()
	defer m.policing.Unlock()
	within, cancel := context.WithTimeout(ctx, carryWithin)
	defer cancel()
	if err := m.endPolicies(within, ""); err != nil && ctx.Err() == nil {
		m.log.Warn("deleted network policies of apps are still in force somewhere; tried again when a worker is read again", "err", err)
	}
}

// recallNetworkPolicies makes the policies on record those that workers are given when they come.
func (m *Market) recallNetworkPolicies(ctx context.Context) {
	m.policing.Lock()
	defer m.policing.Unlock()
	apps, err := m.index.AppsWithNetworkPolicies(ctx)
	errs := []error{err}
	for _, app := range apps {
		key, set, err := m.policiesOf(ctx, app)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		m.mu.Lock()
		m.policies[key] = set
		m.mu.Unlock()
	}
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		m.log.Error("network policies of apps cannot be read: workers keep those that they have", "err", err)
	}
}

// dropNetworkPolicies lets go of the policies of an App that is being deleted.
func (m *Market) dropNetworkPolicies(ctx context.Context, app gondola.AppName) error {
	m.policing.Lock()
	defer m.policing.Unlock()
	list, err := m.index.ListNetworkPolicies(ctx, app)
	if err != nil {
		return err
	}
	for _, p := range slices.Backward(list) {
		if err := m.index.DeleteNetworkPolicy(ctx, app, p.ID); err != nil {
			return err
		}
	}
	return m.endPolicies(ctx, app)
}
