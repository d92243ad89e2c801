package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"gondola/internal/sqlite"
)

// open makes a database with a table of names.
func open(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sqlite.Open((&url.URL{Scheme: "file", Path: filepath.Join(t.TempDir(), "test.db"),
		RawQuery: url.Values{"_pragma": {"busy_timeout(10000)", "journal_mode(WAL)"}}.Encode()}).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	if _, err := db.Exec("CREATE TABLE names (id INTEGER PRIMARY KEY, name BLOB UNIQUE); CREATE INDEX by_name ON names (name)"); err != nil {
		t.Fatal(err)
	}
	return db
}

func add(ctx context.Context, db interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, name string) error {
	_, err := db.ExecContext(ctx, "INSERT INTO names (name) VALUES (?)", []byte(name))
	return err
}

func count(t *testing.T, db interface {
	QueryRow(string, ...any) *sql.Row
}, name string) (n int) {
	t.Helper()
	if err := db.QueryRow("SELECT count(*) FROM names WHERE name = ?", []byte(name)).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// A statement does what it says however often it is run, also after it failed, was given up half way, or the schema changed under it, and whether or not
// it is still kept.
func TestOpen_StatementsRunAgain(t *testing.T) {
	db := open(t)
	db.SetMaxOpenConns(1) // all on the connection that keeps them
	for n := range 300 {
		if err := add(t.Context(), db, fmt.Sprint(n)); err != nil {
			t.Fatal(err)
		}
	}
	if code, ok := sqlite.Code(add(t.Context(), db, "7")); !ok || code != sqlite3.SQLITE_CONSTRAINT {
		t.Errorf("the name of another: code %d, %v", code, ok)
	}
	rows, err := db.Query("SELECT name FROM names ORDER BY id LIMIT ?", 300)
	if err != nil {
		t.Fatal(err)
	}
	rows.Next()
	rows.Close()
	if _, err := db.Exec("ALTER TABLE names ADD COLUMN born INTEGER"); err != nil {
		t.Fatal(err)
	}
	if err := add(t.Context(), db, "late"); err != nil {
		t.Errorf("after all that: %v", err)
	}
	for n := range 200 {
		var got int
		if err := db.QueryRow(fmt.Sprintf("SELECT count(*) FROM (SELECT id FROM names LIMIT %d)", n)).Scan(&got); err != nil || got != n {
			t.Fatalf("a list of %d = %d, %v", n, got, err)
		}
	}
	if count(t, db, "7") != 1 || count(t, db, "late") != 1 || count(t, db, "none") != 0 {
		t.Error("a name is not there once")
	}
}

// What its caller gives up is an error and done no further, and the next caller finds the connection as it was.
func TestOpen_GivenUp(t *testing.T) {
	db := open(t)
	db.SetMaxOpenConns(1)
	const endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) INSERT INTO names (name) SELECT i FROM n WHERE i < ?"
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := db.ExecContext(ctx, endless, 1<<40); err == nil {
			t.Error("an endless statement ended well")
		}
		cancel()
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if tx, err := db.BeginTx(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("BeginTx = %v, %v", tx, err)
	}
	if err := add(t.Context(), db, "next"); err != nil {
		t.Error(err)
	}
	var all int
	if err := db.QueryRow("SELECT count(*) FROM names").Scan(&all); err != nil || all != 1 {
		t.Errorf("%d names, %v, want that of the next alone", all, err)
	}
}

// Transactions that read before they write wait for one another, and none is refused.
func TestOpen_WritersWait(t *testing.T) {
	db := open(t)
	if err := add(t.Context(), db, "0"); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 10 {
				tx, err := db.BeginTx(t.Context(), nil)
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := errors.Join(tx.QueryRow("SELECT count(*) FROM names").Scan(&n), add(t.Context(), tx, fmt.Sprint(n)), tx.Commit()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	var n int
	if err := db.QueryRow("SELECT count(*) FROM names").Scan(&n); err != nil || n != 81 {
		t.Errorf("%d names, %v, want 81", n, err)
	}
}

// One that only reads sees one moment, and neither waits for a writer nor holds one up.
func TestOpen_ReadersSeeOneMoment(t *testing.T) {
	db := open(t)
	writer, err := db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Rollback()
	if err := add(t.Context(), writer, "new"); err != nil {
		t.Fatal(err)
	}
	reader, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatalf("while another writes: %v", err)
	}
	defer reader.Rollback()
	before := count(t, reader, "new")
	if err := writer.Commit(); err != nil {
		t.Fatal(err)
	}
	if after := count(t, reader, "new"); before != 0 || after != 0 {
		t.Errorf("the reader sees %d names, then %d, want none", before, after)
	}
	if n := count(t, db, "new"); n != 1 {
		t.Errorf("%d names are there, want 1", n)
	}
}

func TestCode_OfOthersErrors(t *testing.T) {
	if code, ok := sqlite.Code(errors.New("disk full")); ok {
		t.Errorf("Code = %d", code)
	}
}
