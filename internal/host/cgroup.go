package host

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
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroupDirs returns the directories of a cgroup that exist: one with cgroup v2, one for each hierarchy with v1 and on hybrid hosts.
func cgroupDirs(cgroup string) []string {
	var dirs []string
	add := func(dir string) {
		if real, err := filepath.EvalSymlinks(dir); err == nil { // cpu and cpuacct are often links to one directory
			dir = real
		}
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	add(filepath.Join(cgroupRoot, cgroup))
	if isUnified() {
		return dirs
	}
	hierarchies, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return dirs
	}
	for _, h := range hierarchies {
		add(filepath.Join(cgroupRoot, h.Name(), cgroup))
	}
	return dirs
}

// isUnified says whether the host has cgroup v2 alone.
func isUnified() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// removeCgroup removes a cgroup and those below it. With kill, processes in them are killed first; without, their being there is an error
// after a second: a process that just ended still counts until its parent has heard.
func removeCgroup(ctx context.Context, cgroup string, kill bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience(kill))
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		var errs []error
		for _, dir := range cgroupDirs(cgroup) {
			errs = append(errs, removeCgroupTree(dir, kill))
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: processes in it do not end: %w", cgroup, err)
		}
	}
}

func patience(kill bool) time.Duration {
	if kill {
		return 10 * time.Second
	}
	return time.Second
}

func removeCgroupTree(dir string, kill bool) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroupTree(filepath.Join(dir, e.Name()), kill); err != nil {
				return err
			}
		}
	}
	if kill {
		killCgroup(dir)
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("%s: %w", dir, err)
	}
	return nil
}

// killCgroup kills the processes in a cgroup; whether they are gone shows when it is removed.
func killCgroup(dir string) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(b)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// removeEmptyCgroup removes a cgroup where nobody needs it any more.
func removeEmptyCgroup(cgroup string) {
	for _, dir := range cgroupDirs(cgroup) {
		_ = unix.Rmdir(dir) // others' are not empty, and stay
	}
}
