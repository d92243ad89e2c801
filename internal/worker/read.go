package worker

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"gondola"
)

// Get returns a Machine as it is now; a destroyed one for 48 hours more.
func (w *Worker) Get(ctx context.Context, ref gondola.Ref) (gondola.Machine, error) {
	if m := w.lookup(ref); m != nil {
		if v := w.hub.view(ref.ID); v != nil {
			return *v, nil
		}
	}
	return w.destroyed(ctx, ref)
}

// List returns Machines, oldest first.
func (w *Worker) List(ctx context.Context, app gondola.AppName, filter gondola.ListFilter) ([]gondola.Machine, error) {
	keep := func(v *gondola.Machine) bool {
		return (app == "" || v.Gondola.App == app) && (filter.Region == "" || filter.Region == v.Region) &&
			(len(filter.States) == 0 || slices.Contains(filter.States, v.State)) && hasMetadata(v.Config.Metadata, filter.Metadata)
	}
	views := w.hub.list(keep)
	if filter.IncludeDeleted || slices.Contains(filter.States, gondola.Destroyed) {
		rows, err := w.store.Destroyed(ctx, app)
		if err != nil {
			return nil, err
		}
		var gone []*gondola.Machine
		for _, row := range rows {
			m, err := newMachine(w, row, nil)
			if err != nil {
				return nil, err
			}
			if v := m.view(); keep(v) {
				gone = append(gone, v)
			}
		}
		views = append(gone, views...)
		slices.SortStableFunc(views, older)
		// One that went between the two looks is in both; what is on record is newer, and stands first.
		views = slices.CompactFunc(views, func(a, b *gondola.Machine) bool { return a.ID == b.ID })
	}
	ms := make([]gondola.Machine, len(views))
	for i, v := range views {
		ms[i] = *v
		if filter.IncludeLeases {
			if l, err := w.Lease(ctx, ms[i].Ref()); err == nil {
				ms[i].Lease = stripped(l)
			}
		}
	}
	return ms, nil
}

// Events returns the newest events of a Machine, newest first.
func (w *Worker) Events(ctx context.Context, ref gondola.Ref, limit int) ([]gondola.Event, error) {
	if _, err := w.Get(ctx, ref); err != nil {
		return nil, err
	}
	es, err := w.store.Events(ctx, ref.ID, limit)
	if es == nil {
		es = []gondola.Event{}
	}
	return es, err
}

// Versions returns what a Machine has been, newest first.
func (w *Worker) Versions(ctx context.Context, ref gondola.Ref) ([]gondola.MachineVersion, error) {
	if _, err := w.Get(ctx, ref); err != nil {
		return nil, err
	}
	return w.store.Versions(ctx, ref.ID)
}

// Wait blocks until the Machine is in one of the states (machines-api: wait). States that pass by are seen too. Waiting for a State that can
// not come any more, of a destroyed Machine, is ErrPrecondition at once.
func (w *Worker) Wait(ctx context.Context, ref gondola.Ref, req gondola.WaitRequest) (gondola.WaitResult, error) {
	if req.Timeout == 0 {
		req.Timeout = 60 * time.Second
	}
	if req.Timeout < 0 || req.Timeout > 60*time.Second {
		return gondola.WaitResult{}, gondola.Errorf(gondola.ErrInvalid, "timeout %s: want 1 to 60 seconds", req.Timeout)
	}
	if len(req.States) == 0 && !req.Settled {
		req.States = []gondola.State{gondola.Started}
	}
	now, err := w.Get(ctx, ref)
	if err != nil {
		return gondola.WaitResult{}, err
	}
	if req.Version != "" && req.Version != now.Version {
		known, err := w.store.HasVersion(ctx, ref.ID, req.Version)
		if err != nil {
			return gondola.WaitResult{}, err
		}
		if !known {
			return gondola.WaitResult{}, gondola.Errorf(gondola.ErrNotFound, "machine %s has no version %s", ref.ID, req.Version)
		}
	}
	over := func(v *gondola.Machine) (gondola.WaitResult, bool) {
		res, ok := reached(v, req)
		res.OK = ok
		return res, ok || v.State.Final()
	}
	end := func(res gondola.WaitResult) (gondola.WaitResult, error) {
		if res.OK {
			return res, nil
		}
		return gondola.WaitResult{}, gondola.Errorf(gondola.ErrPrecondition, "machine failed to reach desired state, %s, currently %s", wanted(req), res.State)
	}
	if now.State.Final() {
		res, _ := over(&now)
		return end(res)
	}
	wt := &waiter{over: over, found: make(chan gondola.WaitResult, 1)}
	w.hub.await(ref.ID, wt)
	defer w.hub.drop(ref.ID, wt)
	if now, err := w.Get(ctx, ref); err == nil && now.State.Final() { // between the two looks
		res, _ := over(&now)
		return end(res)
	}
	timer := time.NewTimer(req.Timeout)
	defer timer.Stop()
	select {
	case res := <-wt.found:
		return end(res)
	case <-timer.C:
	case <-ctx.Done():
	}
	state := gondola.Destroyed
	if v := w.hub.view(ref.ID); v != nil {
		state = v.State
	}
	return gondola.WaitResult{}, gondola.Errorf(gondola.ErrDeadline, "machine failed to reach desired state, %s, currently %s", wanted(req), state)
}

// reached says whether a view is what a wait waits for. Pure.
func reached(v *gondola.Machine, req gondola.WaitRequest) (gondola.WaitResult, bool) {
	res := gondola.WaitResult{OK: true, State: v.State, Version: v.Version}
	if len(v.Events) > 0 {
		res.EventID = v.Events[0].ID
	}
	if req.Version != "" && req.Version != v.Version {
		res.State, res.Version = gondola.Replaced, req.Version
		return res, true
	}
	if req.FromEventID != "" && (len(v.Events) == 0 || v.Events[0].ID <= req.FromEventID) {
		return res, false
	}
	if slices.Contains(req.States, v.State) || req.Settled && !v.State.Transient() {
		return res, true
	}
	if req.FromEventID == "" {
		return res, false
	}
	for _, e := range v.Events { // it may have been there and gone on
		if s := gondola.State(e.Status); e.ID > req.FromEventID && slices.Contains(req.States, s) && !restarts(e) {
			res.State, res.EventID = s, e.ID
			return res, true
		}
	}
	return res, false
}

// restarts says whether it is the end of a program that is started again: its Machine was not stopped.
func restarts(e gondola.Event) bool {
	var exit gondola.ExitEvent
	return e.Type == "exit" && json.Unmarshal(e.Request, &exit) == nil && exit.ExitEvent.Restarting
}

func wanted(req gondola.WaitRequest) string {
	s := ""
	for i, st := range req.States {
		if i > 0 {
			s += " or "
		}
		s += string(st)
	}
	if req.Settled {
		if s != "" {
			s += " or "
		}
		s += "settled"
	}
	return s
}
