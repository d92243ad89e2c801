package datastore_test

import (
	"bufio"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"
)

// A process that serves a store is killed in the middle of many writes, several times over one database.
func TestStore_KeepsWhatItAcknowledgedWhenItIsKilled(t *testing.T) {
	dir, acknowledged := t.TempDir(), map[string]int64{}
	for round := range 3 {
		for key, revision := range killed(t, dir, round) {
			acknowledged[key] = revision
		}
	}
	_, c := open(t, dir)
	for key, revision := range acknowledged {
		if value, got := c.read(t, key); got != revision || value != "value of "+key {
			t.Errorf("%s = %q at %d after the kills, want its value at %d, which was acknowledged", key, value, got, revision)
		}
	}
	t.Logf("%d writes were acknowledged", len(acknowledged))
}

// serve serves a store in a process of its own, which ends with the test at the latest.
func serve(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asStore+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the process says %q (%v)", line, err)
	}
	return cmd
}

// killed starts a store in a process, writes to it from many sides and kills it; it returns what was acknowledged.
func killed(t *testing.T, dir string, round int) map[string]int64 {
	cmd := serve(t, dir)
	defer cmd.Wait()
	defer cmd.Process.Kill()
	c, ctx, acknowledged := dial(t, dir), soon(t), map[string]int64{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for writer := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("/registry/pods/%d-%d-%d", round, writer, i)
				revision, ok, err := c.create(ctx, key, "value of "+key)
				if err != nil {
					return // it was killed
				}
				mu.Lock()
				if acknowledged[key] = revision; !ok {
					t.Errorf("create of %s says that it is there", key)
				}
				if len(acknowledged) == 200 {
					cmd.Process.Kill()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(acknowledged) < 200 {
		t.Errorf("%d writes were acknowledged before the process died, want 200", len(acknowledged))
	}
	return acknowledged
}

// Of those who want to write one key at one revision, one does, also where they come at the same time.
func TestStore_LetsOneWriterOfSeveralWin(t *testing.T) {
	_, c := open(t, t.TempDir())
	ctx := soon(t)
	if _, _, err := c.create(ctx, "/counter", "0"); err != nil {
		t.Fatal(err)
	}
	var wins, losses atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				value, revision := c.read(t, "/counter")
				n, _ := strconv.Atoi(value)
				_, ok, err := c.update(ctx, "/counter", strconv.Itoa(n+1), revision)
				switch {
				case err != nil:
					t.Error(err)
				case ok:
					wins.Add(1)
				default:
					losses.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if value, _ := c.read(t, "/counter"); value != fmt.Sprint(wins.Load()) {
		t.Errorf("the counter is at %s after %d successful steps", value, wins.Load())
	}
	if wins.Load() == 0 || losses.Load() == 0 {
		t.Errorf("%d writes won and %d lost, want some of both", wins.Load(), losses.Load())
	}
}

// Two creates of one key, or one after its deletion.
func TestStore_CreatesWhatIsNotThere(t *testing.T) {
	_, c := open(t, t.TempDir())
	ctx := soon(t)
	var made atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, ok, err := c.create(ctx, "/one", "x")
			if err != nil {
				t.Error(err)
			}
			if ok {
				made.Add(1)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("%d of 8 made the key, want 1", made.Load())
	}
	_, revision := c.read(t, "/one")
	if _, ok, err := c.remove(ctx, "/one", revision-1); ok || err != nil {
		t.Errorf("delete at another revision = %v, %v; want a refusal", ok, err)
	}
	if _, ok, err := c.remove(ctx, "/one", revision); !ok || err != nil {
		t.Errorf("delete = %v, %v", ok, err)
	}
	if _, revision := c.read(t, "/one"); revision != 0 {
		t.Error("the key is there after it was deleted")
	}
	if _, ok, err := c.create(ctx, "/one", "y"); !ok || err != nil {
		t.Errorf("create after the delete = %v, %v", ok, err)
	}
}

// A disk that takes nothing more: every write says so, reads go on, and all is well when it takes some again.
func TestStore_TellsOfAWriteThatFailed(t *testing.T) {
	dir := t.TempDir()
	_, c := open(t, dir)
	ctx := soon(t)
	revision, ok, err := c.create(ctx, "/there", "old")
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	db := beside(t, dir)
	run(t, db, `CREATE TRIGGER full BEFORE INSERT ON kine BEGIN SELECT RAISE(ABORT, 'disk is full'); END`)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if _, _, err := c.create(ctx, fmt.Sprint("/new/", i), "x"); err == nil || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("create on a full disk = %v, want its error", err)
			}
			if _, _, err := c.update(ctx, "/there", "new", revision); err == nil || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("update on a full disk = %v, want its error", err)
			}
			if _, _, err := c.remove(ctx, "/there", revision); err == nil || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("delete on a full disk = %v, want its error", err)
			}
		})
	}
	wg.Wait()
	if value, at := c.read(t, "/there"); value != "old" || at != revision {
		t.Errorf("/there = %q at %d after writes that failed, want it as it was", value, at)
	}
	if n, err := c.list(ctx, "/new/", 0); n != 0 || err != nil {
		t.Errorf("%d keys of writes that failed are there (%v)", n, err)
	}
	run(t, db, `DROP TRIGGER full`)
	if _, ok, err := c.update(ctx, "/there", "new", revision); !ok || err != nil {
		t.Errorf("update when there is room again = %v, %v", ok, err)
	}
}

// Events have a lease. That of one whose deletion fails when its time has come must not be forgotten.
func TestStore_DeletesWhatHasExpiredWhenThereIsRoomAgain(t *testing.T) {
	dir := t.TempDir()
	_, c := open(t, dir)
	ctx, db := soon(t), beside(t, dir)
	run(t, db, `CREATE TRIGGER full BEFORE INSERT ON kine WHEN NEW.deleted AND NEW.name = '/first' BEGIN SELECT RAISE(ABORT, 'disk is full'); END`)
	for _, key := range []string{"/first", "/second"} {
		if _, ok, err := c.txn(ctx, &etcdserverpb.TxnRequest{Compare: at(key, 0), Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
			RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("x"), Lease: 1}}}}}); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	gone := func(key string) {
		t.Helper()
		for revision := int64(1); revision != 0; _, revision = c.read(t, key) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("%s, of one second, is there after a minute", key)
			}
		}
	}
	gone("/second") // so that of the first was tried
	if _, revision := c.read(t, "/first"); revision == 0 {
		t.Fatal("a key is gone whose deletion failed")
	}
	run(t, db, `DROP TRIGGER full`)
	gone("/first")
}

// A compaction that meets a full disk ends nothing, wherever it meets it: what is old stays, and goes when there is room again.
func TestStore_OutlivesACompactionOnAFullDisk(t *testing.T) {
	for name, fault := range map[string]struct {
		full, room func(t *testing.T, p *os.Process, db *sql.DB)
	}{
		"whose commit fails": {
			func(t *testing.T, p *os.Process, _ *sql.DB) { limitFiles(t, p, 1) },
			func(t *testing.T, p *os.Process, _ *sql.DB) { limitFiles(t, p, unix.RLIM_INFINITY) },
		},
		"which SQLite undoes": {
			func(t *testing.T, _ *os.Process, db *sql.DB) {
				run(t, db, `CREATE TRIGGER full BEFORE DELETE ON kine BEGIN SELECT RAISE(ROLLBACK, 'disk is full'); END`)
			},
			func(t *testing.T, _ *os.Process, db *sql.DB) { run(t, db, `DROP TRIGGER full`) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, ctx := t.TempDir(), soon(t)
			process, db := serve(t, dir).Process, beside(t, dir)
			c := dial(t, dir)
			var wg sync.WaitGroup
			for writer := range 8 { // kine keeps the newest thousand
				wg.Go(func() {
					key, revision := fmt.Sprint("/keys/", writer), int64(0)
					for range 200 {
						at, ok, err := c.update(ctx, key, "x", revision)
						if revision = at; !ok || err != nil {
							t.Errorf("update of %s = %v, %v", key, ok, err)
							return
						}
					}
				})
			}
			wg.Wait()
			compacted := func() bool {
				t.Helper()
				if _, err := c.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: 400}); err != nil {
					t.Fatalf("compact = %v", err)
				}
				_, err := c.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("/keys/0"), Revision: 300})
				if err != nil && !strings.Contains(err.Error(), "compacted") {
					t.Fatalf("read of an old revision = %v", err)
				}
				return err != nil
			}
			fault.full(t, process, db)
			if compacted() {
				t.Error("what is old is gone after a compaction that failed")
			}
			fault.room(t, process, db)
			if !compacted() {
				t.Error("what is old is there after a compaction when there was room again")
			}
			if _, ok, err := c.create(ctx, "/new", "x"); !ok || err != nil {
				t.Errorf("create when there is room again = %v, %v", ok, err)
			}
		})
	}
}

// limitFiles lets a process write no further than that into any file.
func limitFiles(t *testing.T, p *os.Process, bytes uint64) {
	t.Helper()
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
		t.Fatal(err)
	}
}

func TestStore_IsWhereItIsSaidToBe(t *testing.T) {
	above := t.TempDir()
	dir := filepath.Join(above, "50%25 of #1? yes")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, c := open(t, dir)
	if _, ok, err := c.create(soon(t), "/there", "x"); !ok || err != nil {
		t.Errorf("create = %v, %v", ok, err)
	}
	if fi, err := os.Stat(filepath.Join(dir, "state.db")); err != nil || fi.Size() == 0 {
		t.Errorf("the database: %v, %v", fi, err)
	}
	if entries, err := os.ReadDir(above); err != nil || len(entries) != 1 {
		t.Errorf("beside its directory: %v (%v), want nothing", entries, err)
	}
}

// A write waits while another process writes to the database.
func TestStore_WaitsForTheDatabase(t *testing.T) {
	dir := t.TempDir()
	_, c := open(t, dir)
	db := beside(t, dir)
	run(t, db, "BEGIN IMMEDIATE")
	done := make(chan error, 1)
	go func() {
		_, _, err := c.create(soon(t), "/late", "x")
		done <- err
	}()
	impatient, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := c.create(impatient, "/never", "x"); err == nil {
		t.Error("a write whose time was up was acknowledged")
	}
	select {
	case err := <-done:
		t.Errorf("a write ended (%v) though the database was locked", err)
	default:
	}
	run(t, db, "COMMIT")
	if err := <-done; err != nil {
		t.Errorf("the write that waited = %v", err)
	}
	if _, revision := c.read(t, "/late"); revision == 0 {
		t.Error("the write that waited is not there")
	}
}

// Lists of all limits (more than a connection keeps statements for), some of them given up, while others write and the schema changes under
// the statements that are kept.
func TestStore_ReadsAndWritesOnManyConnections(t *testing.T) {
	dir := t.TempDir()
	_, c := open(t, dir)
	ctx := soon(t)
	const keys = 100
	for i := range keys {
		if _, ok, err := c.create(ctx, fmt.Sprintf("/keys/%03d", i), strings.Repeat("x", 1000)); !ok || err != nil {
			t.Fatal(ok, err)
		}
	}
	var wg sync.WaitGroup
	for reader := range 4 {
		wg.Go(func() {
			for limit := range keys {
				if n, err := c.list(ctx, "/keys/", int64(limit+1)); err != nil || n != limit+1 {
					t.Errorf("list of %d = %d, %v", limit+1, n, err)
					return
				}
				if limit%20 == reader {
					hurried, cancel := context.WithTimeout(ctx, time.Duration(limit)*5*time.Microsecond)
					_, _ = c.list(hurried, "/", 0)
					cancel()
				}
			}
		})
	}
	for writer := range 2 {
		wg.Go(func() {
			for i := range keys {
				if _, ok, err := c.create(ctx, fmt.Sprintf("/others/%d-%d", writer, i), "x"); !ok || err != nil {
					t.Errorf("create = %v, %v", ok, err)
				}
			}
		})
	}
	db := beside(t, dir)
	for i := range 5 {
		run(t, db, fmt.Sprintf("CREATE INDEX other%d ON kine (lease)", i))
	}
	wg.Wait()
	if n, err := c.list(ctx, "/others/", 0); n != 2*keys || err != nil {
		t.Errorf("%d of %d keys are there (%v)", n, 2*keys, err)
	}
}

// A watch that begins after writes were acknowledged begins at the newest of them or later, whichever ended last.
func TestStore_KnowsItsNewestRevision(t *testing.T) {
	_, c := open(t, t.TempDir())
	ctx := soon(t)
	for round := range 30 {
		var newest atomic.Int64
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				revision, ok, err := c.create(ctx, fmt.Sprintf("/%d-%d", round, i), "x")
				if !ok || err != nil {
					t.Errorf("create = %v, %v", ok, err)
				}
				for was := newest.Load(); was < revision && !newest.CompareAndSwap(was, revision); was = newest.Load() {
				}
			})
		}
		wg.Wait()
		w, err := c.Watch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
			CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("/else")}}}); err != nil {
			t.Fatal(err)
		}
		a, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if a.Header.Revision < newest.Load() {
			t.Errorf("a watch begins at %d after revision %d was acknowledged", a.Header.Revision, newest.Load())
		}
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
}

// A watch sees every write once, in the order of their revisions, also of those that were committed together.
func TestStore_ShowsEveryWriteInOrder(t *testing.T) {
	_, c := open(t, t.TempDir())
	ctx := soon(t)
	w, err := c.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{Key: []byte("/keys/"), RangeEnd: []byte("/keys0")}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	const writers, each = 8, 25
	var wg sync.WaitGroup
	defer wg.Wait() // an event may be seen before its write is acknowledged
	for writer := range writers {
		wg.Go(func() {
			for i := range each {
				if _, ok, err := c.create(ctx, fmt.Sprintf("/keys/%d-%d", writer, i), "x"); !ok || err != nil {
					t.Errorf("create = %v, %v", ok, err)
				}
			}
		})
	}
	seen, last := map[string]bool{}, int64(0)
	for len(seen) < writers*each {
		a, err := w.Recv()
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(seen), writers*each, err)
		}
		for _, e := range a.Events {
			if seen[string(e.Kv.Key)] || e.Kv.ModRevision <= last {
				t.Errorf("%s at %d comes again or after %d", e.Kv.Key, e.Kv.ModRevision, last)
			}
			seen[string(e.Kv.Key)], last = true, e.Kv.ModRevision
		}
	}
}

// BenchmarkCreate says what a write costs alone, and what when many write at the same time.
func BenchmarkCreate(b *testing.B) {
	value := strings.Repeat("x", 2000)
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			_, c := open(b, b.TempDir())
			var next atomic.Int64
			before := cpuTime()
			b.ResetTimer()
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						if _, ok, err := c.create(b.Context(), fmt.Sprintf("/registry/pods/default/%d", i), value); !ok || err != nil {
							b.Errorf("create = %v, %v", ok, err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "CPU-µs/op")
		})
	}
}

// BenchmarkGet says what a read of one key costs.
func BenchmarkGet(b *testing.B) {
	const keys = 500
	_, c := open(b, b.TempDir())
	for i := range keys {
		if _, ok, err := c.create(b.Context(), fmt.Sprintf("/registry/pods/default/%d", i), strings.Repeat("x", 2000)); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
	before := cpuTime()
	b.ResetTimer()
	for i := range b.N {
		if _, revision := c.read(b, fmt.Sprintf("/registry/pods/default/%d", i%keys)); revision == 0 {
			b.Fatal("a key is not there")
		}
	}
	b.ReportMetric(float64((cpuTime()-before).Microseconds())/float64(b.N), "CPU-µs/op")
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
