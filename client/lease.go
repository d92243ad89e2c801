package client

import (
	"context"

	"gondola"
)

// leaseAnswer is what the API wraps a Lease in.
type leaseAnswer struct {
	Data gondola.Lease `json:"data"`
}

// AcquireLease implements gondola.Leases.
func (c *Client) AcquireLease(ctx context.Context, ref gondola.Ref, req gondola.LeaseRequest) (gondola.Lease, error) {
	var a leaseAnswer
	err := c.do(ctx, "POST", machine(ref, "lease"), nil, req, &a)
	return a.Data, err
}

// Lease implements gondola.Leases.
func (c *Client) Lease(ctx context.Context, ref gondola.Ref) (gondola.Lease, error) {
	var a leaseAnswer
	err := c.do(ctx, "GET", machine(ref, "lease"), nil, nil, &a)
	return a.Data, err
}

// ReleaseLease implements gondola.Leases.
func (c *Client) ReleaseLease(ctx context.Context, ref gondola.Ref) error {
	return c.do(ctx, "DELETE", machine(ref, "lease"), nil, nil, nil)
}
