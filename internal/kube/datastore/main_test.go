package datastore_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"gondola/internal/kube/datastore"
)

// asStore names the directory of a store that this process is to serve until it is killed.
const asStore = "GONDOLA_DATASTORE_TEST_DIR"

func TestMain(m *testing.M) {
	logrus.SetLevel(logrus.FatalLevel) // kine tells of every start
	if dir := os.Getenv(asStore); dir != "" {
		signal.Ignore(syscall.SIGXFSZ) // a write beyond a limit fails, as on a full disk
		if _, err := datastore.Open(filepath.Join(dir, "state.db"), filepath.Join(dir, "kine.sock")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("open")
		bufio.NewReader(os.Stdin).ReadString('\n') // until whoever started it is gone
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// open opens the store in dir and returns a client of it. The test closes both.
func open(t testing.TB, dir string) (*datastore.Store, *client) {
	t.Helper()
	s, err := datastore.Open(filepath.Join(dir, "state.db"), filepath.Join(dir, "kine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	t.Cleanup(func() { once.Do(s.Close) })
	return s, dial(t, dir)
}

// client asks as an API server does.
type client struct {
	etcdserverpb.KVClient
	etcdserverpb.WatchClient
}

func dial(t testing.TB, dir string) *client {
	t.Helper()
	conn, err := grpc.NewClient((&url.URL{Scheme: "unix", Path: filepath.Join(dir, "kine.sock")}).String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &client{etcdserverpb.NewKVClient(conn), etcdserverpb.NewWatchClient(conn)}
}

// create writes a key that is not there; false: it is.
func (c *client) create(ctx context.Context, key, value string) (revision int64, ok bool, err error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: at(key, 0), Success: put(key, value)})
}

// update writes a key that is at a revision; false: it is at another, which is returned.
func (c *client) update(ctx context.Context, key, value string, revision int64) (int64, bool, error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: at(key, revision), Success: put(key, value), Failure: get(key)})
}

// remove deletes a key that is at a revision.
func (c *client) remove(ctx context.Context, key string, revision int64) (int64, bool, error) {
	return c.txn(ctx, &etcdserverpb.TxnRequest{Compare: at(key, revision), Failure: get(key),
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key)}}}}})
}

func (c *client) txn(ctx context.Context, r *etcdserverpb.TxnRequest) (int64, bool, error) {
	a, err := c.Txn(ctx, r)
	if err != nil {
		return 0, false, err
	}
	return a.Header.Revision, a.Succeeded, nil
}

func at(key string, revision int64) []*etcdserverpb.Compare {
	return []*etcdserverpb.Compare{{Key: []byte(key), Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: revision}}}
}

func put(key, value string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}}}}
}

func get(key string) []*etcdserverpb.RequestOp {
	return []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: []byte(key)}}}}
}

// read returns a key's value and revision; revision 0: it is not there.
func (c *client) read(t testing.TB, key string) (value string, revision int64) {
	t.Helper()
	a, err := c.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte(key)})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.Kvs) == 0 {
		return "", 0
	}
	return string(a.Kvs[0].Value), a.Kvs[0].ModRevision
}

// list returns how many keys below a prefix a list with a limit yields.
func (c *client) list(ctx context.Context, prefix string, limit int64) (int, error) {
	a, err := c.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefix + "\xff"), Limit: limit})
	if err != nil {
		return 0, err
	}
	return len(a.Kvs), nil
}

// beside opens the database beside the store, as another process would.
func beside(t testing.TB, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: filepath.Join(dir, "state.db"), RawQuery: "_pragma=busy_timeout(5000)"}).String())
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t testing.TB, db *sql.DB, statement string) {
	t.Helper()
	if _, err := db.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

// soon is the deadline of what should take no time.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}
