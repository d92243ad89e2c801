package client

import (
	"context"

	"gondola"
)

// Suspend writes out the memory of a Machine, from where Start goes on; ErrUnsupported where the server does not suspend.
func (c *Client) Suspend(ctx context.Context, ref gondola.Ref) error {
	return c.do(ctx, "POST", machine(ref, "suspend"), nil, nil, nil)
}
