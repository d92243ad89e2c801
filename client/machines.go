package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gondola"
)

// Create implements gondola.Machines.
func (c *Client) Create(ctx context.Context, app gondola.AppName, req gondola.CreateRequest) (m gondola.Machine, err error) {
	err = c.do(ctx, "POST", path("apps", string(app), "machines"), nil, req, &m)
	return in(app, m), err
}

// Get implements gondola.Machines.
func (c *Client) Get(ctx context.Context, ref gondola.Ref) (m gondola.Machine, err error) {
	err = c.do(ctx, "GET", machine(ref), nil, nil, &m)
	return in(ref.App, m), err
}

// List implements gondola.Machines.
func (c *Client) List(ctx context.Context, app gondola.AppName, f gondola.ListFilter) ([]gondola.Machine, error) {
	q := url.Values{}
	if f.Region != "" {
		q.Set("region", string(f.Region))
	}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, s := range f.States {
			states[i] = string(s)
		}
		q.Set("state", strings.Join(states, ","))
	}
	if f.IncludeDeleted {
		q.Set("include_deleted", "true")
	}
	if f.IncludeLeases {
		q.Set("include_leases", "true")
	}
	for k, v := range f.Metadata {
		q.Set("metadata."+k, v)
	}
	all := []gondola.Machine{}
	if app != "" {
		err := pages(ctx, c, path("apps", string(app), "machines"), q, func(page []gondola.Machine) (string, int) {
			for _, m := range page {
				all = append(all, in(app, m))
			}
			return "", len(page)
		})
		return all, err
	}
	type orgMachine struct {
		gondola.Machine
		App gondola.AppName `json:"app_name"`
	}
	type orgMachines struct {
		Machines []orgMachine `json:"machines"`
		Next     string       `json:"next_cursor"`
	}
	err := pages(ctx, c, path("orgs", c.org, "machines"), q, func(page orgMachines) (string, int) {
		for _, m := range page.Machines {
			all = append(all, in(m.App, m.Machine))
		}
		return page.Next, len(page.Machines)
	})
	return all, err
}

// in returns the Machine with its App, which Fly.io's API does not tell. Where it has an incomplete Config alone, that is its Config: it says what
// the Machine is.
func in(app gondola.AppName, m gondola.Machine) gondola.Machine {
	if m.Config == nil {
		m.Config = m.IncompleteConfig
	}
	if m.Gondola == nil && m.ID != "" {
		m.Gondola = &gondola.MachineExtension{App: app}
	}
	return m
}

// Update implements gondola.Machines.
func (c *Client) Update(ctx context.Context, ref gondola.Ref, req gondola.UpdateRequest) (m gondola.Machine, err error) {
	err = c.do(ctx, "POST", machine(ref), nil, req, &m)
	return in(ref.App, m), err
}

// Start implements gondola.Machines.
func (c *Client) Start(ctx context.Context, ref gondola.Ref) (res gondola.StartResult, err error) {
	err = c.do(ctx, "POST", machine(ref, "start"), nil, nil, &res)
	return res, err
}

// Stop implements gondola.Machines.
func (c *Client) Stop(ctx context.Context, ref gondola.Ref, req gondola.StopRequest) error {
	return c.do(ctx, "POST", machine(ref, "stop"), nil, req, nil)
}

// Restart implements gondola.Machines.
func (c *Client) Restart(ctx context.Context, ref gondola.Ref, req gondola.RestartRequest) error {
	q := url.Values{"force_stop": {strconv.FormatBool(req.ForceStop)}}
	if req.Signal != "" {
		q.Set("signal", string(req.Signal))
	}
	if req.Timeout != nil {
		q.Set("timeout", time.Duration(*req.Timeout).String())
	}
	return c.do(ctx, "POST", machine(ref, "restart"), q, nil, nil)
}

// Suspend implements gondola.Machines.
func (c *Client) Suspend(ctx context.Context, ref gondola.Ref) error {
	return c.do(ctx, "POST", machine(ref, "suspend"), nil, nil, nil)
}

// Signal implements gondola.Machines.
func (c *Client) Signal(ctx context.Context, ref gondola.Ref, sig gondola.Signal) error {
	return c.do(ctx, "POST", machine(ref, "signal"), nil, map[string]gondola.Signal{"signal": sig}, nil)
}

// Destroy implements gondola.Machines.
func (c *Client) Destroy(ctx context.Context, ref gondola.Ref, force bool) error {
	f := strconv.FormatBool(force)
	return c.repeat(ctx, "DELETE", machine(ref), url.Values{"force": {f}, "kill": {f}}, nil, nil)
}

// Wait implements gondola.Machines.
func (c *Client) Wait(ctx context.Context, ref gondola.Ref, req gondola.WaitRequest) (res gondola.WaitResult, err error) {
	q := url.Values{}
	for _, s := range req.States {
		q.Add("state", string(s))
	}
	if req.Settled {
		q.Add("state", "settled")
	}
	if req.Version != "" {
		q.Set("version", string(req.Version))
	}
	if req.FromEventID != "" {
		q.Set("from_event_id", req.FromEventID)
	}
	switch {
	case req.Timeout == 0:
	case req.Timeout%time.Second == 0: // Fly.io's API takes only whole seconds
		q.Set("timeout", strconv.Itoa(int(req.Timeout/time.Second)))
	default:
		q.Set("timeout", req.Timeout.String())
	}
	err = c.do(ctx, "GET", machine(ref, "wait"), q, nil, &res)
	return res, err
}

// Exec implements gondola.Machines.
func (c *Client) Exec(ctx context.Context, ref gondola.Ref, req gondola.ExecRequest) (res gondola.ExecResult, err error) {
	err = c.do(ctx, "POST", machine(ref, "exec"), nil, req, &res)
	return res, err
}

// Events implements gondola.Machines.
func (c *Client) Events(ctx context.Context, ref gondola.Ref, limit int) (events []gondola.Event, err error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	err = c.do(ctx, "GET", machine(ref, "events"), q, nil, &events)
	return events, err
}

// Processes implements gondola.Machines.
func (c *Client) Processes(ctx context.Context, ref gondola.Ref) (ps []gondola.ProcessStat, err error) {
	err = c.do(ctx, "GET", machine(ref, "ps"), nil, nil, &ps)
	return ps, err
}

// Cordon implements gondola.Machines.
func (c *Client) Cordon(ctx context.Context, ref gondola.Ref) error {
	return c.repeat(ctx, "POST", machine(ref, "cordon"), nil, nil, nil)
}

// Uncordon implements gondola.Machines.
func (c *Client) Uncordon(ctx context.Context, ref gondola.Ref) error {
	return c.repeat(ctx, "POST", machine(ref, "uncordon"), nil, nil, nil)
}

// Versions implements gondola.Machines.
func (c *Client) Versions(ctx context.Context, ref gondola.Ref) (vs []gondola.MachineVersion, err error) {
	err = c.do(ctx, "GET", machine(ref, "versions"), nil, nil, &vs)
	return vs, err
}
