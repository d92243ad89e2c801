package auth

import (
	"context"

	"gondola"
)

// session is a request on its way, which ends with its token.
type session struct {
	chain  []gondola.TokenID
	cancel context.CancelFunc
}

// Session returns a context that also ends when p's token expires or is revoked, so that a stream outlives neither. The returned function
// gives it back.
func (p Principal) Session(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.authority == nil {
		return context.WithCancel(ctx)
	}
	var cancel context.CancelFunc
	if p.expires.IsZero() {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithDeadline(ctx, p.expires)
	}
	a, s := p.authority, &session{chain: p.chain, cancel: cancel}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions[s] = struct{}{}
	if a.endedLocked(p.chain) { // since it was verified
		cancel()
	}
	return ctx, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, s)
	}
}
