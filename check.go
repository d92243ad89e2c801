package gondola

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Check is a health probe of a Machine, in its own right or of a Service. A tcp Check passes when the port accepts a connection, an http one on
// a status of 200 to 299.
type Check struct {
	Type          string       `json:"type,omitempty"`         // "tcp" or "http"
	Port          int          `json:"port,omitempty"`         // If zero, of a Service's Check its internal port.
	Interval      *Duration    `json:"interval,omitempty"`     // at least 1 s; if nil, 15 s
	Timeout       *Duration    `json:"timeout,omitempty"`      // If nil, 5 s.
	GracePeriod   *Duration    `json:"grace_period,omitempty"` // after the Machine's start, in which failures do not count; if nil, none
	Method        string       `json:"method,omitempty"`       // If empty, GET.
	Path          string       `json:"path,omitempty"`         // If empty, "/".
	Protocol      string       `json:"protocol,omitempty"`     // "http" (default) or "https"
	TLSSkipVerify bool         `json:"tls_skip_verify,omitempty"`
	TLSServerName string       `json:"tls_server_name,omitempty"`
	Headers       []HTTPHeader `json:"headers,omitempty"`
	Kind          string       `json:"kind,omitempty"` // "informational" (default) or "readiness"; a Service's is always the latter
}

// NamedCheck is a Check under the name by which Machine.Checks tells its outcome.
type NamedCheck struct {
	Name  string `json:"name"`
	Check Check  `json:"check"`
}

// CheckStatus is the last outcome of a Check.
type CheckStatus struct {
	Name      string    `json:"name"`
	Status    string    `json:"status"` // CheckPassing, CheckWarning (the Machine does not run) or CheckCritical
	Output    string    `json:"output,omitempty"`
	UpdatedAt time.Time `json:"updated_at"` // when it became so
}

// Outcomes of a Check.
const (
	CheckPassing  = "passing"
	CheckWarning  = "warning"
	CheckCritical = "critical"
)

// minCheckInterval keeps Checks from being a load of their own.
const minCheckInterval = time.Second

// AllChecks returns the Machine's own Checks by name, then those of its Services in order, named as Fly.io does:
// servicecheck-<number>-<type>-<port>. Defaults are filled in.
func (c *Config) AllChecks() []NamedCheck {
	var all []NamedCheck
	for _, name := range slices.Sorted(maps.Keys(c.Checks)) {
		all = append(all, NamedCheck{name, c.Checks[name].filled()})
	}
	n := 0
	for _, s := range c.Services {
		for _, k := range s.Checks {
			k.Port, k.Kind = cmp.Or(k.Port, s.InternalPort), "readiness"
			k = k.filled()
			all = append(all, NamedCheck{fmt.Sprintf("servicecheck-%02d-%s-%d", n, k.Type, k.Port), k})
			n++
		}
	}
	return all
}

func (k Check) filled() Check {
	duration := func(d *Duration, or time.Duration) *Duration {
		if d != nil && (*d != 0 || or == 0) {
			return d
		}
		return new(Duration(or))
	}
	k.Interval, k.Timeout, k.GracePeriod = duration(k.Interval, 15*time.Second), duration(k.Timeout, 5*time.Second), duration(k.GracePeriod, 0)
	k.Type = cmp.Or(k.Type, "tcp")
	if k.Type == "http" {
		k.Method, k.Path, k.Protocol = cmp.Or(k.Method, "GET"), cmp.Or(k.Path, "/"), cmp.Or(k.Protocol, "http")
	}
	return k
}

func (c *Config) validateChecks() error {
	for _, name := range slices.Sorted(maps.Keys(c.Checks)) {
		if name == "" {
			return Errorf(ErrInvalid, "config.checks: give every check a name")
		}
		if err := c.Checks[name].validate("config.checks." + name); err != nil {
			return err
		}
	}
	for i, s := range c.Services {
		for j, k := range s.Checks {
			k.Port = cmp.Or(k.Port, s.InternalPort)
			if err := k.validate(fmt.Sprintf("config.services[%d].checks[%d]", i, j)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k Check) validate(at string) error {
	switch {
	case k.Type != "" && k.Type != "tcp" && k.Type != "http":
		return Errorf(ErrInvalid, "%s.type %q: use tcp or http", at, k.Type)
	case k.Port < 1 || k.Port > 65535:
		return Errorf(ErrInvalid, "%s.port %d: use 1 to 65535", at, k.Port)
	case k.Kind != "" && k.Kind != "informational" && k.Kind != "readiness":
		return Errorf(ErrInvalid, "%s.kind %q: use informational or readiness", at, k.Kind)
	case k.Protocol != "" && k.Protocol != "http" && k.Protocol != "https":
		return Errorf(ErrInvalid, "%s.protocol %q: use http or https", at, k.Protocol)
	case k.Path != "" && !strings.HasPrefix(k.Path, "/"):
		return Errorf(ErrInvalid, "%s.path %q must begin with /", at, k.Path)
	case k.Interval != nil && *k.Interval != 0 && time.Duration(*k.Interval) < minCheckInterval:
		return Errorf(ErrInvalid, "%s.interval %s: use 1s or more (a number is nanoseconds)", at, time.Duration(*k.Interval))
	}
	for _, d := range []struct {
		name string
		d    *Duration
	}{{"timeout", k.Timeout}, {"grace_period", k.GracePeriod}} {
		if d.d != nil && *d.d < 0 {
			return Errorf(ErrInvalid, "%s.%s %s must not be negative", at, d.name, time.Duration(*d.d))
		}
	}
	return nil
}

// TakesTraffic says whether no Check keeps connections of its Services from the Machine: one of a Service, or of kind readiness, that is critical.
func (m *Machine) TakesTraffic() bool {
	return !slices.ContainsFunc(m.Checks, func(s CheckStatus) bool {
		if s.Status != CheckCritical {
			return false
		}
		own, ok := Check{}, false
		if m.Config != nil {
			own, ok = m.Config.Checks[s.Name]
		}
		return !ok || own.Kind == "readiness"
	})
}
