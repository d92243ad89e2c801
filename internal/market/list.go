package market

import (
	"cmp"
	"context"
	"slices"
	"time"

	"gondola"
	"gondola/internal/store"
)

// List implements gondola.Machines. The Machines of a worker that does not answer are listed as they were last seen, with host_status
// "unreachable".
func (m *Market) List(ctx context.Context, app gondola.AppName, f gondola.ListFilter) ([]gondola.Machine, error) {
	if app != "" {
		if _, err := m.index.App(ctx, app); err != nil {
			return nil, err
		}
	}
	names, err := m.index.WorkersOf(ctx, app, withRemoved(f))
	if err != nil {
		return nil, err
	}
	workers := map[gondola.WorkerName][]struct{}{}
	for _, name := range names {
		workers[name] = nil
	}
	all, err := gather(workers, func(name gondola.WorkerName, _ []struct{}) ([]gondola.Machine, error) {
		return m.listOf(ctx, name, app, f)
	})
	if err != nil {
		return nil, err
	}
	if withRemoved(f) {
		if all, err = m.ofTheirApps(ctx, all); err != nil {
			return nil, err
		}
	}
	if len(names) > 1 { // each worker's are in order
		slices.SortFunc(all, func(a, b gondola.Machine) int {
			return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
		})
	}
	return all, nil
}

// ofTheirApps leaves out destroyed Machines of Apps whose name another App has now.
func (m *Market) ofTheirApps(ctx context.Context, all []gondola.Machine) ([]gondola.Machine, error) {
	apps, err := m.index.ListApps(ctx, "")
	if err != nil {
		return nil, err
	}
	since := map[gondola.AppName]time.Time{}
	for _, app := range apps {
		since[app.Name] = app.CreatedAt
	}
	return slices.DeleteFunc(all, func(mach gondola.Machine) bool {
		return mach.State == gondola.Destroyed && mach.CreatedAt.Before(since[mach.Ref().App])
	}), nil
}

func withRemoved(f gondola.ListFilter) bool {
	return f.IncludeDeleted || slices.Contains(f.States, gondola.Destroyed)
}

// listOf asks one worker, or says what is known of its Machines: only then are their rows read, of which there may be thousands.
func (m *Market) listOf(ctx context.Context, name gondola.WorkerName, app gondola.AppName, f gondola.ListFilter) ([]gondola.Machine, error) {
	w, ms, err := ask(ctx, m, name, func(ctx context.Context, w Worker) ([]gondola.Machine, error) { return w.List(ctx, app, f) })
	if !silent(ctx, err) {
		return ms, err
	}
	rows, err := m.index.ByApp(ctx, app, withRemoved(f))
	for _, e := range rows {
		if e.Worker != name {
			continue
		}
		mach := m.unreachable(e, w.Region)
		if matches(mach, f) {
			ms = append(ms, mach)
		}
	}
	return ms, err
}

// unreachable is a Machine of which only the index, and what its worker last said, can tell.
func (m *Market) unreachable(e store.Entry, region gondola.Region) gondola.Machine {
	m.mu.RLock()
	mach, ok := m.seen[e.ID]
	m.mu.RUnlock()
	if !ok {
		mach = gondola.Machine{ID: e.ID, Name: e.Name, State: gondola.Created, Region: region, CreatedAt: e.CreatedAt, UpdatedAt: e.CreatedAt,
			Gondola: &gondola.MachineExtension{App: e.App, Worker: e.Worker}}
		if !e.RemovedAt.IsZero() {
			mach.State = gondola.Destroyed
		}
	}
	mach.HostStatus = "unreachable"
	return mach
}

func matches(mach gondola.Machine, f gondola.ListFilter) bool {
	if f.Region != "" && mach.Region != f.Region || len(f.States) > 0 && !slices.Contains(f.States, mach.State) {
		return false
	}
	for k, v := range f.Metadata {
		if mach.Config == nil || mach.Config.Metadata[k] != v {
			return false
		}
	}
	return true
}

// short is a Machine without what is not needed to list it while its worker is away.
func short(mach gondola.Machine) gondola.Machine {
	out := gondola.Machine{ID: mach.ID, Name: mach.Name, State: mach.State, Region: mach.Region, InstanceID: mach.InstanceID, Version: mach.Version,
		PrivateIP: mach.PrivateIP, ImageRef: mach.ImageRef, CreatedAt: mach.CreatedAt, UpdatedAt: mach.UpdatedAt, Cordoned: mach.Cordoned}
	if mach.Config != nil {
		out.Config = &gondola.Config{Image: mach.Config.Image, Guest: mach.Config.Guest, Metadata: mach.Config.Metadata}
	}
	if x := mach.Gondola; x != nil {
		out.Gondola = &gondola.MachineExtension{App: x.App, Worker: x.Worker, Addresses: x.Addresses, Seq: x.Seq}
	}
	return out
}
