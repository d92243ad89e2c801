package market

import (
	"context"

	"gondola"
)

// AcquireLease implements gondola.Leases.
func (m *Market) AcquireLease(ctx context.Context, ref gondola.Ref, req gondola.LeaseRequest) (gondola.Lease, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.Lease, error) { return w.AcquireLease(ctx, ref, req) })
}

// Lease implements gondola.Leases.
func (m *Market) Lease(ctx context.Context, ref gondola.Ref) (gondola.Lease, error) {
	return to(ctx, m, ref, func(w Worker, ref gondola.Ref) (gondola.Lease, error) { return w.Lease(ctx, ref) })
}

// ReleaseLease implements gondola.Leases.
func (m *Market) ReleaseLease(ctx context.Context, ref gondola.Ref) error {
	return m.do(ctx, ref, func(w Worker, ref gondola.Ref) error { return w.ReleaseLease(ctx, ref) })
}
