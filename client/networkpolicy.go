package client

import (
	"context"

	"gondola"
)

// PutNetworkPolicy implements gondola.NetworkPolicies.
func (c *Client) PutNetworkPolicy(ctx context.Context, app gondola.AppName, p gondola.NetworkPolicy) (out gondola.NetworkPolicy, err error) {
	err = c.do(ctx, "POST", path("apps", string(app), "network_policies"), nil, p, &out)
	return out, err
}

// ListNetworkPolicies implements gondola.NetworkPolicies.
func (c *Client) ListNetworkPolicies(ctx context.Context, app gondola.AppName) (list []gondola.NetworkPolicy, err error) {
	err = c.do(ctx, "GET", path("apps", string(app), "network_policies"), nil, nil, &list)
	return list, err
}

// DeleteNetworkPolicy implements gondola.NetworkPolicies.
func (c *Client) DeleteNetworkPolicy(ctx context.Context, app gondola.AppName, id string) error {
	return c.do(ctx, "DELETE", path("apps", string(app), "network_policies", id), nil, nil, nil)
}
