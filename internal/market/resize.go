package market

import (
	"context"

	"gondola"
)

// Resize implements gondola.Sizes.
func (m *Market) Resize(ctx context.Context, ref gondola.Ref, req gondola.ResizeRequest) (gondola.Machine, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.Machine, error) { return w.Resize(ctx, ref, req) })
}
