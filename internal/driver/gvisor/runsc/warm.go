package runsc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	gvcgroup "gvisor.dev/gvisor/runsc/cgroup"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/sandbox"

	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// A warm sandbox is one that runsc has created and not started: its kernel runs, in an empty network namespace and cgroups of its own, and waits
// on its control socket. Whose it is, is never in doubt: it is the warm one's for as long as its processes are in that one's cgroups, by which they
// are found and killed, and the Machine's as soon as they are in the Machine's. A pilot that dies in between leaves a part to be killed by either,
// and no record in the Machine's RunDir, so that nobody takes it for a sandbox that runs.

// rootFile is the file in a state directory with the id of the sandbox's root, where that does not follow from the Machine's.
const rootFile = "root"

// warmImage is where the bundle of a warm sandbox's root has its image: in the bundle, by a name that is the same for whoever restores it elsewhere,
// since gVisor refuses another. runsc opens it by itself.
const warmImage = "/proc/self/cwd/" + pauseFile

// claimMillis is what a warm sandbox weighs until it is in its Machine's cgroup.
const claimMillis = 1000

// Warm makes a sandbox that waits for a Machine. spec has its limits, and places of its own: a Dir and RunDir that are one and the same, and a
// Cgroup. The next Boot makes it the Machine's; see driver.Warm for which Machines it suits.
func (r *Runtime) Warm(ctx context.Context, spec pilot.Spec) error {
	r.warm = &spec
	if err := r.configure(spec); err != nil {
		return err
	}
	if err := os.MkdirAll(r.stateDir(), 0o700); err != nil {
		return err
	}
	// A file system by itself, which can be brought to the Machine's directories: a socket cannot be moved from one to another.
	if err := oci.MountTmpfs(r.stateDir(), "mode=0700", 0); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.stateDir(), rootFile), []byte(oci.ID(spec, oci.PauseName)), 0o600); err != nil {
		return err
	}
	if err := r.startPause(ctx, "create"); err != nil {
		return fmt.Errorf("create a warm sandbox: %w", err)
	}
	// It was made at the lowest weight. Its start is a Machine's.
	return cgroup.Host().Weigh(spec.Cgroup, claimMillis)
}

// Cool ends a sandbox that Warm made and nobody wants any more.
func (r *Runtime) Cool(ctx context.Context, spec pilot.Spec) error {
	return errors.Join(cgroup.Host().Remove(ctx, filepath.Join(spec.Cgroup, "sandbox")), driver.UnmountBelow(filepath.Join(spec.RunDir, "runsc")))
}

// wasWarm says whether the Machine's sandbox is one that Warm made, or was restored from such a one.
func (r *Runtime) wasWarm() bool { return r.id(oci.PauseName) != oci.ID(r.spec, oci.PauseName) }

// claim makes the sandbox that Warm made the Machine's. It fails with pilot.ErrLost once it has begun to use up the Machine's network, without
// which no other sandbox can be made; after any other error nothing of the Machine's has changed.
func (r *Runtime) claim(ctx context.Context, warm pilot.Spec) (*container.Container, error) {
	if err := os.Mkdir(r.stateDir(), 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount(filepath.Join(warm.RunDir, "runsc"), r.stateDir(), "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("mount its state at %s: %w", r.stateDir(), err)
	}
	failpoint.Hit("pilot.claim.bound")
	c, err := r.load(oci.PauseName)
	if err != nil {
		return nil, err
	}
	if !c.IsSandboxRunning() {
		return nil, errors.New("it has died")
	}
	moved := make(chan error, 1)
	go func() { moved <- r.moveHere(warm) }()
	if err = r.startIn(c); err == nil {
		err = r.nameHost(c)
	}
	failpoint.Hit("pilot.claim.started")
	if err = errors.Join(err, <-moved); err == nil {
		failpoint.Hit("pilot.claim.moved")
		err = r.saveClaimed(c)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", pilot.ErrLost, err)
	}
	failpoint.Hit("pilot.claim.saved")
	return c, nil
}

// moveHere brings the processes of a warm sandbox, and its pilot, which is this process, into the Machine's cgroups.
func (r *Runtime) moveHere(warm pilot.Spec) error {
	tree, l := cgroup.Host(), oci.SandboxLimits(r.spec.Limits)
	limits := cgroup.Limits{CPUMillis: l.CPUMillis, MemoryBytes: l.MemoryBytes, PIDs: hostProcesses(r.spec.Processes)}
	if err := tree.Limit(r.sandboxCgroup(), limits); err != nil {
		return err
	}
	if err := tree.Move(filepath.Join(warm.Cgroup, driver.PilotCgroup), filepath.Join(r.spec.Cgroup, driver.PilotCgroup)); err != nil {
		return err
	}
	return tree.Move(filepath.Join(warm.Cgroup, "sandbox"), r.sandboxCgroup())
}

// startIn starts the root of a created sandbox with the links of the Machine's network namespace. runsc takes those of the namespace that a
// process is in, by its id, and opens their sockets itself; this thread is such a process as well as the sandbox.
func (r *Runtime) startIn(c *container.Container) error {
	return inNetNS(r.spec.NetNS, func() error {
		s := &sandbox.Sandbox{ID: c.Sandbox.ID, ControlSocketPath: r.socket(c)}
		s.Pid.Store(unix.Gettid())
		return s.StartRoot(r.conf, c.Spec)
	})
}

// nameHost gives a sandbox that was made without it the Machine's host name, and its containers the limits that they show.
func (r *Runtime) nameHost(c *container.Container) error {
	admin := auth.CapabilitySetOf(linux.CAP_SYS_ADMIN)
	args := []string{"h" + r.spec.Hostname}
	for _, k := range r.spec.Containers {
		args = append(args, limiterArgs(r.guestFiles(k))...)
	}
	return r.runInRoot(c, &auth.TaskCapabilities{PermittedCaps: admin, EffectiveCaps: admin, BoundingCaps: admin}, args...)
}

// saveClaimed records the sandbox as runsc has it after its start, with the places of the Machine.
func (r *Runtime) saveClaimed(c *container.Container) error {
	group, err := gvcgroup.NewFromPath("/"+r.sandboxCgroup(), false)
	if err != nil {
		return err
	}
	c.Status = container.Running
	c.Saver.RootDir, c.Sandbox.ControlSocketPath = r.stateDir(), r.socket(c)
	c.Sandbox.CgroupJSON.Cgroup = group
	// As the Machine's own would be, but for what the root was told to do.
	dir, args := r.bundle(c.ID), c.Spec.Process.Args
	c.BundleDir, c.Spec = dir, r.pauseSpec(dir, warmImage)
	c.Spec.Process.Args = args
	if err := oci.WriteBundle(dir, c.Spec); err != nil {
		return err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.stateDir(), c.ID+"_sandbox:"+c.ID+".state"), b, 0o640)
}

// socket is where the control socket of a claimed sandbox is.
func (r *Runtime) socket(c *container.Container) string {
	return filepath.Join(r.stateDir(), filepath.Base(c.Sandbox.ControlSocketPath))
}

// forget removes what is left of the places that a warm sandbox had.
func (r *Runtime) forget(ctx context.Context, warm pilot.Spec) {
	err := errors.Join(driver.UnmountBelow(filepath.Join(warm.RunDir, "runsc")), cgroup.Host().Remove(ctx, warm.Cgroup), os.RemoveAll(warm.Dir))
	if err != nil {
		r.cfg.Log.Info("a warm sandbox has left something behind", "dir", warm.Dir, "err", err)
	}
}
