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
		stat := filepath.Join(dir, "memory.stat")
		if n, ok := number("memory.current"); ok { // v2
			u.Memory, u.WorkingSet, u.RSS = n, max(0, n-field(stat, "inactive_file")), field(stat, "anon")+field(stat, "shmem")
		} else if n, ok := number("memory.usage_in_bytes"); ok { // v1
			u.Memory, u.WorkingSet, u.RSS = n, max(0, n-field(stat, "total_inactive_file")), field(stat, "total_rss")+field(stat, "total_shmem")
		}
	}
	return u
}
