package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what a group and those below it use.
type Usage struct {
	CPUNanos   int64 // since the group was made
	Memory     int64 // bytes: all that is counted, caches of files too
	WorkingSet int64 // Memory without cached files that are idle
	Kept       int64 // Memory without cached files: what the kernel cannot take back
	RSS        int64 // memory of programs; what they share is counted as cache by the kernel, but not here
	PIDs       int64 // threads too, as Linux counts them; zero where they are not counted
}

// Usage reads a group, of v2 or of v1 with its files in several hierarchies. What nobody counts is zero.
func (t Tree) Usage(group string) (u Usage) {
	for _, dir := range t.Dirs(group) {
		number := func(file string) (int64, bool) {
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				return 0, false
			}
			n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
			return n, err == nil
		}
		if n, ok := number("cpuacct.usage"); ok { // v1
			u.CPUNanos = n
		} else if n := field(filepath.Join(dir, "cpu.stat"), "usage_usec"); n > 0 { // v2
			u.CPUNanos = 1000 * n
		}
		if n, ok := number("pids.current"); ok {
			u.PIDs = n
		}
		if n, ok := number("memory.current"); ok { // v2
			u.memory(n, stat(dir), "", "anon")
		} else if n, ok := number("memory.usage_in_bytes"); ok { // v1
			u.memory(n, stat(dir), "total_", "total_rss")
		}
	}
	return u
}

// memory takes in what a group has of memory, by its memory.stat, whose keys for a group and those below it begin with below.
func (u *Usage) memory(all int64, stat map[string]int64, below, programs string) {
	idle := stat[below+"inactive_file"]
	u.Memory, u.WorkingSet, u.Kept = all, max(0, all-idle), max(0, all-idle-stat[below+"active_file"])
	u.RSS = stat[programs] + stat[below+"shmem"]
}

// stat reads the file memory.stat of a group's directory.
func stat(dir string) map[string]int64 {
	b, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		return nil
	}
	out := map[string]int64{}
	for line := range strings.Lines(string(b)) {
		if k, value, _ := strings.Cut(strings.TrimSpace(line), " "); k != "" {
			out[k], _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return out
}
