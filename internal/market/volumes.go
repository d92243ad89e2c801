package market

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"gondola"
	"gondola/internal/store"
)

// VolumeIndex is the part of an Index that is about Volumes and snapshots.
type VolumeIndex interface {
	PlaceVolume(ctx context.Context, app gondola.AppName, id string, worker gondola.WorkerName) error
	LookupVolume(ctx context.Context, app gondola.AppName, id string) (store.VolumeEntry, error)
	VolumesByApp(ctx context.Context, app gondola.AppName) ([]store.VolumeEntry, error)
	RemoveVolume(ctx context.Context, id string) error
	ForgetVolume(ctx context.Context, id string) error
	RebuildVolumes(ctx context.Context, worker gondola.WorkerName, entries []store.VolumeEntry, asOf time.Time) error
}

// CreateVolume implements gondola.Volumes: an auction like that of a Machine, for room on a disk. A copy goes where what it is a copy of is.
func (m *Market) CreateVolume(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (gondola.Volume, error) {
	unlock, err := m.locks.use(ctx, lockOf(app))
	if err != nil {
		return gondola.Volume{}, err
	}
	defer unlock()
	if _, err := m.index.App(ctx, app); err != nil {
		return gondola.Volume{}, err
	}
	if err := req.Validate(); err != nil {
		return gondola.Volume{}, err
	}
	if req.ID != "" {
		switch e, err := m.index.LookupVolume(ctx, "", string(req.ID)); {
		case err == nil && e.App != app:
			return gondola.Volume{}, gondola.Errorf(gondola.ErrConflict, "volume id %s is taken by another app", req.ID)
		case err == nil:
			w, err := m.worker(e.Worker)
			if err != nil {
				return gondola.Volume{}, err
			}
			return w.CreateVolume(ctx, app, req)
		case !errors.Is(err, gondola.ErrNotFound):
			return gondola.Volume{}, err
		}
	} else {
		req.ID = gondola.NewVolumeID()
	}
	return m.buyVolume(ctx, app, req)
}

func (m *Market) buyVolume(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (gondola.Volume, error) {
	ws, _ := m.current()
	wanted, err := parseRegions(req.Region, regionsOf(ws))
	if err != nil {
		return gondola.Volume{}, err
	}
	ask := gondola.Ask{DiskBytes: int64(req.SizeGB) << 30, Image: req.ComputeImage}
	if req.Compute != nil {
		ask.Requests, _ = req.Compute.Resources()
	}
	ws = in(ws, wanted)
	if source := req.SnapshotID + string(req.SourceVolume); source != "" {
		if ws, err = m.with(ctx, app, source, ws); err != nil {
			return gondola.Volume{}, err
		}
	} else if ask.DiskBytes == 0 {
		ask.DiskBytes = gondola.DefaultVolumeGB << 30
	}
	a, err := m.auction(ctx, ws, ask, wanted, m.deadline)
	if err != nil {
		return gondola.Volume{}, err
	}
	if a.Bids, err = m.apart(ctx, app, req, a.Bids); err != nil {
		return gondola.Volume{}, err
	}
	for _, b := range a.Bids {
		w, err := m.worker(b.Worker)
		if err != nil {
			continue // it has left since it bid
		}
		if err := m.index.PlaceVolume(ctx, app, string(req.ID), w.Name); err != nil {
			return gondola.Volume{}, err
		}
		req.Region = string(w.Region)
		v, err := w.CreateVolume(ctx, app, req)
		switch {
		case err == nil:
			return v, nil
		case refusedForSure(err):
			a.Refusals = append(a.Refusals, gondola.Refusals(err)...)
		case mayExist(err):
			return gondola.Volume{}, err
		default:
			m.forgetVolume(ctx, string(req.ID))
			return gondola.Volume{}, err
		}
	}
	m.forgetVolume(ctx, string(req.ID))
	return gondola.Volume{}, volumeRefusal(wanted, ask.DiskBytes, a.Refusals)
}

// forgetVolume drops the row of what no worker has. It must not depend on a caller's patience.
func (m *Market) forgetVolume(ctx context.Context, id string) {
	if err := m.index.ForgetVolume(context.WithoutCancel(ctx), id); err != nil {
		m.log.Warn("the row of a volume that was refused stays until its worker is read again", "volume", id, "err", err)
	}
}

// with returns the one worker that has a Volume or snapshot, if it is among ws.
func (m *Market) with(ctx context.Context, app gondola.AppName, id string, ws []Worker) ([]Worker, error) {
	e, err := m.lookup(ctx, app, id)
	if err != nil {
		return nil, err
	}
	w, err := m.worker(e.Worker)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ws, func(o Worker) bool { return o.Name == w.Name }) {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "%s is in region %s, on worker %s: ask for that region, or for none", id, w.Region, w.Name)
	}
	return []Worker{w}, nil
}

// apart puts the Bids of workers behind that have a Volume of the same name (with unique_zone_app_wide, any of the App), so that copies of an
// App's data are on different hosts. Where require_unique_zone says so, those do not count at all.
func (m *Market) apart(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest, bids []gondola.Bid) ([]gondola.Bid, error) {
	if len(bids) == 0 || req.SnapshotID != "" || req.SourceVolume != "" {
		return bids, nil
	}
	strict := req.RequireUniqueZone != nil && *req.RequireUniqueZone
	if len(bids) == 1 && !strict {
		return bids, nil
	}
	have, err := m.ListVolumes(ctx, app)
	if err != nil {
		return nil, err
	}
	taken := map[gondola.WorkerName]bool{}
	for _, v := range have {
		if v.State != gondola.VolumePendingDestroy && (v.Name == req.Name || req.UniqueZoneAppWide) {
			taken[v.Worker] = true
		}
	}
	var first, last []gondola.Bid
	for _, b := range bids {
		if taken[b.Worker] {
			last = append(last, b)
		} else {
			first = append(first, b)
		}
	}
	if strict && len(first) == 0 {
		return nil, gondola.Errorf(gondola.ErrCapacity, "no worker with room is without a volume %q of app %s: join another, or do without require_unique_zone", req.Name, app)
	}
	if strict {
		return first, nil
	}
	return append(first, last...), nil
}

// volumeRefusal is the error of a Volume for which nobody has room.
func volumeRefusal(wanted map[gondola.Region]int, bytes int64, refusals []gondola.Refusal) error {
	var why []string
	for _, r := range refusals {
		why = append(why, string(r.Worker)+": "+r.Reason)
	}
	regions := strings.ReplaceAll(listRegions(inOrder(wanted)), " and ", " or ")
	e := gondola.Errorf(gondola.ErrCapacity, "no worker in %s has %d GB free on its disk (%s)", regions, bytes>>30, strings.Join(why, "; ")).(*gondola.Error)
	e.Refusals = refusals
	return e
}

// lookup finds the row of a Volume or snapshot. A snapshot that a worker has made by itself, the daily one, gets its row here.
func (m *Market) lookup(ctx context.Context, app gondola.AppName, id string) (store.VolumeEntry, error) {
	e, unknown := m.index.LookupVolume(ctx, app, id)
	if !errors.Is(unknown, gondola.ErrNotFound) || app == "" || !gondola.IsSnapshotID(id) {
		return e, unknown
	}
	all, err := m.snapshots(ctx, app)
	if err != nil {
		return e, err
	}
	i := slices.IndexFunc(all, func(s gondola.VolumeSnapshot) bool { return s.ID == id })
	if i < 0 {
		return e, unknown
	}
	if err := m.index.PlaceVolume(ctx, app, id, all[i].Worker); err != nil {
		return e, err
	}
	return m.index.LookupVolume(ctx, app, id)
}

// volume finds the worker of a Volume or snapshot and the App that it is of.
func (m *Market) volume(ctx context.Context, app gondola.AppName, id string) (Worker, gondola.AppName, error) {
	e, err := m.lookup(ctx, app, id)
	if err != nil {
		if errors.Is(err, gondola.ErrNotFound) && app != "" {
			if _, noApp := m.index.App(ctx, app); noApp != nil {
				err = noApp
			}
		}
		return Worker{}, app, err
	}
	w, err := m.worker(e.Worker)
	return w, e.App, err
}

// onVolume calls the worker of a Volume.
func onVolume[T any](ctx context.Context, m *Market, ref gondola.VolumeRef, call func(w Worker, ref gondola.VolumeRef) (T, error)) (T, error) {
	var zero T
	if gondola.IsSnapshotID(string(ref.ID)) {
		return zero, gondola.Errorf(gondola.ErrNotFound, "volume not found: %s is a snapshot", ref.ID)
	}
	w, app, err := m.volume(ctx, ref.App, string(ref.ID))
	if err != nil {
		return zero, err
	}
	return call(w, gondola.VolumeRef{App: app, ID: ref.ID})
}

// Volume implements gondola.Volumes.
func (m *Market) Volume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.Volume, error) { return w.Volume(ctx, ref) })
}

// ListVolumes implements gondola.Volumes. Those of a worker that does not answer are listed by what the index knows, with host_status
// "unreachable".
func (m *Market) ListVolumes(ctx context.Context, app gondola.AppName) ([]gondola.Volume, error) {
	if app != "" {
		if _, err := m.index.App(ctx, app); err != nil {
			return nil, err
		}
	}
	entries, err := m.index.VolumesByApp(ctx, app)
	if err != nil {
		return nil, err
	}
	rows := map[gondola.WorkerName][]store.VolumeEntry{}
	for _, e := range entries {
		if !e.IsSnapshot() {
			rows[e.Worker] = append(rows[e.Worker], e)
		}
	}
	all, err := gather(rows, func(name gondola.WorkerName, rows []store.VolumeEntry) ([]gondola.Volume, error) {
		return m.volumesOf(ctx, name, app, rows)
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b gondola.Volume) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return append([]gondola.Volume{}, all...), nil
}

func (m *Market) volumesOf(ctx context.Context, name gondola.WorkerName, app gondola.AppName, rows []store.VolumeEntry) ([]gondola.Volume, error) {
	w, vs, err := ask(ctx, m, name, func(ctx context.Context, w Worker) ([]gondola.Volume, error) { return w.ListVolumes(ctx, app) })
	if !silent(ctx, err) {
		return vs, err
	}
	for _, e := range rows {
		vs = append(vs, gondola.Volume{ID: gondola.VolumeID(e.ID), App: e.App, Worker: e.Worker, Zone: string(e.Worker), Region: w.Region,
			State: gondola.VolumeCreated, CreatedAt: e.CreatedAt, BlockSize: 4096, HostStatus: "unreachable"})
	}
	return vs, nil
}

// UpdateVolume implements gondola.Volumes.
func (m *Market) UpdateVolume(ctx context.Context, ref gondola.VolumeRef, req gondola.UpdateVolumeRequest) (gondola.Volume, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.Volume, error) { return w.UpdateVolume(ctx, ref, req) })
}

// ExtendVolume implements gondola.Volumes.
func (m *Market) ExtendVolume(ctx context.Context, ref gondola.VolumeRef, sizeGB int) (gondola.ExtendVolumeResponse, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.ExtendVolumeResponse, error) {
		return w.ExtendVolume(ctx, ref, sizeGB)
	})
}

// DeleteVolume implements gondola.Volumes. It stays in the index until its worker has destroyed it and is read again.
func (m *Market) DeleteVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.Volume, error) { return w.DeleteVolume(ctx, ref) })
}

// RecoverVolume implements gondola.Volumes.
func (m *Market) RecoverVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.Volume, error) { return w.RecoverVolume(ctx, ref) })
}

// PurgeVolume implements gondola.Volumes.
func (m *Market) PurgeVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.Volume, error) {
		v, err := w.PurgeVolume(ctx, ref)
		if err == nil || errors.Is(err, gondola.ErrNotFound) {
			if err := m.index.RemoveVolume(context.WithoutCancel(ctx), string(ref.ID)); err != nil {
				m.log.Warn("a deleted volume stays in the index until its worker is read again", "volume", ref.ID, "err", err)
			}
		}
		return v, err
	})
}

// SnapshotVolume implements gondola.Volumes. The row of the snapshot is written first, so that it is found whatever becomes of the answer.
func (m *Market) SnapshotVolume(ctx context.Context, ref gondola.VolumeRef, id string) (gondola.VolumeSnapshot, error) {
	if id == "" {
		id = gondola.NewSnapshotID()
	}
	if !gondola.IsSnapshotID(id) {
		return gondola.VolumeSnapshot{}, gondola.Errorf(gondola.ErrInvalid, "snapshot id %.80q: leave it out, or use vs_ and 16 letters and digits", id)
	}
	return onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) (gondola.VolumeSnapshot, error) {
		_, unknown := m.index.LookupVolume(ctx, ref.App, id)
		if err := m.index.PlaceVolume(ctx, ref.App, id, w.Name); err != nil {
			return gondola.VolumeSnapshot{}, err
		}
		s, err := w.SnapshotVolume(ctx, ref, id)
		if err != nil && unknown != nil && !mayExist(err) {
			m.forgetVolume(ctx, id)
		}
		return s, err
	})
}

// ListSnapshots implements gondola.Volumes. Where the index does not know the Volume any more, what it knows of its App leads to its snapshots.
func (m *Market) ListSnapshots(ctx context.Context, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
	if ref.ID == "" {
		return m.snapshots(ctx, ref.App)
	}
	of, unknown := onVolume(ctx, m, ref, func(w Worker, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
		return w.ListSnapshots(ctx, ref)
	})
	if !errors.Is(unknown, gondola.ErrNotFound) {
		return of, unknown
	}
	all, err := m.snapshots(ctx, ref.App)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s gondola.VolumeSnapshot) bool { return s.Volume != ref.ID })
	if len(all) == 0 {
		return nil, unknown
	}
	return all, nil
}

// snapshots lists those of an App, or of all Apps where app is empty: each worker that has Volumes or snapshots of it tells its own. Those of an earlier
// App of the name are not its, so one without a row must be younger than the App.
func (m *Market) snapshots(ctx context.Context, app gondola.AppName) ([]gondola.VolumeSnapshot, error) {
	var since time.Time
	if app != "" {
		of, err := m.index.App(ctx, app)
		if err != nil {
			return nil, err
		}
		since = of.CreatedAt
	}
	entries, err := m.index.VolumesByApp(ctx, app)
	if err != nil {
		return nil, err
	}
	workers, known := map[gondola.WorkerName][]struct{}{}, map[string]bool{}
	for _, e := range entries {
		workers[e.Worker], known[e.ID] = nil, true
	}
	all, err := gather(workers, func(name gondola.WorkerName, _ []struct{}) ([]gondola.VolumeSnapshot, error) {
		_, ss, err := ask(ctx, m, name, func(ctx context.Context, w Worker) ([]gondola.VolumeSnapshot, error) {
			return w.ListSnapshots(ctx, gondola.VolumeRef{App: app})
		})
		return ss, err
	})
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s gondola.VolumeSnapshot) bool { return !known[s.ID] && s.CreatedAt.Before(since) })
	slices.SortFunc(all, func(a, b gondola.VolumeSnapshot) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return append([]gondola.VolumeSnapshot{}, all...), nil
}

// DeleteSnapshot implements gondola.Volumes. The snapshot's own row leads to it: its Volume may be gone.
func (m *Market) DeleteSnapshot(ctx context.Context, ref gondola.VolumeRef, id string) error {
	if !gondola.IsSnapshotID(id) {
		return gondola.Errorf(gondola.ErrNotFound, "snapshot not found: there is none with id %.80q", id)
	}
	w, app, err := m.volume(ctx, ref.App, id)
	if err != nil {
		return err
	}
	err = w.DeleteSnapshot(ctx, gondola.VolumeRef{App: app, ID: ref.ID}, id)
	if err == nil || errors.Is(err, gondola.ErrNotFound) {
		if err := m.index.RemoveVolume(context.WithoutCancel(ctx), id); err != nil {
			m.log.Warn("a deleted snapshot stays in the index", "snapshot", id, "err", err)
		}
	}
	return err
}

// readVolumes makes the index agree with the Volumes that a worker has.
func (m *Market) readVolumes(ctx context.Context, w Worker, asOf time.Time) {
	vs, err := w.ListVolumes(ctx, "")
	if err == nil {
		var entries []store.VolumeEntry
		for _, v := range vs {
			entries = append(entries, store.VolumeEntry{App: v.App, ID: string(v.ID), Worker: w.Name, CreatedAt: v.CreatedAt})
		}
		err = m.index.RebuildVolumes(ctx, w.Name, entries, asOf)
	}
	if err != nil && ctx.Err() == nil {
		m.log.Warn("make the index agree with the volumes of a worker", "worker", w.Name, "err", err)
	}
}

// deleteVolumes deletes all Volumes and snapshots of an App, whose Machines are gone.
func (m *Market) deleteVolumes(ctx context.Context, app gondola.AppName) error {
	snapshots, err := m.snapshots(ctx, app) // some have no row yet
	if err != nil {
		return err
	}
	for _, s := range snapshots {
		if err := m.DeleteSnapshot(ctx, gondola.VolumeRef{App: app}, s.ID); err != nil && !errors.Is(err, gondola.ErrNotFound) {
			return err
		}
	}
	entries, err := m.index.VolumesByApp(ctx, app)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsSnapshot() {
			err = m.DeleteSnapshot(ctx, gondola.VolumeRef{App: app}, e.ID)
		} else {
			_, err = m.PurgeVolume(ctx, gondola.VolumeRef{App: app, ID: gondola.VolumeID(e.ID)})
		}
		if err != nil && !errors.Is(err, gondola.ErrNotFound) {
			return err
		}
	}
	return nil
}
