PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE networks (
	id   INTEGER PRIMARY KEY AUTOINCREMENT, -- in 6PN addresses; never given again
	name TEXT NOT NULL UNIQUE
);
INSERT INTO networks VALUES(1,'main');
CREATE TABLE apps (
	name       TEXT PRIMARY KEY,
	id         TEXT NOT NULL UNIQUE,
	org        TEXT NOT NULL,
	network_id INTEGER NOT NULL REFERENCES networks (id),
	created_at INTEGER NOT NULL -- milliseconds since 1970, as everywhere
, secrets_version INTEGER NOT NULL DEFAULT 0);
INSERT INTO apps VALUES('main-default','e2552149c7c115','personal',1,1795320000000,1);
CREATE TABLE machines (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	name       TEXT NOT NULL,
	worker     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	removed_at INTEGER -- its name is free again; kept for a while so that it can still be asked for
);
INSERT INTO machines VALUES('4d7f7ad78a33f0','main-default','hello','bbb',1795320000000,NULL);
CREATE TABLE workers (
	name      TEXT PRIMARY KEY,
	region    TEXT NOT NULL,
	number    INTEGER NOT NULL UNIQUE CHECK (number BETWEEN 1 AND 65535),
	joined_at INTEGER NOT NULL
);
INSERT INTO workers VALUES('aaa','aaa',1,1795320000000);
INSERT INTO workers VALUES('bbb','bbb',2,1795320000000);
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE volumes ( -- and snapshots: an id begins with vol_ or vs_
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	worker     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	removed_at INTEGER
);
INSERT INTO volumes VALUES('vol_4q8p3m9x2k7wz1n5','main-default','bbb',1795320000000,NULL);
CREATE TABLE network_policies (
	id         TEXT PRIMARY KEY,
	app        TEXT NOT NULL,
	policy     TEXT NOT NULL,
	created_at INTEGER NOT NULL
);
INSERT INTO network_policies VALUES('np_01KBRZ7N2X4V8M0QF6T3YH5J9W','main-default','{"name":"web","selector":{"all":true},"rules":[]}',1795320000000);
INSERT INTO network_policies VALUES('np_01KBRZ7N2X4V8M0QF6T3YH5J9X','gone','{"name":"web","selector":{"all":true},"rules":[]}',1795320000000);
CREATE TABLE secrets (
	app        TEXT NOT NULL,
	name       TEXT NOT NULL,
	digest     TEXT NOT NULL,
	sealed     BLOB NOT NULL, -- with a key that is not in this file
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	PRIMARY KEY (app, name)
) WITHOUT ROWID;
INSERT INTO secrets VALUES('main-default','TOKEN','0123456789abcdef',X'7365616c6564',1795320000000,1795320000000);
CREATE TABLE tokens (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	chain      TEXT NOT NULL, -- ids of all that it was made from, and its own, each between blanks; empty where only its end is known
	caveats    TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER, -- null: never, or not known
	revoked_at INTEGER
);
INSERT INTO tokens VALUES('01KBRZ7N2X4V8M0QF6T3YH5J9W','ci',' 01KBRZ7N2X4V8M0QF6T3YH5J9W ','[]',1795320000000,NULL,NULL);
DELETE FROM sqlite_sequence;
INSERT INTO sqlite_sequence VALUES('networks',1);
CREATE UNIQUE INDEX machines_by_name ON machines (app, name) WHERE removed_at IS NULL;
CREATE INDEX machines_by_worker ON machines (worker);
CREATE INDEX machines_by_removal ON machines (removed_at) WHERE removed_at IS NOT NULL;
CREATE INDEX volumes_by_worker ON volumes (worker);
CREATE INDEX network_policies_by_app ON network_policies (app);
CREATE INDEX tokens_by_revocation ON tokens (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX tokens_by_expiry ON tokens (expires_at) WHERE expires_at IS NOT NULL;
COMMIT;
PRAGMA user_version = 4;
