package store

import (
	"context"
	"fmt"
	"net/url"

	"gondola/internal/sqlite"
)

// Copy writes a consistent copy of any SQLite database to another file, which must not exist, as of one moment and whoever writes to it
// meanwhile. Nothing of the original changes.
func Copy(ctx context.Context, from, to string) error {
	dsn := (&url.URL{Scheme: "file", Path: from, RawQuery: url.Values{"_pragma": {"busy_timeout(10000)"}}.Encode()}).String()
	db, err := sqlite.Open(dsn)
	if err != nil {
		return fmt.Errorf("copy database %s: %w", from, err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "VACUUM INTO ?", to); err != nil {
		return fmt.Errorf("copy database %s: %w", from, err)
	}
	return nil
}

// Check reads a whole SQLite database and says whether it is sound; the error tells the first thing that is not.
func Check(ctx context.Context, path string) error {
	db, err := sqlite.Open((&url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"mode": {"ro"}}.Encode()}).String())
	if err != nil {
		return fmt.Errorf("check database %s: %w", path, err)
	}
	defer db.Close()
	var first string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&first); err != nil {
		return fmt.Errorf("check database %s: %w", path, err)
	}
	if first != "ok" {
		return fmt.Errorf("database %s is damaged: %s", path, first)
	}
	return nil
}
