package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gondola"
)

// Entry is a row of the index: which worker has a Machine. It is no truth about the Machine; the worker decides what exists.
type Entry struct {
	App       gondola.AppName
	Name      string
	ID        gondola.MachineID
	Worker    gondola.WorkerName
	CreatedAt time.Time
	RemovedAt time.Time // zero while the Machine is there
}

// keepRemoved is how long a removed Entry can still be looked up by its id, as long as its worker keeps a destroyed Machine on record.
const keepRemoved = 48 * time.Hour

const selectEntries = "SELECT app, name, id, worker, created_at, removed_at FROM machines"

func scanEntry(scan func(...any) error) (Entry, error) {
	var e Entry
	var created int64
	var removed sql.NullInt64
	if err := scan(&e.App, &e.Name, &e.ID, &e.Worker, &created, &removed); err != nil {
		return e, err
	}
	e.CreatedAt = time.UnixMilli(created).UTC()
	if removed.Valid {
		e.RemovedAt = time.UnixMilli(removed.Int64).UTC()
	}
	return e, nil
}

// Reserve writes the row of a Machine that is about to be created at a worker, and reports true. Where the App has a Machine of this name, or
// the id is taken, it changes nothing and returns the row that is there and false: a create by the same name then goes to that worker with
// that id, and the worker tells whether it is the same Machine. ErrNotFound if there is no such App.
func (s *Server) Reserve(ctx context.Context, app gondola.AppName, name string, id gondola.MachineID, worker gondola.WorkerName) (Entry, bool, error) {
	var e Entry
	reserved := false
	err := s.change(ctx, func(tx *sql.Tx) error {
		var known bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM apps WHERE name = ?)", app).Scan(&known); err != nil {
			return err
		}
		if !known {
			return appNotFound(app)
		}
		res, err := tx.Exec("INSERT INTO machines (id, app, name, worker, created_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			id, app, name, worker, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		n, _ := res.RowsAffected()
		reserved = n == 1
		e, err = scanEntry(tx.QueryRow(selectEntries+" WHERE id = ? OR (app = ? AND name = ? AND removed_at IS NULL) ORDER BY removed_at IS NOT NULL LIMIT 1",
			id, app, name).Scan)
		return err
	})
	if err != nil {
		return Entry{}, false, wrap(err, "reserve machine %s in app %s", name, app)
	}
	return e, reserved, nil
}

// Move says that a Machine is about to be at another worker than the one that has refused it: after a definite refusal, never after an unanswered
// create. It reports false, and changes nothing, where somebody else has moved or removed it since.
func (s *Server) Move(ctx context.Context, id gondola.MachineID, from, to gondola.WorkerName) (bool, error) {
	res, err := s.exec(ctx, "UPDATE machines SET worker = ? WHERE id = ? AND worker = ? AND removed_at IS NULL", to, id, from)
	if err != nil {
		return false, wrap(err, "move machine %s in the index", id)
	}
	n, _ := res.RowsAffected()
	return n == 1, nil
}

// Lookup returns the row of a Machine, also of one removed in the last 48 hours, unless that was of an earlier App of the name. An empty app means
// any. ErrNotFound otherwise.
func (s *Server) Lookup(ctx context.Context, app gondola.AppName, id gondola.MachineID) (Entry, error) {
	e, err := scanEntry(s.read.QueryRowContext(ctx, selectEntries+" WHERE id = ? AND (? = '' OR app = ?) AND "+ofThisApp("machines"), id, app, app).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Entry{}, machineNotFound(id)
	}
	return e, wrap(err, "look up machine %s", id)
}

// LookupName returns the row of the Machine that has this name in an App now, or ErrNotFound.
func (s *Server) LookupName(ctx context.Context, app gondola.AppName, name string) (Entry, error) {
	e, err := scanEntry(s.read.QueryRowContext(ctx, selectEntries+" WHERE app = ? AND name = ? AND removed_at IS NULL", app, name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Entry{}, gondola.Errorf(gondola.ErrNotFound, "machine not found: app %s has none named %q", app, name)
	}
	return e, wrap(err, "look up machine %s of app %s", name, app)
}

// Remove frees a Machine's name: it is destroyed, or every worker has refused it. Its id can be looked up for 48 hours more. Removing twice,
// or what is unknown, is no error.
func (s *Server) Remove(ctx context.Context, id gondola.MachineID) error {
	now := time.Now()
	err := s.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("UPDATE machines SET removed_at = ? WHERE id = ? AND removed_at IS NULL", now.UnixMilli(), id); err != nil {
			return err
		}
		_, err := tx.Exec("DELETE FROM machines WHERE removed_at < ?", now.Add(-keepRemoved).UnixMilli())
		return err
	})
	return wrap(err, "remove machine %s from the index", id)
}

// Forget drops a row at once: of a Machine that never came to be, because every worker refused it, this one last. One that leads elsewhere stays.
func (s *Server) Forget(ctx context.Context, id gondola.MachineID, worker gondola.WorkerName) error {
	_, err := s.exec(ctx, "DELETE FROM machines WHERE id = ? AND worker = ?", id, worker)
	return wrap(err, "forget machine %s in the index", id)
}

// ByApp returns the rows of an App's Machines, oldest first, of all Apps where app is empty; with removed also those of the last 48 hours.
func (s *Server) ByApp(ctx context.Context, app gondola.AppName, removed bool) ([]Entry, error) {
	where, args := rowsOf(app, removed)
	rows, err := s.read.QueryContext(ctx, selectEntries+where+" ORDER BY created_at, id", args...)
	es, err := collect(rows, err, scanEntry)
	return es, wrap(err, "list machines of app %s in the index", app)
}

// WorkersOf returns the workers of the rows that ByApp returns.
func (s *Server) WorkersOf(ctx context.Context, app gondola.AppName, removed bool) ([]gondola.WorkerName, error) {
	where, args := rowsOf(app, removed)
	rows, err := s.read.QueryContext(ctx, "SELECT DISTINCT worker FROM machines"+where, args...)
	names, err := collect(rows, err, func(scan func(...any) error) (name gondola.WorkerName, err error) { return name, scan(&name) })
	return names, wrap(err, "list workers of app %s in the index", app)
}

// rowsOf is the condition for the rows of an App's Machines. It has only what is asked for: SQLite uses no index where a condition may not hold.
func rowsOf(app gondola.AppName, removed bool) (where string, args []any) {
	where = " WHERE TRUE"
	if app != "" {
		where, args = where+" AND app = ?", append(args, app)
	}
	if !removed {
		where += " AND removed_at IS NULL"
	} else {
		where += " AND " + ofThisApp("machines")
	}
	return where, args
}

// ofThisApp is the condition that a removed row of the table is of the App that has the name now, or of one that is gone: whoever takes a name must
// not see what another had by it.
func ofThisApp(table string) string {
	return "(removed_at IS NULL OR created_at >= coalesce((SELECT a.created_at FROM apps a WHERE a.name = " + table + ".app), 0))"
}

// Rebuild makes the index agree with what a worker has: entries are all of its Machines. Rows of that worker which are not among them are
// removed, unless they were written after asOf, the moment before the worker was asked: their create is under way. A row that another Machine
// of the same name holds is left alone.
func (s *Server) Rebuild(ctx context.Context, worker gondola.WorkerName, entries []Entry, asOf time.Time) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		have := map[gondola.MachineID]bool{}
		for _, e := range entries {
			have[e.ID] = true
			created := e.CreatedAt
			if created.IsZero() {
				created = time.Now()
			}
			_, err := tx.Exec(`INSERT INTO machines (id, app, name, worker, created_at) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET worker = excluded.worker WHERE removed_at IS NULL
				ON CONFLICT (app, name) WHERE removed_at IS NULL DO NOTHING`, e.ID, e.App, e.Name, worker, created.UnixMilli())
			if err != nil {
				return err
			}
		}
		rows, err := tx.Query("SELECT id FROM machines WHERE worker = ? AND removed_at IS NULL AND created_at < ?", worker, asOf.UnixMilli())
		ids, err := collect(rows, err, func(scan func(...any) error) (id gondola.MachineID, err error) { return id, scan(&id) })
		if err != nil {
			return err
		}
		for _, id := range ids {
			if have[id] {
				continue
			}
			if _, err := tx.Exec("UPDATE machines SET removed_at = ? WHERE id = ?", time.Now().UnixMilli(), id); err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "rebuild the index of worker %s", worker)
}

func machineNotFound(id gondola.MachineID) error {
	return gondola.Errorf(gondola.ErrNotFound, "machine not found: there is none with id %q", id)
}
