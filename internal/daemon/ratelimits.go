package daemon

import (
	"slices"

	"gondola"
	"gondola/internal/api"
)

// RateLimits is how often the Machines API may be asked for the same: the same action of the same Machine, or of the same App where it is about no
// Machine. What is left out is as in Fly.io's documentation: 1 per second and 3 at once, for getting a Machine 5 and 10, for deleting Apps 100 per
// minute. The cluster of this platform and workers are not limited.
type RateLimits struct {
	Unlimited bool                 `json:"unlimited,omitempty"` // nothing is limited
	Default   *RateLimit           `json:"default,omitempty"`   // of every action that has none of its own
	Actions   map[string]RateLimit `json:"actions,omitempty"`   // "GET /v1/apps/{app}/machines/{id}" → its own
}

// RateLimit is one of them.
type RateLimit struct {
	PerSecond float64 `json:"perSecond"` // above zero; -1: not limited
	Burst     int     `json:"burst"`     // at once after a silence, 1 or more
}

func (l RateLimits) check() error {
	if l.Default != nil {
		if err := l.Default.check("default"); err != nil {
			return err
		}
	}
	for action, r := range l.Actions {
		if !slices.Contains(api.LimitedActions(), action) {
			return gondola.Errorf(gondola.ErrInvalid, "rateLimits: actions: %q is not one: use method and path as in docs/api.md, such as \"POST /v1/apps/{app}/machines\"", action)
		}
		if err := r.check("actions: " + action); err != nil {
			return err
		}
	}
	return nil
}

func (r RateLimit) check(where string) error {
	if r.PerSecond == -1 {
		return nil
	}
	if !(r.PerSecond >= 1.0/3600 && r.PerSecond <= 1e6) {
		return gondola.Errorf(gondola.ErrInvalid, "rateLimits: %s: perSecond %v: want 1/3600 to 1000000, or -1 for no limit", where, r.PerSecond)
	}
	if r.Burst < 1 || r.Burst > 1e6 {
		return gondola.Errorf(gondola.ErrInvalid, "rateLimits: %s: burst %d: want 1 to 1000000", where, r.Burst)
	}
	return nil
}

// limits are those of the API; nil where nothing is limited.
func (l RateLimits) limits() *api.Limits {
	if l.Unlimited {
		return nil
	}
	out := api.DefaultLimits()
	if l.Default != nil {
		out.Default = api.Rate(*l.Default)
	}
	for action, r := range l.Actions {
		out.Actions[action] = api.Rate(r)
	}
	return &out
}
