package gondola

import (
	"context"
	"time"
)

// MaxLeaseTTL is the longest life of a Lease, in seconds.
const MaxLeaseTTL = 24 * 60 * 60

// defaultLeaseTTL is the life of a Lease for which none is asked, in seconds.
const defaultLeaseTTL = 30

// Leases gives one caller at a time the right to change a Machine. While somebody holds a Lease, Start, Stop, Suspend, Restart, Update, Resize, Destroy, Cordon
// and Uncordon by anybody else are ErrConflict. Looking, waiting, Exec, Signal and SetMetadata need none, as fly-go sends no nonce with them; nor
// does DeleteApp, which takes everything along.
//
// The holder shows its nonce by WithLease. A nonce that is not, or not any more, that of the Machine's Lease is ErrConflict too: who relies on a
// Lease that ran out and was taken by another hears of it.
type Leases interface {
	// AcquireLease takes the Lease of a Machine, or ErrConflict with the holder's name and the end of its Lease. With a nonce (WithLease) it
	// refreshes the Lease, which keeps its nonce; one that ran out and that nobody else took is alive again.
	AcquireLease(ctx context.Context, ref Ref, req LeaseRequest) (Lease, error)
	// Lease returns the Lease of a Machine, or ErrNotFound where nobody holds one.
	Lease(ctx context.Context, ref Ref) (Lease, error)
	// ReleaseLease gives a Lease back; its nonce comes by WithLease, without one it is ErrInvalid.
	ReleaseLease(ctx context.Context, ref Ref) error
}

// Lease is one caller's right to change a Machine, until it expires or is given back.
type Lease struct {
	Nonce       string  `json:"nonce,omitempty"`
	ExpiresAt   int64   `json:"expires_at"` // seconds since 1970
	Owner       string  `json:"owner"`
	Description string  `json:"description,omitempty"`
	Version     Version `json:"version,omitempty"` // of the Machine when it was acquired or refreshed
}

// Held says whether the Lease is good at a moment; a nil one never is.
func (l *Lease) Held(at time.Time) bool { return l != nil && at.Unix() < l.ExpiresAt }

// LeaseRequest is the body of POST …/machines/{id}/lease.
type LeaseRequest struct {
	TTL         int    `json:"ttl,omitempty"` // seconds, at most MaxLeaseTTL; if zero, 30
	Description string `json:"description,omitempty"`
}

// Validate checks the request.
func (r LeaseRequest) Validate() error {
	if r.TTL < 0 || r.TTL > MaxLeaseTTL {
		return Errorf(ErrInvalid, "ttl %d: use 1 to %d seconds", r.TTL, MaxLeaseTTL)
	}
	return nil
}

// Expiry returns the end of a Lease that is acquired or refreshed at a moment, in seconds since 1970.
func (r LeaseRequest) Expiry(now time.Time) int64 {
	ttl := r.TTL
	if ttl == 0 {
		ttl = defaultLeaseTTL
	}
	return now.Add(time.Duration(ttl) * time.Second).Unix()
}
