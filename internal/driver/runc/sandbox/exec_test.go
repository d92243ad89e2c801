package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// slowRunc starts a process as runc does, and takes its time to go away: it tells the pid to the FIFO "started" beside it and waits until somebody
// has read that.
const slowRunc = `#!/bin/sh
for arg; do
	case $arg in --pid-file=*) file=${arg#--pid-file=} ;; esac
done
sleep 600 &
echo $! >"$file"
echo $! >"${0%/*}/started"
`

// TestExec_EndsWhileRuncStartsIt: whose time ends before runc has started the command leaves nothing of it.
func TestExec_EndsWhileRuncStartsIt(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil { // as Boot does
		t.Fatal(err)
	}
	dir := t.TempDir()
	runc, started := filepath.Join(dir, "runc"), filepath.Join(dir, "started")
	if err := errors.Join(os.WriteFile(runc, []byte(slowRunc), 0o755), unix.Mkfifo(started, 0o600)); err != nil {
		t.Fatal(err)
	}
	r := New(Config{Runc: runc})
	r.configure(pilot.Spec{Dir: filepath.Join(dir, "disk"), RunDir: filepath.Join(dir, "run")})
	bundle := r.bundle("main")
	if err := oci.WriteBundle(bundle, &specs.Spec{Process: &specs.Process{}}); err != nil {
		t.Fatal(err)
	}
	if err := driver.RecordProcess(filepath.Join(bundle, initFile), os.Getpid(), ""); err != nil { // the container is this process
		t.Fatal(err)
	}
	r.pause = os.Getpid()
	r.runs["main"] = &run{ended: make(chan struct{})}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := r.Exec(ctx, "main", pilot.Exec{Args: []string{"sleep"}}, gondola.ExecIO{})
		done <- err
	}()
	// The script has come to this FIFO when it can be opened for reading; it is let go on only after the end of ctx.
	fifo, err := os.Open(started)
	if err != nil {
		t.Fatal(err)
	}
	defer fifo.Close()
	cancel()
	line := make([]byte, 16)
	n, err := fifo.Read(line)
	pid, e := strconv.Atoi(strings.TrimSpace(string(line[:n])))
	if err := errors.Join(err, e); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Exec = %v, want that its context has ended", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Exec does not end")
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
		t.Errorf("the command is still there: %s", stat)
		unix.Kill(pid, unix.SIGKILL)
	}
}
