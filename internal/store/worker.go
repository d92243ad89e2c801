package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"gondola"
)

// Worker is a worker's file: its Machines with their versions, events and sealed payloads, and settings. It is the only record of them.
// Methods may be called at the same time, those for one Machine by its owner only.
type Worker struct {
	*file
	boots uint64
}

// maxEvents is how many events of a Machine are kept.
const maxEvents = 100

var workerMigrations = []string{`
CREATE TABLE machines (
	id           TEXT PRIMARY KEY,
	app          TEXT NOT NULL,
	name         TEXT NOT NULL,
	number       INTEGER UNIQUE CHECK (number BETWEEN 1 AND 4094), -- NULL once destroyed: free for another
	network      TEXT NOT NULL,
	network_id   INTEGER NOT NULL,
	state        TEXT NOT NULL,
	version      TEXT NOT NULL,
	config       TEXT NOT NULL,
	target       TEXT NOT NULL,
	step         TEXT NOT NULL,
	cpu_millis   INTEGER NOT NULL, -- allocated now
	memory_bytes INTEGER NOT NULL,
	reason       TEXT NOT NULL,
	message      TEXT NOT NULL,
	detail       TEXT NOT NULL,
	created_at   INTEGER NOT NULL, -- nanoseconds since 1970, as all times here
	updated_at   INTEGER NOT NULL,
	destroyed_at INTEGER
);
CREATE UNIQUE INDEX machines_by_name ON machines (app, name) WHERE destroyed_at IS NULL;
CREATE INDEX machines_by_destruction ON machines (destroyed_at) WHERE destroyed_at IS NOT NULL;
CREATE TABLE versions (
	machine    TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
	version    TEXT NOT NULL,
	config     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	PRIMARY KEY (machine, version)
) WITHOUT ROWID;
CREATE TABLE events (
	machine TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
	id      TEXT NOT NULL, -- grows within a Machine
	event   TEXT NOT NULL,
	PRIMARY KEY (machine, id)
) WITHOUT ROWID;
CREATE TABLE payloads (
	machine TEXT PRIMARY KEY REFERENCES machines (id) ON DELETE CASCADE,
	sealed  BLOB NOT NULL
);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
`, volumeMigration}

// Machine is the record of one Machine: what it is and what should become of it. What happened in it is in its pilot's journal.
type Machine struct {
	ID        gondola.MachineID
	App       gondola.AppName
	Name      string
	Number    uint16 // within the worker, 1 to 4094; zero once destroyed
	Network   string
	NetworkID uint32
	State     gondola.State
	Version   gondola.Version
	Config    *gondola.Config // of that Version; never changed in place
	Target    gondola.State   // what it should come to: Created, Started, Stopped or Destroyed
	Step      string          // the operation begun, so that it can be resumed; the worker's words
	Allocated gondola.Resources
	Reason    string // CamelCase, why it is in this State
	Message   string
	Detail    json.RawMessage // what else the worker wants to find again

	CreatedAt, UpdatedAt time.Time
	DestroyedAt          time.Time // zero while it is there
}

// OpenWorker opens or makes a worker's file and counts the opening. A file of a newer gondola is refused with gondola.ErrUnsupported.
func OpenWorker(path string) (*Worker, error) {
	f, err := openFile(path, workerMigrations)
	if err != nil {
		return nil, err
	}
	w := &Worker{file: f}
	last, _, err := w.Setting(context.Background(), "boots")
	if err == nil {
		n, _ := strconv.ParseUint(last, 10, 64)
		w.boots = n + 1
		err = w.SetSetting(context.Background(), "boots", strconv.FormatUint(w.boots, 10))
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return w, nil
}

// Boots says how often the file has been opened, this time included: numbers that begin with it grow over restarts.
func (w *Worker) Boots() uint64 { return w.boots }

// Create records a new Machine with its first Version, its allocation, its sealed payload (if any) and events, all or nothing. The name, the
// id and the number must be free: ErrNameTaken.
func (w *Worker) Create(ctx context.Context, m Machine, sealed []byte, events ...gondola.Event) error {
	err := w.change(ctx, func(tx *sql.Tx) error {
		res, err := tx.Exec(`INSERT INTO machines (id, app, name, number, network, network_id, state, version, config, target, step, cpu_millis,
			memory_bytes, reason, message, detail, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, '', '', '', '', '', 0, 0, '', '', '', ?, 0)
			ON CONFLICT DO NOTHING`, m.ID, m.App, m.Name, m.Number, m.Network, m.NetworkID, m.CreatedAt.UnixNano())
		if err != nil {
			return err
		}
		if n, _ := res.RowsAffected(); n == 0 {
			return gondola.Errorf(gondola.ErrNameTaken, "machine %s (name %s, number %d): name, id or number has already been taken", m.ID, m.Name, m.Number)
		}
		if sealed != nil {
			if _, err := tx.Exec("INSERT INTO payloads (machine, sealed) VALUES (?, ?)", m.ID, sealed); err != nil {
				return err
			}
		}
		return save(tx, m, events)
	})
	return wrap(err, "record machine %s", m.ID)
}

// Save records what changed of a Machine, with the events that tell it, all or nothing. A Version that is new is kept among its versions; with
// DestroyedAt set its number, name and payload are given up.
func (w *Worker) Save(ctx context.Context, m Machine, events ...gondola.Event) error {
	err := w.change(ctx, func(tx *sql.Tx) error { return save(tx, m, events) })
	return wrap(err, "record machine %s", m.ID)
}

// SaveWithPayload is Save with a new sealed payload; nil leaves none.
func (w *Worker) SaveWithPayload(ctx context.Context, m Machine, sealed []byte, events ...gondola.Event) error {
	err := w.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM payloads WHERE machine = ?", m.ID); err != nil {
			return err
		}
		if sealed != nil {
			if _, err := tx.Exec("INSERT INTO payloads (machine, sealed) VALUES (?, ?)", m.ID, sealed); err != nil {
				return err
			}
		}
		return save(tx, m, events)
	})
	return wrap(err, "record machine %s", m.ID)
}

func save(tx *sql.Tx, m Machine, events []gondola.Event) error {
	config, err := json.Marshal(m.Config)
	if err != nil {
		return err
	}
	var destroyed sql.NullInt64
	number := sql.NullInt64{Int64: int64(m.Number), Valid: m.Number != 0}
	if !m.DestroyedAt.IsZero() {
		destroyed = sql.NullInt64{Int64: m.DestroyedAt.UnixNano(), Valid: true}
		number = sql.NullInt64{}
		if _, err := tx.Exec("DELETE FROM payloads WHERE machine = ?", m.ID); err != nil {
			return err
		}
	}
	_, err = tx.Exec(`UPDATE machines SET number = ?, state = ?, version = ?, config = ?, target = ?, step = ?, cpu_millis = ?, memory_bytes = ?,
		reason = ?, message = ?, detail = ?, updated_at = ?, destroyed_at = ? WHERE id = ?`,
		number, m.State, m.Version, string(config), m.Target, m.Step, m.Allocated.CPUMillis, m.Allocated.MemoryBytes,
		m.Reason, m.Message, string(m.Detail), m.UpdatedAt.UnixNano(), destroyed, m.ID)
	if err != nil {
		return err
	}
	_, err = tx.Exec("INSERT INTO versions (machine, version, config, created_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
		m.ID, m.Version, string(config), m.UpdatedAt.UnixNano())
	if err != nil {
		return err
	}
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := tx.Exec("INSERT INTO events (machine, id, event) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", m.ID, e.ID, string(b)); err != nil {
			return err
		}
	}
	if len(events) == 0 {
		return nil
	}
	_, err = tx.Exec(`DELETE FROM events WHERE machine = ?1 AND id <=
		(SELECT id FROM events WHERE machine = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)`, m.ID, maxEvents)
	return err
}

const selectMachines = `SELECT id, app, name, coalesce(number, 0), network, network_id, state, version, config, target, step, cpu_millis,
	memory_bytes, reason, message, detail, created_at, updated_at, destroyed_at FROM machines`

func scanMachine(scan func(...any) error) (Machine, error) {
	var m Machine
	var config, detail string
	var created, updated int64
	var destroyed sql.NullInt64
	err := scan(&m.ID, &m.App, &m.Name, &m.Number, &m.Network, &m.NetworkID, &m.State, &m.Version, &config, &m.Target, &m.Step,
		&m.Allocated.CPUMillis, &m.Allocated.MemoryBytes, &m.Reason, &m.Message, &detail, &created, &updated, &destroyed)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal([]byte(config), &m.Config); err != nil {
		return m, fmt.Errorf("config of machine %s: %w", m.ID, err)
	}
	m.Detail = json.RawMessage(detail)
	m.CreatedAt, m.UpdatedAt = time.Unix(0, created).UTC(), time.Unix(0, updated).UTC()
	if destroyed.Valid {
		m.DestroyedAt = time.Unix(0, destroyed.Int64).UTC()
	}
	return m, nil
}

// Machines returns the Machines that are not destroyed, oldest first.
func (w *Worker) Machines(ctx context.Context) ([]Machine, error) {
	rows, err := w.read.QueryContext(ctx, selectMachines+" WHERE destroyed_at IS NULL ORDER BY created_at, id")
	ms, err := collect(rows, err, scanMachine)
	return ms, wrap(err, "list machines")
}

// Destroyed returns the destroyed Machines that are still on record, of one App or of all where app is empty, oldest first.
func (w *Worker) Destroyed(ctx context.Context, app gondola.AppName) ([]Machine, error) {
	rows, err := w.read.QueryContext(ctx, selectMachines+" WHERE destroyed_at IS NOT NULL AND (? = '' OR app = ?) ORDER BY created_at, id", app, app)
	ms, err := collect(rows, err, scanMachine)
	return ms, wrap(err, "list destroyed machines")
}

// Machine returns one Machine, destroyed or not, or ErrNotFound.
func (w *Worker) Machine(ctx context.Context, id gondola.MachineID) (Machine, error) {
	m, err := scanMachine(w.read.QueryRowContext(ctx, selectMachines+" WHERE id = ?", id).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Machine{}, machineNotFound(id)
	}
	return m, wrap(err, "read machine %s", id)
}

// HasVersion says whether a Machine has, or once had, a Version.
func (w *Worker) HasVersion(ctx context.Context, id gondola.MachineID, v gondola.Version) (bool, error) {
	var has bool
	err := w.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM versions WHERE machine = ? AND version = ?)", id, v).Scan(&has)
	return has, wrap(err, "read versions of machine %s", id)
}

// Versions returns the Versions of a Machine, newest first.
func (w *Worker) Versions(ctx context.Context, id gondola.MachineID) ([]gondola.MachineVersion, error) {
	rows, err := w.read.QueryContext(ctx, "SELECT version, config FROM versions WHERE machine = ? ORDER BY version DESC", id)
	vs, err := collect(rows, err, func(scan func(...any) error) (v gondola.MachineVersion, err error) {
		var config []byte
		if err := scan(&v.Version, &config); err != nil {
			return v, err
		}
		return v, json.Unmarshal(config, &v.Config)
	})
	return vs, wrap(err, "read versions of machine %s", id)
}

// Events returns the newest events of a Machine, newest first, at most limit; zero means all that are kept.
func (w *Worker) Events(ctx context.Context, id gondola.MachineID, limit int) ([]gondola.Event, error) {
	if limit <= 0 {
		limit = maxEvents
	}
	rows, err := w.read.QueryContext(ctx, "SELECT event FROM events WHERE machine = ? ORDER BY id DESC LIMIT ?", id, limit)
	es, err := collect(rows, err, func(scan func(...any) error) (e gondola.Event, err error) {
		var b []byte
		if err := scan(&b); err != nil {
			return e, err
		}
		return e, json.Unmarshal(b, &e)
	})
	return es, wrap(err, "read events of machine %s", id)
}

// Sealed returns the sealed payload of a Machine, nil if it has none.
func (w *Worker) Sealed(ctx context.Context, id gondola.MachineID) ([]byte, error) {
	var b []byte
	err := w.read.QueryRowContext(ctx, "SELECT sealed FROM payloads WHERE machine = ?", id).Scan(&b)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return b, wrap(err, "read payload of machine %s", id)
}

// Collect forgets the Machines that were destroyed before a moment, and of the others all but the newest keep, and says how many.
func (w *Worker) Collect(ctx context.Context, before time.Time, keep int) (int, error) {
	res, err := w.exec(ctx, `DELETE FROM machines WHERE destroyed_at IS NOT NULL AND (destroyed_at < ?1 OR destroyed_at <=
		(SELECT destroyed_at FROM machines WHERE destroyed_at IS NOT NULL ORDER BY destroyed_at DESC LIMIT 1 OFFSET ?2))`, before.UnixNano(), keep)
	if err != nil {
		return 0, wrap(err, "collect destroyed machines")
	}
	n, err := res.RowsAffected()
	return int(n), err
}
