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
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended, began := make(chan error, 1), &output{}
	go func() {
		_, err := m.api.Exec(ctx, gondola.ExecOptions{Command: []string{"/program", "print", "begun", ";", "run"}}, gondola.ExecIO{Stdout: began})
		ended <- err
	}()
	began.await(t, f.Patience, "begun")
	cancel()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("Exec ended well, want an error")
		}
	case <-time.After(f.Patience):
		t.Error("Exec goes on though its context has ended")
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

// session is somebody who is connected to a command or a container.
type session struct {
	t        *testing.T
	patience time.Duration
	keyboard *io.PipeWriter
	sizes    chan gondola.TerminalSize
	screen   output
	done     chan struct{}
	status   gondola.ExitStatus // once done
	err      error
}

// sit connects with a terminal of 100 to 40 characters.
func sit(t *testing.T, f Fixture, run func(context.Context, gondola.ExecIO) (gondola.ExitStatus, error)) *session {
	s := &session{t: t, patience: f.Patience, sizes: make(chan gondola.TerminalSize, 1), done: make(chan struct{})}
	var in io.Reader
	in, s.keyboard = io.Pipe()
	t.Cleanup(func() { s.keyboard.Close() })
	s.resize(100, 40)
	go func() {
		defer close(s.done)
		s.status, s.err = run(t.Context(), gondola.ExecIO{Stdin: in, Stdout: &s.screen, Resize: s.sizes})
	}()
	return s
}

func (s *session) resize(width, height uint16) {
	s.sizes <- gondola.TerminalSize{Width: width, Height: height}
}

func (s *session) types(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.keyboard, keys); err != nil {
		s.t.Fatal(err)
	}
}

func (s *session) reads(text string) {
	s.t.Helper()
	s.screen.await(s.t, s.patience, text)
}

// ends waits for the end, which is to have this code.
func (s *session) ends(code int) {
	s.t.Helper()
	select {
	case <-s.done:
		if s.err != nil || s.status.Code != code {
			s.t.Errorf("it ended with %+v, %v, want code %d", s.status, s.err, code)
		}
	case <-time.After(s.patience):
		s.t.Fatalf("it did not end; the screen has %q", s.screen.String())
	}
}

func execTerminal(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.awaitLog("main", "running")
	s := sit(t, f, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		return m.api.Exec(ctx, gondola.ExecOptions{Command: []string{"/program", "size"}, TTY: true, Stdin: true}, streams)
	})
	s.reads("100x40")
	s.resize(50, 20)
	s.reads("50x20")
	s.types("\x03")
	s.ends(130)
}

func attach(t *testing.T, f Fixture) {
	c := container("main", "echo", ";", "exit", "6")
	ext(&c).Stdin, ext(&c).StdinOnce = true, true
	m := launch(t, f, nil, c)
	m.running("main")
	s := sit(t, f, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		streams.Resize = nil
		return m.api.Attach(ctx, "main", streams)
	})
	s.types("over here\n")
	s.reads("over here\n")
	s.keyboard.Close()
	s.ends(6)
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "over here\n" {
		t.Errorf("log = %q", log)
	}
}

// withTerminal is a container that tells the size of its terminal.
func withTerminal() pilot.Container {
	c := container("main", "size")
	ext(&c).TTY, ext(&c).Stdin = true, true
	return c
}

func attachTerminal(t *testing.T, f Fixture) {
	m := launch(t, f, nil, withTerminal())
	m.running("main")
	s := sit(t, f, func(ctx context.Context, streams gondola.ExecIO) (gondola.ExitStatus, error) {
		return m.api.Attach(ctx, "main", streams)
	})
	s.reads("100x40")
	s.types("\x03")
	s.ends(130)
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.Contains(log, "100x40") {
		t.Errorf("log = %q, want what was on the screen", log)
	}
}

// terminalWithoutInput: what reads from a terminal at which nobody can type waits.
func terminalWithoutInput(t *testing.T, f Fixture) {
	c := container("main", "print", "ready", ";", "echo")
	ext(&c).TTY = true
	m := launch(t, f, nil, c)
	m.awaitLog("main", "ready")
	if st, _ := m.exec("main", "sleep", "500ms"); st.Code != 0 {
		t.Errorf("a command beside it ended with %+v, want it to come to its end", st)
	}
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if state := status(m.ended(), "main").State; state.ExitCode != 143 {
		t.Errorf("it ended with %d, want 143 by the stop", state.ExitCode)
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
	// Who has asked and says that he has nothing more to say is answered too.
	conn, err = m.api.Dial(t.Context(), 8080)
	if err != nil {
		t.Fatalf("Dial = %v", err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "all")
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Errorf("CloseWrite = %v", err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello all\n" {
		t.Errorf("answer = %q, %v", line, err)
	}
	if conn, err := m.api.Dial(t.Context(), 8081); err == nil {
		conn.Close()
		t.Error("Dial of a port nobody listens on succeeded")
	}
}
