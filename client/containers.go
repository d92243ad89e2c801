package client

import (
	"context"

	"gondola"
)

// AddContainer implements gondola.Containers.
func (c *Client) AddContainer(ctx context.Context, ref gondola.Ref, req gondola.AddContainerRequest) error {
	return c.do(ctx, "POST", extMachine(ref, "containers"), nil, req, nil)
}
