package host

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
)

// Stats is the state of this machine: memory within the limits of the cgroups that this process and Machines are in, the disk of the data
// directory.
func (h *Host) Stats() gondola.HostStats {
	out := gondola.HostStats{Time: time.Now()}
	out.MemoryTotal, out.MemoryAvailable = memInfo("MemTotal:"), memInfo("MemAvailable:")
	for _, dir := range ownCgroups() {
		limit := cgroupLimit(dir).MemoryBytes
		if limit >= out.MemoryTotal {
			continue
		}
		used, ok := number(dir, "memory.current", 0)
		if !ok {
			used, _ = number(dir, "memory.usage_in_bytes", 0)
		}
		out.MemoryTotal, out.MemoryAvailable = limit, min(out.MemoryAvailable, max(limit-used+idleFiles(dir), 0))
	}
	if available, ok := h.forMachines(); ok { // there may be more that Machines cannot have
		out.MemoryAvailable = min(out.MemoryAvailable, available)
	}
	var fs unix.Statfs_t
	if unix.Statfs(h.places.machines, &fs) == nil {
		out.Disk = gondola.DiskStats{Total: int64(fs.Blocks) * fs.Bsize, Available: int64(fs.Bavail) * fs.Bsize, Used: int64(fs.Blocks-fs.Bfree) * fs.Bsize,
			InodesTotal: int64(fs.Files), InodesAvailable: int64(fs.Ffree), Inodes: int64(fs.Files - fs.Ffree)}
	}
	out.PIDs, out.MaxPIDs = processes()
	return out
}

// Info is what this machine is.
func (h *Host) Info() gondola.HostInfo {
	text := func(path string) string {
		b, _ := os.ReadFile(path) // what is not there is not told
		return strings.TrimSpace(string(b))
	}
	var fs unix.Statfs_t
	_ = unix.Statfs(h.places.machines, &fs)
	return gondola.HostInfo{Kernel: text("/proc/sys/kernel/osrelease"), OSImage: osImage("/etc/os-release"), BootID: text("/proc/sys/kernel/random/boot_id"),
		MachineID: text("/etc/machine-id"), DiskBytes: int64(fs.Blocks) * fs.Bsize}
}

// osImage is the name that a system gives itself (os-release(5)).
func osImage(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return "Linux"
	}
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		if name, ok := strings.CutPrefix(s.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"'`)
		}
	}
	return "Linux"
}

// idleFiles is what the kernel can take back from a cgroup at once.
func idleFiles(dir string) int64 {
	b, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "inactive_file" || key == "total_inactive_file" {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}

// processes counts tasks, and says how many there may be.
func processes() (now, most int64) {
	b, err := os.ReadFile("/proc/loadavg") // "0.20 0.18 0.12 1/80 11206": running and all tasks
	if err != nil {
		return 0, 0
	}
	if fields := strings.Fields(string(b)); len(fields) > 3 {
		_, all, _ := strings.Cut(fields[3], "/")
		now, _ = strconv.ParseInt(all, 10, 64)
	}
	most, _ = number("/proc/sys/kernel", "pid_max", 0)
	if threads, ok := number("/proc/sys/kernel", "threads-max", 0); ok && threads < most {
		most = threads
	}
	return now, most
}
