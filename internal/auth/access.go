package auth

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"gondola"
)

// Access is what a call wants of its caller.
type Access struct {
	Scope Scope
	Write bool // changes something, runs a command, or reads what only who may do so should
	// Itself is what a Machine may do with itself without a token. What is not so is not for it, whatever the Scope.
	Itself bool
}

// Scope is what a call is about.
type Scope int

const (
	Anyone    Scope = iota // every principal
	OneApp                 // the App in the path, and the Machine where the path names one
	AppList                // Machines of the App in the path: the answer has those that the caller reaches
	Listing                // Apps or Machines of all: the answer has those that the caller reaches
	WholeApps              // Apps as such: to make or delete one
	Platform               // what belongs to no App
)

// Target is what a call is about; fields are empty where it names none.
type Target struct {
	App     gondola.AppName
	Machine gondola.MachineID
	Org     string // of a new App; where App is set it is not looked at
}

// Apps tells which organisation an App is of. It is nil on a worker, which knows none.
type Apps interface {
	App(ctx context.Context, name gondola.AppName) (gondola.App, error)
	ListApps(ctx context.Context, org string) ([]gondola.App, error)
}

// EveryOrg stands for all organisations in a path; Fly.io's API has no such word.
const EveryOrg = "-"

// Permit returns the one of p's principals that may do what a call wants, p itself first, or what p lacks: ErrForbidden, or ErrNotFound for an
// App that is not there. It is the only place where access is decided; what it lets pass is narrowed only by Visible, ListsApp and SeesMachine,
// for lists, and by SetsMetadata.
func (p Principal) Permit(ctx context.Context, want Access, on Target, apps Apps) (Principal, error) {
	var first error
	for _, one := range p.All() {
		err := one.permit(ctx, want, on, apps)
		if err == nil {
			return one, nil
		}
		if first == nil || errors.Is(first, gondola.ErrForbidden) && !errors.Is(err, gondola.ErrForbidden) {
			first = err
		}
	}
	return p, first
}

func (p Principal) permit(ctx context.Context, want Access, on Target, apps Apps) error {
	if want.Write && p.ReadOnly {
		return gondola.Errorf(gondola.ErrForbidden, "this token may only read")
	}
	if p.itself && !want.Itself {
		return gondola.Errorf(gondola.ErrForbidden, "without a token a machine may only get, stop, suspend and restart itself, wait for itself, run commands in itself and read and write its metadata")
	}
	switch want.Scope {
	case Anyone, Listing:
		return nil
	case OneApp, AppList:
		if p.pinned && want.Scope == OneApp && on.Machine == "" {
			return gondola.Errorf(gondola.ErrForbidden, "this token reaches only some machines, and this is a matter of app %q", on.App)
		}
		if on.Machine != "" && !p.SeesMachine(on.Machine) {
			return gondola.Errorf(gondola.ErrForbidden, "this token does not reach machine %q", on.Machine)
		}
		return p.reachesApp(ctx, on.App, apps)
	case WholeApps:
		if p.limited || p.pinned {
			return gondola.Errorf(gondola.ErrForbidden, "this token reaches only some apps and machines: it makes and deletes no apps")
		}
		switch {
		case on.App != "":
			return p.reachesApp(ctx, on.App, apps)
		case on.Org != "" && !p.inOrg(on.Org): // the body names it, so at first it is not known
			return gondola.Errorf(gondola.ErrForbidden, "this token does not reach organisation %q", on.Org)
		}
		return nil
	case Platform:
		if p.limited || p.pinned || len(p.org) > 0 {
			return gondola.Errorf(gondola.ErrForbidden, "this token reaches only some apps, and this is a matter of the whole platform")
		}
		return nil
	}
	return gondola.Errorf(gondola.ErrForbidden, "this call has no access rule")
}

// reachesApp checks an App's name and, where p is bound to one, its organisation.
func (p Principal) reachesApp(ctx context.Context, name gondola.AppName, apps Apps) error {
	refused := gondola.Errorf(gondola.ErrForbidden, "this token does not reach app %q", name)
	if !p.Sees(name) {
		return refused
	}
	if len(p.org) == 0 {
		return nil
	}
	if apps == nil {
		return gondola.Errorf(gondola.ErrForbidden, "this token is of one organisation, and a worker knows none: use the server's API")
	}
	app, err := apps.App(ctx, name)
	if err != nil {
		return err
	}
	if !p.inOrg(app.Organization.Slug) {
		return refused
	}
	return nil
}

// Sees says whether p's caveats name the App; its organisation is another question.
func (p Principal) Sees(app gondola.AppName) bool { return !p.limited || slices.Contains(p.apps, app) }

// SeesMachine says whether p's caveats name the Machine; its App is another question.
func (p Principal) SeesMachine(id gondola.MachineID) bool {
	return !p.pinned || slices.Contains(p.machines, id)
}

// inOrg says whether p's caveats name the organisation and no other.
func (p Principal) inOrg(org string) bool {
	return !slices.ContainsFunc(p.org, func(o string) bool { return o != org })
}

// Org is the organisation of new Apps for which none was named: the one that p is bound to, else gondola.Org.
func (p Principal) Org() string {
	if len(p.org) > 0 {
		return p.org[0]
	}
	return gondola.Org
}

// SeesApp says whether p reaches an App, its organisation included.
func (p Principal) SeesApp(app gondola.App) bool {
	return p.Sees(app.Name) && p.inOrg(app.Organization.Slug)
}

// ListsApp says whether a list of Apps shows p an App: not to whom only Machines are named.
func (p Principal) ListsApp(app gondola.App) bool {
	return p.SeesApp(app) && (!p.pinned || p.limited)
}

// Visible returns a filter of what p reaches of an organisation, or of EveryOrg: Apps, where no Machine is asked for, and Machines. Apps that
// come later are asked for when they are seen, and all of them again after a second: another organisation may have an App's name by then.
func (p Principal) Visible(ctx context.Context, org string, apps Apps) (func(gondola.AppName, gondola.MachineID) bool, error) {
	if apps == nil { // a worker: only by name
		return func(app gondola.AppName, id gondola.MachineID) bool {
			return len(p.org) == 0 && p.Sees(app) && p.SeesMachine(id)
		}, nil
	}
	known := map[gondola.AppName]bool{}
	if len(p.org) > 0 || org != EveryOrg {
		all, err := apps.ListApps(ctx, "")
		if err != nil {
			return nil, err
		}
		for _, app := range all {
			known[app.Name] = p.SeesApp(app) && (org == EveryOrg || org == app.Organization.Slug)
		}
	}
	asked := time.Now()
	return func(name gondola.AppName, id gondola.MachineID) bool {
		if time.Since(asked) > time.Second {
			clear(known)
			asked = time.Now()
		}
		if !p.SeesMachine(id) || !p.Sees(name) {
			return false
		}
		if len(p.org) == 0 && org == EveryOrg {
			return true
		}
		seen, ok := known[name]
		if !ok {
			app, err := apps.App(ctx, name)
			if err != nil {
				return false
			}
			seen = p.SeesApp(app) && (org == EveryOrg || org == app.Organization.Slug)
			known[name] = seen
		}
		return seen
	}, nil
}

// Orgs counts the Apps that p sees by organisation, sorted by slug: those that p is bound to, or gondola.Org, are there without Apps too.
func (p Principal) Orgs(apps []gondola.App) []gondola.OrgInfo {
	count := map[string]int{}
	if p.inOrg(p.Org()) {
		count[p.Org()] = 0
	}
	for _, app := range apps {
		if p.ListsApp(app) {
			count[app.Organization.Slug]++
		}
	}
	out := []gondola.OrgInfo{}
	for _, slug := range slices.Sorted(maps.Keys(count)) {
		out = append(out, gondola.OrgInfo{Organization: gondola.Organization{Name: slug, Slug: slug}, Apps: count[slug]})
	}
	return out
}
