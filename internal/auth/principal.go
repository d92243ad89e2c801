package auth

import (
	"slices"
	"time"

	"gondola"
)

// Principal is who calls, and how far they reach. The zero Principal is one that may do everything but act as a server.
type Principal struct {
	Name     string // for logs
	Server   bool   // a server of the platform, by its certificate: it may choose ids and networks of Machines
	Internal bool   // a part of the platform itself, in this process
	ReadOnly bool

	org       []string          // of every caveat that named one; all must match
	apps      []gondola.AppName // allowed ones; meaningful where limited
	limited   bool
	machines  []gondola.MachineID // allowed ones; meaningful where pinned
	pinned    bool
	itself    bool                // a Machine that speaks through its own socket
	sources   []gondola.MachineID // of every caveat that named one; each must have sent the request
	expires   time.Time           // the earliest; zero: never
	others    []Principal         // of further tokens that came with the request
	chain     []gondola.TokenID   // the token and all that it was made from, the root first
	token     token
	authority *Authority // nil for who came without a token
}

func (p *Principal) narrow(c gondola.Caveats) {
	p.ReadOnly = p.ReadOnly || c.ReadOnly
	if c.Org != "" {
		p.org = append(p.org, c.Org)
	}
	if c.FromMachine != "" {
		p.sources = append(p.sources, c.FromMachine)
	}
	if !c.Expires.IsZero() && (p.expires.IsZero() || c.Expires.Before(p.expires)) {
		p.expires = c.Expires
	}
	p.apps, p.limited = intersect(p.apps, p.limited, c.Apps)
	p.machines, p.pinned = intersect(p.machines, p.pinned, c.Machines)
}

// opensNothing says whether p's caveats leave no App, no Machine, no organisation or no Machine to ask from.
func (p *Principal) opensNothing() bool {
	return p.limited && len(p.apps) == 0 || p.pinned && len(p.machines) == 0 || len(slices.Compact(slices.Clone(p.org))) > 1 ||
		len(slices.Compact(slices.Clone(p.sources))) > 1
}

// intersect narrows a list, which means everything where it is not limited, to those of a caveat, which means everything where it is nil.
func intersect[T comparable](have []T, limited bool, caveat []T) ([]T, bool) {
	switch {
	case caveat == nil:
		return have, limited
	case !limited:
		return slices.Clone(caveat), true
	}
	return slices.DeleteFunc(have, func(v T) bool { return !slices.Contains(caveat, v) }), true
}

// ID names p's token; empty for who came without one.
func (p Principal) ID() gondola.TokenID {
	if len(p.chain) == 0 {
		return ""
	}
	return p.chain[len(p.chain)-1]
}

// Token is the text of p's token; empty for who came without one.
func (p Principal) Token() string {
	if p.authority == nil {
		return ""
	}
	return p.token.String()
}

// Info is what a token tells of itself: its caveats, those of its ancestors counted in, and when it ends.
func (p Principal) Info() gondola.Token {
	c := gondola.Caveats{Apps: p.apps, Machines: p.machines, ReadOnly: p.ReadOnly, Expires: p.expires}
	if len(p.org) > 0 {
		c.Org = p.org[0]
	}
	if len(p.sources) > 0 {
		c.FromMachine = p.sources[0]
	}
	t := gondola.Token{ID: p.ID(), Caveats: c, ExpiresAt: p.expires}
	if len(p.chain) > 1 {
		t.Parent = p.chain[len(p.chain)-2]
	}
	return t
}

// All returns p and the principals of the other tokens that came with the request.
func (p Principal) All() []Principal {
	others := p.others
	p.others = nil
	return append([]Principal{p}, others...)
}

// Unlimited says whether p may ask as often as it likes: the platform's own parts may, for nothing of Kubernetes shall wait for a limit that
// is meant for others.
func (p Principal) Unlimited() bool { return p.Server || p.Internal }
