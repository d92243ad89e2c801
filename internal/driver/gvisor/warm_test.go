package gvisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/gvisor"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// small is a kind that Machines of these tests have.
var small = driver.Kind{Limits: gondola.Resources{CPUMillis: 1000, MemoryBytes: 256 << 20}, Processes: 512}

// warmDriver is a driver with sandboxes that stand ready, for as long as stop is not called or the test goes on.
type warmDriver struct {
	*gvisor.Driver
	dir  string
	stop func()
}

func newWarmDriver(t *testing.T, size int, first driver.Kind) warmDriver {
	t.Helper()
	newDriver(t) // for the skip
	dir, err := os.MkdirTemp("/run", "gvt-warm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	built, _ := built()
	return runWarm(t, gvisor.New(gvisor.Config{PilotPath: filepath.Join(built, "gondola-pilot"),
		Warm: driver.WarmConfig{Dir: dir, Instance: string(place), Size: size, First: first}}), dir)
}

// runWarm keeps sandboxes ready until the test ends, which checks that nothing is left of them.
func runWarm(t *testing.T, d *gvisor.Driver, dir string) warmDriver {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.Warm.Run(ctx) }()
	w := warmDriver{d, dir, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		ended <- nil
	}}
	t.Cleanup(func() {
		w.stop()
		if left := w.standing(); len(left) > 0 {
			t.Errorf("sandboxes still stand ready: %v", left)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
		for _, pattern := range []string{"/sys/fs/cgroup/gondola/gvt", "/sys/fs/cgroup/*/gondola/gvt"} {
			groups, _ := filepath.Glob(pattern)
			for _, dir := range groups {
				if err := os.Remove(dir); err != nil { // what is in it stays, and is told
					t.Errorf("a cgroup is left: %v", err)
				}
			}
		}
	})
	return w
}

// standing are the processes of the sandboxes that stand ready.
func (w warmDriver) standing() (pids []int) {
	files, _ := filepath.Glob(filepath.Join(w.dir, "*", "runsc", "*.state"))
	for _, f := range files {
		var state struct {
			Sandbox struct{ Pid int }
		}
		b, err := os.ReadFile(f)
		if err == nil && json.Unmarshal(b, &state) == nil && state.Sandbox.Pid > 0 {
			pids = append(pids, state.Sandbox.Pid)
		}
	}
	return pids
}

// await waits until one stands ready that is none of these, and returns its process.
func (w warmDriver) await(t *testing.T, not ...int) int {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		pids := w.standing()
		if w.Warm.Standing() == 1 && len(pids) == 1 && !slices.Contains(not, pids[0]) {
			return pids[0]
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sandboxes stand ready: %v; want one that is not among %v", w.Warm.Standing(), pids, not)
		}
	}
}

// smallSpec is a Machine of the small kind.
func smallSpec(t *testing.T, d warmDriver) pilot.Spec {
	spec := newSpec(t, d.Driver, map[string][]string{"main": {"serve", "8080"}})
	spec.Limits, spec.Processes = small.Limits, small.Processes
	return spec
}

// sandboxOf is the process of a Machine's sandbox.
func sandboxOf(t *testing.T, spec pilot.Spec) int {
	t.Helper()
	p, err := driver.ReadProcess(filepath.Join(spec.RunDir, driver.SandboxRecord))
	if err != nil {
		t.Fatal(err)
	}
	return p.PID
}

func TestWarm_AMachineGetsTheSandboxThatStandsReady(t *testing.T) {
	d := newWarmDriver(t, 1, small)
	ready := d.await(t)
	spec := smallSpec(t, d)
	spec.Hostname = "claimed"
	api := launch(t, d.Driver, spec)
	first := await(t, api, running)
	if pid := sandboxOf(t, spec); pid != ready {
		t.Errorf("the sandbox is process %d, want %d, which stood ready", pid, ready)
	}
	for file, want := range map[string]string{"/proc/sys/kernel/hostname": "claimed", "/sys/fs/cgroup/memory.max": "268435456", "/etc/resolv.conf": "nameserver 127.0.0.1"} {
		if got := run(t, api, "main", "read", file); got != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	if got := get(t, api, 8080); !strings.Contains(got, "probe") {
		t.Errorf("GET = %q", got)
	}
	if st, err := api.Stats(t.Context()); err != nil || st.Memory.Usage == 0 || st.CPU.UsageNanos == 0 {
		t.Errorf("Stats = %+v, %v; want memory and CPU time", st, err)
	}
	checkCgroups(t, sandboxOf(t, spec), spec.Cgroup+"/sandbox")
	p, err := driver.ReadProcess(filepath.Join(spec.Dir, "pilot.json"))
	if err != nil {
		t.Fatal(err)
	}
	checkCgroups(t, p.PID, spec.Cgroup+"/pilot")
	d.await(t, ready) // the next one

	// The next pilot takes it over, also by a driver that knows of none.
	run(t, api, "main", "write", "/tmp/mark", "same run")
	drivertest.Kill9(t, filepath.Join(spec.Dir, "pilot.json"))
	if alive, err := d.Alive(t.Context(), spec); !alive || err != nil {
		t.Fatalf("Alive without a pilot = %v, %v; want the sandbox to run on", alive, err)
	}
	api = launch(t, newDriver(t), spec)
	second := await(t, api, running)
	if got := run(t, api, "main", "read", "/tmp/mark"); got != "same run" || second.SandboxID != first.SandboxID {
		t.Errorf("the sandbox was not taken over: mark = %q, sandbox %s → %s", got, first.SandboxID, second.SandboxID)
	}

	// A lost one is replaced, by one that stands ready.
	drivertest.Kill9(t, filepath.Join(spec.RunDir, "sandbox.json"))
	for last := range mustWatch(t, api) {
		if last.Phase.Final() && last.Phase != pilot.Lost {
			t.Errorf("after kill -9 of the sandbox the phase is %q, want lost", last.Phase)
		}
	}
	place.Renew(t, spec)
	api = launch(t, d.Driver, spec)
	if s := await(t, api, running); s.Containers[0].RestartCount != 1 {
		t.Errorf("restart count = %d, want 1", s.Containers[0].RestartCount)
	}
	if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, api, phase(pilot.Ended))
}

// mustWatch is Watch; a pilot that is gone has nothing to tell.
func mustWatch(t *testing.T, api pilot.API) <-chan pilot.Status {
	t.Helper()
	statuses, err := api.Watch(t.Context())
	if err != nil {
		none := make(chan pilot.Status)
		close(none)
		return none
	}
	return statuses
}

// checkCgroups says where a process is not in the group in which it has to be.
func checkCgroups(t *testing.T, pid int, group string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(b)) {
		in := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if strings.Contains(in[2], "warm.") || (in[1] == "memory" || in[1] == "pids") && in[2] != "/"+group {
			t.Errorf("process %d is in %q, want %s", pid, strings.TrimSpace(line), group)
		}
	}
}

func TestWarm_OtherMachinesGetTheirOwn(t *testing.T) {
	d := newWarmDriver(t, 1, small)
	ready := d.await(t)
	for name, change := range map[string]func(*pilot.Spec){
		"size":   func(s *pilot.Spec) { s.Limits.MemoryBytes = 512 << 20 },
		"volume": func(s *pilot.Spec) { s.Volumes = []pilot.Volume{{Name: "v", Kind: pilot.VolumeMemory}} },
	} {
		t.Run(name, func(t *testing.T) {
			spec := smallSpec(t, d)
			change(&spec)
			await(t, launch(t, d.Driver, spec), running)
			if pid := sandboxOf(t, spec); pid == ready {
				t.Error("it got a sandbox that stood ready")
			}
			if name == "size" { // asked for last: the next one of this size finds one
				again := smallSpec(t, d)
				change(&again)
				ready = d.await(t, ready)
				await(t, launch(t, d.Driver, again), running)
				if pid := sandboxOf(t, again); pid != ready {
					t.Errorf("the sandbox is process %d, want %d, which stood ready", pid, ready)
				}
			}
			ready = d.await(t)
		})
	}
}

// A pilot that dies anywhere on the way is replaced, and the Machine runs.
func TestWarm_APilotThatDiesAtTheClaim(t *testing.T) {
	for _, point := range []string{"pilot.claim.bound", "pilot.claim.started", "pilot.claim.moved", "pilot.claim.saved", "pilot.sandbox.started", "pilot.boot.made"} {
		t.Run(point, func(t *testing.T) {
			armed := filepath.Join(t.TempDir(), "armed")
			t.Setenv(failpoint.Variable, "@"+armed)
			d := newWarmDriver(t, 1, small)
			d.await(t)
			spec := smallSpec(t, d)
			if err := os.WriteFile(armed, []byte(point), 0o600); err != nil {
				t.Fatal(err)
			}
			api, err := d.Launch(t.Context(), spec, nil)
			if err == nil {
				for range mustWatch(t, api) {
				}
			} else if !errors.Is(err, pilot.ErrGone) {
				t.Fatalf("Launch: %v", err)
			}
			if _, err := os.Stat(armed + ".hit"); err != nil {
				t.Fatalf("the pilot did not come by %s: %v", point, err)
			}
			alive, err := d.Alive(t.Context(), spec)
			if err != nil {
				t.Fatal(err)
			}
			if !alive { // as a worker does
				place.Renew(t, spec)
			}
			if s := await(t, launch(t, d.Driver, spec), running); s.Containers[0].RestartCount != 0 {
				t.Errorf("restart count = %d, want 0", s.Containers[0].RestartCount)
			}
			d.await(t)
		})
	}
}

// What was killed while it stood ready is removed by the next that comes.
func TestWarm_WhatAKilledPilotLeavesIsRemoved(t *testing.T) {
	d := newWarmDriver(t, 1, small)
	old := d.await(t)
	records, _ := filepath.Glob(filepath.Join(d.dir, "*", "pilot.json"))
	if len(records) != 1 {
		t.Fatalf("records = %v, want one", records)
	}
	drivertest.Kill9(t, records[0])
	spec := smallSpec(t, d) // is not given to it
	await(t, launch(t, d.Driver, spec), running)
	if sandboxOf(t, spec) == old {
		t.Error("the Machine has the sandbox of a dead pilot")
	}
	d.await(t, old)
}

// A Machine in a sandbox that stood ready is suspended and runs on, in one that is made for it.
func TestWarm_AMachineIsSuspended(t *testing.T) {
	d := newWarmDriver(t, 1, small)
	ready := d.await(t)
	spec := smallSpec(t, d)
	spec.Hostname = "claimed"
	api := launch(t, d.Driver, spec)
	first := await(t, api, running)
	if pid := sandboxOf(t, spec); pid != ready {
		t.Fatalf("the sandbox is process %d, want %d, which stood ready", pid, ready)
	}
	run(t, api, "main", "write", "/tmp/mark", "same run")
	for range 2 {
		next := d.await(t, ready)
		if err := api.Suspend(t.Context()); err != nil {
			t.Fatalf("Suspend = %v", err)
		}
		if err := d.Kill(t.Context(), spec); err != nil { // as a worker does
			t.Fatal(err)
		}
		place.Renew(t, spec)
		api = launch(t, d.Driver, spec)
		s := await(t, api, running)
		if !s.Resumed || s.Cold != "" || s.SandboxID != first.SandboxID {
			t.Fatalf("resumed %t, cold %q, sandbox %s → %s", s.Resumed, s.Cold, first.SandboxID, s.SandboxID)
		}
		if pid := sandboxOf(t, spec); pid == next {
			t.Error("a sandbox that stood ready was taken for a snapshot")
		}
		for file, want := range map[string]string{"/proc/sys/kernel/hostname": "claimed", "/tmp/mark": "same run", "/sys/fs/cgroup/memory.max": "268435456"} {
			if got := run(t, api, "main", "read", file); got != want {
				t.Errorf("%s = %q, want %q", file, got, want)
			}
		}
		if got := get(t, api, 8080); !strings.Contains(got, "probe") {
			t.Errorf("GET = %q", got)
		}
		p, err := driver.ReadProcess(filepath.Join(spec.Dir, "pilot.json"))
		if err != nil {
			t.Fatal(err)
		}
		checkCgroups(t, p.PID, spec.Cgroup+"/pilot")
		checkCgroups(t, sandboxOf(t, spec), spec.Cgroup+"/sandbox")
	}
}

// daemonVariable is set in a process of this test that is a daemon: to the directory of sandboxes that stand ready and that of a Machine.
const daemonVariable = "GVT_DAEMON"

// beDaemon launches a Machine in a sandbox that stands ready.
func beDaemon(pilotPath, dir, machine string) error {
	ctx := context.Background()
	spec, err := pilot.ReadSpec(machine)
	if err != nil {
		return err
	}
	d := gvisor.New(gvisor.Config{PilotPath: pilotPath, Warm: driver.WarmConfig{Dir: dir, Instance: string(place), Size: 1, First: small}})
	go d.Warm.Run(ctx)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); d.Warm.Standing() == 0; <-tick.C {
		if time.Now().After(deadline) {
			return errors.New("no sandbox stands ready")
		}
	}
	_, err = d.Launch(ctx, spec, nil)
	return err
}

// With a daemon that dies before it has told a pilot its Machine, that pilot ends; after it, the pilot is the Machine's.
func TestWarm_ADaemonThatDiesAtTheClaim(t *testing.T) {
	d := newDriver(t)
	for point, told := range map[string]bool{"driver.warm.recorded": false, "driver.warm.told": true} {
		t.Run(point, func(t *testing.T) {
			dir, err := os.MkdirTemp("/run", "gvt-warm-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(dir) })
			spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
			spec.Limits, spec.Processes = small.Limits, small.Processes
			if err := errors.Join(os.MkdirAll(spec.Dir, 0o700), pilot.WriteSpec(spec)); err != nil {
				t.Fatal(err)
			}
			built, _ := built()
			daemon := exec.Command(os.Args[0])
			daemon.Env = append(os.Environ(), daemonVariable+"="+strings.Join([]string{filepath.Join(built, "gondola-pilot"), dir, spec.Dir}, ":"), failpoint.Variable+"="+point)
			if out, err := daemon.CombinedOutput(); err == nil || daemon.ProcessState.ExitCode() >= 0 {
				t.Fatalf("the daemon ended by itself: %v: %s", err, out)
			}
			api, err := d.Adopt(t.Context(), spec)
			for deadline := time.Now().Add(5 * time.Second); told && err != nil && time.Now().Before(deadline); {
				api, err = d.Adopt(t.Context(), spec)
			}
			if !told {
				if !errors.Is(err, pilot.ErrGone) {
					t.Fatalf("Adopt = %v, want ErrGone", err)
				}
				api = launch(t, d, spec)
			} else if err != nil {
				t.Fatalf("Adopt: %v", err)
			}
			await(t, api, running)
			next := gvisor.New(gvisor.Config{PilotPath: filepath.Join(built, "gondola-pilot"), Warm: driver.WarmConfig{Dir: dir, Instance: string(place), Size: 1, First: small}})
			w := runWarm(t, next, dir)
			w.await(t, sandboxOf(t, spec))
		})
	}
}

// Where none are to stand ready none do, and what an earlier daemon left is removed.
func TestWarm_NoneLeavesNone(t *testing.T) {
	newDriver(t) // for the skip
	built, _ := built()
	dir, err := os.MkdirTemp("/run", "gvt-warm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config := func(size int) gvisor.Config {
		return gvisor.Config{PilotPath: filepath.Join(built, "gondola-pilot"), Warm: driver.WarmConfig{Dir: dir, Instance: string(place), Size: size, First: small}}
	}
	// The pilot of one that stands ready is killed, with none beside who would notice: its sandbox runs on.
	armed := filepath.Join(t.TempDir(), "armed")
	t.Setenv(failpoint.Variable, "@"+armed)
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	spec.Limits, spec.Processes = small.Limits, small.Processes
	if err := errors.Join(os.MkdirAll(spec.Dir, 0o700), pilot.WriteSpec(spec), os.WriteFile(armed, []byte("driver.warm.recorded"), 0o600)); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command(os.Args[0])
	daemon.Env = append(os.Environ(), daemonVariable+"="+strings.Join([]string{config(1).PilotPath, dir, spec.Dir}, ":"))
	if out, err := daemon.CombinedOutput(); err == nil || daemon.ProcessState.ExitCode() >= 0 {
		t.Fatalf("the daemon ended by itself: %v: %s", err, out)
	}
	records, _ := filepath.Glob(filepath.Join(dir, "*", "pilot.json"))
	if len(records) == 0 {
		t.Fatal("the daemon has left nothing")
	}
	for _, record := range records {
		p, err := driver.ReadProcess(record)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) { // it is about to end by itself
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); p.Alive(); {
			if time.Now().After(deadline) {
				t.Fatalf("process %d lives", p.PID)
			}
		}
	}
	off := runWarm(t, gvisor.New(config(0)), dir)
	await(t, launch(t, off.Driver, spec), running)
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		left, _ := os.ReadDir(dir)
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in %s: %v", dir, left)
		}
	}
}
