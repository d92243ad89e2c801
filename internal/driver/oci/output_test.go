package oci_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/oci"
)

// slowReader keeps what is written to it, once it is let.
type slowReader struct {
	asked, let chan struct{}
	once       sync.Once
	bytes.Buffer
}

func newSlowReader() *slowReader {
	return &slowReader{asked: make(chan struct{}), let: make(chan struct{})}
}

func (r *slowReader) Write(p []byte) (int, error) {
	r.once.Do(func() { close(r.asked) })
	<-r.let
	return r.Buffer.Write(p)
}

// waiting is a context that tells when somebody begins to wait.
type waiting struct {
	context.Context
	begun func()
}

func (w waiting) Done() <-chan struct{} {
	w.begun()
	return w.Context.Done()
}

// drain ends the command at once, lets the reader go on when nothing more is awaited, and wants so many bytes to arrive.
func drain(t *testing.T, reader *slowReader, drain func(context.Context, time.Duration) error, want int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := drain(waiting{ctx, sync.OnceFunc(func() { close(reader.let) })}, 0); err != nil {
		t.Errorf("Drain = %v", err)
	}
	if got := reader.Len(); got != want {
		t.Errorf("%d bytes arrived, want %d", got, want)
	}
}

// TestPipes_SlowReader: the command has left somebody behind who holds its output open.
func TestPipes_SlowReader(t *testing.T) {
	const size = 96 << 10
	reader := newSlowReader()
	streams := gondola.ExecIO{Stdout: reader}
	pipes, err := oci.OpenPipes(streams)
	if err != nil {
		t.Fatal(err)
	}
	behind, err := unix.FcntlInt(pipes.FDs[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(behind)
	if _, err := unix.FcntlInt(uintptr(behind), unix.F_SETPIPE_SZ, 2*size); err != nil {
		t.Fatal(err)
	}
	if n, err := pipes.FDs[1].Write(make([]byte, size)); n != size {
		t.Fatal(n, err)
	}
	pipes.Started()
	pipes.Copy(streams)
	<-reader.asked
	drain(t, reader, pipes.Drain, size)
}

func TestTerminal_SlowReader(t *testing.T) {
	reader := newSlowReader()
	term, replica, err := oci.OpenTerminal()
	if err != nil {
		t.Fatal(err)
	}
	defer term.Close()
	defer replica.Close() // somebody left behind
	write := func() {
		t.Helper()
		if n, err := replica.Write(bytes.Repeat([]byte("x"), 3000)); n != 3000 {
			t.Fatal(n, err)
		}
	}
	write()
	term.Connect(nil, reader, nil, nil, nil)
	<-reader.asked
	write()
	write()
	drain(t, reader, term.Drain, 9000)
}

// written are the pipes of a command that has written something, which is on its way to its reader.
func written(t *testing.T, reader io.Writer) *oci.Pipes {
	t.Helper()
	streams := gondola.ExecIO{Stdout: reader}
	pipes, err := oci.OpenPipes(streams)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pipes.FDs[1].Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	pipes.Started()
	pipes.Copy(streams)
	return pipes
}

// TestPipes_WhoNobodyReads: a command that nobody waits for any more does not wait for its reader.
func TestPipes_WhoNobodyReads(t *testing.T) {
	reader := newSlowReader()
	defer close(reader.let)
	pipes := written(t, reader)
	<-reader.asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pipes.Drain(ctx, time.Millisecond); err == nil {
		t.Error("Drain = nil, want an error: not all has been delivered")
	}
}

// TestPipes_UndeliveredIsTold: output that its reader refuses is no success.
func TestPipes_UndeliveredIsTold(t *testing.T) {
	pipes := written(t, refusing{})
	if err := pipes.Drain(t.Context(), time.Second); err == nil {
		t.Error("Drain = nil, want the reader's error")
	}
}

type refusing struct{}

func (refusing) Write([]byte) (int, error) { return 0, os.ErrClosed }
