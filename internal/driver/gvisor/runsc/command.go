package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// run starts the container whose bundle is in dir: runsc creates and starts ("run") or restores ("restore") it in one process, gives it the
// files, and goes away.
func (r *Runtime) run(ctx context.Context, verb, dir, id string, stdio [3]*os.File, args ...string) error {
	return r.runsc(ctx, dir, id, stdio, append([]string{verb, "--detach"}, args...)...)
}

// runsc runs a command of runsc's for the container whose bundle is in dir, with these files.
func (r *Runtime) runsc(ctx context.Context, dir, id string, stdio [3]*os.File, command ...string) error {
	logFile := filepath.Join(dir, "runsc.log")
	argv := append([]string{"runsc"}, r.flags()...)
	argv = append(argv, "--log="+logFile, "--log-format=json")
	argv = append(append(argv, command...), "--bundle="+dir, id)
	cmd := exec.CommandContext(ctx, r.cfg.Executable, argv...)
	cmd.Args = argv
	if r.warm != nil || r.wasWarm() {
		cmd.Dir = dir // see warmImage
	}
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Nil files become /dev/null; an interface that holds a nil *os.File would not.
	if stdio[0] != nil {
		cmd.Stdin = stdio[0]
	}
	if stdio[1] != nil {
		cmd.Stdout = stdio[1]
	}
	if stdio[2] != nil {
		cmd.Stderr = stdio[2]
	}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// "running container: starting container: starting sub-container [/bin/x]: creating process: …"
	if said := oci.LastError(logFile, "running container: ", "starting container: ", "creating container: "); said != "" {
		return errors.New(said)
	}
	return fmt.Errorf("runsc: %w", err)
}

// pauseFile is the image of the sandbox's root, in its bundle.
const pauseFile = "pause.erofs"

// startPause makes the sandbox, with the pause program as its root, by a command of runsc's: run, or create, which leaves the start for later.
func (r *Runtime) startPause(ctx context.Context, command ...string) error {
	dir := r.bundle(r.id(oci.PauseName))
	image := filepath.Join(dir, pauseFile)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(image, pauseImage(), 0o600); err != nil {
		return err
	}
	if r.warm != nil {
		image = warmImage
	}
	if err := oci.WriteBundle(dir, r.pauseSpec(dir, image)); err != nil {
		return err
	}
	out, err := r.followRoot()
	if err != nil {
		return err
	}
	defer out.Close()
	return r.runsc(ctx, dir, r.id(oci.PauseName), [3]*os.File{nil, out, nil}, command...)
}

var _ pilot.Runtime = (*Runtime)(nil)
