package host

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/volume"
)

// Check is one finding of `gondola doctor`.
type Check struct {
	Name     string
	OK       bool
	Required bool   // Without it nothing runs; otherwise something is worth knowing.
	Detail   string // what was found
	Remedy   string // what to type or do; empty when OK
}

// Checks looks at what this machine has and lacks, by trying where that is possible: a module that could be loaded counts as there. What
// the tries make is gone when it returns.
func Checks() []Check {
	root := checkRoot()
	list := []Check{root, checkKernel()}
	if root.OK { // the others would only say the same
		list = append(list, checkOverlay(), checkNetworks(), checkIPv6(), checkCgroups())
	}
	if root.OK {
		list = append(list, checkVolumes())
	}
	list = append(list, checkForwarding(), checkMemory(), checkDisk("/var/lib"))
	return append(list, checkPort("127.0.0.1:4280", "API"), checkPort("127.0.0.1:6443", "Kubernetes API"))
}

func checkRoot() Check {
	c := Check{Name: "root", OK: os.Geteuid() == 0, Required: true, Detail: fmt.Sprintf("running as user %d", os.Geteuid())}
	if !c.OK {
		c.Remedy = "run it with sudo"
	}
	return c
}

func checkKernel() Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return failed("kernel", err, "use Linux 5.6 or later")
	}
	release := unix.ByteSliceToString(u.Release[:])
	c := Check{Name: "kernel", Required: true, Detail: "Linux " + release}
	// What decides is openat2, which unpacking images safely needs.
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		c.Detail += fmt.Sprintf(", without openat2 (%v)", err)
		c.Remedy = "use Linux 5.6 or later; inside another container, allow the system call openat2"
		return c
	}
	unix.Close(fd)
	c.OK = true
	return c
}

func failed(name string, err error, remedy string) Check {
	return Check{Name: name, Required: true, Detail: err.Error(), Remedy: remedy}
}

// checkOverlay mounts a tmpfs and an overlay on it.
func checkOverlay() Check {
	const name = "overlay and tmpfs"
	dir, err := os.MkdirTemp("", "gondola-check-")
	if err != nil {
		return failed(name, err, "make room in "+os.TempDir())
	}
	defer os.RemoveAll(dir)
	if err := unix.Mount("gondola", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=1m"); err != nil {
		return failed(name, fmt.Errorf("mount a tmpfs: %w", err), "allow mounts: run on the host itself, or in a privileged container")
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for _, d := range []string{"lower", "upper", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			return failed(name, err, "")
		}
	}
	opts := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", dir+"/merged", "overlay", 0, opts); err != nil {
		return failed(name, fmt.Errorf("mount an overlay: %w", err), "load the module: modprobe overlay")
	}
	if err := unix.Unmount(dir+"/merged", unix.MNT_DETACH); err != nil {
		return failed(name, err, "")
	}
	return Check{Name: name, OK: true, Required: true, Detail: "an overlay on a tmpfs can be mounted"}
}

func checkIPv6() Check {
	c := Check{Name: "IPv6", OK: true, Required: true, Detail: "there"}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		c.OK, c.Detail, c.Remedy = false, "this kernel has no IPv6, which Machines address each other with", "boot without ipv6.disable=1"
		return c
	}
	const lo = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"
	if off, err := os.ReadFile(lo); err == nil && strings.TrimSpace(string(off)) == "1" {
		c.Detail = "switched off by sysctl (disable_ipv6); gondola up switches it on for lo and Machines' links alone"
		if unix.Access(lo, unix.W_OK) != nil {
			c.OK, c.Detail, c.Remedy = false, lo+" is 1 and cannot be written", "set it to 0 on the host: sysctl -w net.ipv6.conf.lo.disable_ipv6=0"
		}
	}
	return c
}

// checkCgroups looks for the controllers that limit Machines.
func checkCgroups() Check {
	c := Check{Name: "cgroups", Required: true}
	var missing []string
	if isUnified() {
		c.Detail = "version 2"
		b, err := os.ReadFile(filepath.Join(cgroupRoot, "cgroup.controllers"))
		if err != nil {
			return failed(c.Name, err, "mount cgroup2 on "+cgroupRoot)
		}
		have := " " + strings.TrimSpace(string(b)) + " "
		for _, want := range []string{"cpu", "memory", "pids"} {
			if !strings.Contains(have, " "+want+" ") {
				missing = append(missing, want)
			}
		}
	} else {
		c.Detail = "version 1"
		for _, want := range []string{"cpu", "memory", "pids"} {
			if _, err := os.Stat(filepath.Join(cgroupRoot, want, "cgroup.procs")); err != nil {
				missing = append(missing, want)
			}
		}
	}
	if len(missing) > 0 {
		c.Detail += ", without " + strings.Join(missing, ", ")
		c.Remedy = "boot with cgroup_enable=memory swapaccount=1, or on a system with systemd 240 or later; mount the controllers on " + cgroupRoot
		return c
	}
	c.OK = true
	return c
}

// checkVolumes makes and mounts a volume.
func checkVolumes() Check {
	c := Check{Name: "volumes", OK: true, Detail: "an ext4 on a loop device can be mounted"}
	dir, err := os.MkdirTemp("", "gondola-check-")
	if err != nil {
		return Check{Name: "volumes", Detail: err.Error(), Remedy: "make room in " + os.TempDir()}
	}
	defer os.RemoveAll(dir)
	s, err := volume.Open(volume.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return Check{Name: "volumes", Detail: err.Error()}
	}
	if kind, why := s.Kind(); kind != volume.Image {
		c.OK, c.Detail = false, "are plain directories whose sizes are not enforced: "+why
		c.Remedy = "install e2fsprogs, and load the module: modprobe loop"
	}
	return c
}

func checkForwarding() Check {
	c := Check{Name: "IP forwarding", OK: true, Detail: "on"}
	for _, f := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
		if b, err := os.ReadFile(f); err == nil && strings.TrimSpace(string(b)) == "0" {
			c.Detail = "off; gondola up turns it on, gondola down --purge puts it back"
			if unix.Access(f, unix.W_OK) != nil {
				c.OK, c.Required = false, true
				c.Detail, c.Remedy = f+" is 0 and cannot be written", "set it to 1 on the host: sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
				return c
			}
		}
	}
	return c
}

func checkMemory() Check {
	t := total(gondola.Resources{})
	c := Check{Name: "capacity", OK: t.MemoryBytes >= 256<<20, Detail: t.String() + " for Machines"}
	if !c.OK {
		c.Remedy = "use a machine with at least 1 GB of memory"
	}
	return c
}

func checkDisk(dir string) Check {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Check{Name: "disk space", Detail: fmt.Sprintf("%s: %v", dir, err), Remedy: "make the directory, or choose another with --data"}
	}
	free := int64(st.Bavail) * st.Bsize
	c := Check{Name: "disk space", OK: free >= 2<<30, Detail: fmt.Sprintf("%.1f GB free on %s", float64(free)/1e9, dir)}
	if !c.OK {
		c.Remedy = "free some, or choose another disk with --data"
	}
	return c
}

// checkPort tries to listen; a gondola that runs is a reason that it cannot.
func checkPort(address, what string) Check {
	c := Check{Name: "port " + address, OK: true, Detail: "free for the " + what}
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.OK, c.Detail = false, fmt.Sprintf("in use (%v): by a gondola that runs, or by another program", err)
		c.Remedy = "see by whom: ss -ltnp"
		return c
	}
	l.Close()
	return c
}
