package client

import (
	"context"

	"gondola"
)

// Resize implements gondola.Sizes.
func (c *Client) Resize(ctx context.Context, ref gondola.Ref, req gondola.ResizeRequest) (m gondola.Machine, err error) {
	return m, c.do(ctx, "PUT", extMachine(ref, "size"), nil, req, &m)
}
