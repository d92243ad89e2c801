// Package oci holds what runtimes that are driven by OCI bundles have in common (https://github.com/opencontainers/runtime-spec): root file
// systems, volumes, what a process may do, terminals and pipes, and the root process of a sandbox. gvisor/runsc and runc/sandbox are built on it.
package oci

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/failpoint"
	"gondola/internal/pilot"
)

// WriteBundle writes the bundle of a container to dir, which is in RunDir: its environment may hold secrets.
func WriteBundle(dir string, spec *specs.Spec) error {
	b, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
	failpoint.Hit("pilot.bundle.written")
	return err
}

// Security returns what a container's Config says of it.
func Security(c pilot.Container) gondola.Security {
	if g := c.Config.Gondola; g != nil && g.Security != nil {
		return *g.Security
	}
	return gondola.Security{}
}

// Process describes the first process of a run.
func Process(run pilot.Run) *specs.Process {
	sec := Security(run.Container)
	cwd := run.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	return &specs.Process{
		Terminal:        run.TTY,
		User:            specs.User{UID: run.Identity.UID, GID: run.Identity.GID, AdditionalGids: run.Identity.Groups},
		Args:            run.Args,
		Env:             run.Env,
		Cwd:             cwd,
		Capabilities:    capabilities(run.Identity.UID, sec),
		Rlimits:         Rlimits(),
		NoNewPrivileges: sec.NoNewPrivileges,
	}
}

// ExecProcess describes a command in a container whose first process is first. It may do what that may, and as root has it in effect.
func ExecProcess(first *specs.Process, e pilot.Exec) *specs.Process {
	p := *first
	p.Args, p.Env, p.Cwd, p.Terminal, p.ConsoleSize = e.Args, e.Env, e.WorkingDir, e.TTY, nil
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	p.User = specs.User{UID: e.Identity.UID, GID: e.Identity.GID, AdditionalGids: e.Identity.Groups}
	caps := specs.LinuxCapabilities{}
	if first.Capabilities != nil {
		caps.Bounding = first.Capabilities.Bounding
	}
	if e.Identity.UID == 0 {
		caps.Effective, caps.Permitted = caps.Bounding, caps.Bounding
	}
	p.Capabilities = &caps
	return &p
}

// StandardMounts are those of every container. shm is where the Machine's /dev/shm is on the host, or the name under which a sandbox has it.
func StandardMounts(shm string) []specs.Mount {
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc"},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: shm, Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

// minCPUMillis is the least CPU that a sandbox with a kernel of its own can be limited to: with a hundredth of a core it would take 15 s to start
// a command.
const minCPUMillis = 100

// SandboxLimits are those of a sandbox with a kernel of its own, whose containers have l. What the sandbox itself needs is not the user's to pay.
func SandboxLimits(l gondola.Resources) gondola.Resources {
	if l.MemoryBytes > 0 {
		l.MemoryBytes += gondola.Overhead.MemoryBytes
	}
	if l.CPUMillis > 0 {
		l.CPUMillis = max(l.CPUMillis, minCPUMillis)
	}
	return l
}

// MachineResources translates the limits of such a sandbox. countsSwap says whether the kernel does (cgroup.Tree): then it has none beside its memory.
func MachineResources(limits gondola.Resources, countsSwap bool) *specs.LinuxResources {
	res, l := &specs.LinuxResources{}, SandboxLimits(limits)
	if l.MemoryBytes > 0 {
		res.Memory = &specs.LinuxMemory{Limit: &l.MemoryBytes}
		if countsSwap {
			res.Memory.Swap = &l.MemoryBytes
		}
	}
	if l.CPUMillis > 0 {
		period, quota := uint64(cgroup.Period), cgroup.Quota(l.CPUMillis)
		res.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return res
}

// Rlimits gives containers the open files that Docker's have, or as many as this process may give.
func Rlimits() []specs.POSIXRlimit {
	limit := uint64(1 << 20)
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil {
		limit = min(limit, own.Max)
	}
	return []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: limit, Hard: limit}}
}

// OOMScore is what the kernel adds to the size of a Machine's processes when it looks for whom to end for want of memory; nil says nothing.
func OOMScore(s pilot.Spec) *int {
	if s.OOMScore == 0 {
		return nil
	}
	return &s.OOMScore
}

// defaultCapabilities are those of Docker and containerd.
var defaultCapabilities = [...]string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// allCapabilities are those that Linux has.
var allCapabilities = [...]string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_CHOWN", "CAP_DAC_OVERRIDE",
	"CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
	"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_RAW",
	"CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT",
	"CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE", "CAP_SYS_TIME",
	"CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}

// capabilities returns what a process may do: the default set, less what is dropped, with what is added. As on Linux without ambient
// capabilities, a process that is not root gets them only as its bounding set.
func capabilities(uid uint32, sec gondola.Security) *specs.LinuxCapabilities {
	set := map[string]bool{}
	put := func(names []string, in bool) {
		for _, n := range names {
			n = strings.ToUpper(n)
			if n == "ALL" || n == "CAP_ALL" {
				for _, c := range allCapabilities {
					set[c] = in
				}
				continue
			}
			set["CAP_"+strings.TrimPrefix(n, "CAP_")] = in
		}
	}
	put(defaultCapabilities[:], true)
	// "ALL" on either side comes first, so that single names beside it are exceptions.
	isAll := func(n string) bool { return strings.EqualFold(n, "ALL") || strings.EqualFold(n, "CAP_ALL") }
	if slices.ContainsFunc(sec.AddCapabilities, isAll) {
		put([]string{"ALL"}, true)
	}
	if slices.ContainsFunc(sec.DropCapabilities, isAll) {
		put([]string{"ALL"}, false)
	}
	single := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), isAll)
	}
	put(single(sec.DropCapabilities), false)
	put(single(sec.AddCapabilities), true)
	names := []string{}
	for _, n := range slices.Sorted(maps.Keys(set)) {
		if set[n] {
			names = append(names, n)
		}
	}
	out := &specs.LinuxCapabilities{Bounding: names}
	if uid == 0 {
		out.Effective, out.Permitted = names, names
	}
	return out
}

// CheckCapabilities refuses names that do not exist, which a runtime would refuse less clearly.
func CheckCapabilities(sec gondola.Security) error {
	for _, n := range slices.Concat(sec.AddCapabilities, sec.DropCapabilities) {
		full := "CAP_" + strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		if full != "CAP_ALL" && !slices.Contains(allCapabilities[:], full) {
			return gondola.Errorf(gondola.ErrInvalid, "capability %q does not exist", n)
		}
	}
	return nil
}
