package worker

import (
	"context"
	"errors"
	"slices"
	"time"

	"gondola"
	"gondola/internal/failpoint"
	"gondola/internal/store"
)

// Statuses of a snapshot.
const (
	snapshotCreating = "creating"
	snapshotCreated  = "created"
	snapshotFailed   = "failed"
)

// backupEvery is how old the newest snapshot of a Volume with backups may be.
const backupEvery = 24 * time.Hour

// SnapshotVolume implements gondola.Volumes.
func (w *Worker) SnapshotVolume(ctx context.Context, ref gondola.VolumeRef, id string) (gondola.VolumeSnapshot, error) {
	if id == "" {
		id = gondola.NewSnapshotID()
	}
	if !gondola.IsSnapshotID(id) {
		return gondola.VolumeSnapshot{}, gondola.Errorf(gondola.ErrInvalid, "snapshot id %q: want vs_ and 16 lower-case letters and digits", id)
	}
	var out gondola.VolumeSnapshot
	_, err := w.changing(ctx, ref, func(ctx context.Context, v *disk) (err error) {
		out, err = w.snapshot(ctx, w.disks.record(v), id)
		return err
	})
	if err != nil {
		return gondola.VolumeSnapshot{}, err
	}
	return out, nil
}

// snapshot makes a snapshot, or finds it made. Who calls works on the Volume.
func (w *Worker) snapshot(ctx context.Context, v store.Volume, id string) (gondola.VolumeSnapshot, error) {
	old, err := w.store.Snapshot(ctx, id)
	switch {
	case err == nil && old.Volume != v.ID:
		return old.VolumeSnapshot, gondola.Errorf(gondola.ErrConflict, "snapshot id %s is taken by one of volume %s", id, old.Volume)
	case err == nil && old.Status == snapshotCreated:
		return w.snapshotView(old), nil
	case err != nil && !errors.Is(err, gondola.ErrNotFound):
		return old.VolumeSnapshot, err
	case v.State != gondola.VolumeCreated && v.State != gondola.VolumeExtending && !waits(v):
		return old.VolumeSnapshot, gondola.Errorf(gondola.ErrPrecondition, "no snapshot can be made of volume %s now: it is %s", v.ID, v.State)
	}
	s := store.Snapshot{App: v.App, VolumeSnapshot: gondola.VolumeSnapshot{ID: id, Volume: v.ID, Status: snapshotCreating, CreatedAt: time.Now().UTC(),
		RetentionDays: v.SnapshotRetention}}
	if err := w.store.PutSnapshot(ctx, s); err != nil {
		return s.VolumeSnapshot, err
	}
	failpoint.Hit("worker.snapshot.recorded")
	s.Size, s.VolumeSize, err = w.cfg.Host.SnapshotVolume(ctx, v.ID, id)
	failpoint.Hit("worker.snapshot.made")
	if err != nil {
		if ctx.Err() == nil {
			err = errors.Join(w.diskError(err), w.store.ForgetSnapshot(ctx, id))
		}
		return s.VolumeSnapshot, err
	}
	s.Status = snapshotCreated
	w.diskChanged()
	err = w.store.PutSnapshot(ctx, s)
	failpoint.Hit("worker.snapshot.saved")
	return w.snapshotView(s), err
}

// snapshotView is the snapshot as the outside sees it.
func (w *Worker) snapshotView(s store.Snapshot) gondola.VolumeSnapshot {
	s.Region, s.Worker = w.cfg.Region, w.cfg.Name
	return s.VolumeSnapshot
}

// ListSnapshots implements gondola.Volumes.
func (w *Worker) ListSnapshots(ctx context.Context, ref gondola.VolumeRef) ([]gondola.VolumeSnapshot, error) {
	rows, err := w.store.Snapshots(ctx, ref.ID)
	if err != nil {
		return nil, err
	}
	out := []gondola.VolumeSnapshot{}
	for _, s := range rows {
		if ref.App == "" || s.App == ref.App {
			out = append(out, w.snapshotView(s))
		}
	}
	if len(out) == 0 && ref.ID != "" && w.disks.get(ref.App, ref.ID) == nil {
		return nil, volumeNotFound(ref.App, ref.ID)
	}
	return out, nil
}

// DeleteSnapshot implements gondola.Volumes. One that is not there any more is ErrNotFound.
func (w *Worker) DeleteSnapshot(ctx context.Context, ref gondola.VolumeRef, id string) error {
	s, err := w.store.Snapshot(ctx, id)
	if err == nil && (ref.App != "" && s.App != ref.App || ref.ID != "" && s.Volume != ref.ID) {
		err = gondola.Errorf(gondola.ErrNotFound, "snapshot not found: volume %s has none with id %q", ref.ID, id)
	}
	if err != nil {
		return err
	}
	return w.deleteSnapshot(ctx, id)
}

// deleteSnapshot forgets a snapshot once its data is gone, so that a crash between leaves one that can be deleted again.
func (w *Worker) deleteSnapshot(ctx context.Context, id string) error {
	if err := w.cfg.Host.DeleteVolume(ctx, id); err != nil {
		return err
	}
	failpoint.Hit("worker.snapshot.delete.made")
	w.diskChanged()
	err := w.store.ForgetSnapshot(ctx, id)
	failpoint.Hit("worker.snapshot.delete.forgotten")
	return err
}

// collectVolumes finishes what a crash cut short, removes what is too old, and makes the daily snapshots.
func (w *Worker) collectVolumes(ctx context.Context) error {
	var errs []error
	for _, v := range w.disks.list(func(store.Volume) bool { return true }) {
		end, ok := v.tryBegin()
		if !ok {
			continue
		}
		errs = append(errs, w.collectVolume(ctx, v))
		end()
	}
	errs = append(errs, w.collectSnapshots(ctx), w.tellLeftoverVolumes(ctx))
	w.diskChanged()
	return errors.Join(errs...)
}

func (w *Worker) collectVolume(ctx context.Context, v *disk) error {
	if err := w.finishVolume(ctx, v); err != nil {
		return err
	}
	rec := w.disks.record(v)
	if !rec.DestroyedAt.IsZero() {
		if time.Since(rec.DestroyedAt) < keepRecord {
			return nil
		}
		return w.dropVolume(ctx, v)
	}
	if !rec.AutoBackup || rec.State == gondola.VolumePendingDestroy {
		return nil
	}
	have, err := w.store.Snapshots(ctx, rec.ID)
	newest := rec.CreatedAt
	if n := len(have); n > 0 {
		newest = have[n-1].CreatedAt
	}
	if err != nil || time.Since(newest) < backupEvery {
		return err
	}
	_, err = w.snapshot(ctx, rec, gondola.NewSnapshotID())
	return err
}

// collectSnapshots deletes those whose time is over. One that a crash cut short has no data and is dropped.
func (w *Worker) collectSnapshots(ctx context.Context) error {
	all, err := w.store.Snapshots(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range all {
		old := s.RetentionDays > 0 && time.Since(s.CreatedAt) > time.Duration(s.RetentionDays)*24*time.Hour
		broken := s.Status != snapshotCreated && s.CreatedAt.Before(w.opened)
		if old || broken {
			w.log.Info("removing a snapshot", "snapshot", s.ID, "volume", s.Volume, "age", time.Since(s.CreatedAt), "status", s.Status)
			errs = append(errs, w.deleteSnapshot(ctx, s.ID))
		}
	}
	return errors.Join(errs...)
}

// tellLeftoverVolumes says which disks are here and not on record: of another record of this worker, lost or put back from a backup. They are
// somebody's data, so they are left alone.
func (w *Worker) tellLeftoverVolumes(ctx context.Context) error {
	ids, err := w.cfg.Host.LeftoverVolumes(ctx)
	if err != nil {
		return err
	}
	snapshots, err := w.store.Snapshots(ctx, "") // read after the disk: one on the disk was recorded before
	if err != nil {
		return err
	}
	for _, id := range ids {
		known := w.disks.get("", gondola.VolumeID(id)) != nil ||
			slices.ContainsFunc(snapshots, func(s store.Snapshot) bool { return s.ID == id })
		if !known && !w.told[id] {
			w.log.Warn("a volume or snapshot is on the disk and not on record; it is left alone, and takes room", "id", id)
			w.told[id] = true
		}
	}
	return nil
}

// diskChanged reads how much room there is, for the offer.
func (w *Worker) diskChanged() {
	free, _, err := w.cfg.Host.DiskRoom()
	if err != nil {
		w.log.Warn("the room on the disk cannot be read for the offer", "err", err)
		return
	}
	free += w.disks.recoverable()
	if w.diskFree.Swap(free) != free {
		w.offerChanged()
	}
}
