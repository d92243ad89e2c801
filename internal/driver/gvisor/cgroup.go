package gvisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"gondola/internal/pilot"
)

const cgroupRoot = "/sys/fs/cgroup"

// pilotCgroup is where a Machine's pilot is: beside the sandbox's, whose limits are not the pilot's.
func pilotCgroup(spec pilot.Spec) string { return filepath.Join(spec.Cgroup, "pilot") }

// hierarchies returns the roots of this host's cgroup hierarchies: one on v2; on v1 one per controller, systemd's own and, on a hybrid host,
// the unified one. In cpuset a new group takes nobody before it is configured, so it is left out.
func hierarchies() ([]string, error) {
	if _, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.procs")); err == nil {
		return []string{cgroupRoot}, nil
	}
	entries, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	var out []string
	for _, e := range entries {
		dir := filepath.Join(cgroupRoot, e.Name())
		if real, err := filepath.EvalSymlinks(dir); err == nil { // "cpu" may lead to "cpu,cpuacct"
			dir = real
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil || slices.Contains(out, dir) || strings.Contains(filepath.Base(dir), "cpuset") {
			continue
		}
		out = append(out, dir)
	}
	return out, nil
}

// makeCgroups makes a cgroup in every hierarchy. A pilot enters them by itself when it starts, so that none of its children is ever outside.
func makeCgroups(cgroup string) error {
	roots, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if err := os.MkdirAll(filepath.Join(root, cgroup), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// cgroupDirs returns the directories of a cgroup and of all below it, in all hierarchies, deepest first.
func cgroupDirs(cgroup string) []string {
	tops := []string{filepath.Join(cgroupRoot, cgroup)}
	below, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", cgroup)) // the pattern is well formed
	tops = append(tops, below...)
	var out []string
	for _, top := range tops {
		filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, path)
			}
			return nil // what vanishes meanwhile is welcome to
		})
	}
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// removeCgroups kills everything in a cgroup and below, and removes it.
func removeCgroups(ctx context.Context, cgroup string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		left := ""
		for _, dir := range cgroupDirs(cgroup) {
			if b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
				for _, field := range strings.Fields(string(b)) {
					if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
						unix.Kill(pid, unix.SIGKILL)
					}
				}
			}
			if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
				left = dir
			}
		}
		if left == "" {
			return nil
		}
		wait := time.NewTimer(2 * time.Millisecond)
		select {
		case <-ctx.Done():
			wait.Stop()
			return fmt.Errorf("remove cgroup %s: processes in it do not end: %w", left, ctx.Err())
		case <-wait.C:
		}
	}
}
