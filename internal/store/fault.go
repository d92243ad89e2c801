package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	sqlite3 "modernc.org/sqlite/lib"

	"gondola"
	"gondola/internal/sqlite"
)

// fault gives an error that the disk has caused the name of the file and the way out; any other it returns as it is. No
// Machine needs the file to run on.
func (f *file) fault(err error) error {
	code, _ := sqlite.Code(err)
	switch code {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return gondola.Errorf(gondola.ErrUnavailable, "database %s cannot be read (%w): its disk gives errors, or it is damaged; the next `gondola up` "+
			"tells which, and machines run on meanwhile", f.path, err)
	case sqlite3.SQLITE_IOERR:
		return gondola.Errorf(gondola.ErrUnavailable, "the disk under %s gives errors (%w): see the kernel's log (dmesg) and put it right; "+
			"machines run on meanwhile", f.path, err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return gondola.Errorf(gondola.ErrUnavailable, "%s cannot be written (%w): see why its file system is read-only (dmesg, mount) and put it right; "+
			"machines run on meanwhile", f.path, err)
	}
	return err
}

// damaged is the error of a file whose content cannot be what SQLite wrote.
func damaged(path string, why error) error {
	return gondola.Errorf(gondola.ErrUnavailable, "database %s is damaged (%w): its machines run on, and nothing of them is lost before `gondola restore` "+
		"brings back a backup; docs/faults.md has the command", filepath.Clean(path), why)
}

// Sound says whether the SQLite database at path, of another program in this process, can be used: nil too if there is none. It must not be
// in use yet.
func Sound(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	db, err := sqlite.Open((&url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {"rw"}}.Encode()}).String())
	if err != nil {
		return fmt.Errorf("check database %s: %w", path, err)
	}
	defer db.Close()
	return (&file{path: path, write: db}).check(ctx)
}

// check looks whether the file is sound, indexes aside: a tenth of a second for the records of 20,000 Machines.
func (f *file) check(ctx context.Context) error {
	var first string
	if err := f.write.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&first); err != nil {
		if code, _ := sqlite.Code(err); code == sqlite3.SQLITE_CORRUPT || code == sqlite3.SQLITE_NOTADB {
			return damaged(f.path, err)
		}
		return f.fault(err)
	}
	if first != "ok" {
		return damaged(f.path, errors.New(first))
	}
	return nil
}
