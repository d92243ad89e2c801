package pilot_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// terminals is a Runtime that keeps the files of a container with a terminal, as one does that copies between the two.
type terminals struct {
	*processes
	write func(text string) error // as the container does to its terminal
}

func (r *terminals) Start(ctx context.Context, run pilot.Run) error {
	r.write = func(text string) error {
		_, err := run.Stdout.WriteString(text)
		return err
	}
	return r.processes.Start(ctx, run)
}

// TestSuspend_FailureKeepsTheTerminal: a container with a terminal that nobody could suspend writes to it, and whoever is attached sees that.
func TestSuspend_FailureKeepsTheTerminal(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	spec.Containers[0].Config.Gondola = &gondola.ContainerExtension{TTY: true}
	rt := &terminals{processes: newProcesses(t)}
	sup, _ := run(t, spec, rt)
	await(t, sup, "running", isRunning)
	seen, done := make(lines, 100), make(chan error, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		_, err := sup.Attach(ctx, "main", gondola.ExecIO{Stdout: seen})
		done <- err
	}()
	// sees has the container write the text, again and again, until somebody who is attached has seen it.
	sees := func(text string) {
		t.Helper()
		for {
			if err := rt.write(text + "\n"); err != nil {
				t.Fatalf("the terminal takes no %q: %v", text, err)
			}
			select {
			case got := <-seen:
				if strings.Contains(got, text) {
					return
				}
			case err := <-done:
				t.Fatalf("Attach = %v before %q was seen", err, text)
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	sees("before")
	if err := sup.Suspend(t.Context()); !errors.Is(err, gondola.ErrPrecondition) {
		t.Fatalf("Suspend = %v, want that it cannot be", err)
	}
	sees("after")
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, sup, "the end", isEnded)
}

// lines is a writer that hands on what is written to it.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
