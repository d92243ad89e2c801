// Package sandbox runs the containers of one Machine side by side in Linux namespaces and cgroups of this host: it implements pilot.Runtime by
// means of the program runc.
//
// The sandbox is a pause process that holds the IPC and UTS namespaces (and with ShareProc that of processes) in the Machine's network
// namespace; containers, which runc makes, join them and have mounts and a cgroup of their own. Beside each container is a monitor, a process of
// this same binary that is the container's parent and outlives the pilot: it writes down how the container ended, which the kernel tells only
// a parent, and keeps its terminal. All state lies in Spec.Dir, Spec.RunDir and Spec.Cgroup, so a new pilot carries on where a dead one was.
//
//	Spec.Cgroup/pilot             the pilot, the pause process and the monitors
//	Spec.Cgroup/sandbox           the Machine's limits
//	Spec.Cgroup/sandbox/<id>      a container's limits
//	Spec.RunDir/runc              runc's own state
//	Spec.RunDir/bundles/<id>      a container's bundle, and the monitor's files
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// Config says how sandboxes are made; zero fields mean the default.
type Config struct {
	Runc string // the program; if empty, the one in PATH
	Log  *slog.Logger
}

// Runtime is a pilot.Runtime on runc for one Machine.
type Runtime struct {
	cfg  Config
	tree cgroup.Tree
	gone chan struct{}

	mu      sync.Mutex
	spec    pilot.Spec
	volumes oci.Volumes
	pause   int             // pid of the pause process; 0 before Boot
	runs    map[string]*run // container → its present run

	disk pilot.DiskMeter
}

var _ pilot.Runtime = (*Runtime)(nil)

// New returns the Runtime of one Machine.
func New(cfg Config) *Runtime {
	if cfg.Runc == "" {
		cfg.Runc = "runc"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Runtime{cfg: cfg, tree: cgroup.Host(), gone: make(chan struct{}), runs: map[string]*run{}}
}

// Boot makes the sandbox, or takes over the one that runs; see pilot.Runtime.
func (r *Runtime) Boot(ctx context.Context, spec pilot.Spec) (bool, error) {
	if spec.Cgroup == "" {
		return false, gondola.Errorf(gondola.ErrPrecondition, "machine %s has no cgroup, which runc cannot do without", spec.Machine)
	}
	r.configure(spec)
	// Commands that are run in a container become children of this process when runc has started them.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return false, fmt.Errorf("become the reaper of commands: %w", err)
	}
	if rec, err := driver.ReadProcess(r.record()); err == nil && rec.Alive() {
		return true, r.watch(rec.PID)
	}
	if _, err := exec.LookPath(r.cfg.Runc); err != nil {
		return false, fmt.Errorf("start sandbox: runc: %w", err)
	}
	if err := r.sweep(ctx); err != nil {
		return false, fmt.Errorf("clear what an earlier sandbox left: %w", err)
	}
	if err := r.volumes.Prepare(); err != nil {
		return false, err
	}
	limits := cgroup.Limits{CPUMillis: spec.Limits.CPUMillis, MemoryBytes: spec.Limits.MemoryBytes, PIDs: spec.Processes}
	if limits.MemoryBytes > 0 {
		limits.MemoryBytes += gondola.Overhead.MemoryBytes // what the sandbox itself takes is not the user's to pay
	}
	if err := r.tree.Limit(r.cgroup(), limits); err != nil {
		return false, err
	}
	pid, err := r.startPause()
	if err != nil {
		return false, fmt.Errorf("start sandbox: %w", err)
	}
	failpoint.Hit("pilot.pause.started")
	if err := driver.RecordProcess(r.record(), pid, ""); err != nil {
		return false, fmt.Errorf("sandbox process: %w", err)
	}
	return false, r.watch(pid)
}

func (r *Runtime) configure(spec pilot.Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.volumes = spec, oci.PlaceVolumes(spec, false)
}

func (r *Runtime) record() string        { return filepath.Join(r.spec.RunDir, driver.SandboxRecord) }
func (r *Runtime) state() string         { return filepath.Join(r.spec.RunDir, "runc") }
func (r *Runtime) id(name string) string { return oci.ID(r.spec, name) }
func (r *Runtime) bundle(name string) string {
	return filepath.Join(r.spec.RunDir, "bundles", r.id(name))
}
func (r *Runtime) rootfs(name string) string   { return driver.Rootfs(&r.spec, name) }
func (r *Runtime) shm() string                 { return filepath.Join(r.spec.RunDir, "volumes", ".shm") }
func (r *Runtime) cgroup() string              { return filepath.Join(r.spec.Cgroup, "sandbox") }
func (r *Runtime) cgroupOf(name string) string { return filepath.Join(r.cgroup(), r.id(name)) }

// watch makes pid the sandbox, and closes gone when it ends.
func (r *Runtime) watch(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch sandbox process %d: %w", pid, err)
	}
	r.mu.Lock()
	r.pause = pid
	select {
	case <-r.gone: // of an earlier sandbox
		r.gone = make(chan struct{})
	default:
	}
	all := r.cgroup()
	r.mu.Unlock()
	go func() {
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		unix.Wait4(pid, nil, unix.WNOHANG, nil) // it may be a child of this process
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.pause != pid {
			return // destroyed by us
		}
		r.cfg.Log.Info("the sandbox has ended", "pid", pid)
		close(r.gone)
		// Containers do not end with it by themselves, and must not run on in a network that will be made anew.
		r.tree.Signal(all, unix.SIGKILL)
	}()
	return nil
}

// Gone closes when the sandbox has died.
func (r *Runtime) Gone() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

// OOM is false: the kernel kills in the containers, which have the limits, and not the sandbox's root.
func (r *Runtime) OOM() bool { return false }

// Destroy ends the sandbox and undoes all; see pilot.Runtime.
func (r *Runtime) Destroy(ctx context.Context, spec pilot.Spec) error {
	r.configure(spec)
	r.mu.Lock()
	r.pause = 0
	clear(r.runs)
	r.mu.Unlock()
	return r.sweep(ctx)
}

// Checkpoint is not what runc can do here: the driver has no Capability Suspend.
func (r *Runtime) Checkpoint(context.Context, string, func() error) error {
	return gondola.Errorf(gondola.ErrUnsupported, "driver runc cannot suspend machine %s", r.spec.Machine)
}

// Restore is not what runc can do here: there is no snapshot that it has made.
func (r *Runtime) Restore(_ context.Context, spec pilot.Spec, _ string, _ []pilot.Run, _ func() error) error {
	return gondola.Errorf(gondola.ErrUnsupported, "driver runc cannot resume machine %s", spec.Machine)
}

// sweep ends a sandbox, dead or alive, and removes all that Boot and Start made. Volumes on disk stay.
func (r *Runtime) sweep(ctx context.Context) error {
	errs := []error{driver.KillRecorded(ctx, r.record())}
	if r.spec.Cgroup != "" {
		errs = append(errs, r.tree.Remove(ctx, r.cgroup()))
	}
	monitors, err := filepath.Glob(filepath.Join(r.spec.RunDir, "bundles", "*", lockFile))
	errs = append(errs, err)
	for _, lock := range monitors {
		errs = append(errs, endMonitor(ctx, filepath.Dir(lock)))
	}
	if r.spec.Cgroup != "" { // what a monitor may have been about to start, and a pause process that was not yet recorded
		errs = append(errs, r.tree.Remove(ctx, r.cgroup()))
		r.tree.Signal(filepath.Join(r.spec.Cgroup, driver.PilotCgroup), unix.SIGKILL)
	}
	failpoint.Hit("pilot.pause.killed")
	errs = append(errs, driver.ClearSandbox(r.spec))
	if err := os.Remove(r.record()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// booted returns the pid of the pause process, or the error of those who call too early.
func (r *Runtime) booted() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pause == 0 {
		return 0, gondola.Errorf(gondola.ErrPrecondition, "the sandbox of machine %s does not run", r.spec.Machine)
	}
	return r.pause, nil
}
