package drivertest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

func execPlain(t *testing.T, f Fixture) {
	c := container("main", "run")
	c.Env, c.WorkingDir = []string{"A=b"}, "/tmp"
	m := launch(t, f, nil, c)
	m.awaitLog("main", "running")
	st, out := m.exec("main", "env", "A", ";", "cwd", ";", "printerr", "e", ";", "exit", "42")
	if st.Code != 42 || strings.Replace(out, "e\n", "", 1) != "A=b\n/tmp\n" || !strings.Contains(out, "e\n") {
		t.Errorf("Exec = %+v, %q, want 42 with the container's environment", st, out)
	}
	var echoed output
	text := strings.Repeat("0123456789\n", 20_000)
	st, err := m.api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "echo"}, Stdin: true},
		gondola.ExecIO{Stdin: strings.NewReader(text), Stdout: &echoed})
	if err != nil || st.Code != 0 || echoed.String() != text {
		t.Errorf("Exec echo = %+v, %v with %d bytes, want %d", st, err, len(echoed.String()), len(text))
	}
	if _, err := m.api.Exec(t.Context(), gondola.ExecOptions{Container: "nobody", Command: []string{"/program"}}, gondola.ExecIO{}); err == nil {
		t.Error("Exec in an unknown container succeeded")
	}
}

func execCancelled(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.awaitLog("main", "running")
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := m.api.Exec(ctx, gondola.ExecOptions{Command: []string{"/program", "run"}}, gondola.ExecIO{}); err == nil {
		t.Error("Exec ended well, want an error")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Exec took %v after its context had ended", took)
	}
}

// execSlowReader: a reader that makes a command wait, or the rest of its output after its end, gets all of it. How much is held on the way is the
// kernel's to say, so there is more and less of it.
func execSlowReader(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.awaitLog("main", "running")
	var execs sync.WaitGroup
	for lines := 250; lines <= 4000; lines += 250 {
		execs.Go(func() {
			reader := late{after: time.NewTimer(3 * time.Second).C} // longer than a driver waits for those that a command left behind
			st, err := m.api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "lines", strconv.Itoa(lines), "100"}}, gondola.ExecIO{Stdout: &reader})
			if got := strings.Count(reader.String(), "\n"); err != nil || st.Code != 0 || got != lines {
				t.Errorf("Exec = %+v, %v with %d lines, want %d", st, err, got, lines)
			}
		})
	}
	execs.Wait()
}

// late is a reader that comes to its work after a while.
type late struct {
	after <-chan time.Time
	once  sync.Once
	output
}

func (l *late) Write(p []byte) (int, error) {
	l.once.Do(func() { <-l.after })
	return l.output.Write(p)
}

func execTerminal(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.awaitLog("main", "running")
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	sizes := make(chan gondola.TerminalSize, 2)
	sizes <- gondola.TerminalSize{Width: 100, Height: 40}
	var screen output
	done := make(chan error, 1)
	var st gondola.ExitStatus
	go func() {
		var err error
		st, err = m.api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "size"}, TTY: true, Stdin: true},
			gondola.ExecIO{Stdin: in, Stdout: &screen, Resize: sizes})
		done <- err
	}()
	screen.await(t, f.Patience, "100x40")
	sizes <- gondola.TerminalSize{Width: 50, Height: 20}
	screen.await(t, f.Patience, "50x20")
	if _, err := keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil || st.Code != 130 {
			t.Errorf("Exec = %+v, %v, want 130 by ^C", st, err)
		}
	case <-time.After(f.Patience):
		t.Errorf("^C did not end the command; the screen has %q", screen.String())
	}
}

func attach(t *testing.T, f Fixture) {
	c := container("main", "echo", ";", "exit", "6")
	ext(&c).Stdin, ext(&c).StdinOnce = true, true
	m := launch(t, f, nil, c)
	m.running("main")
	in, keyboard := io.Pipe()
	var out output
	done := make(chan error, 1)
	var st gondola.ExitStatus
	go func() {
		var err error
		st, err = m.api.Attach(t.Context(), "main", gondola.ExecIO{Stdin: in, Stdout: &out})
		done <- err
	}()
	fmt.Fprintln(keyboard, "over here")
	out.await(t, f.Patience, "over here\n")
	keyboard.Close()
	select {
	case err := <-done:
		if err != nil || st.Code != 6 {
			t.Errorf("Attach = %+v, %v, want code 6", st, err)
		}
	case <-time.After(f.Patience):
		t.Error("Attach did not end with the container")
	}
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "over here\n" {
		t.Errorf("log = %q", log)
	}
}

func attachTerminal(t *testing.T, f Fixture) {
	c := container("main", "size")
	ext(&c).TTY, ext(&c).Stdin = true, true
	m := launch(t, f, nil, c)
	m.running("main")
	in, keyboard := io.Pipe()
	defer keyboard.Close()
	sizes := make(chan gondola.TerminalSize, 1)
	sizes <- gondola.TerminalSize{Width: 100, Height: 40}
	var screen output
	done := make(chan error, 1)
	var st gondola.ExitStatus
	go func() {
		var err error
		st, err = m.api.Attach(t.Context(), "main", gondola.ExecIO{Stdin: in, Stdout: &screen, Resize: sizes})
		done <- err
	}()
	screen.await(t, f.Patience, "100x40")
	if _, err := keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if err != nil || st.Code != 130 {
			t.Errorf("Attach = %+v, %v, want 130 by ^C", st, err)
		}
	case <-time.After(f.Patience):
		t.Fatalf("^C did not end the container; the screen has %q", screen.String())
	}
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.Contains(log, "100x40") {
		t.Errorf("log = %q, want what was on the screen", log)
	}
}

func logs(t *testing.T, f Fixture) {
	before := time.Now().Add(-time.Second)
	m := launch(t, f, nil, container("main", "print", "one", "two", ";", "sleep", "200ms", ";", "printerr", "three"))
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "one\ntwo\nthree\n" {
		t.Errorf("log = %q", log)
	}
	two := int64(2)
	if log := m.log(gondola.LogOptions{Container: "main", Tail: &two}); log != "two\nthree\n" {
		t.Errorf("tail 2 = %q", log)
	}
	if log := m.log(gondola.LogOptions{Container: "main", LimitBytes: 5}); log != "one\nt" {
		t.Errorf("5 bytes = %q", log)
	}
	line, _, _ := strings.Cut(m.log(gondola.LogOptions{Container: "main", Timestamps: true}), "\n")
	at, text, _ := strings.Cut(line, " ")
	when, err := time.Parse(time.RFC3339Nano, at)
	if err != nil || text != "one" || when.Before(before) || when.After(time.Now()) {
		t.Errorf("line with its time = %q (%v)", line, err)
	}
	if log := m.log(gondola.LogOptions{Container: "main", Since: when.Add(100 * time.Millisecond)}); log != "three\n" {
		t.Errorf("since = %q", log)
	}
	if log := m.log(gondola.LogOptions{Container: "main", CRI: true}); !strings.Contains(log, " stderr F three\n") {
		t.Errorf("stored lines = %q", log)
	}
}

func logsPrevious(t *testing.T, f Fixture) {
	c := container("main", "print", "a run", ";", "once", "/v/mark", "1", ";", "trap", ";", "print", "the end")
	c.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartOnFailure}
	c.Config.Mounts = []gondola.ContainerMount{{Name: "v", Path: "/v"}}
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}, c)
	m.await("a restart", func(s pilot.Status) bool { return status(s, "main").RestartCount == 1 && status(s, "main").Ready })
	m.awaitLog("main", "ready")
	if log := m.log(gondola.LogOptions{Container: "main", Previous: true}); log != "a run\n" {
		t.Errorf("log of the previous run = %q", log)
	}
	r, err := pilot.OpenLog(t.Context(), m.spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r) // ends by itself
	if err != nil || !strings.HasSuffix(string(all), "the end\n") {
		t.Errorf("followed log = %q, %v", all, err)
	}
}

func logsWhole(t *testing.T, f Fixture) {
	const n = 30_000
	m := launch(t, f, nil, container("main", "lines", "30000", "200"))
	r, err := pilot.OpenLog(t.Context(), m.spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := bufio.NewScanner(r)
	next := 0
	for in.Scan() {
		if want := fmt.Sprintf("%09d ", next); !strings.HasPrefix(in.Text(), want) {
			t.Fatalf("line %d = %q", next, in.Text())
		}
		next++
	}
	if next != n {
		t.Errorf("followed %d lines, want %d", next, n)
	}
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); strings.Count(log, "\n") != n {
		t.Errorf("log has %d lines, want %d", strings.Count(log, "\n"), n)
	}
}

func dialLoopback(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "listen", "8080"))
	m.awaitLog("main", "listening")
	conn, err := m.api.Dial(t.Context(), 8080)
	if err != nil {
		t.Fatalf("Dial = %v", err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "you")
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello you\n" {
		t.Errorf("answer = %q, %v", line, err)
	}
	if conn, err := m.api.Dial(t.Context(), 8081); err == nil {
		conn.Close()
		t.Error("Dial of a port nobody listens on succeeded")
	}
}
