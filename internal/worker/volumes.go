package worker

import (
	"context"
	"errors"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/store"
)

const gib = 1 << 30

// CreateVolume implements gondola.Volumes. The Volume is recorded before it is made; a crash between is made good by collectVolumes.
func (w *Worker) CreateVolume(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (gondola.Volume, error) {
	if err := w.awaitRun(ctx); err != nil {
		return gondola.Volume{}, err
	}
	if err := errors.Join(app.Validate(), req.Validate()); err != nil {
		return gondola.Volume{}, err
	}
	v, err := w.volumeTwin(ctx, app, req.ID)
	if v != nil || err != nil {
		if err != nil {
			return gondola.Volume{}, err
		}
		return w.volumeView(v), nil
	}
	rec, err := w.newVolume(ctx, app, req)
	if err != nil {
		return gondola.Volume{}, err
	}
	if err := w.diskRefusal(int64(rec.SizeGB) * gib); err != nil {
		return gondola.Volume{}, err
	}
	return w.working(ctx, func(ctx context.Context) (gondola.Volume, error) {
		w.disks.mu.Lock()
		if w.disks.all[rec.ID] != nil {
			w.disks.mu.Unlock()
			return gondola.Volume{}, gondola.Errorf(gondola.ErrConflict, "volume %s is being created: ask again", rec.ID)
		}
		v := w.disks.add(rec)
		v.busy <- struct{}{}
		w.disks.mu.Unlock()
		defer func() { <-v.busy }()
		failpoint.Hit("worker.volume.create.begun")
		err := w.store.PutVolume(ctx, rec)
		failpoint.Hit("worker.volume.create.recorded")
		if err == nil {
			err = w.finishVolume(ctx, v)
		}
		if err != nil {
			if ctx.Err() == nil {
				err = errors.Join(err, w.dropVolume(ctx, v))
			}
			return gondola.Volume{}, err
		}
		return w.volumeView(v), nil
	})
}

// volumeTwin finds the Volume that has the id already, once nobody works on it.
func (w *Worker) volumeTwin(ctx context.Context, app gondola.AppName, id gondola.VolumeID) (*disk, error) {
	v := w.disks.get("", id)
	if v == nil {
		return nil, nil
	}
	end, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	end()
	switch rec := w.disks.record(v); {
	case rec.App != app || !rec.DestroyedAt.IsZero():
		return nil, gondola.Errorf(gondola.ErrConflict, "volume id %s is taken: create one with another id", id)
	case w.disks.get(app, id) == nil:
		return nil, nil // the other create has failed
	}
	return v, nil
}

// newVolume fills in what the request leaves open.
func (w *Worker) newVolume(ctx context.Context, app gondola.AppName, req gondola.CreateVolumeRequest) (store.Volume, error) {
	v := store.Volume{Volume: gondola.Volume{ID: req.ID, Name: req.Name, State: gondola.VolumeCreating, SizeGB: req.SizeGB, Region: w.cfg.Region, App: app,
		CreatedAt: time.Now().UTC(), SnapshotRetention: gondola.DefaultRetention, FSType: req.FSType}}
	if v.ID == "" {
		v.ID = gondola.NewVolumeID()
	}
	if req.SnapshotRetention != nil {
		v.SnapshotRetention = *req.SnapshotRetention
	}
	v.AutoBackup = req.AutoBackup != nil && *req.AutoBackup
	least := 0
	switch {
	case req.SnapshotID != "":
		s, err := w.store.Snapshot(ctx, req.SnapshotID)
		if err != nil {
			return v, err
		}
		if s.App != app || s.Status != snapshotCreated {
			return v, gondola.Errorf(gondola.ErrNotFound, "snapshot not found: app %q has none that is whole with id %q", app, req.SnapshotID)
		}
		v.Source, least = s.ID, int((s.VolumeSize+gib-1)/gib)
	case req.SourceVolume != "":
		of := w.disks.get(app, req.SourceVolume)
		if of == nil || !w.disks.record(of).DestroyedAt.IsZero() {
			return v, volumeNotFound(app, req.SourceVolume)
		}
		v.Source, least = string(req.SourceVolume), w.disks.record(of).SizeGB
	}
	if v.Source != "" {
		v.State = gondola.VolumeRestoring
	}
	switch {
	case v.SizeGB == 0 && least == 0:
		v.SizeGB = gondola.DefaultVolumeGB
	case v.SizeGB == 0:
		v.SizeGB = least
	case v.SizeGB < least:
		return v, gondola.Errorf(gondola.ErrInvalid, "size_gb %d: what it is a copy of has %d", v.SizeGB, least)
	}
	return v, nil
}

// working does something that goes on when its caller goes away, and waits for it.
func (w *Worker) working(ctx context.Context, do func(ctx context.Context) (gondola.Volume, error)) (gondola.Volume, error) {
	type result struct {
		v   gondola.Volume
		err error
	}
	done := make(chan result, 1)
	w.mu.Lock()
	if w.base.Err() != nil {
		w.mu.Unlock()
		return gondola.Volume{}, gondola.Errorf(gondola.ErrUnavailable, "worker %s is going down: ask again when it is back", w.cfg.Name)
	}
	w.tasks.Go(func() {
		v, err := do(w.base)
		done <- result{v, err}
	})
	w.mu.Unlock()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		return gondola.Volume{}, deadline(ctx, "the volume is still being worked on")
	}
}

// setVolume records a change of a Volume, on disk first. Who calls works on it (begin).
func (w *Worker) setVolume(ctx context.Context, v *disk, change func(*store.Volume)) error {
	rec := w.disks.record(v)
	change(&rec)
	if err := w.store.PutVolume(ctx, rec); err != nil {
		return err
	}
	failpoint.Hit("worker.volume.saved")
	w.disks.mu.Lock()
	v.rec = rec
	w.disks.mu.Unlock()
	w.diskChanged()
	return nil
}

// finishVolume brings a Volume from the state that its record says to rest. It can be done again. Who calls works on it.
func (w *Worker) finishVolume(ctx context.Context, v *disk) error {
	rec := w.disks.record(v)
	created := func(r *store.Volume) { r.State = gondola.VolumeCreated }
	switch rec.State {
	case gondola.VolumeCreated:
		return nil
	case gondola.VolumeCreating, gondola.VolumeRestoring:
		if err := w.makeRoom(ctx, int64(rec.SizeGB)*gib, rec.Source); err != nil {
			return err
		}
		if err := w.cfg.Host.CreateVolume(ctx, NewVolume{ID: rec.ID, Bytes: int64(rec.SizeGB) * gib, Source: rec.Source, FSType: rec.FSType}); err != nil {
			return w.diskError(err)
		}
		failpoint.Hit("worker.volume.create.made")
		return w.setVolume(ctx, v, created)
	case gondola.VolumeExtending:
		if _, err := w.cfg.Host.ExtendVolume(ctx, rec.ID, int64(rec.SizeGB)*gib); err != nil {
			return w.diskError(err)
		}
		return w.setVolume(ctx, v, created)
	case gondola.VolumePendingDestroy, gondola.VolumeDestroying:
		if !rec.DestroyedAt.IsZero() || waits(rec) {
			return nil
		}
		if err := w.cfg.Host.DeleteVolume(ctx, string(rec.ID)); err != nil {
			return err
		}
		failpoint.Hit("worker.volume.delete.made")
		return w.setVolume(ctx, v, func(r *store.Volume) {
			r.State, r.DeletedAt, r.DestroyedAt = gondola.VolumeDestroying, nil, time.Now().UTC()
		})
	}
	return gondola.Errorf(gondola.ErrUnsupported, "volume %s is in unknown state %q", rec.ID, rec.State)
}

// dropVolume forgets a Volume that could not be made.
func (w *Worker) dropVolume(ctx context.Context, v *disk) error {
	id := w.disks.record(v).ID
	err := errors.Join(w.cfg.Host.DeleteVolume(ctx, string(id)), w.store.ForgetVolume(ctx, id))
	if err == nil {
		w.disks.mu.Lock()
		delete(w.disks.all, id)
		w.disks.mu.Unlock()
	}
	return err
}

// volume returns a Volume that is there, or ErrNotFound.
func (w *Worker) volume(ref gondola.VolumeRef) (*disk, error) {
	v := w.disks.get(ref.App, ref.ID)
	if v == nil || !w.disks.record(v).DestroyedAt.IsZero() {
		return nil, volumeNotFound(ref.App, ref.ID)
	}
	return v, nil
}

// volumeView is the Volume as the outside sees it.
func (w *Worker) volumeView(v *disk) gondola.Volume {
	rec := w.disks.record(v)
	out := rec.Volume
	out.Zone, out.Worker, out.Type, out.HostStatus, out.FSType = string(w.cfg.Name), w.cfg.Name, "local", "ok", gondola.VolumeFSType
	out.AttachedMachine, out.BlockSize = w.disks.holder(rec.ID), 4096
	if u, err := w.cfg.Host.VolumeUsage(rec.ID); err == nil {
		out.Blocks, out.BlockSize, out.BlocksFree, out.BlocksAvail = u.Blocks, u.BlockSize, u.BlocksFree, u.BlocksAvail
		out.BytesTotal, out.BytesUsed, out.FSType = u.TotalBytes, u.UsedBytes, u.FSType
	}
	return out
}

// Volume implements gondola.Volumes.
func (w *Worker) Volume(_ context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	v, err := w.volume(ref)
	if err != nil {
		return gondola.Volume{}, err
	}
	return w.volumeView(v), nil
}

// ListVolumes implements gondola.Volumes.
func (w *Worker) ListVolumes(_ context.Context, app gondola.AppName) ([]gondola.Volume, error) {
	out := []gondola.Volume{}
	for _, v := range w.disks.list(func(r store.Volume) bool { return r.DestroyedAt.IsZero() && (app == "" || r.App == app) }) {
		out = append(out, w.volumeView(v))
	}
	return out, nil
}

// UpdateVolume implements gondola.Volumes.
func (w *Worker) UpdateVolume(ctx context.Context, ref gondola.VolumeRef, req gondola.UpdateVolumeRequest) (gondola.Volume, error) {
	if err := req.Validate(); err != nil {
		return gondola.Volume{}, err
	}
	return w.changing(ctx, ref, func(ctx context.Context, v *disk) error {
		return w.setVolume(ctx, v, func(r *store.Volume) {
			if req.SnapshotRetention != nil {
				r.SnapshotRetention = *req.SnapshotRetention
			}
			if req.AutoBackup != nil {
				r.AutoBackup = *req.AutoBackup
			}
		})
	})
}

// changing changes a Volume while nobody else does.
func (w *Worker) changing(ctx context.Context, ref gondola.VolumeRef, change func(ctx context.Context, v *disk) error) (gondola.Volume, error) {
	if err := w.awaitRun(ctx); err != nil {
		return gondola.Volume{}, err
	}
	v, err := w.volume(ref)
	if err != nil {
		return gondola.Volume{}, err
	}
	return w.working(ctx, func(ctx context.Context) (gondola.Volume, error) {
		end, err := v.begin(ctx)
		if err != nil {
			return gondola.Volume{}, err
		}
		defer end()
		if _, err := w.volume(ref); err != nil {
			return gondola.Volume{}, err // it went meanwhile
		}
		err = change(ctx, v)
		return w.volumeView(v), err
	})
}

// ExtendVolume implements gondola.Volumes.
func (w *Worker) ExtendVolume(ctx context.Context, ref gondola.VolumeRef, sizeGB int) (gondola.ExtendVolumeResponse, error) {
	var out gondola.ExtendVolumeResponse
	v, err := w.changing(ctx, ref, func(ctx context.Context, v *disk) error {
		rec := w.disks.record(v)
		switch {
		case sizeGB < rec.SizeGB:
			return gondola.Errorf(gondola.ErrInvalid, "size_gb %d: volume %s has %d already, and volumes only grow", sizeGB, rec.ID, rec.SizeGB)
		case sizeGB > gondola.MaxVolumeGB:
			return gondola.Errorf(gondola.ErrInvalid, "size_gb %d: at most %d", sizeGB, gondola.MaxVolumeGB)
		case rec.State != gondola.VolumeCreated && rec.State != gondola.VolumeExtending:
			return gondola.Errorf(gondola.ErrPrecondition, "volume %s cannot be extended now: it is %s", rec.ID, rec.State)
		}
		more := int64(sizeGB-rec.SizeGB) * gib
		if err := w.diskRefusal(more); err != nil {
			return err
		}
		if err := w.makeRoom(ctx, more, ""); err != nil {
			return err
		}
		err := w.setVolume(ctx, v, func(r *store.Volume) { r.SizeGB, r.State = sizeGB, gondola.VolumeExtending })
		if err != nil {
			return err
		}
		failpoint.Hit("worker.volume.extend.recorded")
		later, err := w.cfg.Host.ExtendVolume(ctx, rec.ID, int64(sizeGB)*gib)
		failpoint.Hit("worker.volume.extend.made")
		if err != nil {
			if errors.Is(err, gondola.ErrCapacity) { // it is as it was
				err = errors.Join(err, w.setVolume(ctx, v, func(r *store.Volume) { r.SizeGB, r.State = rec.SizeGB, gondola.VolumeCreated }))
			}
			return w.diskError(err)
		}
		out.NeedsRestart = later && w.disks.holder(rec.ID) != nil
		return w.setVolume(ctx, v, func(r *store.Volume) { r.State = gondola.VolumeCreated })
	})
	out.Volume = v
	return out, err
}

// waits says whether a Volume is deleted and can still be recovered.
func waits(v store.Volume) bool {
	return v.State == gondola.VolumePendingDestroy && v.DeletedAt != nil && time.Since(*v.DeletedAt) < gondola.VolumeKept
}

// DeleteVolume implements gondola.Volumes. collectVolumes destroys it when its time is over. One that is being destroyed, whose data may be gone, is not
// made recoverable: its end is tried again.
func (w *Worker) DeleteVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return w.leaveVolume(ctx, ref, func(r *store.Volume) {
		if r.State != gondola.VolumePendingDestroy && r.State != gondola.VolumeDestroying {
			now := time.Now().UTC()
			r.State, r.DeletedAt = gondola.VolumePendingDestroy, &now
		}
	})
}

// PurgeVolume implements gondola.Volumes.
func (w *Worker) PurgeVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return w.leaveVolume(ctx, ref, func(r *store.Volume) { r.State, r.DeletedAt = gondola.VolumeDestroying, nil })
}

// leaveVolume gives a Volume that no Machine has a state in which none can have it, and then does what that state wants.
func (w *Worker) leaveVolume(ctx context.Context, ref gondola.VolumeRef, leave func(*store.Volume)) (gondola.Volume, error) {
	if v := w.disks.get(ref.App, ref.ID); v != nil && !w.disks.record(v).DestroyedAt.IsZero() {
		return w.volumeView(v), nil
	}
	return w.changing(ctx, ref, func(ctx context.Context, v *disk) error {
		// Under one lock, so that no Machine claims it between.
		w.disks.mu.Lock()
		by, taken := w.disks.held[v.rec.ID]
		before := v.rec
		if !taken {
			leave(&v.rec)
		}
		w.disks.mu.Unlock()
		if taken {
			return gondola.Errorf(gondola.ErrPrecondition, "volume %s is attached to machine %s: destroy that machine first", ref.ID, by)
		}
		if err := w.setVolume(ctx, v, func(*store.Volume) {}); err != nil {
			w.disks.mu.Lock()
			v.rec = before
			w.disks.mu.Unlock()
			return err
		}
		failpoint.Hit("worker.volume.delete.recorded")
		return w.finishVolume(ctx, v)
	})
}

// RecoverVolume implements gondola.Volumes.
func (w *Worker) RecoverVolume(ctx context.Context, ref gondola.VolumeRef) (gondola.Volume, error) {
	return w.changing(ctx, ref, func(ctx context.Context, v *disk) error {
		switch rec := w.disks.record(v); {
		case waits(rec):
			return w.setVolume(ctx, v, func(r *store.Volume) { r.State, r.DeletedAt = gondola.VolumeCreated, nil })
		case rec.State == gondola.VolumePendingDestroy || rec.State == gondola.VolumeDestroying:
			return gondola.Errorf(gondola.ErrPrecondition, "volume %s cannot be recovered any more: it is being destroyed", rec.ID)
		}
		return nil
	})
}

// deleted returns the one that was deleted first of the Volumes that can still be recovered and are not spared; nil if there is none.
func (d *disks) deleted(spared map[gondola.VolumeID]bool) (first *disk) {
	var at time.Time
	for _, v := range d.list(waits) {
		if rec := d.record(v); !spared[rec.ID] && waits(rec) && (first == nil || rec.DeletedAt.Before(at)) {
			first, at = v, *rec.DeletedAt
		}
	}
	return first
}

// recoverable is how many bytes deleted Volumes give back where they are wanted.
func (d *disks) recoverable() (bytes int64) {
	for _, v := range d.list(waits) {
		bytes += int64(d.record(v).SizeGB) * gib
	}
	return bytes
}

// makeRoom destroys deleted Volumes before their time where their room is wanted, those deleted first first; not the one that is to be copied.
func (w *Worker) makeRoom(ctx context.Context, bytes int64, source string) error {
	spared := map[gondola.VolumeID]bool{gondola.VolumeID(source): true}
	for {
		free, _, err := w.cfg.Host.DiskRoom()
		if err != nil || free >= bytes {
			return err
		}
		v := w.disks.deleted(spared)
		if v == nil {
			return nil // whoever takes the room will say what is wanted
		}
		spared[w.disks.record(v).ID] = true
		if err := w.destroyEarly(ctx, v); err != nil {
			return err
		}
	}
}

// destroyEarly destroys a deleted Volume, unless somebody works on it or it was recovered.
func (w *Worker) destroyEarly(ctx context.Context, v *disk) error {
	end, ok := v.tryBegin()
	if !ok {
		return nil
	}
	defer end()
	rec := w.disks.record(v)
	if !waits(rec) {
		return nil
	}
	w.log.Info("destroying a deleted volume before its time: its room is wanted", "volume", rec.ID, "deleted", rec.DeletedAt)
	if err := w.setVolume(ctx, v, func(r *store.Volume) { r.State, r.DeletedAt = gondola.VolumeDestroying, nil }); err != nil {
		return err
	}
	return w.finishVolume(ctx, v)
}

// diskRefusal says no to a Volume for which there is no room, as a Bid would.
func (w *Worker) diskRefusal(bytes int64) error {
	o := w.offered()
	w.addDisk(&o)
	if _, refusal := computeBid(o, gondola.Ask{DiskBytes: bytes}); refusal != nil && bytes > 0 {
		return refused(*refusal)
	}
	return nil
}

// diskError gives a host's want of room the form of a Refusal.
func (w *Worker) diskError(err error) error {
	if err == nil || !errors.Is(err, gondola.ErrCapacity) {
		return err
	}
	return refused(gondola.Refusal{Worker: w.cfg.Name, Region: w.cfg.Region, Reason: err.Error(), Capacity: w.cfg.Capacity})
}
