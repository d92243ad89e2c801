package worker

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"time"

	"gondola"
)

// AcquireLease implements gondola.Leases. A Lease is part of the Machine's record, so it outlives this process; that it has run out is seen by
// whoever meets it.
func (w *Worker) AcquireLease(ctx context.Context, ref gondola.Ref, req gondola.LeaseRequest) (gondola.Lease, error) {
	if err := req.Validate(); err != nil {
		return gondola.Lease{}, err
	}
	m, err := w.machine(ctx, ref)
	if err != nil {
		return gondola.Lease{}, err
	}
	return answer(ctx, m.change, func(inner context.Context) (gondola.Lease, error) {
		lease := newLease(ctx, req, m.rec.Version)
		if gondola.LeaseNonce(ctx) != "" { // it is the one on record, or change had refused
			old := m.rec.Lease
			lease.Nonce, lease.Owner, lease.Description = old.Nonce, old.Owner, cmp.Or(req.Description, old.Description)
		}
		return lease, m.commit(inner, func(r *record) { r.Lease = &lease })
	})
}

// Lease implements gondola.Leases.
func (w *Worker) Lease(ctx context.Context, ref gondola.Ref) (gondola.Lease, error) {
	m, err := w.machine(ctx, ref)
	if err != nil {
		return gondola.Lease{}, err
	}
	return answer(ctx, m.do, func(context.Context) (gondola.Lease, error) {
		if !m.rec.Lease.Held(time.Now()) {
			return gondola.Lease{}, gondola.Errorf(gondola.ErrNotFound, "nobody holds a lease of machine %s", m.id)
		}
		return *m.rec.Lease, nil
	})
}

// ReleaseLease implements gondola.Leases.
func (w *Worker) ReleaseLease(ctx context.Context, ref gondola.Ref) error {
	if gondola.LeaseNonce(ctx) == "" {
		return gondola.Errorf(gondola.ErrInvalid, "which lease of machine %s? Send its nonce (header fly-machine-lease-nonce)", ref.ID)
	}
	m, err := w.machine(ctx, ref)
	if err != nil {
		return err
	}
	return m.change(ctx, func(ctx context.Context) error {
		return m.commit(ctx, func(r *record) { r.Lease = nil })
	})
}

// change is do for what nobody but the holder of the Machine's Lease may.
func (m *machine) change(ctx context.Context, f func(ctx context.Context) error) error {
	nonce := gondola.LeaseNonce(ctx)
	return m.do(ctx, func(ctx context.Context) error {
		if err := m.admit(nonce); err != nil {
			return err
		}
		return f(ctx)
	})
}

// admit refuses whoever is not the holder of the Lease. The last holder's nonce is good beyond the end of its Lease: nobody came between.
func (m *machine) admit(nonce string) error {
	l := m.rec.Lease
	switch {
	case l != nil && l.Nonce == nonce:
		return nil
	case l.Held(time.Now()):
		return gondola.Errorf(gondola.ErrConflict, "machine ID %s lease currently held by %s, expires at %s", m.id, l.Owner,
			time.Unix(l.ExpiresAt, 0).UTC().Format(time.RFC3339))
	case nonce != "":
		return gondola.Errorf(gondola.ErrConflict, "machine ID %s has no lease with the nonce %q: it was given back or taken over; acquire another", m.id, nonce)
	}
	return nil
}

// newLease returns a Lease for whoever calls.
func newLease(ctx context.Context, req gondola.LeaseRequest, v gondola.Version) gondola.Lease {
	return gondola.Lease{Nonce: newNonce(), ExpiresAt: req.Expiry(time.Now()), Owner: ownerOf(ctx), Description: req.Description, Version: v}
}

func ownerOf(ctx context.Context) string {
	return cmp.Or(gondola.Caller(ctx), "somebody")
}

// withNonce tells the caller of a Create that asked for a Lease its nonce; also one that asks again because it got no answer.
func (w *Worker) withNonce(ctx context.Context, m gondola.Machine, ttl int) gondola.Machine {
	if ttl == 0 {
		return m
	}
	if l, err := w.Lease(ctx, m.Ref()); err == nil && l.Owner == ownerOf(ctx) {
		m.Nonce = l.Nonce
	}
	return m
}

// stripped returns a Lease as those may see it who do not hold it.
func stripped(l gondola.Lease) *gondola.Lease {
	l.Nonce, l.Version = "", ""
	return &l
}

func newNonce() string {
	b := make([]byte, 6)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}
