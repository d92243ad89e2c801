package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/host"
	"gondola/internal/network"
)

// DownOptions is what Down needs to know.
type DownOptions struct {
	Config  Config
	Version string
	Pilot   []byte // as in Options
	Purge   bool   // remove everything that this installation made
	// RemoveKubeconfig takes the context of a cluster, by its own kubeconfig, out of a file of the user, unless it is there for another installation's.
	RemoveKubeconfig func(path string, kubeconfig []byte) error
	Say              func(format string, args ...any)
}

// Down ends the daemon, if one runs, and every Machine; the next Up brings them back. With Purge it removes whatever the installation made on
// this host, data included, whatever state it is in. It works with no daemon running, and doing it again is harmless.
func Down(ctx context.Context, o DownOptions) error {
	c, err := o.Config.complete()
	if err != nil {
		return err
	}
	o.Config = c
	if os.Geteuid() != 0 {
		return gondola.Errorf(gondola.ErrForbidden, "gondola down ends sandboxes of root and needs root: sudo gondola down")
	}
	if _, err := os.Stat(c.Data); errors.Is(err, os.ErrNotExist) {
		o.Say("nothing to do: there is no gondola in %s", c.Data)
		return nil
	}
	if fresh, err := isFresh(c.Data); err != nil {
		return err // not ours: touch nothing
	} else if fresh && !o.Purge {
		o.Say("nothing to do: there is no gondola in %s", c.Data)
		return nil
	}
	release, err := takeOver(ctx, o)
	if err != nil {
		return err
	}
	defer release()
	instance, err := readInstance(c.Data)
	if errors.Is(err, os.ErrNotExist) {
		if o.Purge {
			err = emptyData(c.Data)
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			o.Say("nothing to do: there is no gondola in %s", c.Data)
			return nil
		}
	}
	if err != nil {
		return err
	}
	if err := stopMachines(ctx, o, instance); err != nil {
		if !o.Purge || ctx.Err() != nil {
			return err
		}
		o.Say("not all Machines stop by themselves (%v): they are killed", err)
	} else {
		o.Say("all Machines are stopped")
	}
	if !o.Purge {
		o.Say("gondola up brings them back; gondola down --purge removes everything")
		return nil
	}
	if err := errors.Join(forgetClusters(o), purge(ctx, c, instance, o.Say)); err != nil {
		return fmt.Errorf("%w; try again: gondola down --purge", err)
	}
	o.Say("everything that gondola made on this host is removed")
	return nil
}

// takeOver ends the daemon that has the data directory and takes the directory. Another `down` is waited for.
func takeOver(ctx context.Context, o DownOptions) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	told := 0
	for {
		var other *held
		release, err = lock(o.Config.Data, "down")
		switch {
		case errors.Is(err, os.ErrNotExist): // another `down --purge` was faster
			return func() {}, nil
		case !errors.As(err, &other):
			return release, err
		case other.by.pid == 0: // it has not said yet who it is, or is just ending
			select {
			case <-time.After(20 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, err
			}
		}
		pid := other.by.pid
		if told != pid && other.by.command == "up" {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return nil, fmt.Errorf("end the daemon, process %d: %w", pid, err)
			}
			o.Say("stopping the daemon (process %d)", pid)
		} else if told != pid {
			o.Say("waiting for the other gondola %s (process %d)", other.by.command, pid)
		}
		told = pid
		if err := waitExit(ctx, pid); err != nil {
			return nil, fmt.Errorf("process %d, gondola %s, does not end: %w; end it by hand (kill -9 %d) and try again", pid, other.by.command, err, pid)
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

// stopMachines ends every Machine of every worker that there ever was, without a word in what should be: the next Up starts them again.
func stopMachines(ctx context.Context, o DownOptions, instance string) error {
	if _, err := os.Stat(filepath.Join(o.Config.Data, "server.db")); errors.Is(err, os.ErrNotExist) {
		return nil // no Machine was ever made
	}
	p := &platform{Options: Options{Config: o.Config, Version: o.Version, Pilot: o.Pilot, Say: o.Say}, instance: instance, log: slog.New(slog.DiscardHandler)}
	defer p.close()
	if err := p.openServer(ctx); err != nil {
		return err
	}
	members, err := p.members.Members(ctx)
	if err != nil || len(members) == 0 {
		return err
	}
	p.Config.Regions = nil
	for _, m := range members {
		p.Config.Regions = append(p.Config.Regions, m.Region)
	}
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	if p.network, err = network.Open(cfg); err != nil {
		return err
	}
	if err := p.openWorkers(ctx); err != nil {
		return err
	}
	errs := make([]error, len(p.workers))
	var wg sync.WaitGroup
	for i, w := range p.workers {
		wg.Go(func() { errs[i] = w.StopAll(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// forgetClusters takes the contexts of this installation's clusters out of the kubeconfigs of users.
func forgetClusters(o DownOptions) error {
	if o.RemoveKubeconfig == nil {
		return nil
	}
	ours, err := filepath.Glob(filepath.Join(o.Config.Data, "clusters", "*", "kubeconfig"))
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range ours {
		kubeconfig, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, k := range kubeconfigFiles() {
			if err := o.RemoveKubeconfig(k.path, kubeconfig); err != nil {
				errs = append(errs, fmt.Errorf("kubeconfig %s: %w", k.path, err))
			}
		}
	}
	return errors.Join(errs...)
}

// purge removes everything that an installation made on this host.
func purge(ctx context.Context, c Config, instance string, say func(format string, args ...any)) error {
	p := &platform{Options: Options{Config: c}, instance: instance, log: slog.New(slog.DiscardHandler)}
	cfg, err := p.networkConfig()
	if err != nil {
		return err
	}
	cfg.Left = func(what string) { say("%s", what) }
	if err := errors.Join(host.Purge(ctx, c.Data, instance), network.Purge(ctx, cfg)); err != nil {
		return err
	}
	return emptyData(c.Data)
}

// emptyData removes the data directory, the name of the installation and the lock last: what is cut short can be done again.
func emptyData(data string) error {
	entries, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockFile || e.Name() == instanceFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(data, e.Name())); err != nil {
			return err
		}
	}
	for _, name := range []string{instanceFile, lockFile} {
		if err := os.Remove(filepath.Join(data, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	// A mount point stays, and so does what another `up` has begun by now.
	if err := os.Remove(data); err != nil && !errors.Is(err, syscall.EBUSY) && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
