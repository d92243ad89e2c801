package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gondola/internal/host"
	"gondola/internal/network"
)

// DownOptions is what Down needs to know.
type DownOptions struct {
	Config  Config
	Version string
	Purge   bool // remove everything that this installation made
	// RemoveKubeconfig takes the cluster's context out of a kubeconfig of the user.
	RemoveKubeconfig func(path, cluster string) error
	Say              func(format string, args ...any)
}

// Down ends the daemon, if one runs, and every Machine; the next Up brings them back. With Purge it removes whatever the installation made on
// this host, data included. It works with no daemon running, and doing it again is harmless.
func Down(ctx context.Context, o DownOptions) error {
	if err := o.Config.complete(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("gondola down ends sandboxes of root and needs root: sudo gondola down")
	}
	instance, err := readInstance(o.Config.Data)
	if errors.Is(err, os.ErrNotExist) {
		o.Say("nothing to do: there is no gondola in %s", o.Config.Data)
		return nil
	}
	if err != nil {
		return err
	}
	release, err := takeOver(ctx, o)
	if err != nil {
		return err
	}
	defer release()
	log := slog.New(slog.DiscardHandler)
	if err := stopMachines(ctx, o, instance, log); err != nil {
		return err
	}
	o.Say("all Machines are stopped")
	if !o.Purge {
		o.Say("gondola up brings them back; gondola down --purge removes everything")
		return nil
	}
	return purge(ctx, o, instance, log)
}

// takeOver ends the daemon that has the data directory and takes the directory.
func takeOver(ctx context.Context, o DownOptions) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	told := 0
	for {
		if release, err = lock(o.Config.Data); err == nil {
			return release, nil
		}
		pid := holder(o.Config.Data)
		if pid <= 0 {
			return nil, err
		}
		if told != pid {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("end the daemon, process %d: %w", pid, err)
			}
			told = pid
			o.Say("stopping the daemon (process %d)", pid)
		}
		if err := waitExit(ctx, pid); err != nil {
			return nil, fmt.Errorf("the daemon (process %d) does not end: %w; end it by hand and try again", pid, err)
		}
	}
}

// waitExit blocks until a process has ended.
func waitExit(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 200)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// stopMachines ends every Machine of every worker, without a word in what should be: the next Up starts them again.
func stopMachines(ctx context.Context, o DownOptions, instance string, log *slog.Logger) error {
	p := &platform{Options: Options{Config: o.Config, Version: o.Version, Say: o.Say}, instance: instance, log: log}
	defer p.close()
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	if p.network, err = network.Open(cfg); err != nil {
		return err
	}
	if err := p.openServer(ctx); err != nil {
		return err
	}
	if err := p.openWorkers(ctx); err != nil {
		return err
	}
	var errs []error
	for _, w := range p.workers {
		errs = append(errs, w.StopAll(ctx))
	}
	return errors.Join(errs...)
}

func purge(ctx context.Context, o DownOptions, instance string, log *slog.Logger) error {
	p := &platform{Options: Options{Config: o.Config}, instance: instance, log: log}
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	if err := errors.Join(host.Purge(ctx, o.Config.Data, instance), network.Purge(ctx, cfg)); err != nil {
		return err
	}
	if o.RemoveKubeconfig != nil {
		for _, k := range kubeconfigFiles() {
			if err := o.RemoveKubeconfig(k.path, o.Config.Cluster); err != nil {
				return err
			}
		}
	}
	entries, err := os.ReadDir(o.Config.Data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "lock" {
			continue // held until the end
		}
		if err := os.RemoveAll(filepath.Join(o.Config.Data, e.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(o.Config.Data); err != nil {
		return err
	}
	o.Say("everything that gondola made on this host is removed")
	return nil
}
