package worker_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/fake"
	"gondola/internal/worker"
)

// rig is a host with a driver, on which workers can come and go.
type rig struct {
	t      *testing.T
	dir    string
	host   worker.Host
	fake   *fake.Host
	driver *fake.Driver
	via    driver.Driver // the driver as workers see it
	change func(*worker.Config)
}

func newRig(t *testing.T, total gondola.Resources) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), driver: fake.NewDriver()}
	r.fake = fake.NewHost(fake.HostConfig{Dir: filepath.Join(r.dir, "host"), Total: total})
	r.host, r.via = r.fake, r.driver
	t.Cleanup(func() { r.driver.Close() })
	return r
}

func (r *rig) open() *worker.Worker {
	r.t.Helper()
	cfg := worker.Config{Name: "w1", Region: "fra", Number: 1, Instance: "test", Dir: filepath.Join(r.dir, "worker"), Host: r.host,
		Drivers: map[string]driver.Driver{"fake": r.via}, PullBackoff: gondola.Backoff{First: 50 * time.Millisecond, Max: 100 * time.Millisecond},
		DNS: gondola.DNSConfig{Nameservers: []string{"10.64.16.1"}}, KeepImages: 1}
	if r.change != nil {
		r.change(&cfg)
	}
	w, err := worker.Open(cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	return w
}

// run opens a worker and runs it; stop ends it as Ctrl-C does.
func (r *rig) run() (w *worker.Worker, stop func()) {
	r.t.Helper()
	w = r.open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("Run = %v", err)
			}
		case <-time.After(20 * time.Second):
			r.t.Error("Run does not end")
		}
		w.Close()
	})
	r.t.Cleanup(stop)
	select {
	case <-w.Ready():
	case <-time.After(20 * time.Second):
		r.t.Fatal("worker is not ready")
	}
	return w, stop
}

const app gondola.AppName = "shop"

// longRunning is a Machine that runs until it is stopped.
func longRunning() gondola.Config {
	return gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}}
}

func (r *rig) create(w *worker.Worker, req gondola.CreateRequest) gondola.Machine {
	r.t.Helper()
	m, err := w.Create(r.t.Context(), app, req)
	if err != nil {
		r.t.Fatalf("Create = %v", err)
	}
	return m
}

func (r *rig) await(w *worker.Worker, id gondola.MachineID, states ...gondola.State) gondola.Machine {
	r.t.Helper()
	ref := gondola.Ref{App: app, ID: id}
	if _, err := w.Wait(r.t.Context(), ref, gondola.WaitRequest{States: states, Timeout: 15 * time.Second}); err != nil {
		m, _ := w.Get(r.t.Context(), ref)
		r.t.Fatalf("Wait for %v = %v; reason %q, message %q", states, err, m.Gondola.Reason, m.Gondola.Message)
	}
	m, err := w.Get(r.t.Context(), ref)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// until watches until f is true of the Machine.
func (r *rig) until(w *worker.Worker, id gondola.MachineID, what string, f func(gondola.Machine) bool) gondola.Machine {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 15*time.Second)
	defer cancel()
	changes, err := w.Watch(ctx, gondola.WatchRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	var last gondola.Machine
	for c := range changes {
		if c.Machine != nil && c.Machine.ID == id {
			if last = *c.Machine; f(last) {
				return last
			}
		}
	}
	r.t.Fatalf("%s: never; machine is %s, %+v", what, last.State, last.Gondola)
	return last
}

func TestMachine_LivesItsLife(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	ctx := t.Context()
	m := r.create(w, gondola.CreateRequest{Name: "web", Config: longRunning()})
	if m.State != gondola.Created || m.Gondola.Allocated == (gondola.Resources{}) || m.Events[0].Type != "launch" {
		t.Errorf("Create = %+v, want state created with its capacity taken", m)
	}
	ref := m.Ref()
	m = r.await(w, m.ID, gondola.Started)
	if m.PrivateIP == "" || len(m.Gondola.Addresses) != 2 || m.Events[0].Type != "start" || m.Containers[0].State != "running" {
		t.Errorf("started machine = %+v", m)
	}
	addresses := m.Gondola.Addresses
	if res, err := w.Exec(ctx, ref, gondola.ExecRequest{Command: []string{"/program", "print", "hi", ";", "exit", "3"}}); err != nil || res.ExitCode != 3 || res.Stdout != "hi\n" {
		t.Errorf("Exec = %+v, %v", res, err)
	}
	if err := w.Destroy(ctx, ref, false); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Destroy of a started machine without force = %v, want ErrPrecondition", err)
	}
	if err := w.Stop(ctx, ref, gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	m = r.await(w, m.ID, gondola.Stopped)
	if m.Gondola.Allocated != (gondola.Resources{}) || m.Events[0].Type != "exit" || !strings.Contains(string(m.Events[0].Request), `"requested_stop":true`) {
		t.Errorf("stopped machine = %+v, want nothing held and an exit event", m)
	}
	log, err := w.Logs(ctx, ref, gondola.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(log)
	log.Close()
	if !strings.Contains(string(b), "got SIGINT") {
		t.Errorf("log = %q, want the stop signal of a machine, SIGINT, in it", b)
	}
	if res, err := w.Start(ctx, ref); err != nil || res.PreviousState != gondola.Stopped {
		t.Errorf("Start = %+v, %v", res, err)
	}
	m = r.await(w, m.ID, gondola.Started)
	version := m.Version
	up, err := w.Update(ctx, ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: gondola.Config{Image: "test/app2", Init: gondola.Init{Cmd: []string{"trap"}}}}, CurrentVersion: version})
	if err != nil || up.Version == version {
		t.Fatalf("Update = %+v, %v", up, err)
	}
	if _, err := w.Wait(ctx, ref, gondola.WaitRequest{Version: up.Version, Timeout: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if res, err := w.Wait(ctx, ref, gondola.WaitRequest{Version: version, Timeout: time.Second}); err != nil || res.State != gondola.Replaced {
		t.Errorf("Wait for the old version = %+v, %v, want replaced", res, err)
	}
	m = r.await(w, m.ID, gondola.Started)
	if m.Gondola.Addresses[0] != addresses[0] || m.ImageRef.Repository != "app2" && m.ImageRef.Repository != "test/app2" {
		t.Errorf("after update: %v, %+v, want the addresses of before and the new image", m.Gondola.Addresses, m.ImageRef)
	}
	if err := w.Restart(ctx, ref, gondola.RestartRequest{}); err != nil {
		t.Fatal(err)
	}
	r.until(w, m.ID, "restarted", func(n gondola.Machine) bool {
		return n.State == gondola.Started && n.Gondola.SandboxID != m.Gondola.SandboxID
	})
	if err := w.Destroy(ctx, ref, true); err != nil {
		t.Fatal(err)
	}
	m = r.await(w, m.ID, gondola.Destroyed)
	if err := w.Destroy(ctx, ref, true); err != nil {
		t.Errorf("second Destroy = %v, want nil", err)
	}
	if ids, _ := r.host.Leftovers(ctx); len(ids) != 0 {
		t.Errorf("host still has %v", ids)
	}
	if _, err := w.Start(ctx, ref); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Start of a destroyed machine = %v, want ErrPrecondition", err)
	}
	ms, err := w.List(ctx, app, gondola.ListFilter{})
	all, err2 := w.List(ctx, app, gondola.ListFilter{IncludeDeleted: true})
	if err != nil || err2 != nil || len(ms) != 0 || len(all) != 1 {
		t.Errorf("List: %d, with deleted %d; want 0 and 1", len(ms), len(all))
	}
	if _, err := w.Get(ctx, gondola.Ref{App: "other", ID: m.ID}); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Get through another app = %v, want ErrNotFound", err)
	}
}

func TestMachine_ThatEndsGivesEverythingBack(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"exit", "4"}}, Restart: &gondola.RestartPolicy{Policy: "no"}}})
	m = r.await(w, m.ID, gondola.Stopped)
	if !strings.Contains(string(m.Events[0].Request), `"exit_code":4`) || m.Gondola.Containers[0].State.ExitCode != 4 || m.Gondola.Allocated != (gondola.Resources{}) {
		t.Errorf("ended machine: event %s, %+v", m.Events[0].Request, m.Gondola)
	}
	crashes := r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"sleep", "200ms", ";", "exit", "6"}}, Restart: &gondola.RestartPolicy{Policy: "always"}}})
	r.until(w, crashes.ID, "an exit event of a restart", func(m gondola.Machine) bool {
		e := string(m.Events[0].Request)
		return m.State == gondola.Started && strings.Contains(e, `"exit_code":6`) && strings.Contains(e, `"restarting":true`)
	})
	gone := r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"exit", "0"}}, AutoDestroy: true}})
	r.await(w, gone.ID, gondola.Destroyed)
}

func TestCreate_IsIdempotentByIDAndByName(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	ctx := t.Context()
	req := gondola.CreateRequest{Name: "web", Config: longRunning(), Gondola: &gondola.CreateExtension{ID: "00000000000001"}}
	a, b := r.create(w, req), r.create(w, req)
	req.Gondola = nil
	c := r.create(w, req)
	if a.ID != "00000000000001" || b.ID != a.ID || c.ID != a.ID {
		t.Errorf("ids %s %s %s, want the chosen one three times", a.ID, b.ID, c.ID)
	}
	req.Config.Env = map[string]string{"A": "b"}
	if _, err := w.Create(ctx, app, req); !errors.Is(err, gondola.ErrNameTaken) {
		t.Errorf("Create of the name with another config = %v, want ErrNameTaken", err)
	}
}

func TestCreate_OfANameWhoseMachineIsBeingDestroyedIsRefused(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	req := gondola.CreateRequest{Name: "web", Config: longRunning(), SkipLaunch: true}
	m := r.create(w, req)
	r.fake.FailOn(func(step string, _ gondola.MachineID) error {
		if step == "Release" {
			return errors.New("device is busy")
		}
		return nil
	})
	if err := w.Destroy(t.Context(), m.Ref(), false); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Create(t.Context(), app, req); !errors.Is(err, gondola.ErrNameTaken) || !strings.HasSuffix(err.Error(), "is being destroyed: ask again when it is gone") {
		t.Errorf("Create by its name = %s, %v; want ErrNameTaken", got.State, err)
	}
	unnamed := gondola.CreateRequest{Config: req.Config, Gondola: &gondola.CreateExtension{ID: m.ID}}
	if got, err := w.Create(t.Context(), app, unnamed); !errors.Is(err, gondola.ErrConflict) {
		t.Errorf("Create by its id = %s, %v; want ErrConflict", got.State, err)
	}
	r.fake.FailOn(nil)
	r.await(w, m.ID, gondola.Destroyed)
	if again := r.create(w, req); again.ID == m.ID {
		t.Errorf("Create when it is gone = %s, want another machine", again.ID)
	}
}

func TestCreate_RefusesWhatCannotBe(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 2000, MemoryBytes: 3800 << 20})
	w, _ := r.run()
	r.create(w, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Gondola: &gondola.ConfigExtension{Requests: &gondola.Resources{CPUMillis: 1000, MemoryBytes: 2900 << 20}}}})
	for _, row := range []struct {
		name   string
		config gondola.Config
		kind   error
		text   string
	}{
		{"too large", gondola.Config{Image: "test/app", Guest: &gondola.Guest{CPUKind: "performance", CPUs: 2, MemoryMB: 4096}}, gondola.ErrCapacity,
			"2 CPUs and 4096 MB wanted, 1 CPU and 900 MB free of 2 CPUs and 3800 MB"},
		{"no image", gondola.Config{}, gondola.ErrInvalid, "config.image is missing"},
		{"unknown driver", gondola.Config{Image: "test/app", Gondola: &gondola.ConfigExtension{Driver: "kvm"}}, gondola.ErrUnsupported, `"kvm"`},
		{"unknown volume", gondola.Config{Image: "test/app", Mounts: []gondola.VolumeMount{{Volume: "v", Path: "/d"}}}, gondola.ErrNotFound, `none named "v"`},
	} {
		_, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: row.config})
		if !errors.Is(err, row.kind) || !strings.Contains(err.Error(), row.text) {
			t.Errorf("%s: Create = %v, want %v with %q", row.name, err, row.kind, row.text)
		}
		if row.kind == gondola.ErrCapacity && len(gondola.Refusals(err)) != 1 {
			t.Errorf("%s: no refusal in %v", row.name, err)
		}
	}
	if err := w.CordonWorker(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if a, err := w.Ask(t.Context(), gondola.Ask{}); err != nil || len(a.Refusals) != 1 || a.Refusals[0].Reason != "it is cordoned" {
		t.Errorf("Ask of a cordoned worker = %+v, %v", a, err)
	}
}

func TestCreate_NeverOversells(t *testing.T) {
	const fits = 40
	r := newRig(t, gondola.Resources{CPUMillis: fits * 100, MemoryBytes: 1 << 40})
	w, _ := r.run()
	config := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}, Gondola: &gondola.ConfigExtension{Requests: &gondola.Resources{CPUMillis: 100, MemoryBytes: 1 << 20}}}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var made []gondola.MachineID
	for range 200 {
		wg.Go(func() {
			m, err := w.Create(t.Context(), app, gondola.CreateRequest{Config: config})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, m.ID)
			} else if !errors.Is(err, gondola.ErrCapacity) {
				t.Errorf("Create = %v", err)
			}
		})
	}
	wg.Wait()
	if len(made) != fits {
		t.Errorf("%d machines were sold, %d fit", len(made), fits)
	}
	seen := map[string]bool{}
	for _, id := range made {
		m := r.await(w, id, gondola.Started)
		if seen[m.PrivateIP] {
			t.Errorf("address %s was given twice", m.PrivateIP)
		}
		seen[m.PrivateIP] = true
	}
	ref := gondola.Ref{App: app, ID: made[0]}
	if err := w.Stop(t.Context(), ref, gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	r.await(w, made[0], gondola.Stopped)
	other := r.create(w, gondola.CreateRequest{Config: config})
	r.await(w, other.ID, gondola.Started)
	if _, err := w.Start(t.Context(), ref); !errors.Is(err, gondola.ErrCapacity) ||
		err.Error() != "could not reserve resource for machine: insufficient CPUs available to fulfill request" {
		t.Errorf("Start on a full worker = %v, want ErrCapacity in Fly.io's words", err)
	}
}

func TestPayload_IsSealedAndReachesTheMachine(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, stop := r.run()
	ctx := t.Context()
	const secret, second = "hunter2-hunter2-hunter2", "swordfish-swordfish"
	config := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"trap"}}, Volumes: []gondola.TempVolume{{Name: "s"}},
		Containers: []gondola.Container{{Name: "main", Image: "test/app", Cmd: []string{"trap"}, Mounts: []gondola.ContainerMount{{Name: "s", Path: "/s"}}}}}
	payload := func(v string) gondola.Payload {
		return gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"s": {{Path: "password", Data: []byte(v), Mode: 0o400}}}}
	}
	p := payload(secret)
	m := r.create(w, gondola.CreateRequest{Config: config, Gondola: &gondola.CreateExtension{Payload: &p}})
	m = r.await(w, m.ID, gondola.Started)
	if !inFiles(t, filepath.Join(r.dir, "host", "run"), secret) {
		t.Error("the payload did not reach the machine")
	}
	if err := w.PutPayload(ctx, m.Ref(), payload(second)); err != nil {
		t.Fatal(err)
	}
	if !inFiles(t, filepath.Join(r.dir, "host", "run"), second) {
		t.Error("the new payload did not reach the machine")
	}
	for _, s := range []string{secret, second, "aHVudGVyMi1odW50ZXIy"} {
		if inFiles(t, filepath.Join(r.dir, "worker"), s) {
			t.Errorf("%q is in the worker's files", s)
		}
	}
	if got, _ := w.Get(ctx, m.Ref()); got.Version != m.Version {
		t.Error("PutPayload made a new version")
	}
	fi, err := os.Stat(filepath.Join(r.dir, "worker", "key"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v, want mode 0600", fi.Mode(), err)
	}
	stop()
	r.driver.Reboot()
	os.RemoveAll(filepath.Join(r.dir, "host", "run"))
	w, _ = r.run()
	r.await(w, m.ID, gondola.Started)
	if !inFiles(t, filepath.Join(r.dir, "host", "run"), second) {
		t.Error("after a reboot the payload is not there again")
	}
}

func inFiles(t *testing.T, dir, text string) (found bool) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, _ := os.ReadFile(path)
			found = found || bytes.Contains(b, []byte(text))
		}
		return nil
	})
	return found
}

func TestWait_SaysWhereTheMachineIs(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning(), SkipLaunch: true})
	_, err := w.Wait(t.Context(), m.Ref(), gondola.WaitRequest{Timeout: 50 * time.Millisecond})
	if !errors.Is(err, gondola.ErrDeadline) || err.Error() != "machine failed to reach desired state, started, currently created" {
		t.Errorf("Wait = %v", err)
	}
	if res, err := w.Wait(t.Context(), m.Ref(), gondola.WaitRequest{Settled: true}); err != nil || res.State != gondola.Created {
		t.Errorf("Wait for settled = %+v, %v", res, err)
	}
	before := m.Events[0].ID
	go w.Start(context.Background(), m.Ref())
	res, err := w.Wait(t.Context(), m.Ref(), gondola.WaitRequest{FromEventID: before, Timeout: 10 * time.Second})
	if err != nil || !res.OK || res.State != gondola.Started || res.EventID <= before {
		t.Errorf("Wait from an event = %+v, %v", res, err)
	}
}

func TestWatch_BeginsWithTheWholeTruth(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	config := longRunning()
	config.Metadata = map[string]string{"cluster": "a"}
	a := r.create(w, gondola.CreateRequest{Config: config})
	r.await(w, a.ID, gondola.Started)
	r.create(w, gondola.CreateRequest{Config: longRunning()})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	changes, err := w.Watch(ctx, gondola.WatchRequest{Metadata: config.Metadata, Offers: true})
	if err != nil {
		t.Fatal(err)
	}
	first, offer, synced := <-changes, <-changes, <-changes
	if first.Machine == nil || first.Machine.ID != a.ID || offer.Offer == nil || !synced.Synced || synced.Worker != "w1" {
		t.Fatalf("watch began with %+v %+v %+v, want the machine, an offer, synced", first, offer, synced)
	}
	if err := w.Destroy(ctx, a.Ref(), true); err != nil {
		t.Fatal(err)
	}
	seq, offers := first.Machine.Gondola.Seq, 0
	for c := range changes {
		if c.Offer != nil {
			offers++
		}
		if c.Machine == nil {
			continue
		}
		if c.Machine.ID != a.ID || c.Machine.Gondola.Seq <= seq {
			t.Errorf("change of %s with seq %d after %d", c.Machine.ID, c.Machine.Gondola.Seq, seq)
		}
		if seq = c.Machine.Gondola.Seq; c.Machine.State == gondola.Destroyed {
			break
		}
	}
	for offers == 0 {
		c, ok := <-changes
		if !ok {
			t.Fatal("no offer told that the capacity came back")
		}
		if c.Offer != nil {
			offers++
		}
	}
}

func TestWatch_EndsForAReaderThatIsTooSlow(t *testing.T) {
	t.Parallel() // 4200 commits
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning(), SkipLaunch: true})
	changes, err := w.Watch(t.Context(), gondola.WatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	v := "x"
	for range 4200 {
		if err := w.SetMetadata(t.Context(), m.Ref(), "", map[string]*string{"k": &v}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	for range changes {
		n++
	}
	if n > 4200 {
		t.Errorf("%d changes were delivered to a reader that slept", n)
	}
}
