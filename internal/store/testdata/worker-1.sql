PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
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
INSERT INTO machines VALUES('4d7f7ad78a33f0','main-default','hello',1,'main',2,'started','01KARCH','{"image":"gondola.local/hello","init":{},"metadata":{"pod":"hello"}}','started','',100,67108864,'','','{}',1795320000000000000,1795320000000000000,NULL);
CREATE TABLE versions (
	machine    TEXT NOT NULL REFERENCES machines (id) ON DELETE CASCADE,
	version    TEXT NOT NULL,
	config     TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	PRIMARY KEY (machine, version)
) WITHOUT ROWID;
INSERT INTO versions VALUES('4d7f7ad78a33f0','01KARCH','{"image":"gondola.local/hello","init":{},"metadata":{"pod":"hello"}}',1795320000000000000);
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
INSERT INTO payloads VALUES('4d7f7ad78a33f0',X'7365616c6564');
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL);
INSERT INTO settings VALUES('boots','3');
CREATE UNIQUE INDEX machines_by_name ON machines (app, name) WHERE destroyed_at IS NULL;
CREATE INDEX machines_by_destruction ON machines (destroyed_at) WHERE destroyed_at IS NOT NULL;
COMMIT;
PRAGMA user_version = 1;
