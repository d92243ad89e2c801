// Package cgroup makes, limits, reads and removes control groups, on hosts with cgroup v2 and on those with v1 or both (hybrid).
//
// A group is named by its path below each hierarchy's root, as "gondola/<instance>/<machine>": one directory on v2, one per hierarchy on v1.
package cgroup

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

// Tree is where the hierarchies are mounted.
type Tree struct{ root string }

// Host returns the Tree of this host.
func Host() Tree { return At("/sys/fs/cgroup") }

// At returns a Tree mounted at root.
func At(root string) Tree { return Tree{root} }

// Unified says whether the host has cgroup v2 alone.
func (t Tree) Unified() bool {
	_, err := os.Stat(filepath.Join(t.root, "cgroup.controllers"))
	return err == nil
}

// roots returns where the hierarchies are mounted: one place on v2; on v1 one per controller, systemd's own and, on a hybrid host, the unified one.
func (t Tree) roots() ([]string, error) {
	if t.Unified() {
		return []string{t.root}, nil
	}
	entries, err := os.ReadDir(t.root)
	if err != nil {
		return nil, fmt.Errorf("cgroups: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() { // "cpu" may be a link to "cpu,cpuacct", which is beside it
			out = append(out, filepath.Join(t.root, e.Name()))
		}
	}
	return out, nil
}

// Make makes a group in every hierarchy.
func (t Tree) Make(group string) error {
	roots, err := t.roots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		// In cpuset a new group takes nobody before it is configured.
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil || strings.Contains(filepath.Base(root), "cpuset") {
			continue
		}
		if err := os.MkdirAll(filepath.Join(root, group), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
	}
	return nil
}

// Enter moves this process into a group, in every hierarchy that has it.
func (t Tree) Enter(group string) error {
	for _, dir := range t.Dirs(group) {
		// "0" is whoever writes.
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// Dirs returns the directories of a group that exist: one on v2, one for each hierarchy on v1.
func (t Tree) Dirs(group string) []string {
	roots, _ := t.roots() // where there are none, there is no group either
	var dirs []string
	for _, root := range roots {
		dir := filepath.Join(root, group)
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// below returns the directories of a group and of all below it, in all hierarchies, deepest first.
func (t Tree) below(group string) []string {
	var out []string
	for _, top := range t.Dirs(group) {
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

// PIDs returns the processes in a group and below, as the host numbers them.
func (t Tree) PIDs(group string) []int {
	var out []int
	for _, dir := range t.below(group) {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				out = append(out, pid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Signal sends a signal to every process in a group and below, but to the caller's own. One that forks meanwhile may escape.
func (t Tree) Signal(group string, sig unix.Signal) {
	for _, pid := range t.PIDs(group) {
		if pid != os.Getpid() {
			unix.Kill(pid, sig)
		}
	}
}

// Remove kills everything in a group and below, waits for its end, and removes it. A group that is not there is no error.
func (t Tree) Remove(ctx context.Context, group string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		t.Signal(group, unix.SIGKILL)
		left := ""
		for _, dir := range t.below(group) {
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

// OOMKills returns how often the kernel killed in a group for want of memory. On v1 that does not count groups below it.
func (t Tree) OOMKills(group string) int {
	kills := 0
	for _, dir := range t.Dirs(group) {
		for _, file := range []string{"memory.events", "memory.oom_control"} { // v2, v1
			kills = max(kills, int(field(filepath.Join(dir, file), "oom_kill")))
		}
	}
	return kills
}

// field returns the value of a key in a file of "key value" lines; 0 if it is not there.
func field(path, key string) int64 {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if k, value, _ := strings.Cut(strings.TrimSpace(line), " "); k == key {
			n, _ := strconv.ParseInt(value, 10, 64)
			return n
		}
	}
	return 0
}
