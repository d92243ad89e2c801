package host

import (
	"bufio"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"gondola"
)

// total is what this machine has, within the limits of the cgroups that this process is in, less reserve.
func total(reserve gondola.Resources) gondola.Resources {
	has := gondola.Resources{CPUMillis: int64(runtime.NumCPU()) * 1000, MemoryBytes: memTotal()}
	for _, dir := range ownCgroups() {
		limit := cgroupLimit(dir)
		has.CPUMillis = min(has.CPUMillis, limit.CPUMillis)
		has.MemoryBytes = min(has.MemoryBytes, limit.MemoryBytes)
	}
	if reserve.MemoryBytes == 0 {
		reserve.MemoryBytes = defaultReserve(has)
	}
	left := has.Sub(reserve)
	return gondola.Resources{CPUMillis: max(left.CPUMillis, 0), MemoryBytes: max(left.MemoryBytes, 0)}
}

// defaultReserve is what the platform and the system keep: CPU is shared by weight, memory is not.
func defaultReserve(has gondola.Resources) int64 {
	return min(max(512<<20, has.MemoryBytes/20), has.MemoryBytes/2)
}

func memTotal() int64 { return memInfo("MemTotal:") }

// memInfo reads a line of /proc/meminfo, in bytes.
func memInfo(name string) int64 {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if fields := strings.Fields(sc.Text()); len(fields) >= 2 && fields[0] == name {
			kb, _ := strconv.ParseInt(fields[1], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// ownCgroups lists the directories of this process's cgroups and of all above them.
func ownCgroups() []string {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy:controllers:path
		if len(parts) != 3 {
			continue
		}
		roots := []string{cgroupRoot}
		if !isUnified() {
			roots = nil
			for c := range strings.SplitSeq(parts[1], ",") {
				if c == "cpu" || c == "memory" {
					roots = append(roots, filepath.Join(cgroupRoot, c))
				}
			}
		}
		for _, root := range roots {
			for path := filepath.Clean("/" + parts[2]); ; path = filepath.Dir(path) {
				dirs = append(dirs, filepath.Join(root, path))
				if path == "/" {
					break
				}
			}
		}
	}
	return dirs
}

// cgroupLimit reads the limits that a cgroup sets, of either version; without one the amount is as large as can be.
func cgroupLimit(dir string) gondola.Resources {
	limit := gondola.Resources{CPUMillis: math.MaxInt64, MemoryBytes: math.MaxInt64}
	for _, file := range []string{"memory.max", "memory.limit_in_bytes"} {
		if n, ok := number(dir, file, 0); ok && n > 0 {
			limit.MemoryBytes = n
		}
	}
	quota, ok := number(dir, "cpu.max", 0)
	period, _ := number(dir, "cpu.max", 1)
	if !ok {
		quota, ok = number(dir, "cpu.cfs_quota_us", 0)
		period, _ = number(dir, "cpu.cfs_period_us", 0)
	}
	if ok && quota > 0 && period > 0 {
		limit.CPUMillis = quota * 1000 / period
	}
	return limit
}

// number reads one of the numbers in a file; "max" is none.
func number(dir, file string, field int) (int64, bool) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, false
	}
	fields := strings.Fields(string(b))
	if len(fields) <= field {
		return 0, false
	}
	n, err := strconv.ParseInt(fields[field], 10, 64)
	return n, err == nil
}
