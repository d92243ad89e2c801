package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"gondola"
)

// shown returns a Machine as the wire wants it: no list is null, host_status is never empty.
func shown(m gondola.Machine) gondola.Machine {
	if m.Events == nil {
		m.Events = []gondola.Event{}
	}
	if m.HostStatus == "" {
		m.HostStatus = "ok"
	}
	if m.HostStatus != "ok" { // nobody is to update a Machine with it
		m.Config, m.IncompleteConfig = nil, m.Config
	}
	return m
}

// allowExtension refuses what only a server may tell a worker.
func (c *call) allowExtension(x *gondola.CreateExtension) error {
	if x != nil && !c.who.Server && (x.ID != "" || x.Network != "" || x.NetworkID != 0) {
		return gondola.Errorf(gondola.ErrForbidden, "gondola.id, gondola.network and gondola.network_id are chosen by the server: leave them out and use the machine's name")
	}
	return nil
}

func (a *API) createMachine(c *call) error {
	var req gondola.CreateRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := c.allowExtension(req.Gondola); err != nil {
		return err
	}
	m, err := a.server.Create(c.ctx(), c.app(), req)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, shown(m))
}

func (a *API) updateMachine(c *call) error {
	var req gondola.UpdateRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := c.allowExtension(req.Gondola); err != nil {
		return err
	}
	force, err := c.flag("force")
	if err != nil {
		return err
	}
	req.Force = req.Force || force
	m, err := a.server.Update(c.ctx(), c.ref(), req)
	if err != nil {
		return onExisting(err)
	}
	return c.send(http.StatusOK, shown(m))
}

func (a *API) getMachine(c *call) error {
	m, err := a.server.Get(c.ctx(), c.ref())
	if err != nil {
		return err
	}
	// An old version is replaced for ever, whatever the Machine does now.
	if v := gondola.Version(c.query("version")); v != "" && v != m.Version {
		m.State, m.Version, m.InstanceID = gondola.Replaced, v, v
	}
	leases, err := c.flag("include_leases")
	if err != nil {
		return err
	}
	if leases {
		if l, err := a.server.Lease(c.ctx(), c.ref()); err == nil {
			m.Lease = &gondola.Lease{ExpiresAt: l.ExpiresAt, Owner: l.Owner, Description: l.Description}
		}
	}
	return c.send(http.StatusOK, shown(m))
}

// filter reads the parameters that narrow a list of Machines.
func (c *call) filter() (f gondola.ListFilter, err error) {
	if f.IncludeDeleted, err = c.flag("include_deleted"); err != nil {
		return f, err
	}
	for _, s := range c.list("state") {
		state, err := gondola.ParseState(s)
		if err != nil {
			return f, malformedf("query parameter state: %s", err)
		}
		f.States = append(f.States, state)
	}
	if f.IncludeLeases, err = c.flag("include_leases"); err != nil {
		return f, err
	}
	f.Region, f.Metadata = gondola.Region(c.query("region")), c.metadata()
	return f, nil
}

func (a *API) listMachines(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	summary, err := c.flag("summary")
	if err != nil {
		return err
	}
	all, err := a.server.List(c.ctx(), c.app(), f)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(m gondola.Machine) bool { return !c.who.SeesMachine(m.ID) })
	all, _, err = page(c, all, func(m gondola.Machine) place { return placeOf(m.CreatedAt, string(m.ID)) })
	if err != nil {
		return err
	}
	out := make([]gondola.Machine, 0, len(all))
	for _, m := range all {
		if summary {
			m.Config, m.Events = nil, nil
		}
		out = append(out, shown(m))
	}
	return c.send(http.StatusOK, out)
}

// orgMachine is the OpenAPI file's OrgMachine, with the whole Machine beside it for our own client.
type orgMachine struct {
	gondola.Machine
	AppName gondola.AppName `json:"app_name"`
}

func (a *API) listOrgMachines(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	summary, err := c.flag("summary")
	if err != nil {
		return err
	}
	var after time.Time
	if s := c.query("updated_after"); s != "" {
		if after, err = time.Parse(time.RFC3339, s); err != nil {
			return malformedf("query parameter updated_after=%q: use a time such as 2026-11-22T10:00:00Z", s)
		}
	}
	sees, err := a.visible(c.ctx(), c.who, c.PathValue("org"))
	if err != nil {
		return err
	}
	all, err := a.server.List(c.ctx(), "", f)
	if err != nil {
		return err
	}
	list := []orgMachine{}
	unreachable := map[gondola.Region]bool{}
	for _, m := range all {
		if app := m.Ref().App; sees(app, m.ID) && m.UpdatedAt.After(after) {
			if summary {
				m.Config, m.Events = nil, nil
			}
			list = append(list, orgMachine{shown(m), app})
			if m.HostStatus == "unreachable" {
				unreachable[m.Region] = true
			}
		}
	}
	list, next, err := page(c, list, func(m orgMachine) place { return placeOf(m.CreatedAt, string(m.ID)) })
	if err != nil {
		return err
	}
	out := orgMachines{Machines: list, Next: next, ErrorRegions: []gondola.Region{}}
	for r := range unreachable {
		out.ErrorRegions = append(out.ErrorRegions, r)
	}
	slices.Sort(out.ErrorRegions)
	if n := len(list); n > 0 {
		out.LastID, out.LastUpdated = string(list[n-1].ID), list[n-1].UpdatedAt.Format(time.RFC3339Nano)
	}
	return c.send(http.StatusOK, out)
}

func (a *API) destroyMachine(c *call) error {
	force, err := c.flag("force")
	if err != nil {
		return err
	}
	kill, err := c.flag("kill") // fly-go's word for it (trap 2)
	if err != nil {
		return err
	}
	if err := a.server.Destroy(c.ctx(), c.ref(), force || kill); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) startMachine(c *call) error {
	res, err := a.server.Start(c.ctx(), c.ref())
	if err != nil {
		return onExisting(err)
	}
	return c.send(http.StatusOK, res)
}

func (a *API) stopMachine(c *call) error {
	var req gondola.StopRequest
	if err := c.decode(&req); err != nil {
		return err
	}
	if err := a.server.Stop(c.ctx(), c.ref(), req); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) suspendMachine(c *call) error {
	if err := a.server.Suspend(c.ctx(), c.ref()); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) restartMachine(c *call) (err error) {
	var req gondola.RestartRequest
	if req.ForceStop, err = c.flag("force_stop"); err != nil { // trap 4
		return err
	}
	if req.Timeout, err = c.seconds("timeout"); err != nil {
		return err
	}
	if req.Signal, err = gondola.ParseSignal(c.query("signal")); err != nil {
		return malformedf("query parameter signal: %s", err)
	}
	if err := a.server.Restart(c.ctx(), c.ref(), req); err != nil {
		return onExisting(err)
	}
	return c.ok()
}

func (a *API) signalMachine(c *call) error {
	var body signalBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if body.Signal == "" {
		return malformedf("signal is missing: send {\"signal\":\"SIGTERM\"}")
	}
	if err := a.server.Signal(c.ctx(), c.ref(), body.Signal); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) waitMachine(c *call) (err error) {
	req := gondola.WaitRequest{FromEventID: c.query("from_event_id"), Version: gondola.Version(c.query("version"))}
	if req.Version == "" {
		req.Version = gondola.Version(c.query("instance_id"))
	}
	for _, s := range c.list("state") {
		if s == "settled" {
			req.Settled = true
			continue
		}
		state, err := gondola.ParseState(s)
		if err != nil {
			return malformedf("query parameter state: %s; use started, stopped, suspended, destroyed, failed or settled", err)
		}
		req.States = append(req.States, state)
	}
	timeout, err := c.seconds("timeout")
	if err != nil {
		return err
	}
	if timeout != nil {
		req.Timeout = min(time.Duration(*timeout), time.Minute)
	}
	res, err := a.server.Wait(c.ctx(), c.ref(), req)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, res)
}

// execBody is the body of an exec: command is a list, cmd its old form, a string or a list (trap 5).
type execBody struct {
	gondola.ExecRequest
	Cmd json.RawMessage `json:"cmd"`
}

func (a *API) execMachine(c *call) error {
	var body execBody
	if err := c.decode(&body); err != nil {
		return err
	}
	if len(body.Command) == 0 && len(body.Cmd) > 0 {
		var line string
		switch {
		case json.Unmarshal(body.Cmd, &body.Command) == nil:
		case json.Unmarshal(body.Cmd, &line) == nil:
			var err error
			if body.Command, err = words(line); err != nil {
				return err
			}
		default:
			return malformedf("cmd must be a string or a list of strings")
		}
	}
	if len(body.Command) == 0 {
		return malformedf("command is missing: send {\"command\":[\"echo\",\"hello\"]}")
	}
	res, err := a.server.Exec(c.ctx(), c.ref(), body.ExecRequest)
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, res)
}

func (a *API) cordonMachine(c *call) error {
	if err := a.server.Cordon(c.ctx(), c.ref()); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) uncordonMachine(c *call) error {
	if err := a.server.Uncordon(c.ctx(), c.ref()); err != nil {
		return err
	}
	return c.ok()
}

func (a *API) machineVersions(c *call) error {
	versions, err := a.server.Versions(c.ctx(), c.ref())
	if err != nil {
		return err
	}
	if versions == nil {
		versions = []gondola.MachineVersion{}
	}
	return c.send(http.StatusOK, versions)
}

func (a *API) machineEvents(c *call) error {
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	events, err := a.server.Events(c.ctx(), c.ref(), int(limit))
	if err != nil {
		return err
	}
	if events == nil {
		events = []gondola.Event{}
	}
	return c.send(http.StatusOK, events)
}

func (a *API) machineProcesses(c *call) error {
	ps, err := a.server.Processes(c.ctx(), c.ref())
	if err != nil {
		return err
	}
	out := make([]gondola.ProcessStat, 0, len(ps))
	for _, p := range ps {
		if p.ListenSockets == nil {
			p.ListenSockets = []gondola.ListenSocket{}
		}
		out = append(out, p)
	}
	if by := c.query("sort_by"); by != "" {
		if err := sortProcesses(out, by, c.query("order") == "desc"); err != nil {
			return err
		}
	}
	return c.send(http.StatusOK, out)
}

func sortProcesses(ps []gondola.ProcessStat, by string, down bool) error {
	keys := map[string]func(p gondola.ProcessStat) string{
		"pid":       func(p gondola.ProcessStat) string { return fmt.Sprintf("%020d", p.PID) },
		"cpu":       func(p gondola.ProcessStat) string { return fmt.Sprintf("%020d", p.CPU) },
		"rss":       func(p gondola.ProcessStat) string { return fmt.Sprintf("%020d", p.RSS) },
		"stime":     func(p gondola.ProcessStat) string { return fmt.Sprintf("%020d", p.STime) },
		"rtime":     func(p gondola.ProcessStat) string { return fmt.Sprintf("%020d", p.RTime) },
		"command":   func(p gondola.ProcessStat) string { return p.Command },
		"directory": func(p gondola.ProcessStat) string { return p.Directory },
	}
	key, ok := keys[by]
	if !ok {
		return malformedf("query parameter sort_by=%q: use pid, cpu, rss, stime, rtime, command or directory", by)
	}
	slices.SortStableFunc(ps, func(x, y gondola.ProcessStat) int {
		if down {
			x, y = y, x
		}
		return strings.Compare(key(x), key(y))
	})
	return nil
}
