package client

import (
	"context"
	"errors"

	"gondola"
)

// SetPolicies implements gondola.Policies.
func (c *Client) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	if network == "" || owner == "" {
		return errors.New("SetPolicies: the network or the owner has no name")
	}
	if set.Policies == nil {
		set.Policies = []gondola.Policy{}
	}
	return c.repeat(ctx, "PUT", ext("networks", network, "policies", owner), nil, set, nil)
}
