package api

import (
	"context"

	"gondola"
	"gondola/internal/auth"
)

// access is what a route wants of its caller.
type access struct {
	scope scope
	write bool // changes something, runs a command, or reads what only who may do so should
}

// scope is what a route is about.
type scope int

const (
	anyone    scope = iota // every principal
	oneApp                 // the App in the path
	listing                // Apps or Machines of all: the answer has those that the caller reaches
	wholeApps              // Apps as such: to make or delete one
	platform               // what belongs to no App
)

func (a *API) permit(c *call, want access) error {
	if want.write {
		if err := c.who.MayChange(); err != nil {
			return err
		}
	}
	switch want.scope {
	case anyone, listing:
		return nil
	case oneApp:
		if err := c.who.MayUse(c.app()); err != nil {
			return err
		}
		return a.reaches(c.ctx(), c.who, c.app())
	case wholeApps, platform:
		return c.who.MayUsePlatform()
	}
	return gondola.Errorf(gondola.ErrForbidden, "this route has no access rule")
}

// reaches checks the organisation of an App against a principal that is bound to one.
func (a *API) reaches(ctx context.Context, who auth.Principal, name gondola.AppName) error {
	if !who.BoundToOrg() {
		return nil
	}
	if a.apps == nil {
		return gondola.Errorf(gondola.ErrForbidden, "this token is of one organisation, and a worker knows none: use the server's API")
	}
	app, err := a.apps.App(ctx, name)
	if err != nil {
		return err
	}
	if !who.Reaches(app.Organization.Slug) {
		return gondola.Errorf(gondola.ErrForbidden, "this token does not reach app %q", name)
	}
	return nil
}

// everyOrg stands for all organisations in a path; Fly.io's API has no such word.
const everyOrg = "-"

// visible returns a filter of the Apps of an organisation that a principal reaches.
func (a *API) visible(ctx context.Context, who auth.Principal, org string) (func(gondola.AppName) bool, error) {
	if !who.BoundToOrg() && (org == everyOrg || a.apps == nil) {
		return who.Sees, nil
	}
	if a.apps == nil {
		return func(gondola.AppName) bool { return false }, nil
	}
	if org == everyOrg {
		org = ""
	}
	apps, err := a.apps.ListApps(ctx, org)
	if err != nil {
		return nil, err
	}
	reached := map[gondola.AppName]bool{}
	for _, app := range apps {
		reached[app.Name] = who.Sees(app.Name) && who.Reaches(app.Organization.Slug)
	}
	return func(name gondola.AppName) bool { return reached[name] }, nil
}
