// Package store keeps what must survive in SQLite files: a worker's Machines (Worker) and a server's Apps and index (Server). All SQL of
// Gondola and all migrations are here. A write that returned without an error survives a power cut: the files run in WAL mode with
// synchronous=FULL. The package decides nothing about Machines; it keeps what it is given, each change in one transaction.
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"gondola"
	"gondola/internal/sqlite"
)

// file is one SQLite database: writes go through one connection, so that they queue in Go and never meet SQLITE_BUSY, reads through several.
type file struct {
	path        string
	write, read *sql.DB
}

// openFile opens or makes the database, readable by its owner only, and brings its schema up to date with migrations, of which number n
// leads from version n to n+1.
func openFile(path string, migrations []string) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	made, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // SQLite would make it 0644
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	made.Close()
	query := url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)",
		"foreign_keys(ON)", "secure_delete(ON)"}}
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}).String()
	f := &file{path: path}
	if f.write, err = sqlite.Open(dsn); err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	f.write.SetMaxOpenConns(1)
	if f.read, err = sqlite.Open(dsn); err != nil {
		f.write.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	f.read.SetMaxOpenConns(4)
	if err = f.check(context.Background()); err == nil {
		err = f.migrate(migrations)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return f, nil
}

// migrate runs the migrations that the file has not seen, each in a transaction of its own.
func (f *file) migrate(migrations []string) error {
	var version int
	if err := f.write.QueryRow("PRAGMA user_version").Scan(&version); err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version > len(migrations) {
		return gondola.Errorf(gondola.ErrUnsupported, "its schema has version %d, this gondola knows up to %d: install the newer gondola that wrote it",
			version, len(migrations))
	}
	for n := version; n < len(migrations); n++ {
		err := f.change(context.Background(), func(tx *sql.Tx) error {
			if _, err := tx.Exec(migrations[n]); err != nil {
				return err
			}
			_, err := tx.Exec(fmt.Sprintf("PRAGMA user_version = %d", n+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("migrate schema to version %d: %w", n+1, err)
		}
	}
	return nil
}

// change runs f in one transaction: all of it holds, or nothing does.
func (f *file) change(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := f.write.BeginTx(ctx, nil)
	if err != nil {
		return f.fault(err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return f.fault(takenBack(ctx, err))
	}
	return f.fault(takenBack(ctx, tx.Commit()))
}

// takenBack gives the reason why a transaction is over before its time: database/sql takes it back when its context ends, and says of what comes then
// only, in several words, that it is too late.
func takenBack(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil || errors.As(err, new(*gondola.Error)) {
		return err
	}
	return ctx.Err()
}

// snapshot runs reads that see one moment.
func (f *file) snapshot(ctx context.Context, do func(tx *sql.Tx) error) error {
	tx, err := f.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return f.fault(err)
	}
	defer tx.Rollback()
	return f.fault(takenBack(ctx, do(tx)))
}

// exec runs one statement that changes something.
func (f *file) exec(ctx context.Context, query string, args ...any) (sql.Result, error) {
	res, err := f.write.ExecContext(ctx, query, args...)
	return res, f.fault(err)
}

// Close lets go of the file. What was written stays.
func (f *file) Close() error { return errors.Join(f.read.Close(), f.write.Close()) }

// collect reads all rows of a query with scan.
func collect[T any](rows *sql.Rows, err error, scan func(scan func(...any) error) (T, error)) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		v, err := scan(rows.Scan)
		if err != nil {
			if ended := rows.Err(); ended != nil { // by the context, under our hands
				return nil, ended
			}
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}

// Setting returns the value of a key, and whether it has one.
func (f *file) Setting(ctx context.Context, key string) (string, bool, error) {
	var v string
	err := f.read.QueryRowContext(ctx, "SELECT value FROM settings WHERE key = ?", key).Scan(&v)
	if errors.Is(err, sql.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("read setting %s: %w", key, err)
	}
	return v, true, nil
}

// SetSetting sets the value of a key.
func (f *file) SetSetting(ctx context.Context, key, value string) error {
	_, err := f.exec(ctx, "INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", key, value)
	if err != nil {
		return fmt.Errorf("write setting %s: %w", key, err)
	}
	return nil
}
