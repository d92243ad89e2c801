// Package datastore is where a cluster keeps its objects: etcd's API over SQLite, by kine.
//
// It owns the database file and the socket, and promises that a write which was acknowledged survives the loss of power, and that one which
// failed is not acknowledged. kine is as released; what is ours is beneath and around it: statements are parsed once per connection, writes
// that wait for one another are committed together, and a write's error reaches who wrote.
package datastore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	kinesqlite "github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/logstructured"
	"github.com/k3s-io/kine/pkg/logstructured/sqllog"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"gondola/internal/sqlite"
)

// etcdVersion is what kine says it is; watch progress notifications need 3.5.13 or later.
const etcdVersion = "3.6.11"

// progress is how often a watch that has seen everything is told so. The API server asks on its own where it needs to know (reads from its
// cache); this is for its clients' bookmarks.
const progress = 5 * time.Second

// Store serves a database on a socket. Make it with Open.
type Store struct {
	stop   func()
	failed chan error
}

// Open opens the database file, making it if need be, and serves it on a unix socket of mode 0600, which replaces one that a former process
// left.
func Open(database, socket string) (*Store, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	fail := func(err error) (*Store, error) {
		cancel()
		wg.Wait()
		return nil, fmt.Errorf("datastore %s: %w", database, err)
	}
	b, err := openBackend(ctx, &wg, database)
	if err != nil {
		return fail(err)
	}
	if err := b.Start(ctx); err != nil {
		return fail(err)
	}
	l, err := listen(socket)
	if err != nil {
		return fail(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(2<<20), grpc.MaxSendMsgSize(1<<31-1),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}))
	server.New(b, "unix", progress, etcdVersion).Register(g)
	s := &Store{failed: make(chan error, 1), stop: func() {
		g.Stop()
		cancel()
		wg.Wait()
	}}
	go func() {
		if err := g.Serve(l); err != nil {
			s.failed <- err
		}
		close(s.failed)
	}()
	return s, nil
}

// Failed yields why the store ended before it was closed, and is closed at its end.
func (s *Store) Failed() <-chan error { return s.failed }

// Close stops it and waits for its end. It comes after the API server's, whose client tries again for a minute.
func (s *Store) Close() { s.stop() }

func listen(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// openBackend makes kine on connections of ours. They end when ctx does; wg waits for that.
func openBackend(ctx context.Context, wg *sync.WaitGroup, database string) (server.Backend, error) {
	database, err := filepath.Abs(database)
	if err != nil {
		return nil, err
	}
	// Every field by hand: kine's defaults live in its command line.
	pool := generic.ConnectionPoolConfig{MaxIdle: 20, MaxIdleTime: 2 * time.Minute}
	cfg := &drivers.Config{
		// kine writes file:// before it, and SQLite takes that for a URL
		DataSourceName: (&url.URL{Path: database}).EscapedPath() + "?_journal_mode=WAL&_synchronous=FULL&_busy_timeout=30000", ConnectionPoolConfig: pool,
		CompactTimeout: 5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000, PollBatchSize: 500, PollInterval: time.Second,
	}
	// kine makes the tables and knows the statements of SQLite; its connections are replaced by those that keep them.
	_, kine, err := kinesqlite.NewVariant(ctx, wg, "sqlite3", cfg)
	if err != nil {
		return nil, err
	}
	if err := kine.DB.Close(); err != nil {
		return nil, err
	}
	if kine.DB, err = sqlite.Open(dataSource(database)); err != nil {
		return nil, err
	}
	kine.DB.SetMaxIdleConns(pool.MaxIdle)
	kine.DB.SetConnMaxIdleTime(pool.MaxIdleTime)
	d := &dialect{Generic: kine, writes: make(chan *write, mostTogether)}
	wg.Go(func() {
		d.commitWrites(ctx)
		kine.DB.Close()
	})
	log := &history{sqllog.New(d, wg, cfg), d}
	return &backend{logstructured.New(log), log, wg}, nil
}

// dataSource names a database for the SQLite driver. synchronous=FULL: a write that Kubernetes has acknowledged survives the loss of power.
func dataSource(database string) string {
	return (&url.URL{Scheme: "file", Path: database, RawQuery: url.Values{
		"_pragma": {"busy_timeout(30000)", "journal_mode(WAL)", "synchronous(FULL)"}}.Encode()}).String()
}
