package pilot_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// serve serves a Machine and returns its client, and a function that ends the pilot as kill -9 would.
func serve(t *testing.T, spec pilot.Spec, rt pilot.Runtime) (*pilot.Client, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := pilot.Serve(ctx, spec, rt, slog.New(slog.DiscardHandler)); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v", err)
		}
	}()
	end := func() { cancel(); <-done }
	t.Cleanup(end)
	deadline := time.Now().Add(5 * time.Second)
	for {
		conn, err := net.Dial("unix", spec.Socket)
		if err == nil {
			conn.Close()
			return pilot.NewClient(spec.Socket), end
		}
		if time.Now().After(deadline) {
			t.Fatalf("no pilot on %s: %v", spec.Socket, err)
		}
	}
}

// await waits until f is true of a Status.
func await(t *testing.T, api pilot.API, what string, f func(pilot.Status) bool) pilot.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ch, err := api.Watch(ctx)
	if err != nil {
		t.Fatalf("Watch = %v while waiting for %s", err, what)
	}
	var last pilot.Status
	for s := range ch {
		if last = s; f(s) {
			return s
		}
	}
	t.Fatalf("%s did not come; last status %+v", what, last)
	return last
}

func isRunning(s pilot.Status) bool {
	return s.Containers[0].State.Kind == gondola.ContainerRunning && s.Containers[0].Ready
}

func isEnded(s pilot.Status) bool { return s.Phase == pilot.Ended }

func readLog(t *testing.T, spec pilot.Spec, opts gondola.LogOptions) string {
	t.Helper()
	opts.Container = "main"
	r, err := pilot.OpenLog(t.Context(), spec.Dir, opts)
	if err != nil {
		t.Fatalf("OpenLog = %v", err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLogs_PreviousIsTheRunThatEndedLastWhileTheNextOneIsAwaited(t *testing.T) {
	runs := filepath.Join(t.TempDir(), "runs")
	spec := testSpec(t, "echo x >>"+runs+"; wc -l <"+runs+"; exit 1")
	spec.RestartBackoff = "kubernetes"
	spec.Containers[0].Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	sup, _ := run(t, spec, newProcesses(t))
	await(t, sup, "a wait", func(s pilot.Status) bool { return s.Containers[0].State.Reason == "CrashLoopBackOff" })
	if log := readLog(t, spec, gondola.LogOptions{Previous: true}); log != "2\n" {
		t.Errorf("log of the run before while the third one is awaited = %q, want that of the second", log)
	}
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, sup, "the end", isEnded)
	if log := readLog(t, spec, gondola.LogOptions{Previous: true}); log != "1\n" {
		t.Errorf("log of the run before once there is no third one = %q, want that of the first", log)
	}
}

// awaitLine returns when the program has written its first line: from then on its traps hold.
func awaitLine(t *testing.T, spec pilot.Spec, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r, err := pilot.OpenLog(ctx, spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatalf("OpenLog = %v", err)
	}
	defer r.Close()
	if line, err := bufio.NewReader(r).ReadString('\n'); line != want+"\n" {
		t.Fatalf("first line = %q, %v, want %q", line, err, want)
	}
}

func TestServe_CarriesTheWholeAPI(t *testing.T) {
	spec := testSpec(t, `trap 'echo bye; exit 4' TERM; trap 'echo usr' USR1; echo up; while :; do sleep 0.02; done`)
	c, _ := serve(t, spec, newProcesses(t))
	await(t, c, "running", isRunning)
	awaitLine(t, spec, "up")
	if info, err := os.Stat(spec.Socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket = %v, %v, want mode 0600", info, err)
	}
	var out, errOut bytes.Buffer
	st, err := c.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/bin/sh", "-c", "cat; echo $HOSTNAME >&2; exit 3"}, Stdin: true},
		gondola.ExecIO{Stdin: strings.NewReader("in"), Stdout: &out, Stderr: &errOut})
	if err != nil || st.Code != 3 || out.String() != "in" || errOut.String() != "h\n" {
		t.Errorf("Exec = %+v, %v, %q, %q", st, err, &out, &errOut)
	}
	if _, err := c.Exec(t.Context(), gondola.ExecOptions{Container: "nobody", Command: []string{"x"}}, gondola.ExecIO{}); !errors.Is(err, gondola.ErrNotFound) {
		t.Errorf("Exec in an unknown container = %v, want ErrNotFound", err)
	}
	if ps, err := c.Processes(t.Context()); err != nil || len(ps) != 1 {
		t.Errorf("Processes = %v, %v", ps, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			fmt.Fprint(conn, "hello")
			conn.Close()
		}
	}()
	conn, err := c.Dial(t.Context(), l.Addr().(*net.TCPAddr).Port)
	if err != nil {
		t.Fatalf("Dial = %v", err)
	}
	if data, err := io.ReadAll(conn); string(data) != "hello" {
		t.Errorf("dialled %q, %v", data, err)
	}
	conn.Close()
	if err := c.Signal(t.Context(), "", "SIGUSR1"); err != nil {
		t.Errorf("Signal = %v", err)
	}
	if err := c.PutPayload(t.Context(), gondola.Payload{Volumes: map[string][]gondola.PayloadFile{"v": {{Path: "../out"}}}}); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("PutPayload of a path that escapes = %v, want ErrInvalid", err)
	}
	if err := c.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Errorf("Stop = %v", err)
	}
	if s := await(t, c, "the end", isEnded); s.Containers[0].State.ExitCode != 4 {
		t.Errorf("status = %+v, want code 4", s.Containers[0])
	}
	if log := readLog(t, spec, gondola.LogOptions{}); log != "up\nusr\nbye\n" {
		t.Errorf("log = %q", log)
	}
	if _, err := c.Watch(t.Context()); !errors.Is(err, pilot.ErrGone) {
		t.Errorf("Watch after the end = %v, want ErrGone", err)
	}
	if st, err := pilot.ReadStatus(spec.Dir); err != nil || st.Phase != pilot.Ended || st.Containers[0].State.ExitCode != 4 {
		t.Errorf("ReadStatus = %+v, %v", st, err)
	}
}

func TestServe_AttachTeesOutputAndFeedsInput(t *testing.T) {
	spec := testSpec(t, `read line; echo "got $line"; cat; exit 7`)
	spec.Containers[0].Config.Gondola = &gondola.ContainerExtension{Stdin: true, StdinOnce: true}
	c, _ := serve(t, spec, newProcesses(t))
	await(t, c, "running", isRunning)
	var out bytes.Buffer
	st, err := c.Attach(t.Context(), "main", gondola.ExecIO{Stdin: strings.NewReader("a\nb\n"), Stdout: &out})
	if err != nil || st.Code != 7 || out.String() != "got a\nb\n" {
		t.Errorf("Attach = %+v, %v, %q, want code 7", st, err, &out)
	}
}

func TestServe_ContainerSurvivesThePilotAndLosesNoOutput(t *testing.T) {
	spec := testSpec(t, `i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 9`)
	rt := newProcesses(t)
	c, kill := serve(t, spec, rt)
	before := await(t, c, "running", isRunning)
	kill()
	if _, err := c.Watch(t.Context()); !errors.Is(err, pilot.ErrGone) {
		t.Fatalf("Watch of a killed pilot = %v, want ErrGone", err)
	}
	c, _ = serve(t, spec, rt)
	after := await(t, c, "the end", isEnded)
	got := after.Containers[0]
	if got.State.ExitCode != 9 || got.RestartCount != 0 || after.SandboxID != before.SandboxID {
		t.Errorf("status = %+v, want code 9 and no restart", got)
	}
	var want strings.Builder
	for i := range 60 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if log := readLog(t, spec, gondola.LogOptions{}); log != want.String() {
		t.Errorf("log = %q, want 60 lines without a gap", log)
	}
}

func TestServe_SecondPilotIsRefused(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	c, _ := serve(t, spec, newProcesses(t))
	await(t, c, "running", isRunning)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := pilot.Serve(ctx, spec, newProcesses(t), slog.New(slog.DiscardHandler)); !errors.Is(err, gondola.ErrConflict) {
		t.Errorf("second Serve = %v, want ErrConflict", err)
	}
	await(t, c, "still running", isRunning)
}

func TestLogs_FastWriterIsRotatedAndFollowedWhole(t *testing.T) {
	spec := testSpec(t, `i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo $i; done; head -c 40000 /dev/zero | tr '\0' x; echo; printf 'no newline'`)
	rt := newProcesses(t)
	sup := pilot.NewSupervisor(pilot.SupervisorConfig{Spec: spec, Runtime: rt, LogBytes: 20 << 10})
	r, err := pilot.OpenLog(t.Context(), spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := sup.Run(t.Context()); err != nil {
		t.Fatalf("Run = %v", err)
	}
	log := readLog(t, spec, gondola.LogOptions{})
	tail := strings.Repeat("x", 40000) + "\nno newline"
	if !strings.HasSuffix(log, tail) {
		t.Errorf("log ends with %q", log[max(0, len(log)-40):])
	}
	entries, err := os.ReadDir(spec.Dir + "/logs/main")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "0.end 0.log 0.log.1 0.log.2" {
		t.Errorf("files = %s, want the log, two rotated ones and the mark of its end", got)
	}
	one := int64(1)
	if log := readLog(t, spec, gondola.LogOptions{Tail: &one}); log != "no newline" {
		t.Errorf("tail 1 = %.60q", log)
	}
	two := int64(2)
	if log := readLog(t, spec, gondola.LogOptions{Tail: &two}); log != tail {
		t.Errorf("tail 2 has %d bytes, want the whole long line and the last one: %d", len(log), len(tail))
	}
}
