package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gondola"
)

const secretMigration = `
CREATE TABLE secrets (
	app        TEXT NOT NULL,
	name       TEXT NOT NULL,
	digest     TEXT NOT NULL,
	sealed     BLOB NOT NULL, -- with a key that is not in this file
	created_at INTEGER NOT NULL,
	updated_at INTEGER NOT NULL,
	PRIMARY KEY (app, name)
) WITHOUT ROWID;
ALTER TABLE apps ADD COLUMN secrets_version INTEGER NOT NULL DEFAULT 0;
`

// Secret is a secret of an App as it rests.
type Secret struct {
	App                  gondola.AppName
	Name, Digest         string
	Sealed               []byte // nil in a change removes it
	CreatedAt, UpdatedAt time.Time
}

// ChangeSecrets sets secrets, removes those with nothing sealed, makes the App's version one higher and returns it, all or nothing. With most
// the App has no more secrets than that afterwards, or ErrInvalid. ErrNotFound if there is no such App.
func (s *Server) ChangeSecrets(ctx context.Context, app gondola.AppName, changes []Secret, most int) (version uint64, err error) {
	err = s.change(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow("UPDATE apps SET secrets_version = secrets_version + 1 WHERE name = ? RETURNING secrets_version", app).Scan(&version)
		if errors.Is(err, sql.ErrNoRows) {
			return appNotFound(app)
		}
		if err != nil {
			return err
		}
		for _, c := range changes {
			if c.Sealed == nil {
				_, err = tx.Exec("DELETE FROM secrets WHERE app = ? AND name = ?", app, c.Name)
			} else {
				_, err = tx.Exec(`INSERT INTO secrets (app, name, digest, sealed, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)
					ON CONFLICT (app, name) DO UPDATE SET digest = excluded.digest, sealed = excluded.sealed, updated_at = excluded.updated_at`,
					app, c.Name, c.Digest, c.Sealed, c.UpdatedAt.UnixMilli())
			}
			if err != nil {
				return err
			}
		}
		var n int
		if err := tx.QueryRow("SELECT count(*) FROM secrets WHERE app = ?", app).Scan(&n); err != nil {
			return err
		}
		if n > most {
			return gondola.Errorf(gondola.ErrInvalid, "app %s would have %d secrets; at most %d are allowed: remove some first", app, n, most)
		}
		return nil
	})
	return version, wrap(err, "record secrets of app %s", app)
}

// Secrets returns an App's secrets by name, and their version. ErrNotFound if there is no such App.
func (s *Server) Secrets(ctx context.Context, app gondola.AppName) (list []Secret, version uint64, err error) {
	err = s.snapshot(ctx, func(tx *sql.Tx) error {
		err := tx.QueryRow("SELECT secrets_version FROM apps WHERE name = ?", app).Scan(&version)
		if errors.Is(err, sql.ErrNoRows) {
			return appNotFound(app)
		}
		if err != nil || version == 0 {
			return err
		}
		rows, err := tx.Query("SELECT app, name, digest, sealed, created_at, updated_at FROM secrets WHERE app = ? ORDER BY name", app)
		list, err = collect(rows, err, scanSecret)
		return err
	})
	return list, version, wrap(err, "read secrets of app %s", app)
}

func scanSecret(scan func(...any) error) (s Secret, err error) {
	var created, updated int64
	err = scan(&s.App, &s.Name, &s.Digest, &s.Sealed, &created, &updated)
	s.CreatedAt, s.UpdatedAt = time.UnixMilli(created).UTC(), time.UnixMilli(updated).UTC()
	return s, err
}

// ResealSecrets replaces what is sealed, and the digest, of every secret by what reseal makes of it, all or nothing. It changes no version.
func (s *Server) ResealSecrets(ctx context.Context, reseal func(Secret) (Secret, error)) error {
	err := s.change(ctx, func(tx *sql.Tx) error {
		rows, err := tx.Query("SELECT app, name, digest, sealed, created_at, updated_at FROM secrets")
		all, err := collect(rows, err, scanSecret)
		if err != nil {
			return err
		}
		for _, old := range all {
			fresh, err := reseal(old)
			if err != nil {
				return err
			}
			_, err = tx.Exec("UPDATE secrets SET sealed = ?, digest = ? WHERE app = ? AND name = ?", fresh.Sealed, fresh.Digest, old.App, old.Name)
			if err != nil {
				return err
			}
		}
		return nil
	})
	return wrap(err, "seal secrets anew")
}

// AnySecret returns one of the secrets on record, ErrNotFound if there is none.
func (s *Server) AnySecret(ctx context.Context) (Secret, error) {
	secret, err := scanSecret(s.read.QueryRowContext(ctx, "SELECT app, name, digest, sealed, created_at, updated_at FROM secrets LIMIT 1").Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return secret, gondola.Errorf(gondola.ErrNotFound, "no app has secrets")
	}
	return secret, wrap(err, "read a secret")
}
