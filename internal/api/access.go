package api

import (
	"context"
	"errors"

	"gondola"
	"gondola/internal/auth"
)

// permit asks auth whether the caller may make a call; from then on c.who is the one of the caller's tokens that may. What the body or the query
// wants may be asked for again: that may take another one than the route.
func (a *API) permit(c *call, want auth.Access) error {
	return a.permitOn(c, want, auth.Target{App: c.app(), Machine: c.ref().ID})
}

func (a *API) permitOn(c *call, want auth.Access, on auth.Target) (err error) {
	c.who, err = c.came.Permit(c.ctx(), want, on, a.known())
	return err
}

// known is what tells the organisations of Apps; nil on a worker.
func (a *API) known() auth.Apps {
	if a.apps == nil {
		return nil
	}
	return a.apps
}

// permitMetadata asks auth whether the caller may change these keys of the Machine's metadata.
func (a *API) permitMetadata(c *call, values map[string]*string) error {
	if !c.who.Itself() {
		return nil
	}
	policies, err := a.policies.ListNetworkPolicies(c.ctx(), c.app())
	for key := range values {
		err = errors.Join(err, c.who.SetsMetadata(key, policies))
	}
	return err
}

// visible returns a filter of what the caller reaches of an organisation.
func (a *API) visible(ctx context.Context, who auth.Principal, org string) (func(gondola.AppName, gondola.MachineID) bool, error) {
	return who.Visible(ctx, org, a.known())
}
