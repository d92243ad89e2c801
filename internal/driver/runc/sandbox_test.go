package runc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/runc"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// container returns a container that runs the program with args and does not restart.
func container(name string, ext gondola.ContainerExtension, args ...string) pilot.Container {
	dir, _ := built()
	return pilot.Container{Name: name, Image: "program", Tree: filepath.Join(dir, "image"), Args: append([]string{"/program"}, args...),
		Config: gondola.Container{Name: name, Restart: &gondola.RestartPolicy{Policy: gondola.RestartNo}, Gondola: &ext}}
}

func launch(t *testing.T, d *runc.Driver, spec pilot.Spec) pilot.API {
	t.Helper()
	api, err := d.Launch(t.Context(), spec, nil)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	return api
}

// await returns the first Status that ok accepts.
func await(t *testing.T, api pilot.API, ok func(pilot.Status) bool) pilot.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	statuses, err := api.Watch(ctx)
	if err != nil {
		t.Fatalf("Watch: %v", err)
	}
	var last pilot.Status
	for last = range statuses {
		if ok(last) {
			return last
		}
	}
	t.Fatalf("the awaited status does not come; the last is %+v", last)
	return last
}

func all(kind gondola.ContainerKind) func(pilot.Status) bool {
	return func(s pilot.Status) bool {
		for _, c := range s.Containers {
			if c.State.Kind != kind {
				return false
			}
		}
		return len(s.Containers) > 0
	}
}

// awaitLog waits until a container has written the text, and returns all that it wrote.
func awaitLog(t *testing.T, spec pilot.Spec, name, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := pilot.OpenLog(ctx, spec.Dir, gondola.LogOptions{Container: name, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		if all = append(all, buf[:n]...); bytes.Contains(all, []byte(text)) {
			return string(all)
		}
		if err != nil {
			t.Fatalf("no %q in the log %q (%v)", text, all, err)
		}
	}
}

func run(t *testing.T, api pilot.API, name string, args ...string) (int, string) {
	t.Helper()
	var out bytes.Buffer
	st, err := api.Exec(t.Context(), gondola.ExecOptions{Container: name, Command: append([]string{"/program"}, args...)}, gondola.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("Exec %q: %v", args, err)
	}
	return st.Code, out.String()
}

func TestMemory_TheKernelKillsOneContainerAlone(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	limit := &gondola.Resources{MemoryBytes: 64 << 20}
	spec.Containers = []pilot.Container{container("fat", gondola.ContainerExtension{Limits: limit}, "sleep", "200ms", ";", "alloc", "200000000", ";", "run"),
		container("thin", gondola.ContainerExtension{Limits: limit}, "run")}
	began := time.Now()
	s := await(t, launch(t, d, spec), func(s pilot.Status) bool { return s.Containers[0].State.Kind == gondola.ContainerExited })
	if got := s.Containers[0].State; got.Reason != "OOMKilled" || got.ExitCode != 137 {
		t.Errorf("fat = %+v after %v, want OOMKilled", got, time.Since(began))
	}
	if got := s.Containers[1].State.Kind; got != gondola.ContainerRunning {
		t.Errorf("thin is %s, want that it runs on", got)
	}
}

func TestContainer_SeesItsOwnLimitAndIsGuarded(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	c := container("main", gondola.ContainerExtension{Limits: &gondola.Resources{MemoryBytes: 64 << 20},
		Security: &gondola.Security{ReadOnlyRootfs: true, NoNewPrivileges: true, DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_RAW"}}}, "run")
	spec.Containers = []pilot.Container{c}
	api := launch(t, d, spec)
	awaitLog(t, spec, "main", "running")
	for _, file := range []string{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"} {
		if code, out := run(t, api, "main", "read", file); code == 0 && strings.TrimSpace(out) != "67108864" {
			t.Errorf("%s = %q, want the container's limit", file, out)
		}
	}
	_, status := run(t, api, "main", "read", "/proc/self/status")
	for _, want := range []string{"Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000002000", "CapBnd:\t0000000000002000"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if code, _ := run(t, api, "main", "write", "/file", "x"); code == 0 {
		t.Error("a read-only root file system could be written to")
	}
	if code, _ := run(t, api, "main", "write", "/proc/sys/kernel/shmmni", "1"); code == 0 {
		t.Error("/proc/sys could be written to")
	}
	if _, out := run(t, api, "main", "read", "/proc/keys"); out != "" {
		t.Errorf("the host's keys are shown: %q", out)
	}
}

func TestShareProc_ContainersSeeEachOther(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.ShareProc = true
	spec.Containers = []pilot.Container{container("one", gondola.ContainerExtension{}, "run"), container("two", gondola.ContainerExtension{}, "run")}
	api := launch(t, d, spec)
	await(t, api, all(gondola.ContainerRunning))
	if _, out := run(t, api, "two", "read", "/proc/1/cmdline"); out != "/pause\x00" {
		t.Errorf("process 1 is %q, want the sandbox's", out)
	}
	if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, api, func(s pilot.Status) bool { return s.Phase == pilot.Ended })
}

func TestTerminal_SurvivesThePilot(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{TTY: true, Stdin: true}, "ticks")}
	launch(t, d, spec)
	awaitLog(t, spec, "main", "tick 3")
	drivertest.Kill9(t, filepath.Join(spec.Dir, "pilot.json"))
	api := launch(t, d, spec)
	if got := await(t, api, all(gondola.ContainerRunning)).Containers[0]; got.RestartCount != 0 {
		t.Errorf("main = %+v, want that it runs on", got)
	}
	awaitLog(t, spec, "main", "tick 60")
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	go keyboard.Write([]byte{3}) // ^C, to a terminal that the first pilot made
	if _, err := api.Attach(t.Context(), "main", gondola.ExecIO{Stdin: in, Stdout: io.Discard}); err != nil {
		t.Fatal(err)
	}
	if got := await(t, api, all(gondola.ContainerExited)).Containers[0].State; got.ExitCode != 130 {
		t.Errorf("main = %+v, want 130 by ^C", got)
	}
}

// awaitProcess reads the record of a process, which is written a moment after the process has begun.
func awaitProcess(t *testing.T, path string) driver.Process {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		p, err := driver.ReadProcess(path)
		if err == nil {
			return p
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal(err)
		}
	}
}

func TestMonitor_ItsDeathEndsTheContainer(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{}, "run")}
	api := launch(t, d, spec)
	awaitLog(t, spec, "main", "running")
	monitors, _ := filepath.Glob(filepath.Join(spec.RunDir, "bundles", "*", "monitor.json"))
	if len(monitors) != 1 {
		t.Fatalf("monitors = %v, want one", monitors)
	}
	first := awaitProcess(t, filepath.Join(filepath.Dir(monitors[0]), "init.json"))
	drivertest.Kill9(t, monitors[0])
	if got := await(t, api, all(gondola.ContainerExited)).Containers[0].State; got.ExitCode != 137 {
		t.Errorf("main = %+v, want an end by 137", got)
	}
	if first.Alive() {
		t.Errorf("process %d runs on, and nobody would hear of its end", first.PID)
	}
}

func TestPilot_SaysThatRuncIsMissing(t *testing.T) {
	newDriver(t)
	dir, _ := built()
	d := runc.New(runc.Config{PilotPath: filepath.Join(dir, "gondola-pilot"), Path: "/no/such/runc"})
	spec := newSpec(t, d)
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{}, "run")}
	api, err := d.Launch(t.Context(), spec, nil)
	said := ""
	if err != nil {
		said = err.Error()
	} else if statuses, err := api.Watch(t.Context()); err == nil {
		for s := range statuses {
			said = s.Message
		}
	}
	for deadline := time.Now().Add(20 * time.Second); said == "" && time.Now().Before(deadline); { // it hangs up before it writes that down
		if s, err := pilot.ReadStatus(spec.Dir); err == nil {
			said = s.Message
		}
		<-time.After(10 * time.Millisecond)
	}
	if !strings.Contains(said, "/no/such/runc") {
		log, _ := os.ReadFile(filepath.Join(spec.Dir, "pilot.log"))
		t.Errorf("the pilot says %q, want what is missing\n%s", said, log)
	}
}

func TestSandbox_RootHasNoRightsAndSeesNothing(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.Hostname = "alone"
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{}, "run")}
	await(t, launch(t, d, spec), all(gondola.ContainerRunning))
	root, err := driver.ReadProcess(filepath.Join(spec.RunDir, driver.SandboxRecord))
	if err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", root.PID)
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in the status of the sandbox's root:\n%s", want, status)
		}
	}
	if entries, err := os.ReadDir(proc + "root/"); err != nil || len(entries) != 1 {
		t.Errorf("the root file system of the sandbox has %v (%v), want the pause program alone", entries, err)
	}
	if mounts, err := os.ReadFile(proc + "mountinfo"); err != nil || bytes.Count(mounts, []byte("\n")) != 1 || !bytes.Contains(mounts, []byte(" ro,")) {
		t.Errorf("the sandbox's root has these mounts (%v), want one, read-only:\n%s", err, mounts)
	}
	for _, ns := range []string{"mnt", "ipc", "uts", "pid", "net"} {
		ours, err1 := os.Readlink("/proc/self/ns/" + ns)
		theirs, err2 := os.Readlink(proc + "ns/" + ns)
		if err := errors.Join(err1, err2); err != nil || ours == theirs {
			t.Errorf("the sandbox's root shares the host's namespace %s (%v)", ns, err)
		}
	}
	if links, err := filepath.Glob(proc + "fd/*"); err != nil || len(links) != 3 {
		t.Errorf("the sandbox's root has the files %v open (%v), want three", links, err)
	}
}

func TestContainer_EnvironmentHasNothingOfRuncs(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{}, "run")}
	await(t, launch(t, d, spec), all(gondola.ContainerRunning))
	files, err := filepath.Glob(filepath.Join(spec.RunDir, "bundles", "*", "init.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("containers on record: %v (%v), want one", files, err)
	}
	first, err := driver.ReadProcess(files[0])
	if err != nil {
		t.Fatal(err)
	}
	// runc says that a container runs a moment before it makes way for the program.
	var env []byte
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for begin := time.Now(); !bytes.Contains(env, []byte("PATH=")) || bytes.Contains(env, []byte("_LIBCONTAINER")); <-tick.C {
		if env, err = os.ReadFile(fmt.Sprintf("/proc/%d/environ", first.PID)); err != nil || time.Since(begin) > 10*time.Second {
			t.Fatalf("the environment of a container is %q (%v)", env, err)
		}
	}
	if bytes.Contains(env, []byte("GO")) {
		t.Errorf("the environment of a container has something of runc's: %q", env)
	}
}

func TestSandbox_RootThatWasNotRecordedIsEndedByTheNextPilot(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d)
	spec.Containers = []pilot.Container{container("main", gondola.ContainerExtension{}, "run")}
	t.Setenv(failpoint.Variable, "pilot.pause.started")
	if api, err := d.Launch(t.Context(), spec, nil); err == nil { // it dies a moment before or after it answers
		if statuses, err := api.Watch(t.Context()); err == nil {
			for range statuses {
			}
		}
	}
	if n := roots(spec); n != 1 {
		t.Fatalf("%d roots of the sandbox run, want the one that the pilot has started", n)
	}
	t.Setenv(failpoint.Variable, "")
	await(t, launch(t, d, spec), all(gondola.ContainerRunning))
	if n := roots(spec); n != 1 {
		t.Errorf("%d roots of the sandbox run, want one", n)
	}
}

// roots counts the pause programs of a Machine.
func roots(spec pilot.Spec) (n int) {
	for _, pid := range cgroup.Host().PIDs(spec.Cgroup) {
		if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); string(name) == "pause\n" { // it may have ended
			n++
		}
	}
	return n
}
