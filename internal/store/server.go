package store

import "gondola"

// Server is a server's file: Apps and the networks they are in, sealed secrets, the index of Machines, the workers that joined,
// what is known of tokens, and settings. Methods may be
// called at the same time. It implements gondola.Apps.
type Server struct{ *file }

var _ gondola.Apps = (*Server)(nil)

var serverMigrations = []string{`
CREATE TABLE networks (
	id   INTEGER PRIMARY KEY AUTOINCREMENT, -- in 6PN addresses; never given again
	name TEXT NOT NULL UNIQUE
);
CREATE TABLE apps (
	name       TEXT PRIMARY KEY,
	id         TEXT NOT NULL UNIQUE,
	org        TEXT NOT NULL,
	network_id INTEGER NOT NULL REFERENCES networks (id),
	created_at INTEGER NOT NULL -- milliseconds since 1970, as everywhere
);
CREATE TABLE machines (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	name       TEXT NOT NULL,
	worker     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	removed_at INTEGER -- its name is free again; kept for a while so that it can still be asked for
);
CREATE UNIQUE INDEX machines_by_name ON machines (app, name) WHERE removed_at IS NULL;
CREATE INDEX machines_by_worker ON machines (worker);
CREATE INDEX machines_by_removal ON machines (removed_at) WHERE removed_at IS NOT NULL;
CREATE TABLE workers (
	name      TEXT PRIMARY KEY,
	region    TEXT NOT NULL,
	number    INTEGER NOT NULL UNIQUE CHECK (number BETWEEN 1 AND 65535),
	joined_at INTEGER NOT NULL
);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
`, volumeIndexMigration, networkPolicyMigration, secretMigration + tokenMigration, policedMigration}

// OpenServer opens or makes a server's file. A file of a newer gondola is refused with gondola.ErrUnsupported.
func OpenServer(path string) (*Server, error) {
	f, err := openFile(path, serverMigrations)
	if err != nil {
		return nil, err
	}
	return &Server{f}, nil
}
