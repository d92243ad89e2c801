package api

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"gondola"
)

// Rate is how often something may be asked for. The bucket is full at first.
type Rate struct {
	PerSecond float64 // refills; not limited where it is below zero
	Burst     int     // at once, after a silence; at least 1
}

func (r Rate) String() string {
	if r.PerSecond < 1 {
		return fmt.Sprintf("%.3g per minute, %d at once", r.PerSecond*60, r.Burst)
	}
	return fmt.Sprintf("%.3g per second, %d at once", r.PerSecond, r.Burst)
}

// Limits are the Rates of the routes of Apps and Machines, each for each Machine, or for each App where the path names no Machine. The routes
// below /v1/gondola and those without an App have none.
type Limits struct {
	Default Rate
	// Actions have Rates of their own: "GET /v1/apps/{app}/machines/{id}", as the route table has them.
	Actions map[string]Rate
}

const (
	actionGetMachine = "GET /v1/apps/{app}/machines/{id}"
	actionDeleteApp  = "DELETE /v1/apps/{app}"
)

// DefaultLimits are those of Fly.io's public documentation (https://fly.io/docs/machines/api/working-with-machines-api, "Rate limits").
func DefaultLimits() Limits {
	return Limits{Default: Rate{1, 3}, Actions: map[string]Rate{actionGetMachine: {5, 10}, actionDeleteApp: {100.0 / 60, 100}}}
}

// LimitedActions returns every action that a Limits may name.
func LimitedActions() (actions []string) {
	for _, r := range new(API).routes() {
		if r.limited() {
			actions = append(actions, r.action())
		}
	}
	return slices.Sorted(slices.Values(actions))
}

func (r route) action() string { return r.method + " " + r.path }

// limited says whether requests of a route are counted.
func (r route) limited() bool { return strings.HasPrefix(r.path, "/v1/apps/{app}") }

// rateLimited is a request too many: 429, with the time after which it may come again.
type rateLimited struct {
	error
	after time.Duration
}

func (e rateLimited) Unwrap() error { return e.error }

// limit counts a request, or returns rateLimited.
func (a *API) limit(c *call, rt route) error {
	if a.limiter == nil || !rt.limited() || c.who.Unlimited() {
		return nil
	}
	what := "app " + string(c.app())
	if ref := c.ref(); ref.ID != "" {
		what = "machine " + ref.String() // access to the App was checked, not yet that the Machine is in it
	}
	if rt.action() == actionDeleteApp && a.apps != nil { // an App is deleted once: what is counted are those of an organisation
		what = "apps"
		if app, err := a.apps.App(c.ctx(), c.app()); err == nil {
			what = "apps of " + app.Organization.Slug
		}
	}
	if c.who.Itself() { // what is inside a Machine exhausts nobody's bucket but its own
		what = "itself " + what
	}
	rate, ok := a.limiter.limits.Actions[rt.action()]
	if !ok {
		rate = a.limiter.limits.Default
	}
	after := a.limiter.take(rt.action()+" "+what, rate)
	if after == 0 {
		return nil
	}
	return rateLimited{gondola.Errorf(gondola.ErrRateLimited, "rate limit exceeded: %s of %s is taken %s; try again in %s", rt.action(), what, rate, after.Round(time.Millisecond)), after}
}

// limiter holds a bucket per action and thing. Of each it keeps one moment: when the bucket will be full again.
type limiter struct {
	limits Limits
	now    func() time.Time

	mu   sync.Mutex
	full map[string]time.Time
	trim int // number of buckets at which full ones are dropped
}

const minTrim = 4096

func newLimiter(l Limits) *limiter {
	return &limiter{limits: l, now: time.Now, full: map[string]time.Time{}, trim: minTrim}
}

// take takes one out of a bucket and returns zero, or how long it takes until there is one.
func (l *limiter) take(key string, r Rate) time.Duration {
	if r.PerSecond < 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	full, after := spend(l.full[key], now, r)
	if after > 0 {
		return after
	}
	l.full[key] = full
	if len(l.full) > l.trim {
		maps.DeleteFunc(l.full, func(_ string, full time.Time) bool { return !full.After(now) })
		l.trim = max(minTrim, 2*len(l.full))
	}
	return 0
}

// spend takes one out of a bucket that is full at a moment: it is full one interval later, or, where that is more than a whole bucket ahead, there
// is nothing in it until after has passed.
func spend(full, now time.Time, r Rate) (newFull time.Time, after time.Duration) {
	interval := time.Duration(float64(time.Second) / r.PerSecond)
	if full.Before(now) {
		full = now
	}
	full = full.Add(interval)
	if after = full.Sub(now) - time.Duration(r.Burst)*interval; after > 0 {
		return time.Time{}, after
	}
	return full, 0
}

// seconds is what Retry-After says: whole seconds, rounded up.
func (e rateLimited) seconds() int { return int(math.Ceil(e.after.Seconds())) }
