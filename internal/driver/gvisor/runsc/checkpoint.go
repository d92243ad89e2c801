package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/sandbox"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// A snapshot's directory holds what gVisor writes (state, page map, pages), the bundle of every container that ran, which gVisor wants to see
// unchanged, and which gVisor wrote it: its state is read by the very version alone.
const (
	snapshotMaker  = "gvisor"
	snapshotRoot   = "root"         // the id of the sandbox's root, of one that was warm
	snapshotBundle = ".config.json" // behind the container's name
	// haltedMark is there while nobody can say whether the sandbox stands still: gVisor counts halts and does not tell how many there were.
	haltedMark = "halted"
)

// bundleFile is a container's bundle in a snapshot. The root's has a name that no container can have.
func bundleFile(name string) string {
	if name == oci.PauseName {
		name = ".root"
	}
	return name + snapshotBundle
}

// maker names the gVisor in this binary and its platform.
func (r *Runtime) maker() string {
	version := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			if dep.Path == "gvisor.dev/gvisor" {
				version = dep.Version
			}
		}
	}
	return version + " " + r.cfg.Platform
}

// Checkpoint halts the sandbox and writes it to dir; see pilot.Runtime.
func (r *Runtime) Checkpoint(_ context.Context, dir string, commit func() error) (err error) {
	root, err := r.booted()
	if err != nil {
		return err
	}
	for name, v := range r.volumes {
		if v.Memory {
			return gondola.Errorf(gondola.ErrPrecondition, "volume %s is in the host's memory, as parts of it are mounted, and would be lost", name)
		}
	}
	mark := filepath.Join(r.spec.RunDir, haltedMark)
	_, statErr := os.Stat(mark)
	again := statErr == nil // an earlier pilot died in here
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return err
	}
	if err := root.Sandbox.Pause(root.ID); err != nil {
		return fmt.Errorf("halt the sandbox: %w", err)
	}
	failpoint.Hit("pilot.checkpoint.halted")
	defer func() {
		if err != nil {
			err = errors.Join(err, r.letRun(root, again))
		}
	}()
	names, err := r.runningNames()
	if err != nil {
		return err
	}
	// No compression: it costs more than the disk, and pages can be read while the sandbox runs already. It is to run on where this fails.
	opts := sandbox.CheckpointOpts{Compression: statefile.CompressionLevelNone, Resume: true, ExcludeCommittedZeroPages: true}
	if err := root.Sandbox.Checkpoint(r.conf, root.ID, dir, opts); err != nil {
		return fmt.Errorf("write the sandbox's memory: %w", err)
	}
	failpoint.Hit("pilot.checkpoint.written")
	if err := os.WriteFile(filepath.Join(dir, snapshotMaker), []byte(r.maker()), 0o600); err != nil {
		return err
	}
	if r.wasWarm() {
		if err := os.WriteFile(filepath.Join(dir, snapshotRoot), []byte(r.id(oci.PauseName)), 0o600); err != nil {
			return err
		}
	}
	for _, name := range append(names, oci.PauseName) {
		b, err := os.ReadFile(filepath.Join(r.bundle(r.id(name)), "config.json"))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, bundleFile(name)), b, 0o600); err != nil {
			return err
		}
	}
	for _, name := range names {
		if err := oci.SyncRootfs(r.rootfs(name)); err != nil {
			return fmt.Errorf("write out the root file system of container %s: %w", name, err)
		}
	}
	return commit()
}

// letRun undoes the halt of a Checkpoint that failed. If an earlier one may have halted the sandbox too, its end is the only way out.
func (r *Runtime) letRun(root *container.Container, unsure bool) error {
	if unsure {
		return driver.KillRecorded(context.Background(), filepath.Join(r.spec.RunDir, driver.SandboxRecord))
	}
	if err := root.Sandbox.Resume(root.ID); err != nil {
		return fmt.Errorf("let the sandbox run on: %w", err)
	}
	return os.Remove(filepath.Join(r.spec.RunDir, haltedMark))
}

// runningNames are the containers that run, all that were started: a snapshot with one that has just ended could not be told from one in which
// it runs.
func (r *Runtime) runningNames() ([]string, error) {
	var names []string
	for _, c := range r.spec.Containers {
		p, err := r.find(c.Name)
		if errors.Is(err, gondola.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-p.ended:
			return nil, gondola.Errorf(gondola.ErrPrecondition, "container %s has just ended: try again", c.Name)
		default:
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// Restore makes the sandbox anew from what Checkpoint wrote; see pilot.Runtime.
func (r *Runtime) Restore(ctx context.Context, spec pilot.Spec, dir string, runs []pilot.Run, begin func() error) error {
	if err := r.configure(spec); err != nil {
		return err
	}
	if err := r.sweep(ctx, spec); err != nil {
		return fmt.Errorf("clear what an earlier sandbox left: %w", err)
	}
	if err := r.checkSnapshot(dir, runs); err != nil {
		return err
	}
	if err := r.volumes.Prepare(); err != nil {
		return err
	}
	if err := r.restoreRoot(ctx, dir); err != nil {
		return fmt.Errorf("restore sandbox: %w", err)
	}
	for i, run := range runs {
		before := begin
		if i < len(runs)-1 { // only with the last one does anything run
			before = func() error { return nil }
		}
		if err := r.restoreContainer(ctx, dir, run, before); err != nil {
			return fmt.Errorf("restore container %s: %w", run.Container.Name, err)
		}
	}
	return nil
}

// checkSnapshot says why a snapshot cannot be this sandbox's, before anything is made.
func (r *Runtime) checkSnapshot(dir string, runs []pilot.Run) error {
	made, err := os.ReadFile(filepath.Join(dir, snapshotMaker))
	if err != nil {
		return err
	}
	if string(made) != r.maker() {
		return gondola.Errorf(gondola.ErrUnsupported, "the snapshot was written by gVisor %s, this is %s", made, r.maker())
	}
	bundles, err := filepath.Glob(filepath.Join(dir, "*"+snapshotBundle))
	if err != nil {
		return err
	}
	var held, want []string
	for _, b := range bundles {
		held = append(held, strings.TrimSuffix(filepath.Base(b), snapshotBundle))
	}
	want = append(want, strings.TrimSuffix(bundleFile(oci.PauseName), snapshotBundle))
	for _, run := range runs {
		want = append(want, run.Container.Name)
	}
	slices.Sort(held)
	slices.Sort(want)
	if !slices.Equal(held, want) {
		return gondola.Errorf(gondola.ErrPrecondition, "the snapshot has the containers %v, not %v", held, want)
	}
	return nil
}

// restoreBundle makes the bundle of a container as it was.
func (r *Runtime) restoreBundle(snapshot, name string) (string, error) {
	dir := r.bundle(r.id(name))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	b, err := os.ReadFile(filepath.Join(snapshot, bundleFile(name)))
	if err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
}

// restoreID gives the root the id that it had, where that does not follow from the Machine's.
func (r *Runtime) restoreID(snapshot string) error {
	id, err := os.ReadFile(filepath.Join(snapshot, snapshotRoot))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.stateDir(), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.stateDir(), rootFile), id, 0o600)
}

func (r *Runtime) restoreRoot(ctx context.Context, snapshot string) error {
	if err := r.restoreID(snapshot); err != nil {
		return err
	}
	dir, err := r.restoreBundle(snapshot, oci.PauseName)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, pauseFile), pauseImage(), 0o600); err != nil {
		return err
	}
	said, out, err := os.Pipe() // as it had one, though it has said what it had to say: gVisor wants to poll it again
	if err != nil {
		return err
	}
	defer said.Close()
	defer out.Close()
	if err := r.run(ctx, "restore", dir, r.id(oci.PauseName), [3]*os.File{nil, out, nil}, "--image-path="+snapshot, "--background"); err != nil {
		return err
	}
	c, err := r.load(oci.PauseName)
	if err != nil {
		return err
	}
	if err := r.record(c.SandboxPid()); err != nil {
		return err
	}
	if r.spec.Cgroup != "" { // its bundle has the limits that it was made with, and it may have been resized; nothing is in its memory yet
		if err := r.limitSandbox(r.spec.Limits); err != nil {
			return err
		}
	}
	return r.watch(c)
}

func (r *Runtime) restoreContainer(ctx context.Context, snapshot string, run pilot.Run, before func() error) error {
	name := run.Container.Name
	if err := oci.RemakeRootfs(&r.spec, &run, r.volumes); err != nil {
		return err
	}
	dir, err := r.restoreBundle(snapshot, name)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.controllers(name), []byte(guestControllers), 0o644); err != nil {
		return err
	}
	if err := before(); err != nil {
		return err
	}
	_, err = r.launch(ctx, "restore", dir, run, "--image-path="+snapshot, "--background")
	return err
}
