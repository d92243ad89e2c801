package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"strings"
	"time"

	"gondola"
)

// Tokens themselves are in no file; a token's id is computed from it and does not lead back.
const tokenMigration = `
CREATE TABLE tokens (
	id         TEXT PRIMARY KEY,
	name       TEXT NOT NULL,
	chain      TEXT NOT NULL, -- ids of all that it was made from, and its own, each between blanks; empty where only its end is known
	caveats    TEXT NOT NULL,
	created_at INTEGER NOT NULL,
	expires_at INTEGER, -- null: never, or not known
	revoked_at INTEGER
);
CREATE INDEX tokens_by_revocation ON tokens (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX tokens_by_expiry ON tokens (expires_at) WHERE expires_at IS NOT NULL;
`

// keepEnded is how long a token that expired stays on record. What was made from it expired no later, so its revocation may go with it.
const keepEnded = 48 * time.Hour

// AddToken records a token that was made; chain names all that it was made from, the root first, itself last.
func (s *Server) AddToken(ctx context.Context, t gondola.Token, chain []gondola.TokenID) error {
	caveats, err := json.Marshal(t.Caveats)
	if err != nil {
		return err
	}
	ids := " "
	for _, id := range chain {
		ids += string(id) + " "
	}
	var expires *int64
	if !t.ExpiresAt.IsZero() {
		expires = new(t.ExpiresAt.UnixMilli())
	}
	err = s.change(ctx, func(tx *sql.Tx) error {
		if _, err := tx.Exec("DELETE FROM tokens WHERE expires_at < ?", time.Now().Add(-keepEnded).UnixMilli()); err != nil {
			return err
		}
		_, err := tx.Exec("INSERT INTO tokens (id, name, chain, caveats, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
			t.ID, t.Name, ids, string(caveats), t.CreatedAt.UnixMilli(), expires)
		return err
	})
	return wrap(err, "record token %s", t.ID)
}

func scanToken(scan func(...any) error) (t gondola.Token, err error) {
	var chain, caveats string
	var created int64
	var expires, revoked sql.NullInt64
	if err := scan(&t.ID, &t.Name, &chain, &caveats, &created, &expires, &revoked); err != nil {
		return t, err
	}
	t.CreatedAt, t.ExpiresAt, t.RevokedAt = time.UnixMilli(created).UTC(), moment(expires), moment(revoked)
	if ids := strings.Fields(chain); len(ids) > 1 {
		t.Parent = gondola.TokenID(ids[len(ids)-2])
	}
	return t, json.Unmarshal([]byte(caveats), &t.Caveats)
}

func moment(ms sql.NullInt64) time.Time {
	if !ms.Valid {
		return time.Time{}
	}
	return time.UnixMilli(ms.Int64).UTC()
}

// TokensOf returns the tokens on record that were made from the one with an id, of whatever generation, oldest first.
func (s *Server) TokensOf(ctx context.Context, id gondola.TokenID) ([]gondola.Token, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, name, chain, caveats, created_at, expires_at, revoked_at FROM tokens
		WHERE instr(chain, ' ' || ?1 || ' ') > 0 AND id <> ?1 ORDER BY created_at, id`, id)
	all, err := collect(rows, err, scanToken)
	return all, wrap(err, "list tokens")
}

// RevokeToken records that a token ended, be it on record or not. The first time counts.
func (s *Server) RevokeToken(ctx context.Context, id gondola.TokenID, at time.Time) error {
	_, err := s.exec(ctx, `INSERT INTO tokens (id, name, chain, caveats, created_at, revoked_at) VALUES (?1, '', '', '{}', ?2, ?2)
		ON CONFLICT (id) DO UPDATE SET revoked_at = coalesce(revoked_at, excluded.revoked_at)`, id, at.UnixMilli())
	return wrap(err, "revoke token %s", id)
}

// RevokedTokens returns the tokens that were revoked.
func (s *Server) RevokedTokens(ctx context.Context) ([]gondola.TokenID, error) {
	rows, err := s.read.QueryContext(ctx, "SELECT id FROM tokens WHERE revoked_at IS NOT NULL ORDER BY id")
	ids, err := collect(rows, err, func(scan func(...any) error) (id gondola.TokenID, err error) { return id, scan(&id) })
	return ids, wrap(err, "list revoked tokens")
}
