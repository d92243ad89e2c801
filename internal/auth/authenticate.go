package auth

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"gondola"
)

// maxTokens is how many tokens of one header are looked at.
const maxTokens = 32

// Authenticate returns who sent a request: a server by its verified client certificate, or the holder of a token, sent as
// "Authorization: Bearer <token>" or "Authorization: FlyV1 <token>,<token>". Tokens of others in the list are passed over, and each that is
// ours counts: Permit takes the one that may. Of a request that came through FromMachines it is the Machine. ErrUnauthorized otherwise.
func (a *Authority) Authenticate(r *http.Request) (Principal, error) {
	if fromMachine(r) {
		return itself(r.Header.Get(gondola.MachineHeader))
	}
	if p, ok := certified(r); ok {
		return p, nil
	}
	return a.Header(r.Context(), r.Header.Get("Authorization"), From{Address: r.RemoteAddr})
}

// From is where a token comes from.
type From struct {
	Address string            // "host:port"
	Machine gondola.MachineID // where whoever asks knows it: the address is then not looked at
}

// Header returns who may send a header Authorization.
func (a *Authority) Header(ctx context.Context, header string, from From) (Principal, error) {
	scheme, rest := "", strings.TrimSpace(header)
	for { // people put a variable that begins with FlyV1 behind Bearer
		word, more, _ := strings.Cut(rest, " ")
		if !strings.EqualFold(word, "Bearer") && !strings.EqualFold(word, "FlyV1") {
			break
		}
		scheme, rest = word, strings.TrimSpace(more)
	}
	switch {
	case rest == "" && scheme == "":
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "no token: send the header Authorization: Bearer <token>")
	case scheme == "":
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the header Authorization must begin with Bearer") // what it does begin with may be the token
	}
	tokens := strings.SplitN(rest, ",", maxTokens+1)
	if len(tokens) > maxTokens {
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the header Authorization has more than %d tokens", maxTokens)
	}
	var good []Principal
	first := gondola.Errorf(gondola.ErrUnauthorized, "the header Authorization has no token")
	for i, tok := range tokens {
		p, err := a.Verify(strings.TrimSpace(tok))
		if err == nil {
			err = a.sentBy(ctx, p, from)
		}
		if err == nil {
			good = append(good, p)
		} else if i == 0 {
			first = err
		}
	}
	if len(good) == 0 {
		return Principal{}, first
	}
	good[0].others = good[1:]
	return good[0], nil
}

// sentBy refuses a token that only a certain Machine may use and that came from another address.
func (a *Authority) sentBy(ctx context.Context, p Principal, from From) error {
	for _, id := range p.sources {
		if from.Machine == id {
			continue
		}
		refused := gondola.Errorf(gondola.ErrUnauthorized, "the token is for machine %s alone, and this request does not come from it", id)
		sender, err := netip.ParseAddrPort(from.Address)
		if err != nil || a.addresses == nil || from.Machine != "" {
			return refused
		}
		has, err := a.addresses(ctx, id)
		if err != nil || !slices.Contains(has, sender.Addr().Unmap().WithZone("")) {
			return refused
		}
	}
	return nil
}

// ServersOnly authenticates servers of the platform by certificate and takes no tokens: for workers.
type ServersOnly struct{}

// Authenticate returns the server that sent a request, or ErrUnauthorized.
func (ServersOnly) Authenticate(r *http.Request) (Principal, error) {
	if p, ok := certified(r); ok {
		return p, nil
	}
	return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "a worker speaks only to servers of its platform: use the server's API")
}
