package runsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDirs returns the directories of a cgroup that exist: one on a host with cgroup v2, one per hierarchy on v1 and hybrid ones.
func cgroupDirs(cgroup string) []string {
	patterns := []string{filepath.Join(cgroupRoot, cgroup), filepath.Join(cgroupRoot, "*", cgroup)}
	var out []string
	for _, p := range patterns {
		// Glob reads "*" of ours only: names of cgroups hold no wildcards.
		dirs, _ := filepath.Glob(p)
		for _, d := range dirs {
			if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
				out = append(out, d)
			}
		}
	}
	return out
}

// oomKills returns how often the kernel killed in a cgroup for want of memory.
func oomKills(cgroup string) int {
	kills := 0
	for _, dir := range cgroupDirs(cgroup) {
		for _, file := range []string{"memory.events", "memory.oom_control"} { // v2, v1
			b, err := os.ReadFile(filepath.Join(dir, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(b)) {
				if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == "oom_kill" {
					n, _ := strconv.Atoi(value)
					kills = max(kills, n)
				}
			}
		}
	}
	return kills
}

// removeCgroups kills everything in a cgroup and removes it.
func removeCgroups(ctx context.Context, cgroup string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		left := 0
		for _, dir := range cgroupDirs(cgroup) {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(b)) {
				if pid, err := strconv.Atoi(field); err == nil && pid != os.Getpid() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return fmt.Errorf("remove cgroup %s: processes in it do not end: %w", cgroup, err)
		}
	}
}
