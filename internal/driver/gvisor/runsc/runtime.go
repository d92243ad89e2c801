// Package runsc runs the containers of one Machine in one gVisor sandbox: it implements pilot.Runtime, and Main is the program runsc itself.
//
// What makes processes (a sandbox, a container's gofer) is done by running this same binary again as runsc, so that nothing of namespaces
// and cgroups touches the pilot; everything else (waiting, signals, exec, figures) is a call on the sandbox's control socket. All state lies
// in Spec.Dir, Spec.RunDir and Spec.Cgroup, so a new pilot carries on where a dead one was.
//
// The package alone links gvisor.dev, and only cmd/gondola-pilot imports it.
package runsc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
	gvlog "gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/config"
	"gvisor.dev/gvisor/runsc/container"
	"gvisor.dev/gvisor/runsc/flag"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// Config says how sandboxes are made; zero fields mean the default.
type Config struct {
	Platform   string // of gVisor: "systrap" (default), "ptrace" or "kvm"
	Executable string // the binary that is runsc; if empty, /proc/self/exe
	Debug      bool   // runsc writes what it does to Spec.Dir/runsc
	Log        *slog.Logger
}

// Runtime is a pilot.Runtime on gVisor for one Machine.
type Runtime struct {
	cfg  Config
	gone chan struct{}

	mu      sync.Mutex
	spec    pilot.Spec
	limits  gondola.Resources // of the sandbox: the Spec's, or what Resize said
	conf    *config.Config
	volumes oci.Volumes
	sandbox *container.Container // nil before Boot
	ready   chan struct{}        // closes when the root of a sandbox that Boot made has written the limits, or has ended
	warm    *pilot.Spec          // of a sandbox that Warm made and no Machine has claimed
	runs    map[string]*process  // container → its present run
	oom     bool

	disk   pilot.DiskMeter
	shares shares
	behind sync.WaitGroup // what is removed while the Machine runs already
	waking sync.Mutex     // gVisor's Sandbox does not want to be asked for metrics twice at once
}

// New returns the Runtime of one Machine.
func New(cfg Config) *Runtime {
	if cfg.Platform == "" {
		cfg.Platform = "systrap"
	}
	if cfg.Executable == "" {
		cfg.Executable = "/proc/self/exe"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	gvlog.SetTarget(&gvlog.Writer{Next: io.Discard})
	return &Runtime{cfg: cfg, gone: make(chan struct{}), runs: map[string]*process{}}
}

// Boot makes the sandbox, or takes over the one that runs; see pilot.Runtime.
func (r *Runtime) Boot(ctx context.Context, spec pilot.Spec) (bool, error) {
	warm := r.warm
	r.warm = nil
	if warm != nil {
		defer r.behind.Go(func() { r.forget(context.WithoutCancel(ctx), *warm) })
	}
	if err := r.configure(spec); err != nil {
		return false, err
	}
	if c, ok := r.living(); ok {
		return true, r.watch(c)
	}
	if err := r.sweep(ctx, spec); err != nil {
		return false, fmt.Errorf("clear what an earlier sandbox left: %w", err)
	}
	if err := r.volumes.Prepare(); err != nil {
		return false, err
	}
	c, err := r.make(ctx, warm)
	if err != nil {
		return false, fmt.Errorf("start sandbox: %w", err)
	}
	if err := r.record(c.SandboxPid()); err != nil {
		return false, err
	}
	return false, r.watch(c)
}

// make claims a warm sandbox, or makes one.
func (r *Runtime) make(ctx context.Context, warm *pilot.Spec) (*container.Container, error) {
	if warm != nil {
		c, err := r.claim(ctx, *warm)
		if err == nil || errors.Is(err, pilot.ErrLost) {
			return c, err
		}
		r.cfg.Log.Warn("a warm sandbox cannot be used", "err", err)
		if err := r.sweep(ctx, r.spec); err != nil {
			return nil, err
		}
	}
	if err := r.startPause(ctx, "run", "--detach"); err != nil {
		return nil, err
	}
	return r.load(oci.PauseName)
}

// configure fixes what follows from the Spec alone.
func (r *Runtime) configure(spec pilot.Spec) error {
	flags := flag.NewFlagSet("runsc", flag.ContinueOnError)
	config.RegisterFlags(flags)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spec, r.limits = spec, spec.Limits
	r.volumes = oci.PlaceVolumes(spec, true)
	if err := flags.Parse(r.flags()); err != nil {
		return fmt.Errorf("runsc flags: %w", err)
	}
	conf, err := config.NewFromFlags(flags)
	if err != nil {
		return fmt.Errorf("runsc flags: %w", err)
	}
	r.conf = conf
	return nil
}

// machine is the Machine whose sandbox this is, for those who run beside Boot and Destroy.
func (r *Runtime) machine() gondola.MachineID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.spec.Machine
}

// flags returns the options that every runsc command of this Machine gets.
func (r *Runtime) flags() []string {
	flags := []string{
		"--root=" + r.stateDir(), // holds environments, so in RunDir
		"--platform=" + r.cfg.Platform,
		"--overlay2=none", // root file systems are overlays of the host
		"--allow-suid",
		"--net-raw",
		"--host-settings=ignore",
		"--in-sandbox-cgroup=v2",
	}
	panics := r.spec.Dir
	if r.warm != nil {
		panics = r.stateDir() // which goes along with it
	}
	flags = append(flags, "--panic-log="+filepath.Join(panics, "sandbox-panic.log"))
	switch {
	case r.warm != nil:
		flags = append(flags, "--network=sandbox", "--gofer-network-namespace=new") // an empty one: the Machine's comes with the claim
	case r.spec.NetNS == "":
		flags = append(flags, "--network=none", "--gofer-network-namespace=new")
	default:
		// A gofer talks to nobody. In the Machine's own namespace it costs nothing and cannot reach the host's network either.
		network := "sandbox"
		if r.spec.HostNetwork {
			network = "host" // of the namespace; a stack of the sandbox's own would take the addresses out of it
		}
		flags = append(flags, "--network="+network, "--gofer-network-namespace="+r.spec.NetNS)
	}
	switch { // of containers' gofers alone, so that a sandbox that stands ready suits both
	case r.volumes.Binds():
		// Without it a unix socket in a bind exists for the container alone that made it.
		flags = append(flags, "--host-uds=all")
	case r.spec.API != "":
		// To connect to /.fly/api. Nothing else that a container has mounted has a socket of the host in it.
		flags = append(flags, "--host-uds=open")
	}
	if r.cfg.Debug {
		flags = append(flags, "--debug", "--debug-log="+filepath.Join(r.spec.Dir, "runsc")+"/")
	}
	return flags
}

func (r *Runtime) id(name string) string {
	if name == oci.PauseName {
		if id, err := os.ReadFile(filepath.Join(r.stateDir(), rootFile)); err == nil { // it was made before its Machine was known
			return string(id)
		}
	}
	return oci.ID(r.spec, name)
}
func (r *Runtime) stateDir() string          { return filepath.Join(r.spec.RunDir, "runsc") }
func (r *Runtime) bundle(id string) string   { return filepath.Join(r.spec.RunDir, "bundles", id) }
func (r *Runtime) rootfs(name string) string { return driver.Rootfs(&r.spec, name) }
func (r *Runtime) controllers(name string) string {
	return filepath.Join(r.bundle(r.id(name)), "cgroups") // see guestControllers
}
func (r *Runtime) sandboxCgroup() string { return filepath.Join(r.spec.Cgroup, "sandbox") }
func (r *Runtime) load(name string) (*container.Container, error) {
	id := container.FullID{SandboxID: r.id(oci.PauseName), ContainerID: r.id(name)}
	c, err := container.Load(r.stateDir(), id, container.LoadOpts{Exact: true, SkipCheck: true})
	if err != nil {
		return nil, fmt.Errorf("read the state of %s: %w", name, err)
	}
	return c, nil
}

// living returns the sandbox if one runs.
func (r *Runtime) living() (*container.Container, bool) {
	rec, err := driver.ReadProcess(filepath.Join(r.spec.RunDir, driver.SandboxRecord))
	if err != nil || !rec.Alive() {
		return nil, false
	}
	c, err := r.load(oci.PauseName)
	if err != nil || c.Status != container.Running {
		return nil, false
	}
	return c, true
}

// record notes which process is the sandbox, for later pilots and for the driver.
func (r *Runtime) record(pid int) error {
	failpoint.Hit("pilot.sandbox.started")
	if err := driver.RecordProcess(filepath.Join(r.spec.RunDir, driver.SandboxRecord), pid, ""); err != nil {
		return fmt.Errorf("sandbox process: %w", err)
	}
	return nil
}

// watch makes c the sandbox, and closes gone when its process ends.
func (r *Runtime) watch(c *container.Container) error {
	pid := c.Sandbox.Getpid()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("watch sandbox process %d: %w", pid, err)
	}
	r.mu.Lock()
	r.sandbox = c
	select {
	case <-r.gone: // of an earlier sandbox
		r.gone, r.oom = make(chan struct{}), false
	default:
	}
	group := r.sandboxCgroup()
	r.mu.Unlock()
	go func() {
		defer unix.Close(fd)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				break
			}
		}
		oom := cgroup.Host().OOMKills(group) > 0
		r.cfg.Log.Info("the sandbox has ended", "pid", pid, "oom", oom)
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.sandbox == c { // not destroyed by us
			r.oom = oom
			close(r.gone)
		}
	}()
	return nil
}

// Gone closes when the sandbox has died.
func (r *Runtime) Gone() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.gone
}

// OOM says whether the kernel killed in the sandbox for want of memory.
func (r *Runtime) OOM() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.oom
}

// Destroy ends the sandbox and undoes all; see pilot.Runtime.
func (r *Runtime) Destroy(ctx context.Context, spec pilot.Spec) error {
	r.behind.Wait()
	if err := r.configure(spec); err != nil {
		return err
	}
	r.mu.Lock()
	r.sandbox = nil
	clear(r.runs)
	r.mu.Unlock()
	return r.sweep(ctx, spec)
}

// booted returns the sandbox, or the error of those who call too early.
func (r *Runtime) booted() (*container.Container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sandbox == nil {
		return nil, gondola.Errorf(gondola.ErrPrecondition, "the sandbox of machine %s does not run", r.spec.Machine)
	}
	return r.sandbox, nil
}
