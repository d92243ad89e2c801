package auth

import (
	"net/http"
	"slices"
	"strings"

	"gondola"
)

// Principal is who calls, and how far they reach. The zero Principal is one that may do everything but act as a server.
type Principal struct {
	Name     string // for logs
	Server   bool   // a server of the platform, by its certificate: it may choose ids and networks of Machines
	ReadOnly bool
	org      []string          // of every caveat that named one; all must match
	apps     []gondola.AppName // allowed ones; meaningful where limited
	limited  bool
}

func (p *Principal) narrow(c Caveats) {
	p.ReadOnly = p.ReadOnly || c.ReadOnly
	if c.Org != "" {
		p.org = append(p.org, c.Org)
	}
	if c.Apps == nil {
		return
	}
	if !p.limited {
		p.apps = slices.Clone(c.Apps)
	} else {
		p.apps = slices.DeleteFunc(p.apps, func(a gondola.AppName) bool { return !slices.Contains(c.Apps, a) })
	}
	p.limited = true
}

// BoundToOrg says whether the Apps that p reaches depend on their organisation.
func (p Principal) BoundToOrg() bool { return len(p.org) > 0 }

// BoundToApps says whether p reaches only some Apps.
func (p Principal) BoundToApps() bool { return p.limited || p.BoundToOrg() }

// Reaches says whether p sees the Apps of an organisation.
func (p Principal) Reaches(org string) bool {
	return !slices.ContainsFunc(p.org, func(o string) bool { return o != org })
}

// Sees says whether p's caveats name the App; its organisation is a question for Reaches.
func (p Principal) Sees(app gondola.AppName) bool { return !p.limited || slices.Contains(p.apps, app) }

// MayChange returns ErrForbidden for a read-only token.
func (p Principal) MayChange() error {
	if p.ReadOnly {
		return gondola.Errorf(gondola.ErrForbidden, "this token may only read")
	}
	return nil
}

// MayUse returns ErrForbidden where p does not reach the App.
func (p Principal) MayUse(app gondola.AppName) error {
	if !p.Sees(app) {
		return gondola.Errorf(gondola.ErrForbidden, "this token does not reach app %q", app)
	}
	return nil
}

// MayUsePlatform returns ErrForbidden for tokens of some Apps or one organisation: what belongs to no App is not theirs.
func (p Principal) MayUsePlatform() error {
	if p.BoundToApps() {
		return gondola.Errorf(gondola.ErrForbidden, "this token reaches only some apps, and this is a matter of the whole platform")
	}
	return nil
}

// Authenticate returns who sent a request: a server by its verified client certificate, or the holder of a token, sent as
// "Authorization: Bearer <token>" or "Authorization: FlyV1 <token>,<token>". ErrUnauthorized otherwise.
func (a *Authority) Authenticate(r *http.Request) (Principal, error) {
	if p, ok := certified(r); ok {
		return p, nil
	}
	scheme, rest, _ := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	switch {
	case scheme == "":
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "no token: send the header Authorization: Bearer <token>")
	case !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "FlyV1"):
		return Principal{}, gondola.Errorf(gondola.ErrUnauthorized, "the header Authorization must begin with Bearer") // what it does begin with may be the token
	}
	first := gondola.Errorf(gondola.ErrUnauthorized, "the header Authorization has no token")
	for i, tok := range strings.Split(rest, ",") {
		p, err := a.Verify(strings.TrimSpace(tok))
		if err == nil {
			return p, nil
		}
		if i == 0 {
			first = err
		}
	}
	return Principal{}, first
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
