// Gondola-pilot supervises one Machine beside its sandbox. It is a binary of its own because every Machine runs it several times over: it
// starts in a few milliseconds, being free of Kubernetes and SQL.
//
//	gondola-pilot run [--platform=systrap] <dir>   supervise the Machine whose spec.json is in dir, until it has ended
//	gondola-pilot run --driver=runc <dir>          the same, with the host's runc instead of gVisor
//	gondola-pilot runsc …                          be gVisor's runsc
//	gondola-pilot runc-monitor <bundle>            be the parent of one of runc's containers
//
// It is built with CGO_ENABLED=0 and -ldflags "-s -w".
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/gvisor/runsc"
	"gondola/internal/driver/runc/sandbox"
	"gondola/internal/pilot"
)

func main() {
	if runsc.Called() {
		runsc.Main()
	}
	if sandbox.Called() {
		os.Exit(sandbox.Main())
	}
	if len(os.Args) < 2 || os.Args[1] != "run" {
		fmt.Fprintln(os.Stderr, "usage: gondola-pilot run <dir> | gondola-pilot runsc …")
		os.Exit(2)
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "gondola-pilot:", err)
		os.Exit(1)
	}
}

// run supervises a Machine until it has ended or SIGTERM comes, which leaves its containers running for the next pilot.
func run(args []string) error {
	flags := flag.NewFlagSet("run", flag.ExitOnError)
	kind := flags.String("driver", "gvisor", "what isolates the Machine: gvisor or runc")
	runc := flags.String("runc", "runc", "the program runc")
	platform := flags.String("platform", "", "gVisor's platform: systrap, ptrace or kvm")
	debug := flags.Bool("debug", false, "let runsc log what it does, below <dir>/runsc")
	flags.Parse(args)
	if flags.NArg() != 1 {
		return fmt.Errorf("run wants one directory, has %d arguments", flags.NArg())
	}
	spec, err := pilot.ReadSpec(flags.Arg(0))
	if err != nil {
		return err
	}
	entered := enter(spec.Cgroup)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("machine", spec.Machine)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var rt pilot.Runtime
	switch *kind {
	case "gvisor":
		rt = runsc.New(runsc.Config{Platform: *platform, Debug: *debug, Log: log})
	case "runc":
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

// entering is a Runtime that boots nothing until this process is in its cgroup: no child may be left in the daemon's, where systemd
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
