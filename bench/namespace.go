package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

// enclose runs this program again inside a network namespace of its own and removes everything afterwards, whatever became of it.
func enclose(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "gondola-bench-")
	if err != nil {
		return err
	}
	ns := fmt.Sprintf("gbench%d", os.Getpid())
	defer func() { err = errors.Join(err, clear(o, ns, dir)) }()
	if err := command("ip", "netns", "add", ns); err != nil {
		return err
	}
	if err := command("ip", "-n", ns, "link", "set", "lo", "up"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c := exec.Command("nsenter", append([]string{"--net=/run/netns/" + ns, self}, os.Args[1:]...)...)
	c.Env = append(os.Environ(), insideEnv+"="+dir)
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C reaches it once, through us
	if err := c.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = c.Process.Signal(syscall.SIGTERM) })()
	return c.Wait()
}

// clear undoes all that a run may have left: the platform with its Machines, the namespace and the directory.
func clear(o options, ns, dir string) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM) // what follows is short and must not be cut off
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		down := exec.Command("nsenter", "--net=/run/netns/"+ns, filepath.Join(o.bin, "gondola"), "down", "--purge")
		down.Env = environment(dir)
		if out, err := down.CombinedOutput(); err != nil {
			return fmt.Errorf("gondola down --purge: %w\n%s%s and the namespace %s are kept", err, out, dir, ns)
		}
	}
	if _, err := os.Stat("/run/netns/" + ns); err == nil {
		if err := command("ip", "netns", "delete", ns); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// environment is that of every gondola in a run.
func environment(dir string) []string {
	return append(os.Environ(), "GONDOLA_DATA="+filepath.Join(dir, "data"), "KUBECONFIG="+filepath.Join(dir, "kubeconfig"), "HOME="+dir, "SUDO_USER=")
}

// command runs a command whose output matters only when it fails.
func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
