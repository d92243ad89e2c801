package market

import (
	"context"

	"gondola"
)

// AddContainer implements gondola.Containers.
func (m *Market) AddContainer(ctx context.Context, ref gondola.Ref, req gondola.AddContainerRequest) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.AddContainer(ctx, ref, req) })
}
