package sandbox

import (
	"fmt"
	"strconv"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

const shmMB = 64 // of /dev/shm, as container engines have it

// containerSpec describes a run of a container beside the pause process pause.
func (r *Runtime) containerSpec(run pilot.Run, root string, pause int) (*specs.Spec, error) {
	spec := r.baseSpec(root, run.Container.Name)
	sec := oci.Security(run.Container)
	spec.Root.Readonly = sec.ReadOnlyRootfs
	spec.Process = oci.Process(run)
	spec.Process.OOMScoreAdj = oci.OOMScore(r.spec)
	if r.spec.Processes > 0 {
		spec.Linux.Resources.Pids = &specs.LinuxPids{Limit: r.spec.Processes}
	}
	spec.Linux.Sysctl = sec.Sysctls
	spec.Mounts = r.standardMounts()
	for _, m := range run.Mounts {
		spec.Mounts = append(spec.Mounts, r.volumes.Mount(m))
	}
	of := func(kind specs.LinuxNamespaceType, file string) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: fmt.Sprintf("/proc/%d/ns/%s", pause, file)}
	}
	processes := specs.LinuxNamespace{Type: specs.PIDNamespace}
	if r.spec.ShareProc {
		processes = of(specs.PIDNamespace, "pid")
	} else if g := run.Container.Config.Gondola; g != nil && g.Target != "" {
		first, err := r.running(g.Target)
		if err != nil {
			return nil, gondola.Errorf(gondola.ErrPrecondition, "unable to find target container %s: %w", g.Target, err)
		}
		processes.Path = fmt.Sprintf("/proc/%d/ns/pid", first.PID)
	}
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, processes, of(specs.NetworkNamespace, "net"), of(specs.IPCNamespace, "ipc"),
		of(specs.UTSNamespace, "uts"), specs.LinuxNamespace{Type: specs.CgroupNamespace})
	if g := run.Container.Config.Gondola; g != nil {
		r.limit(spec.Linux.Resources, g)
	}
	return spec, protect(spec)
}

func (r *Runtime) baseSpec(root, name string) *specs.Spec {
	return &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: root},
		Linux: &specs.Linux{
			CgroupsPath: "/" + r.cgroupOf(name),
			Namespaces:  []specs.LinuxNamespace{{Type: specs.MountNamespace}},
			// runc adds those that every container has: null, zero, full, random, urandom, tty and terminals.
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
}

// limit sets what one container may use.
func (r *Runtime) limit(res *specs.LinuxResources, g *gondola.ContainerExtension) {
	asks := int64(0)
	if g.Requests != nil {
		asks = g.Requests.CPUMillis
	}
	cpu := &specs.LinuxCPU{}
	res.CPU = cpu
	if r.tree.Unified() { // runcs make different weights of shares
		res.Unified = map[string]string{"cpu.weight": strconv.FormatInt(cgroup.ContainerWeight(asks), 10)}
	} else {
		shares := uint64(cgroup.ContainerShares(asks))
		cpu.Shares = &shares
	}
	if g.Limits == nil {
		return
	}
	if m := g.Limits.CPUMillis; m > 0 {
		quota, period := cgroup.Quota(m), uint64(cgroup.Period)
		cpu.Quota, cpu.Period = &quota, &period
	}
	if m := g.Limits.MemoryBytes; m > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &m}
		if r.tree.CountsSwap() {
			res.Memory.Swap = &m // none beside the memory
		}
		if r.tree.Unified() {
			res.Unified["memory.oom.group"] = "1" // all of the container ends, not one process of it
		}
	}
}

// standardMounts are those of every container, with the Machine's /dev/shm and the container's own part of the cgroups.
func (r *Runtime) standardMounts() []specs.Mount {
	mounts := oci.StandardMounts(r.shm())
	for i, m := range mounts {
		if m.Destination == "/dev/shm" {
			mounts[i].Type, mounts[i].Options = "bind", []string{"rbind", "rw", "nosuid", "noexec", "nodev"}
		}
	}
	return append(mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}})
}

// protect keeps a container from what of the host's kernel is none of its business: the lists of Docker and containerd, and Docker's seccomp
// profile, which depends on the capabilities.
func protect(spec *specs.Spec) error {
	spec.Linux.MaskedPaths = []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"}
	spec.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	profile, err := seccomp.GetDefaultProfile(spec)
	if err != nil {
		return fmt.Errorf("seccomp profile: %w", err)
	}
	spec.Linux.Seccomp = profile
	return nil
}
