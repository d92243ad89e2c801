package market

import (
	"context"
	"slices"

	"gondola"
)

// NetworkPolicyIndex is where the policies of Apps are on record.
type NetworkPolicyIndex interface {
	gondola.NetworkPolicies
	AppsWithNetworkPolicies(ctx context.Context) ([]gondola.AppName, error)
}

// PutNetworkPolicy implements gondola.NetworkPolicies. It is recorded first: what could not be carried out is when Run begins again.
func (m *Market) PutNetworkPolicy(ctx context.Context, app gondola.AppName, p gondola.NetworkPolicy) (gondola.NetworkPolicy, error) {
	if err := p.Validate(); err != nil {
		return p, err
	}
	m.policing.Lock()
	defer m.policing.Unlock()
	p, err := m.index.PutNetworkPolicy(ctx, app, p)
	if err != nil {
		return p, err
	}
	return p, m.carryOut(ctx, app, m.SetPolicies)
}

// ListNetworkPolicies implements gondola.NetworkPolicies.
func (m *Market) ListNetworkPolicies(ctx context.Context, app gondola.AppName) ([]gondola.NetworkPolicy, error) {
	if _, err := m.index.App(ctx, app); err != nil {
		return nil, err
	}
	return m.index.ListNetworkPolicies(ctx, app)
}

// DeleteNetworkPolicy implements gondola.NetworkPolicies.
func (m *Market) DeleteNetworkPolicy(ctx context.Context, app gondola.AppName, id string) error {
	m.policing.Lock()
	defer m.policing.Unlock()
	if _, err := m.index.App(ctx, app); err != nil {
		return err
	}
	if err := m.index.DeleteNetworkPolicy(ctx, app, id); err != nil {
		return err
	}
	return m.carryOut(ctx, app, m.SetPolicies)
}

// carryOut gives the App's policies, as they are on record, to set.
func (m *Market) carryOut(ctx context.Context, name gondola.AppName, set func(ctx context.Context, network, owner string, set gondola.PolicySet) error) error {
	app, err := m.index.App(ctx, name)
	if err != nil {
		return err
	}
	list, err := m.index.ListNetworkPolicies(ctx, name)
	if err != nil {
		return err
	}
	var policies gondola.PolicySet
	for _, p := range list {
		policies.Policies = append(policies.Policies, p.Policy(name))
	}
	return set(ctx, app.Network, policyOwner(name), policies)
}

// policyOwner is whose policies those of an App are.
func policyOwner(app gondola.AppName) string { return "app:" + string(app) }

// recallNetworkPolicies makes the policies on record those that workers are given when they come.
func (m *Market) recallNetworkPolicies(ctx context.Context) {
	m.policing.Lock()
	defer m.policing.Unlock()
	apps, err := m.index.AppsWithNetworkPolicies(ctx)
	for _, app := range apps {
		err = m.carryOut(ctx, app, func(_ context.Context, network, owner string, set gondola.PolicySet) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.policies[policyKey{network, owner}] = set
			return nil
		})
		if err != nil {
			break
		}
	}
	if err != nil && ctx.Err() == nil {
		m.log.Error("network policies of apps cannot be read: workers keep those that they have", "err", err)
	}
}

// dropNetworkPolicies lets go of the policies of an App that is being deleted.
func (m *Market) dropNetworkPolicies(ctx context.Context, app gondola.App) error {
	m.policing.Lock()
	defer m.policing.Unlock()
	list, err := m.index.ListNetworkPolicies(ctx, app.Name)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, p := range slices.Backward(list) {
		if err := m.index.DeleteNetworkPolicy(ctx, app.Name, p.ID); err != nil {
			return err
		}
	}
	return m.SetPolicies(ctx, app.Network, policyOwner(app.Name), gondola.PolicySet{})
}
