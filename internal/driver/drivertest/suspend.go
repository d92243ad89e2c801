package drivertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
)

func suspends(c driver.Capabilities) (bool, string) { return c.Suspend, "snapshots" }

// count asks a counter in the Machine, which answers with one more than the time before.
func (m *machine) count(port int) string {
	m.t.Helper()
	conn, err := m.api.Dial(m.t.Context(), port)
	if err != nil {
		m.t.Fatalf("Dial = %v", err)
	}
	defer conn.Close()
	defer time.AfterFunc(m.f.Patience, func() { conn.Close() }).Stop()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: count\r\nConnection: close\r\n\r\n"); err != nil {
		m.t.Fatalf("ask the counter: %v", err)
	}
	b, _ := io.ReadAll(conn) // a connection through the sandbox may end with an error
	_, n, _ := strings.Cut(string(b), "\r\n\r\n")
	return n
}

// suspend suspends the Machine.
func (m *machine) suspend() pilot.Status {
	m.t.Helper()
	if err := m.api.Suspend(m.t.Context()); err != nil {
		m.t.Fatalf("Suspend = %v", err)
	}
	return m.suspended()
}

// suspended waits until nothing of a Machine runs that is being suspended.
func (m *machine) suspended() pilot.Status {
	m.t.Helper()
	s := m.await("the suspension", func(s pilot.Status) bool { return s.Phase == pilot.Suspended })
	if alive, err := m.driver.Alive(m.t.Context(), m.spec); alive || err != nil {
		m.t.Fatalf("Alive = %t, %v of a suspended machine", alive, err)
	}
	// As a worker does: what the Machine used up goes, its directory stays.
	if err := m.driver.Kill(m.t.Context(), m.spec); err != nil {
		m.t.Fatalf("Kill = %v", err)
	}
	return s
}

func (m *machine) up() pilot.Status {
	m.t.Helper()
	return m.await("the machine to run", func(s pilot.Status) bool { return s.Phase == pilot.Running })
}

// runsOnAfterSuspend: memory, files of the root file system, and open listeners are as they were, of all containers; twice.
func runsOnAfterSuspend(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "write", "/tmp/kept", "words", ";", "count", "8081"), container("two", "count", "8082"))
	m.awaitLog("one", "counting")
	m.awaitLog("two", "counting")
	before := m.up()
	if a, b := m.count(8081)+m.count(8081), m.count(8082); a != "12" || b != "1" {
		t.Fatalf("before: the counters say %s and %s", a, b)
	}
	for round, want := range []string{"3", "4"} {
		m.suspend()
		m.relaunch()
		after := m.up()
		if !after.Resumed || after.Cold != "" || after.SandboxID != before.SandboxID || status(after, "one").RestartCount != 0 {
			t.Fatalf("round %d: resumed %t, cold %q: %s", round, after.Resumed, after.Cold, show(after))
		}
		if got := m.count(8081); got != want {
			t.Errorf("round %d: the counter says %s, want %s", round, got, want)
		}
		if _, out := m.exec("one", "read", "/tmp/kept"); strings.TrimSpace(out) != "words" {
			t.Errorf("round %d: the file has %q", round, out)
		}
	}
	if got := m.count(8082); got != "2" {
		t.Errorf("the other counter says %s, want 2", got)
	}
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if s := m.ended(); status(s, "one").State.Kind != gondola.ContainerExited {
		t.Errorf("after the stop: %s", show(s))
	}
}

// resizedRunsOn: a Machine that was given more memory while it ran, and has taken it, runs on from its snapshot with what it may have by now.
func resizedRunsOn(t *testing.T, f Fixture) {
	c := container("one", "await", "/tmp/go", ";", "alloc", "300000000", ";", "count", "8081")
	size := sizeOf(128)
	ext(&c).Requests, ext(&c).Limits = &size.Requests, &size.Limits
	spec := f.Spec(t, []pilot.Container{c}, nil)
	spec.Requests, spec.Limits = size.Requests, size.Limits
	m := launchSpec(t, f, spec, nil)
	m.running("one")
	m.up()
	larger := sizeOf(512)
	if err := m.api.Resize(t.Context(), pilot.Size{Size: larger, Containers: map[string]gondola.Size{"one": larger}}); err != nil {
		t.Fatalf("Resize = %v", err)
	}
	if st, out := m.exec("one", "write", "/tmp/go", "x"); st.Code != 0 {
		t.Fatalf("exec = %+v, %s", st, out)
	}
	m.awaitLog("one", "counting")
	m.count(8081)
	m.suspend()
	// As a worker writes it down.
	m.spec.Requests, m.spec.Limits = larger.Requests, larger.Limits
	*ext(&m.spec.Containers[0]).Requests, *ext(&m.spec.Containers[0]).Limits = larger.Requests, larger.Limits
	m.relaunch()
	if s := m.up(); !s.Resumed {
		t.Fatalf("cold %q: %s", s.Cold, show(s))
	}
	if got := m.count(8081); got != "2" {
		t.Errorf("the counter says %s, want 2", got)
	}
	if st, out := m.exec("one", "alloc", "100000000"); st.Code != 0 {
		t.Errorf("a command that takes 100 MB more = %+v, %s, want it to have them", st, out)
	}
	if got := m.count(8081); got != "3" {
		t.Errorf("the counter says %s, want 3", got)
	}
}

// damagedSnapshot: a snapshot that is not whole is not resumed, the Machine starts from the beginning and says so.
func damagedSnapshot(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "count", "8081"))
	m.awaitLog("one", "counting")
	m.up()
	m.count(8081)
	m.suspend()
	files, err := os.ReadDir(filepath.Join(m.spec.Dir, "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if file.Name() != "manifest.json" {
			if err := os.Truncate(filepath.Join(m.spec.Dir, "snapshot", file.Name()), 10); err != nil {
				t.Fatal(err)
			}
		}
	}
	m.relaunch()
	s := m.up()
	if s.Resumed || !strings.Contains(s.Cold, "damaged") || status(s, "one").RestartCount != 0 {
		t.Errorf("resumed %t, cold %q: %s", s.Resumed, s.Cold, show(s))
	}
	m.await("the note", func(s pilot.Status) bool {
		return strings.Contains(show(s), "ResumeFailed")
	})
	m.awaitCount(8081, "1")
	if _, err := os.Stat(filepath.Join(m.spec.Dir, "snapshot")); !os.IsNotExist(err) {
		t.Errorf("the snapshot is still there: %v", err)
	}
}

// awaitCount waits until the counter listens, and looks what it says.
func (m *machine) awaitCount(port int, want string) {
	m.t.Helper()
	m.awaitLog("one", "counting")
	if got := m.count(port); got != want {
		m.t.Errorf("the counter says %s, want %s", got, want)
	}
}

// otherVersion: a snapshot of another Version of the Machine is not resumed.
func otherVersion(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "count", "8081"))
	m.awaitLog("one", "counting")
	m.up()
	m.count(8081)
	m.suspend()
	m.spec.Version = "01OTHERVERSION"
	m.relaunch()
	if s := m.up(); s.Resumed || !strings.Contains(s.Cold, "version") {
		t.Errorf("resumed %t, cold %q: %s", s.Resumed, s.Cold, show(s))
	}
	m.awaitCount(8081, "1")
}

// cannotSuspend: where the snapshot cannot be written, the Machine runs on as if nothing had been.
func cannotSuspend(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "count", "8081"))
	m.awaitLog("one", "counting")
	m.up()
	m.count(8081)
	if undo := blockSnapshot(t, filepath.Join(m.spec.Dir, "snapshot")); undo == nil {
		t.Skip("needs root: it mounts something")
	} else {
		defer undo()
	}
	if err := m.api.Suspend(t.Context()); err == nil {
		t.Fatal("Suspend = nil, and its directory cannot be made")
	}
	if s := m.up(); !strings.Contains(show(s), "SuspendFailed") || status(s, "one").RestartCount != 0 {
		t.Errorf("after it: %s", show(s))
	}
	if got := m.count(8081); got != "2" {
		t.Errorf("the counter says %s, want 2", got)
	}
}

// cannotSuspendTerminal: who is attached to a container with a terminal goes on with it where the snapshot cannot be written.
func cannotSuspendTerminal(t *testing.T, f Fixture) {
	m := launch(t, f, nil, withTerminal())
	m.up()
	s := sit(t, f, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		return m.api.Attach(ctx, "main", streams)
	})
	s.reads("100x40")
	undo := blockSnapshot(t, filepath.Join(m.spec.Dir, "snapshot"))
	if undo == nil {
		t.Skip("needs root: it mounts something")
	}
	defer undo()
	if err := m.api.Suspend(t.Context()); err == nil {
		t.Fatal("Suspend = nil, and its directory cannot be made")
	}
	m.up()
	s.resize(50, 20)
	s.reads("50x20")
	s.types("\x03")
	s.ends(130)
}

// commandEndsWithSuspend: a command that runs is ended by the suspension, and none begins.
func commandEndsWithSuspend(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "count", "8081"))
	m.awaitLog("one", "counting")
	m.up()
	done := make(chan error, 1)
	began := &output{}
	go func() {
		_, err := m.api.Exec(t.Context(), gondola.ExecOptions{Container: "one", Command: []string{"/program", "print", "begun", ";", "run"}}, gondola.ExecIO{Stdout: began})
		done <- err
	}()
	began.await(t, f.Patience, "begun")
	m.suspend()
	<-done
	m.relaunch()
	if s := m.up(); !s.Resumed {
		t.Errorf("not resumed: %s", show(s))
	}
	if got := m.count(8081); got != "1" {
		t.Errorf("the counter says %s, want 1", got)
	}
}

// connectionEndsWithSuspend: a connection into the Machine keeps nobody from suspending it, and ends with that; the program goes on with others.
func connectionEndsWithSuspend(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("one", "listen", "8080"))
	m.awaitLog("one", "listening")
	m.up()
	greet := func() io.ReadWriteCloser {
		t.Helper()
		conn, err := m.api.Dial(t.Context(), 8080)
		if err != nil {
			t.Fatalf("Dial = %v", err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintln(conn, "you")
		if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello you\n" {
			t.Fatalf("answer = %q, %v", line, err)
		}
		return conn
	}
	conn := greet()
	m.suspend()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		io.Copy(io.Discard, conn)
	}()
	select {
	case <-ended:
	case <-time.After(f.Patience):
		t.Error("the connection did not end")
	}
	m.relaunch()
	if s := m.up(); !s.Resumed {
		t.Fatalf("not resumed: %s", show(s))
	}
	greet()
}
