package gvisor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/drivertest"
	"gondola/internal/driver/gvisor"
	_ "gondola/internal/driver/gvisor/runsc" // what is tested is built from it: where it changed, an earlier result is void
	"gondola/internal/pilot"
)

// built returns a directory with gondola-pilot and with an image, built once for all tests of a run.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "gvt-")
	if err != nil {
		return "", err
	}
	for out, pkg := range map[string]string{"gondola-pilot": "gondola/cmd/gondola-pilot", "image/bin/probe": "./runsc/testdata/probe",
		"suite/program": "gondola/internal/driver/drivertest/program/cmd"} {
		cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", filepath.Join(dir, out), pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("%w: %s", err, out)
		}
	}
	for _, tmp := range []string{"image/tmp", "suite/tmp"} {
		if err := os.Mkdir(filepath.Join(dir, tmp), 0o777); err != nil {
			return dir, err
		}
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(daemonVariable), ":"); len(args) == 3 {
		if err := beDaemon(args[0], args[1], args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	code := m.Run()
	if os.Getuid() == 0 {
		if dir, _ := built(); dir != "" {
			os.RemoveAll(dir)
		}
	}
	os.Exit(code)
}

// newDriver returns a driver for tests.
func newDriver(t *testing.T) *gvisor.Driver {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("gVisor sandboxes are made by root")
	}
	dir, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return gvisor.New(gvisor.Config{PilotPath: filepath.Join(dir, "gondola-pilot")})
}

// place is where the Machines of these tests run.
const place drivertest.Place = "gvt"

// newSpec returns the Spec of a Machine whose containers run the probe with the given arguments. When the test ends it is killed, and
// nothing of it may be left.
func newSpec(t *testing.T, d *gvisor.Driver, containers map[string][]string) pilot.Spec {
	t.Helper()
	dir, _ := built()
	spec := place.Spec(t, d)
	for name, args := range containers {
		spec.Containers = append(spec.Containers, pilot.Container{
			Name: name, Image: "probe", Tree: filepath.Join(dir, "image"), Args: append([]string{"/bin/probe"}, args...), Env: []string{"PATH=/bin"},
			Config: gondola.Container{Name: name},
		})
	}
	return spec
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
	b, _ := json.Marshal(last)
	t.Fatalf("the awaited status does not come; the last is %s", b)
	return last
}

func running(s pilot.Status) bool {
	for _, c := range s.Containers {
		if c.State.Kind != gondola.ContainerRunning {
			return false
		}
	}
	return s.Phase == pilot.Running
}

func phase(p pilot.Phase) func(pilot.Status) bool {
	return func(s pilot.Status) bool { return s.Phase == p }
}

func launch(t *testing.T, d *gvisor.Driver, spec pilot.Spec) pilot.API {
	t.Helper()
	api, err := d.Launch(t.Context(), spec, nil)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	return api
}

func get(t *testing.T, api pilot.API, port int) string {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		conn, err := api.Dial(t.Context(), port)
		if err == nil {
			defer conn.Close()
			fmt.Fprintf(conn, "GET / HTTP/1.0\r\n\r\n")
			b, err := io.ReadAll(conn)
			if err == nil && len(b) > 0 {
				return string(b)
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("Dial(%d): %v", port, err)
		}
	}
}

func run(t *testing.T, api pilot.API, container string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	_, err := api.Exec(t.Context(), gondola.ExecOptions{Container: container, Command: append([]string{"/bin/probe"}, args...)}, gondola.ExecIO{Stdout: &out})
	if err != nil {
		t.Fatalf("Exec(%v): %v", args, err)
	}
	return strings.TrimSpace(out.String())
}

func TestLaunch_RunsToTheEnd(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	api := launch(t, d, spec)
	await(t, api, running)
	if got := get(t, api, 8080); !strings.Contains(got, "probe") {
		t.Errorf("GET = %q", got)
	}
	if got := run(t, api, "main", "read", "/etc/resolv.conf"); got != "nameserver 127.0.0.1" {
		t.Errorf("/etc/resolv.conf = %q", got)
	}
	if alive, err := d.Alive(t.Context(), spec); !alive || err != nil {
		t.Errorf("Alive = %v, %v", alive, err)
	}
	if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, api, phase(pilot.Ended))
	if alive, err := d.Alive(t.Context(), spec); alive || err != nil {
		t.Errorf("Alive after the end = %v, %v", alive, err)
	}
}

func TestLaunch_AdoptsAfterThePilotWasKilled(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	api := launch(t, d, spec)
	first := await(t, api, running)
	run(t, api, "main", "write", "/tmp/mark", "same run")
	drivertest.Kill9(t, filepath.Join(spec.Dir, "pilot.json"))
	if _, err := d.Adopt(t.Context(), spec); !errors.Is(err, pilot.ErrGone) {
		t.Fatalf("Adopt of a killed pilot = %v, want ErrGone", err)
	}
	if alive, err := d.Alive(t.Context(), spec); !alive || err != nil {
		t.Fatalf("Alive without a pilot = %v, %v; want the sandbox to run on", alive, err)
	}
	api = launch(t, d, spec)
	second := await(t, api, running)
	if got := run(t, api, "main", "read", "/tmp/mark"); got != "same run" {
		t.Errorf("the container was not adopted: mark = %q", got)
	}
	if second.SandboxID != first.SandboxID || second.Containers[0].RestartCount != 0 {
		t.Errorf("after adoption: sandbox %s → %s, %+v", first.SandboxID, second.SandboxID, second.Containers[0])
	}
}

func TestLaunch_RestartsALostSandboxInPlace(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	api := launch(t, d, spec)
	await(t, api, running)
	lost := make(chan pilot.Status, 1)
	go func() {
		last := pilot.Status{}
		if statuses, err := api.Watch(t.Context()); err == nil {
			for last = range statuses {
			}
		}
		lost <- last
	}()
	drivertest.Kill9(t, filepath.Join(spec.RunDir, "sandbox.json"))
	if last := <-lost; last.Phase != pilot.Lost {
		t.Errorf("after kill -9 of the sandbox the phase is %q, want lost", last.Phase)
	}
	api = launch(t, d, spec)
	s := await(t, api, running)
	if s.Containers[0].RestartCount != 1 {
		t.Errorf("restart count = %d, want 1", s.Containers[0].RestartCount)
	}
}

func TestLaunch_SaysWhyAPilotDoesNotStart(t *testing.T) {
	newDriver(t) // for the skip
	d := gvisor.New(gvisor.Config{PilotPath: "/bin/false"})
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	if _, err := d.Launch(t.Context(), spec, nil); !errors.Is(err, gondola.ErrUnavailable) {
		t.Errorf("Launch with a broken pilot = %v, want ErrUnavailable", err)
	}
}

func TestLaunch_FailsWhenAProgramDoesNotExist(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": nil})
	spec.Containers[0].Args = []string{"/bin/nothing"}
	api := launch(t, d, spec)
	s := await(t, api, func(s pilot.Status) bool {
		return len(s.Containers) == 1 && (s.Containers[0].State.Kind == gondola.ContainerExited || s.Containers[0].State.Message != "")
	})
	if got := s.Containers[0].State; !strings.Contains(got.Message, "/bin/nothing") || !strings.Contains(got.Message, "no such file") {
		t.Errorf("state = %+v, want a message that names the program", got)
	}
}

// cpuOf is the CPU time that a sandbox has had, as the host counts it.
func cpuOf(t *testing.T, api pilot.API) time.Duration {
	t.Helper()
	st, err := api.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(st.CPU.UsageNanos)
}

func TestLimits(t *testing.T) {
	d := newDriver(t)
	spec := newSpec(t, d, map[string][]string{"main": {"serve", "8080"}})
	spec.Limits = gondola.Resources{CPUMillis: 200, MemoryBytes: 64 << 20}
	api := launch(t, d, spec)
	await(t, api, running)
	before, began := cpuOf(t, api), time.Now()
	run(t, api, "main", "burn")
	used, took := cpuOf(t, api)-before, time.Since(began)
	if most := took/5 + 100*time.Millisecond; used > most { // a fifth of a core, and one period more
		t.Errorf("%s of work under 200 millicores took %s of CPU, want at most %s", took, used, most)
	}
	lost := make(chan pilot.Status, 1)
	go func() {
		last := pilot.Status{}
		if statuses, err := api.Watch(t.Context()); err == nil {
			for last = range statuses {
			}
		}
		lost <- last
	}()
	go api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/bin/probe", "eat", "300"}}, gondola.ExecIO{})
	if last := <-lost; last.Phase != pilot.Lost {
		t.Errorf("after eating 300 MB of 64 the phase is %q, want lost", last.Phase)
	}
	s := await(t, launch(t, d, spec), running)
	if c := s.Containers[0]; c.RestartCount != 1 || c.Last == nil || c.Last.Reason != "OOMKilled" {
		t.Errorf("after eating 300 MB of 64 and a restart: %+v, last %+v; want one restart and OOMKilled", c, c.Last)
	}
}
