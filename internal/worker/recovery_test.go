package worker_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

// cut makes a worker die in the middle: at the n-th call to host or driver its Run ends, and the call, done or not done, never returns to it.
type cut struct {
	worker.Host
	driver.Driver
	die func()

	mu     sync.Mutex
	left   int
	after  bool // die after the call has done its work, not before
	dead   chan struct{}
	over   chan struct{} // end of the test
	reason string
}

// at is called around a step.
func (c *cut) at(step string, before bool) {
	c.mu.Lock()
	select {
	case <-c.dead:
		c.mu.Unlock()
		<-c.over // the process is dead: nothing goes on
		return
	default:
	}
	if before {
		c.left--
	}
	hit := c.left == 0 && before == !c.after
	if hit {
		c.reason = step
		c.die()
		close(c.dead)
	}
	c.mu.Unlock()
	if hit {
		<-c.over
	}
}

func (c *cut) EnsureImage(ctx context.Context, r, p string, cr []gondola.RegistryCredential) (worker.Image, error) {
	c.at("EnsureImage", true)
	defer c.at("EnsureImage", false)
	return c.Host.EnsureImage(ctx, r, p, cr)
}

func (c *cut) Prepare(ctx context.Context, m worker.HostMachine, fresh bool) (worker.Prepared, error) {
	c.at("Prepare", true)
	defer c.at("Prepare", false)
	return c.Host.Prepare(ctx, m, fresh)
}

func (c *cut) Release(ctx context.Context, id gondola.MachineID, disk bool) error {
	c.at("Release", true)
	defer c.at("Release", false)
	return c.Host.Release(ctx, id, disk)
}

func (c *cut) Launch(ctx context.Context, s pilot.Spec, p *gondola.Payload) (pilot.API, error) {
	c.at("Launch", true)
	defer c.at("Launch", false)
	return c.Driver.Launch(ctx, s, p)
}

func (c *cut) Kill(ctx context.Context, s pilot.Spec) error {
	c.at("Kill", true)
	defer c.at("Kill", false)
	return c.Driver.Kill(ctx, s)
}

// persisting is a Machine that adds a line to a file of its root file system at every run.
func persisting(persist string) gondola.Config {
	c := longRunning()
	c.Init.Cmd, c.Rootfs = []string{"append", "/runs", "x", ";", "trap"}, &gondola.Rootfs{Persist: persist}
	return c
}

// life is what a user does with a Machine, step by step, and where that must lead whatever happens between: its state, and how many runs its root
// file system has seen, if it runs.
var life = []struct {
	name string
	do   func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error
	ends gondola.State
	runs int
}{
	{"create", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		_, err := w.Create(ctx, app, gondola.CreateRequest{Config: persisting("restart"), Gondola: &gondola.CreateExtension{ID: id}})
		return err
	}, gondola.Started, 1},
	{"restart", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		return w.Restart(ctx, gondola.Ref{ID: id}, gondola.RestartRequest{})
	}, gondola.Started, 2},
	{"update", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		c := persisting("restart")
		c.Env = map[string]string{"NEW": "1"}
		_, err := w.Update(ctx, gondola.Ref{ID: id}, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: c}})
		return err
	}, gondola.Started, 1},
	{"stop", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		return w.Stop(ctx, gondola.Ref{ID: id}, gondola.StopRequest{})
	}, gondola.Stopped, 0},
	{"start", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		_, err := w.Start(ctx, gondola.Ref{ID: id})
		return err
	}, gondola.Started, 1},
	{"destroy", func(ctx context.Context, w *worker.Worker, id gondola.MachineID) error {
		return w.Destroy(ctx, gondola.Ref{ID: id}, true)
	}, gondola.Destroyed, 0},
}

// TestCrash_AtEveryStepIsCarriedOnFrom kills the worker at every call that it makes to its host and driver, before and after the call's work,
// and each time expects a new worker to bring the operation to its end.
func TestCrash_AtEveryStepIsCarriedOnFrom(t *testing.T) {
	for _, after := range []bool{false, true} {
		points := 0
		for n := 1; ; n++ {
			hit := t.Run(fmt.Sprintf("after=%v/call=%d", after, n), func(t *testing.T) {
				if !crashAt(t, n, after) {
					t.Skip("the life is over before that call")
				}
				points++
			})
			if !hit {
				return
			}
			if points < n {
				break
			}
		}
		if points < 10 {
			t.Errorf("the worker crashed at %d points only", points)
		}
	}
}

func crashAt(t *testing.T, n int, after bool) (crashed bool) {
	r := newRig(t, gondola.Resources{CPUMillis: 1000, MemoryBytes: 1 << 30})
	c := &cut{Host: r.fake, Driver: r.driver, left: n, after: after, dead: make(chan struct{}), over: make(chan struct{})}
	var frozen sync.WaitGroup
	t.Cleanup(func() { close(c.over); frozen.Wait() })
	r.host, r.via = c, c
	ctx, cancel := context.WithCancel(context.Background())
	c.die = cancel
	w := r.open()
	frozen.Go(func() { w.Run(ctx); w.Close() })
	const id gondola.MachineID = "00000000000001"
	i := 0
	for ; i < len(life); i++ {
		if life[i].do(t.Context(), w, id) != nil {
			break
		}
		waited, stop := context.WithCancel(t.Context())
		go func() {
			select {
			case <-c.dead:
			case <-waited.Done():
			}
			stop()
		}()
		_, err := w.Wait(waited, gondola.Ref{ID: id}, gondola.WaitRequest{States: []gondola.State{life[i].ends}, Timeout: 10 * time.Second})
		stop()
		if err != nil {
			break
		}
	}
	select {
	case <-c.dead:
	default:
		if i < len(life) {
			t.Fatalf("%s did not get through although nothing crashed", life[i].name)
		}
		cancel()
		return false
	}
	i = min(i, len(life)-1)
	r.host, r.via = r.fake, r.driver
	again, _ := r.run()
	ref := gondola.Ref{App: app, ID: id}
	if _, err := again.Wait(t.Context(), ref, gondola.WaitRequest{States: []gondola.State{life[i].ends}, Timeout: 10 * time.Second}); err != nil {
		m, _ := again.Get(t.Context(), ref)
		t.Fatalf("crash in %s during %s: %v; %+v", c.reason, life[i].name, err, m.Gondola)
	}
	r.reads(again, id, life[i].name, life[i].runs)
	for _, step := range life[i+1:] {
		if err := step.do(t.Context(), again, id); err != nil {
			t.Fatalf("after a crash in %s during %s, %s = %v", c.reason, life[i].name, step.name, err)
		}
		r.await(again, id, step.ends)
		r.reads(again, id, step.name, step.runs)
	}
	a, err := again.Ask(t.Context(), gondola.Ask{})
	if err != nil || len(a.Bids) != 1 || a.Bids[0].Free != (gondola.Resources{CPUMillis: 1000, MemoryBytes: 1 << 30}) {
		t.Errorf("after a crash in %s during %s: %+v %v, want everything given back", c.reason, life[i].name, a, err)
	}
	return true
}

func TestRestartOfTheWorker_LeavesMachinesAlone(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, stop := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	m = r.await(w, m.ID, gondola.Started)
	lease, err := w.AcquireLease(t.Context(), m.Ref(), gondola.LeaseRequest{TTL: 60})
	if err != nil {
		t.Fatal(err)
	}
	stop()
	w, _ = r.run()
	if held, err := w.Lease(t.Context(), m.Ref()); err != nil || held != lease {
		t.Errorf("Lease = %+v, %v; want %+v", held, err, lease)
	}
	again, err := w.Get(t.Context(), m.Ref())
	if err != nil || again.State != gondola.Started {
		t.Fatalf("Get = %s, %v", again.State, err)
	}
	again = r.until(w, m.ID, "containers known", func(m gondola.Machine) bool { return m.Gondola.Containers[0].State.Kind == gondola.ContainerRunning })
	if again.Gondola.SandboxID != m.Gondola.SandboxID || again.Gondola.Seq <= m.Gondola.Seq || again.Gondola.Containers[0].RestartCount != 0 {
		t.Errorf("after: %+v, before: %+v; want the same sandbox and a later seq", again.Gondola, m.Gondola)
	}
}

// reads waits until a Machine of persisting has come to its n-th run over the same root file system, if it runs.
func (r *rig) reads(w *worker.Worker, id gondola.MachineID, when string, n int) {
	r.t.Helper()
	if n == 0 {
		return
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		out, err := w.Exec(r.t.Context(), gondola.Ref{ID: id}, gondola.ExecRequest{Command: []string{"/program", "read", "/runs"}})
		if err == nil && out.Stdout == strings.Repeat("x\n", n) {
			return
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("%s: the root file system has %+v, %v, want %d lines", when, out, err, n)
		}
	}
}

func TestRootfs_OverWhatEndsASandbox(t *testing.T) {
	for persist, want := range map[string]int{"never": 1, "restart": 4, "always": 4} {
		r := newRig(t, gondola.Resources{})
		w, stop := r.run()
		c := persisting(persist)
		c.Files = []gondola.File{{GuestPath: "/config.json", ImageConfig: "test/other"}}
		m := r.create(w, gondola.CreateRequest{Config: c})
		runs := func(what string, n int) {
			t.Helper()
			r.reads(w, m.ID, persist+", "+what, min(n, want))
			if out, err := w.Exec(t.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "read", "/config.json"}}); err != nil || !strings.Contains(out.Stdout, `"test/other"`) {
				t.Errorf("%s, %s: the file of an image's config has %+v, %v", persist, what, out, err)
			}
		}
		m = r.await(w, m.ID, gondola.Started)
		runs("first", 1)
		if err := r.driver.KillSandbox(m.ID); err != nil {
			t.Fatal(err)
		}
		r.until(w, m.ID, "restarted", func(m gondola.Machine) bool {
			return len(m.Gondola.Containers) > 0 && m.Gondola.Containers[0].RestartCount == 1 && m.State == gondola.Started
		})
		runs("its sandbox died", 2)
		if err := w.StopAll(t.Context()); err != nil { // gondola down
			t.Fatal(err)
		}
		stop()
		w, stop = r.run()
		m = r.await(w, m.ID, gondola.Started)
		runs("the platform went down and came up", 3)
		stop()
		if err := r.driver.Reboot(); err != nil {
			t.Fatal(err)
		}
		w, _ = r.run()
		m = r.await(w, m.ID, gondola.Started)
		runs("the host was rebooted", 4)
	}
}

func TestDeadPilot_IsReplacedAndDeadSandboxIsMadeAnew(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	m = r.await(w, m.ID, gondola.Started)
	if err := r.driver.KillPilot(m.ID); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Second)
	for { // exec needs the new pilot
		if _, err := w.Exec(t.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "exit", "0"}}); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("2 s after its pilot died: Exec = %v", err)
		}
	}
	now, _ := w.Get(t.Context(), m.Ref())
	if now.Gondola.SandboxID != m.Gondola.SandboxID || now.State != gondola.Started {
		t.Errorf("a dead pilot changed the machine: %s, %+v", now.State, now.Gondola)
	}
	if err := r.driver.KillSandbox(m.ID); err != nil {
		t.Fatal(err)
	}
	now = r.until(w, m.ID, "new sandbox", func(n gondola.Machine) bool {
		return n.State == gondola.Started && n.Gondola.SandboxID != m.Gondola.SandboxID && n.Gondola.Containers[0].State.Kind == gondola.ContainerRunning
	})
	if now.Gondola.Containers[0].RestartCount < 1 || now.Gondola.Addresses[0] != m.Gondola.Addresses[0] {
		t.Errorf("new sandbox: %+v, want a restart counted and the same addresses", now.Gondola)
	}
}

// deaf is a driver that does not find pilots at first.
type deaf struct {
	driver.Driver
	mu   sync.Mutex
	left int
}

func (d *deaf) Adopt(ctx context.Context, s pilot.Spec) (pilot.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.left--; d.left >= 0 {
		return nil, fmt.Errorf("the host is slow")
	}
	return d.Driver.Adopt(ctx, s)
}

func TestPilotThatIsHardToFind_IsLookedForAndNotKilled(t *testing.T) {
	t.Parallel()
	r := newRig(t, gondola.Resources{})
	w, stop := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	m = r.await(w, m.ID, gondola.Started)
	stop()
	r.via = &deaf{Driver: r.driver, left: 1}
	w, _ = r.run()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		_, err := w.Exec(ctx, m.Ref(), gondola.ExecRequest{Command: []string{"/program", "exit", "0"}})
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("Exec = %v", err)
		}
	}
	if now, _ := w.Get(ctx, m.Ref()); now.State != gondola.Started || now.Gondola.SandboxID != m.Gondola.SandboxID {
		t.Errorf("machine is %s in sandbox %s, want it started in %s", now.State, now.Gondola.SandboxID, m.Gondola.SandboxID)
	}
}

func TestEndWhileTheWorkerIsDown_IsSeenAfterwards(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	w, stop := r.run()
	config := gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: []string{"sleep", "1500ms", ";", "exit", "5"}}, Restart: &gondola.RestartPolicy{Policy: "no"}}
	m := r.create(w, gondola.CreateRequest{Config: config})
	m = r.await(w, m.ID, gondola.Started)
	sandbox := m.Gondola.SandboxID
	stop()
	dir := filepath.Join(r.dir, "host", "machines", string(m.ID))
	for deadline := time.Now().Add(5 * time.Second); ; {
		if st, err := pilot.ReadStatus(dir); err == nil && st.Phase.Final() {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the machine does not end: %+v %v", st, err)
		}
	}
	w, _ = r.run()
	m = r.await(w, m.ID, gondola.Stopped)
	if m.Gondola.Containers[0].State.ExitCode != 5 || m.Gondola.Containers[0].RestartCount != 0 || m.Gondola.SandboxID != sandbox {
		t.Errorf("containers = %+v, want exit code 5 and no other run", m.Gondola.Containers)
	}
}

func TestStopAll_EndsSandboxesAndTheNextUpBringsThemBack(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			r := newRig(t, gondola.Resources{})
			w, stop := r.run()
			m := r.create(w, gondola.CreateRequest{Config: longRunning()})
			rest := r.create(w, gondola.CreateRequest{Config: longRunning(), SkipLaunch: true})
			m = r.await(w, m.ID, gondola.Started)
			if !running {
				stop()
				w = r.open()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := w.StopAll(ctx); err != nil {
				t.Fatal(err)
			}
			if err := r.driver.KillSandbox(m.ID); err == nil {
				t.Error("after StopAll a sandbox is still there")
			}
			if running {
				stop()
			} else {
				w.Close()
			}
			w, _ = r.run()
			again := r.await(w, m.ID, gondola.Started)
			if again.Gondola.SandboxID == m.Gondola.SandboxID {
				t.Error("the sandbox was not made anew")
			}
			if rest, _ := w.Get(t.Context(), rest.Ref()); rest.State != gondola.Created {
				t.Errorf("a machine that never ran is %s after down and up", rest.State)
			}
		})
	}
}

func TestLeftovers_AreRemoved(t *testing.T) {
	r := newRig(t, gondola.Resources{})
	if _, err := r.host.Prepare(t.Context(), worker.HostMachine{ID: "00000000000009", Number: 1}, true); err != nil {
		t.Fatal(err)
	}
	r.run()
	dir := filepath.Join(r.dir, "host", "machines", "00000000000009")
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := os.Stat(dir); os.IsNotExist(err) {
			return
		} else if time.Now().After(deadline) {
			t.Fatal("the directory of a machine that is not on record stays")
		}
	}
}
