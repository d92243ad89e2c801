package gondola

import "context"

// What goes along with a call beside its arguments; a client carries it in headers.
type (
	leaseKey  struct{}
	callerKey struct{}
)

// MachineHeader is the header by which a Machine's pilot tells a daemon whose request it brings: "app/id". Only on the listener for pilots does it
// mean anything.
const MachineHeader = "Gondola-Machine"

// WithLease returns a context whose calls show the nonce of a Lease; an empty one changes nothing.
func WithLease(ctx context.Context, nonce string) context.Context {
	if nonce == "" {
		return ctx
	}
	return context.WithValue(ctx, leaseKey{}, nonce)
}

// LeaseNonce returns the nonce that calls with ctx show, empty if none.
func LeaseNonce(ctx context.Context) string {
	nonce, _ := ctx.Value(leaseKey{}).(string)
	return nonce
}

// WithCaller returns a context whose calls are made for somebody of this name, as people may read it; an empty one changes nothing.
func WithCaller(ctx context.Context, name string) context.Context {
	if name == "" {
		return ctx
	}
	return context.WithValue(ctx, callerKey{}, name)
}

// Caller returns for whom calls with ctx are made, empty if that was not said.
func Caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}
