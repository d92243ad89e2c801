package datastore

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	"github.com/k3s-io/kine/pkg/ttl"
	"github.com/sirupsen/logrus"
)

// mostTogether is how many writes are committed together at most.
const mostTogether = 128

// dialect is kine's, except that rows are appended together with those that wait at the same time: one transaction, one sync of the disk.
type dialect struct {
	*generic.Generic
	writes chan *write
	newest atomic.Int64 // revision that was committed; zero: none was yet
}

// write is a row that is to be appended.
type write struct {
	ctx              context.Context
	key              string
	created, deleted bool
	previous, ttl    int64
	value            []byte

	done     chan struct{} // closes when revision or err is known
	revision int64         // 0: the key was not as it was expected to be
	err      error
}

// BeginTx begins a transaction. kine appends at one level of isolation, each row by itself, and compacts at another.
func (d *dialect) BeginTx(ctx context.Context, opts *sql.TxOptions) (server.Transaction, error) {
	if opts != nil && opts.Isolation == sql.LevelReadCommitted {
		return alone{d}, nil
	}
	tx, err := d.Generic.BeginTx(ctx, opts)
	if err != nil {
		return nil, err
	}
	return compaction{tx}, nil
}

// compaction is kine's transaction, except that what fails in it is an error: kine ends the process where a commit or a rollback fails, which is
// what a full disk does. Deleting what is old is the last that is done in it, so that commits.
type compaction struct{ server.Transaction }

// Compact deletes what is old, and commits.
func (c compaction) Compact(ctx context.Context, from, to int64) (int64, error) {
	deleted, err := c.Transaction.Compact(ctx, from, to)
	if err != nil {
		return 0, err
	}
	return deleted, c.Commit()
}

func (compaction) MustCommit()     {}
func (c compaction) MustRollback() { _ = c.Rollback() } // SQLite has undone by itself what met a full disk

// alone is a transaction of a single statement, which is committed when it returns, and undone where it failed.
type alone struct{ *dialect }

func (alone) Commit() error   { return nil }
func (alone) MustCommit()     {}
func (alone) Rollback() error { return nil }
func (alone) MustRollback()   {}

// Insert appends a row and returns its revision once it is on disk: 0 where the key has another revision than previous, server.ErrKeyExists
// where it has got one meanwhile. When ctx ends, nothing is known of it.
func (d *dialect) Insert(ctx context.Context, key string, created, deleted bool, previous, ttl int64, value []byte) (int64, error) {
	w := &write{ctx: ctx, key: key, created: created, deleted: deleted, previous: previous, ttl: ttl, value: value, done: make(chan struct{})}
	var revision int64
	var err error
	select {
	case d.writes <- w:
		select {
		case <-w.done:
			revision, err = w.revision, w.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	case <-ctx.Done():
		err = ctx.Err()
	}
	if n, ok := ctx.Value(noteKey{}).(*note); ok {
		n.err = err
	}
	return revision, err
}

// commitWrites commits what is written until ctx ends.
func (d *dialect) commitWrites(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-d.writes:
			together := []*write{w}
			for len(d.writes) > 0 && len(together) < mostTogether {
				together = append(together, <-d.writes)
			}
			err := d.commit(together)
			for _, w := range together {
				if err != nil {
					w.revision, w.err = 0, err
				}
				close(w.done)
			}
		}
	}
}

// commit appends all of these in one transaction, in their order. A write that comes too late for its key fails alone; any other error is the
// disk's, and everybody's. The transaction is nobody's alone, so it ends when it has ended, not when one of the writers gives up.
func (d *dialect) commit(together []*write) error {
	ctx := context.Background()
	tx, err := d.Generic.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	for _, w := range together {
		if w.err = w.ctx.Err(); w.err != nil {
			continue
		}
		w.revision, w.err = tx.Insert(ctx, w.key, w.created, w.deleted, w.previous, w.ttl, w.value)
		if w.err != nil && !errors.Is(w.err, server.ErrKeyExists) {
			return errors.Join(w.err, tx.Rollback())
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	for _, w := range together {
		d.newest.Store(max(d.newest.Load(), w.revision))
	}
	return nil
}

// history is kine's, except that it knows its newest revision: of writes that end at the same moment kine remembers any one, until the next.
type history struct {
	*sqllog.SQLLog
	dialect *dialect
}

// CurrentRevision returns the newest revision. Watches that have got that far are told so, which reads from the API server's cache wait for.
func (h *history) CurrentRevision(ctx context.Context) (int64, error) {
	revision, err := h.SQLLog.CurrentRevision(ctx)
	return max(revision, h.dialect.newest.Load()), err
}

// backend is kine's, except that a write which failed is an error. kine takes it for one that came too late: it looks the key up, and where it
// finds nothing a Create is acknowledged.
type backend struct {
	server.Backend
	log logstructured.Log // that it keeps
	wg  *sync.WaitGroup   // of what ends with the context of Start
}

// Start begins to serve, as kine does, except that keys whose time has come are deleted through b: a deletion that failed is tried again. Where
// kine loses sight of them it is told to look anew; their time is counted from then.
func (b *backend) Start(ctx context.Context) error {
	if err := b.log.Start(ctx); err != nil {
		return err
	}
	if _, err := b.Create(ctx, server.HealthKey, []byte(server.HealthVal), 0); err != nil && !errors.Is(err, server.ErrKeyExists) {
		logrus.Errorf("The key for health checks could not be written: %v", err)
	}
	b.wg.Go(func() {
		again := time.NewTicker(time.Second)
		defer again.Stop()
		for {
			run, cancel := context.WithCancel(ctx)
			ttl.Run(run, expiring{b})
			cancel()
			select {
			case <-ctx.Done():
				return
			case <-again.C:
			}
		}
	})
	return nil
}

// expiring is where kine deletes what has expired, one key after the other. Whoever deletes has to wait when it fails: on a full disk all that
// has expired is tried again and again, and a line logged for each.
type expiring struct{ *backend }

func (e expiring) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	at, kv, ok, err := e.backend.Delete(ctx, key, revision)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
		}
	}
	return at, kv, ok, err
}

// note takes the error of the last append on behalf of a request, nil if it went well.
type note struct{ err error }

type noteKey struct{}

// outcome returns the error of a write that is more than being late.
func (n *note) outcome(err error) error {
	if n.err != nil && !errors.Is(n.err, server.ErrKeyExists) {
		return n.err
	}
	return err
}

// Create writes a key that is not there.
func (b *backend) Create(ctx context.Context, key string, value []byte, lease int64) (int64, error) {
	var n note
	revision, err := b.Backend.Create(context.WithValue(ctx, noteKey{}, &n), key, value, lease)
	return revision, n.outcome(err)
}

// Update writes a key that is at a revision.
func (b *backend) Update(ctx context.Context, key string, value []byte, revision, lease int64) (int64, *server.KeyValue, bool, error) {
	var n note
	revision, kv, ok, err := b.Backend.Update(context.WithValue(ctx, noteKey{}, &n), key, value, revision, lease)
	return revision, kv, ok, n.outcome(err)
}

// Delete deletes a key that is at a revision.
func (b *backend) Delete(ctx context.Context, key string, revision int64) (int64, *server.KeyValue, bool, error) {
	var n note
	revision, kv, ok, err := b.Backend.Delete(context.WithValue(ctx, noteKey{}, &n), key, revision)
	return revision, kv, ok, n.outcome(err)
}
