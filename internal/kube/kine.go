package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/k3s-io/kine/pkg/drivers"
	"github.com/k3s-io/kine/pkg/drivers/generic"
	"github.com/k3s-io/kine/pkg/drivers/sqlite"
	"github.com/k3s-io/kine/pkg/server"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// synchronous=FULL: a write that Kubernetes has acknowledged survives the loss of power. Immediate transactions, so that two writers wait
// for each other instead of failing.
const sqliteParams = "_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate"

// etcdVersion is what kine says it is; watch progress notifications need 3.5.13 or later.
const etcdVersion = "3.6.11"

// datastore is etcd's API over SQLite, on a unix socket.
type datastore struct {
	socket string
	stop   func()
	failed <-chan error
}

// openDatastore opens the database in dir, making it if need be, and serves it on socket. It stops when stop is called, which must come
// after the API server has ended: its client tries again for a minute.
func openDatastore(database, socket string) (*datastore, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	fail := func(err error) (*datastore, error) {
		cancel()
		wg.Wait()
		return nil, fmt.Errorf("datastore %s: %w", database, err)
	}
	// Every field by hand: kine's defaults live in its command line.
	_, backend, err := sqlite.New(ctx, &wg, &drivers.Config{
		DataSourceName:       database + "?" + sqliteParams,
		ConnectionPoolConfig: generic.ConnectionPoolConfig{MaxIdle: 20, MaxIdleTime: 2 * time.Minute},
		CompactTimeout:       5 * time.Second, CompactMinRetain: 1000, CompactBatchSize: 1000,
		PollBatchSize: 500, PollInterval: time.Second,
	})
	if err != nil {
		return fail(err)
	}
	if err := backend.Start(ctx); err != nil {
		return fail(err)
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fail(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fail(err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		l.Close()
		return fail(err)
	}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(2<<20), grpc.MaxSendMsgSize(1<<31-1),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Hour, Timeout: 20 * time.Second}))
	server.New(backend, "unix", 5*time.Second, etcdVersion).Register(g)
	failed := make(chan error, 1)
	go func() {
		if err := g.Serve(l); err != nil {
			failed <- err
		}
		close(failed)
	}()
	return &datastore{socket: socket, failed: failed, stop: func() {
		g.Stop()
		cancel()
		wg.Wait()
	}}, nil
}
