package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gondola"
)

const volumeIndexMigration = `
CREATE TABLE volumes ( -- and snapshots: an id begins with vol_ or vs_
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	worker     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	removed_at INTEGER
);
CREATE INDEX volumes_by_worker ON volumes (worker);
`

// VolumeEntry is a row of the index: which worker has a Volume or a snapshot.
type VolumeEntry struct {
	App       gondola.AppName
	ID        string
	Worker    gondola.WorkerName
	CreatedAt time.Time
	RemovedAt time.Time // zero while it is there
}

// IsSnapshot says whether it is a snapshot's row.
func (e VolumeEntry) IsSnapshot() bool { return gondola.IsSnapshotID(e.ID) }

const selectVolumes = "SELECT app, id, worker, created_at, removed_at FROM volumes"

func scanVolume(scan func(...any) error) (VolumeEntry, error) {
	var e VolumeEntry
	var created int64
	var removed sql.NullInt64
	err := scan(&e.App, &e.ID, &e.Worker, &created, &removed)
	e.CreatedAt = time.UnixMilli(created).UTC()
	if removed.Valid {
		e.RemovedAt = time.UnixMilli(removed.Int64).UTC()
	}
	return e, err
}

// PlaceVolume says that a Volume or snapshot is, or is about to be, at a worker. ErrNotFound if there is no such App, ErrConflict if the id is
// another App's.
func (s *Server) PlaceVolume(ctx context.Context, app gondola.AppName, id string, worker gondola.WorkerName) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		var known bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?)", app).Scan(&known); err != nil {
			return err
		}
		if !known {
			return appNotFound(app)
		}
		var taken bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM volumes WHERE id = ? AND app <> ?)", id, app).Scan(&taken); err != nil {
			return err
		}
		if taken {
			return gondola.Errorf(gondola.ErrConflict, "id %s is taken: choose another, or leave it out", id)
		}
		_, err := tx.Exec(`INSERT INTO volumes (id, app, worker, created_at) VALUES (?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET worker = excluded.worker WHERE removed_at IS NULL`, id, app, worker, time.Now().UnixMilli())
		return err
	})
	return wrap(err, "place %s in the index", id)
}

// LookupVolume returns the row of a Volume or snapshot, also of one removed in the last 48 hours, unless that was of an earlier App of the name. An
// empty app means any. ErrNotFound otherwise.
func (s *Server) LookupVolume(ctx context.Context, app gondola.AppName, id string) (VolumeEntry, error) {
	e, err := scanVolume(s.read.QueryRowContext(ctx, selectVolumes+" WHERE id = ? AND (? = '' OR app = ?) AND "+ofThisApp("volumes"), id, app, app).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		what := "volume"
		if gondola.IsSnapshotID(id) {
			what = "snapshot"
		}
		return e, gondola.Errorf(gondola.ErrNotFound, "%s not found: there is none with id %q", what, id)
	}
	return e, wrap(err, "look up %s", id)
}

// VolumesByApp returns the rows of an App's Volumes and snapshots that are there, oldest first, of all Apps where app is empty.
func (s *Server) VolumesByApp(ctx context.Context, app gondola.AppName) ([]VolumeEntry, error) {
	rows, err := s.read.QueryContext(ctx, selectVolumes+" WHERE (? = '' OR app = ?) AND removed_at IS NULL ORDER BY created_at, id", app, app)
	es, err := collect(rows, err, scanVolume)
	return es, wrap(err, "list volumes of app %s in the index", app)
}

// RemoveVolume says that a Volume or snapshot is gone. Its row can be looked up for 48 hours more.
func (s *Server) RemoveVolume(ctx context.Context, id string) error {
	now := time.Now()
	err := s.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("UPDATE volumes SET removed_at = ? WHERE id = ? AND removed_at IS NULL", now.UnixMilli(), id); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM volumes WHERE removed_at < ?", now.Add(-keepRemoved).UnixMilli())
		return err
	})
	return wrap(err, "remove %s from the index", id)
}

// ForgetVolume drops a row at once: of what never came to be.
func (s *Server) ForgetVolume(ctx context.Context, id string) error {
	_, err := s.exec(ctx, "DELETE FROM volumes WHERE id = ?", id)
	return wrap(err, "forget %s in the index", id)
}

// RebuildVolumes makes the index agree with what a worker has, as Rebuild does for Machines. Rows of snapshots stay as they are: they may
// outlive their Volume, and a row too many costs an ErrNotFound.
func (s *Server) RebuildVolumes(ctx context.Context, worker gondola.WorkerName, entries []VolumeEntry, asOf time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		have := map[string]bool{}
		for _, e := range entries {
			have[e.ID] = true
			_, err := tx.Exec(`INSERT INTO volumes (id, app, worker, created_at) VALUES (?, ?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET worker = excluded.worker, removed_at = NULL`, e.ID, e.App, worker, e.CreatedAt.UnixMilli())
			if err != nil {
				return err
			}
		}
		rows, err := tx.Query(selectVolumes+" WHERE worker = ? AND removed_at IS NULL AND created_at < ?", worker, asOf.UnixMilli())
		old, err := collect(rows, err, scanVolume)
		if err != nil {
			return err
		}
		for _, e := range old {
			if have[e.ID] || e.IsSnapshot() {
				continue
			}
			if _, err := tx.Exec("UPDATE volumes SET removed_at = ? WHERE id = ?", time.Now().UnixMilli(), e.ID); err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "rebuild the index of volumes of worker %s", worker)
}
