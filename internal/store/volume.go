package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"gondola"
)

const volumeMigration = `
CREATE TABLE volumes (
	id           TEXT PRIMARY KEY,
	app          TEXT NOT NULL,
	state        TEXT NOT NULL, -- what is being done to it, so that it can be done again
	volume       TEXT NOT NULL,
	source       TEXT NOT NULL, -- of which it is to be a copy
	created_at   INTEGER NOT NULL,
	destroyed_at INTEGER
);
CREATE TABLE snapshots (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	volume     TEXT NOT NULL, -- may be gone
	snapshot   TEXT NOT NULL,
	created_at INTEGER NOT NULL
);
CREATE INDEX snapshots_by_volume ON snapshots (volume);
`

// Volume is the record of one Volume of a worker.
type Volume struct {
	gondola.Volume        // but for what the disk and the Machines say: usage and attachment
	Source         string // a snapshot or Volume of which it is to be a copy
	DestroyedAt    time.Time
}

// PutVolume records a Volume, new or changed.
func (w *Worker) PutVolume(ctx context.Context, v Volume) error {
	b, err := json.Marshal(v.Volume)
	if err != nil {
		return wrap(err, "record volume %s", v.ID)
	}
	destroyed := sql.NullInt64{Int64: v.DestroyedAt.UnixNano(), Valid: !v.DestroyedAt.IsZero()}
	_, err = w.exec(ctx, `INSERT INTO volumes (id, app, state, volume, source, created_at, destroyed_at) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET state = excluded.state, volume = excluded.volume, destroyed_at = excluded.destroyed_at`,
		v.ID, v.App, v.State, string(b), v.Source, v.CreatedAt.UnixNano(), destroyed)
	return wrap(err, "record volume %s", v.ID)
}

// Volumes returns the Volumes on record, oldest first; destroyed ones are among them for a while.
func (w *Worker) Volumes(ctx context.Context) ([]Volume, error) {
	rows, err := w.read.QueryContext(ctx, "SELECT volume, source, destroyed_at FROM volumes ORDER BY created_at, id")
	vs, err := collect(rows, err, func(scan func(...any) error) (v Volume, err error) {
		var b []byte
		var destroyed sql.NullInt64
		if err := scan(&b, &v.Source, &destroyed); err != nil {
			return v, err
		}
		if destroyed.Valid {
			v.DestroyedAt = time.Unix(0, destroyed.Int64).UTC()
		}
		return v, json.Unmarshal(b, &v.Volume)
	})
	return vs, wrap(err, "list volumes")
}

// ForgetVolume drops the record of a Volume: of one that never came to be, or that was destroyed long ago.
func (w *Worker) ForgetVolume(ctx context.Context, id gondola.VolumeID) error {
	_, err := w.exec(ctx, "DELETE FROM volumes WHERE id = ?", id)
	return wrap(err, "forget volume %s", id)
}

// Snapshot is the record of one snapshot.
type Snapshot struct {
	gondola.VolumeSnapshot
	App gondola.AppName
}

// PutSnapshot records a snapshot, new or changed.
func (w *Worker) PutSnapshot(ctx context.Context, s Snapshot) error {
	b, err := json.Marshal(s.VolumeSnapshot)
	if err != nil {
		return wrap(err, "record snapshot %s", s.ID)
	}
	_, err = w.exec(ctx, `INSERT INTO snapshots (id, app, volume, snapshot, created_at) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET snapshot = excluded.snapshot`, s.ID, s.App, s.Volume, string(b), s.CreatedAt.UnixNano())
	return wrap(err, "record snapshot %s", s.ID)
}

func scanSnapshot(scan func(...any) error) (s Snapshot, err error) {
	var b []byte
	if err := scan(&s.App, &b); err != nil {
		return s, err
	}
	return s, json.Unmarshal(b, &s.VolumeSnapshot)
}

// Snapshots returns the snapshots of a Volume, of all where volume is empty, oldest first.
func (w *Worker) Snapshots(ctx context.Context, volume gondola.VolumeID) ([]Snapshot, error) {
	rows, err := w.read.QueryContext(ctx, "SELECT app, snapshot FROM snapshots WHERE ? = '' OR volume = ? ORDER BY created_at, id", volume, volume)
	ss, err := collect(rows, err, scanSnapshot)
	return ss, wrap(err, "list snapshots")
}

// Snapshot returns one snapshot, or ErrNotFound.
func (w *Worker) Snapshot(ctx context.Context, id string) (Snapshot, error) {
	s, err := scanSnapshot(w.read.QueryRowContext(ctx, "SELECT app, snapshot FROM snapshots WHERE id = ?", id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return s, gondola.Errorf(gondola.ErrNotFound, "snapshot not found: there is none with id %q", id)
	}
	return s, wrap(err, "read snapshot %s", id)
}

// ForgetSnapshot drops the record of a snapshot.
func (w *Worker) ForgetSnapshot(ctx context.Context, id string) error {
	_, err := w.exec(ctx, "DELETE FROM snapshots WHERE id = ?", id)
	return wrap(err, "forget snapshot %s", id)
}
