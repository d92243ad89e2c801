package client

import (
	"context"

	"gondola"
)

// Resize implements gondola.Sizes.
func (c *Client) Resize(ctx context.Context, ref gondola.Ref, req gondola.ResizeRequest) (m gondola.Machine, err error) {
	return m, c.do(ctx, "PUT", extMachine(ref, "size"), nil, req, &m)
}

// Memory returns how much memory a Machine that runs may use, and how much of that it does not. ErrPrecondition for one that does not run.
func (c *Client) Memory(ctx context.Context, ref gondola.Ref) (m gondola.Memory, err error) {
	return m, c.do(ctx, "GET", machine(ref, "memory"), nil, nil, &m)
}

// SetMemory changes how much memory a Machine that runs may use, in MiB, without a restart and without a new Version, and returns when that is in
// effect. ErrInvalid for a limit that its kind of guest does not have, ErrPrecondition for one below what it uses and for a Machine that does not
// run, ErrCapacity where its worker has not so much.
func (c *Client) SetMemory(ctx context.Context, ref gondola.Ref, limitMB int) (m gondola.Memory, err error) {
	return m, c.do(ctx, "PUT", machine(ref, "memory"), nil, map[string]int{"limit_mb": limitMB}, &m)
}
