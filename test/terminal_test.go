package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
)

// terminal is a command of a script that runs on a pseudo terminal.
type terminal struct {
	cmd  *exec.Cmd
	pty  *os.File
	done chan error

	mu   sync.Mutex
	seen bytes.Buffer
}

// terminals are the terminal of each script that has one; scripts run one after the other.
type terminals map[*testscript.TestScript]*terminal

// start: terminal COMMAND... runs a command on a new terminal of 80 columns and 24 lines.
func (all terminals) start(ts *testscript.TestScript, _ bool, args []string) {
	path := args[0]
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), ":") {
		if _, err := os.Stat(dir + "/" + path); err == nil {
			path = dir + "/" + path
			break
		}
	}
	t := &terminal{cmd: exec.Command(path, args[1:]...), done: make(chan error, 1)}
	for _, name := range []string{"PATH", "KUBECONFIG", "GONDOLA_DATA", "HOME"} {
		t.cmd.Env = append(t.cmd.Env, name+"="+ts.Getenv(name))
	}
	var err error
	t.pty, err = pty.StartWithSize(t.cmd, &pty.Winsize{Cols: 80, Rows: 24})
	ts.Check(err)
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := t.pty.Read(b)
			t.mu.Lock()
			t.seen.Write(b[:n])
			t.mu.Unlock()
			if err != nil {
				t.done <- t.cmd.Wait()
				return
			}
		}
	}()
	ts.Defer(func() {
		_ = t.cmd.Process.Kill()
		t.pty.Close()
		delete(all, ts)
	})
	all[ts] = t
}

// see REGEXP waits until the terminal shows what matches, and forgets what came up to then.
func (all terminals) see(ts *testscript.TestScript, _ bool, args []string) {
	t, re := all[ts], regexp.MustCompile(args[0])
	for deadline := time.Now().Add(15 * time.Second); ; pause(20 * time.Millisecond) {
		t.mu.Lock()
		text := strings.ReplaceAll(t.seen.String(), "\r\n", "\n")
		at := re.FindStringIndex(text)
		if at != nil {
			t.seen.Reset()
			t.seen.WriteString(text[at[1]:])
		}
		t.mu.Unlock()
		if at != nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the terminal does not show %s but:\n%s", re, text)
		}
	}
}

// typeKeys TEXT types a text with Go's escapes.
func (all terminals) typeKeys(ts *testscript.TestScript, _ bool, args []string) {
	text, err := strconv.Unquote(`"` + args[0] + `"`)
	ts.Check(err)
	_, err = fmt.Fprint(all[ts].pty, text)
	ts.Check(err)
}

// resize LINES COLUMNS makes the terminal another size.
func (all terminals) resize(ts *testscript.TestScript, _ bool, args []string) {
	rows, err1 := strconv.Atoi(args[0])
	cols, err2 := strconv.Atoi(args[1])
	ts.Check(err1)
	ts.Check(err2)
	ts.Check(pty.Setsize(all[ts].pty, &pty.Winsize{Rows: uint16(rows), Cols: uint16(cols)}))
}

// exits CODE waits for the end of the command.
func (all terminals) exits(ts *testscript.TestScript, _ bool, args []string) {
	t := all[ts]
	select {
	case <-t.done:
	case <-time.After(15 * time.Second):
		t.mu.Lock()
		defer t.mu.Unlock()
		ts.Fatalf("the command does not end; the terminal shows:\n%s", t.seen.String())
	}
	if got := strconv.Itoa(t.cmd.ProcessState.ExitCode()); got != args[0] {
		ts.Fatalf("exit code %s, want %s; the terminal shows:\n%s", got, args[0], t.seen.String())
	}
}
