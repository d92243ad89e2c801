package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"gondola"
)

// Member is a worker that has joined.
type Member struct {
	Name     gondola.WorkerName
	Region   gondola.Region
	Number   uint16 // from 1; the worker's range of addresses follows from it, so it never changes
	JoinedAt time.Time
}

const selectMembers = "SELECT name, region, number, joined_at FROM workers"

func scanMember(scan func(...any) error) (Member, error) {
	var m Member
	var joined int64
	err := scan(&m.Name, &m.Region, &m.Number, &joined)
	m.JoinedAt = time.UnixMilli(joined).UTC()
	return m, err
}

// Join records a worker and gives it the lowest number that no worker has; one that joined before keeps its number. Its region may change.
func (s *Server) Join(ctx context.Context, name gondola.WorkerName, region gondola.Region) (Member, error) {
	var m Member
	err := s.change(ctx, func(tx *sql.Tx) error {
		var number int
		err := tx.QueryRow(`SELECT coalesce((SELECT number FROM workers WHERE name = ?1),
			(SELECT min(n) FROM (SELECT 1 AS n UNION ALL SELECT number + 1 FROM workers) WHERE n NOT IN (SELECT number FROM workers)))`, name).Scan(&number)
		if err != nil {
			return err
		}
		if number > 65535 {
			return gondola.Errorf(gondola.ErrCapacity, "worker %s cannot join: all 65535 worker numbers are taken", name)
		}
		_, err = tx.Exec("INSERT INTO workers (name, region, number, joined_at) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET region = excluded.region",
			name, region, number, time.Now().UnixMilli())
		if err != nil {
			return err
		}
		m, err = scanMember(tx.QueryRow(selectMembers+" WHERE name = ?", name).Scan)
		return err
	})
	return m, wrap(err, "join worker %s", name)
}

// Members returns the workers that have joined, by number.
func (s *Server) Members(ctx context.Context) ([]Member, error) {
	rows, err := s.read.QueryContext(ctx, selectMembers+" ORDER BY number")
	ms, err := collect(rows, err, scanMember)
	return ms, wrap(err, "list workers")
}

// Member returns one worker, or ErrNotFound.
func (s *Server) Member(ctx context.Context, name gondola.WorkerName) (Member, error) {
	m, err := scanMember(s.read.QueryRowContext(ctx, selectMembers+" WHERE name = ?", name).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return Member{}, gondola.Errorf(gondola.ErrNotFound, "worker %q has not joined", name)
	}
	return m, wrap(err, "read worker %s", name)
}
