// Gondola-pilot supervises one Machine beside its sandbox. It is a binary of its own because every Machine runs it several times over: it
// starts in a few milliseconds, being free of Kubernetes and SQL.
//
//	gondola-pilot run [--platform=systrap] <dir>   supervise the Machine whose spec.json is in dir, until it has ended
//	gondola-pilot warm [--platform=systrap] <dir>  the same with a sandbox that is made at once, of the Machine whose directory it reads, a line, later
//	gondola-pilot run --driver=runc <dir>          the same, with the host's runc instead of gVisor
//	gondola-pilot runsc …                          be gVisor's runsc
//	gondola-pilot runc-monitor <bundle>            be the parent of one of runc's containers
//
// It is built with CGO_ENABLED=0 and -ldflags "-s -w".
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/gvisor/runsc"
	"gondola/internal/driver/runc/sandbox"
	"gondola/internal/pilot"
)

func main() {
	unix.Umask(0o022) // whatever the daemon's: containers, which may run as anybody, are to read what is made for them
	if runsc.Called() {
		runsc.Main()
	}
	if sandbox.Called() {
		os.Exit(sandbox.Main())
	}
	if len(os.Args) < 2 || os.Args[1] != "run" && os.Args[1] != "warm" {
		fmt.Fprintln(os.Stderr, "usage: gondola-pilot run <dir> | gondola-pilot warm <dir> | gondola-pilot runsc …")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "gondola-pilot:", err)
		os.Exit(1)
	}
}

// run supervises a Machine until it has ended or SIGTERM comes, which leaves its containers running for the next pilot. With the verb "warm" it
// waits for its Machine first.
func run(verb string, args []string) error {
	flags := flag.NewFlagSet(verb, flag.ExitOnError)
	kind := flags.String("driver", "gvisor", "what isolates the Machine: gvisor or runc")
	runc := flags.String("runc", "runc", "the program runc")
	platform := flags.String("platform", "", "gVisor's platform: systrap, ptrace or kvm")
	debug := flags.Bool("debug", false, "let runsc log what it does, below <dir>/runsc")
	flags.Parse(args)
	if flags.NArg() != 1 {
		return fmt.Errorf("%s wants one directory, has %d arguments", verb, flags.NArg())
	}
	spec, err := pilot.ReadSpec(flags.Arg(0))
	if err != nil {
		return err
	}
	entered := enter(spec.Cgroup)
	var standing *runsc.Runtime
	if verb == "warm" {
		standing = runsc.New(runsc.Config{Platform: *platform, Debug: *debug, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
		if spec, err = standReady(standing, spec, entered); err != nil || spec.Machine == "" {
			return err
		}
		entered = func() error { return nil } // Boot moves this process together with its sandbox
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("machine", spec.Machine)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var rt pilot.Runtime
	switch {
	case standing != nil:
		rt = standing
	case *kind == "gvisor":
		rt = runsc.New(runsc.Config{Platform: *platform, Debug: *debug, Log: log})
	case *kind == "runc":
		rt = sandbox.New(sandbox.Config{Runc: *runc, Log: log})
	default:
		return fmt.Errorf("driver %q is not known: use gvisor or runc", *kind)
	}
	err = pilot.Serve(ctx, spec, &entering{rt, entered}, log)
	if ctx.Err() != nil {
		return nil // as told
	}
	return err
}

// enter moves this process into its Machine's cgroup, for which the kernel waits some 10 ms. The result tells when it has, and gives the error.
func enter(group string) (entered func() error) {
	done := make(chan error, 1)
	go func() {
		if group == "" {
			done <- nil
			return
		}
		done <- cgroup.Host().Enter(filepath.Join(group, driver.PilotCgroup))
	}()
	return sync.OnceValue(func() error { return <-done })
}

// entering is a Runtime that makes no sandbox until this process is in its cgroup: no child may be left in the daemon's, where systemd
// would end it with the daemon.
type entering struct {
	pilot.Runtime
	entered func() error
}

// Boot implements pilot.Runtime.
func (e *entering) Boot(ctx context.Context, spec pilot.Spec) (bool, error) {
	if err := e.entered(); err != nil {
		return false, err
	}
	return e.Runtime.Boot(ctx, spec)
}

// Restore implements pilot.Runtime.
func (e *entering) Restore(ctx context.Context, spec pilot.Spec, dir string, runs []pilot.Run, begin func() error) error {
	if err := e.entered(); err != nil {
		return err
	}
	return e.Runtime.Restore(ctx, spec, dir, runs, begin)
}

// standReady makes a sandbox in the places of spec, says so by a byte on the standard output, and waits on the standard input for the directory
// of a Machine, whose Spec it returns; from then on the Machine's log is this process's. At the end of the input it ends the sandbox and returns
// none.
func standReady(rt *runsc.Runtime, spec pilot.Spec, entered func() error) (pilot.Spec, error) {
	if err := entered(); err != nil {
		return pilot.Spec{}, err
	}
	machine, err := awaitMachine(rt, spec)
	if err != nil || machine.Machine == "" {
		return pilot.Spec{}, errors.Join(err, rt.Cool(context.Background(), spec))
	}
	return machine, nil
}

func awaitMachine(rt *runsc.Runtime, spec pilot.Spec) (none pilot.Spec, _ error) {
	if err := rt.Warm(context.Background(), spec); err != nil {
		return none, err
	}
	if _, err := os.Stdout.WriteString("."); err != nil {
		return none, err
	}
	dir, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if errors.Is(err, io.EOF) {
		return none, nil
	}
	if err != nil {
		return none, err
	}
	machine, err := pilot.ReadSpec(strings.TrimSuffix(dir, "\n"))
	if err != nil {
		return none, err
	}
	return machine, takeLog(filepath.Join(machine.Dir, "pilot.log"))
}

// takeLog makes a file the standard output and error of this process, and /dev/null its input.
func takeLog(path string) error {
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	for to, from := range []*os.File{null, log, log} {
		if err := unix.Dup3(int(from.Fd()), to, 0); err != nil {
			return err
		}
	}
	return nil
}
