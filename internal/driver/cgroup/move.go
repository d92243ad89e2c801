package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Move moves all processes of a group to another one, which it makes, in every hierarchy that has the first. Of what they do meanwhile nothing
// escapes: it ends when the first is empty. What they had in memory stays counted where it was.
func (t Tree) Move(from, to string) error {
	roots, err := t.roots()
	if err != nil {
		return err
	}
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, from, "cgroup.procs")); err != nil {
			continue
		}
		if err := os.MkdirAll(filepath.Join(root, to), 0o755); err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if strings.Contains(filepath.Base(root), "cpuset") {
			if err := fillCPUSet(root, to); err != nil {
				return fmt.Errorf("make cgroup: %w", err)
			}
		}
		if err := moveProcesses(filepath.Join(root, from, "cgroup.procs"), filepath.Join(root, to, "cgroup.procs")); err != nil {
			return fmt.Errorf("move from cgroup %s to %s: %w", from, to, err)
		}
	}
	return nil
}

func moveProcesses(from, to string) error {
	for range 100 { // what forks faster than this is no sandbox
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		pids := strings.Fields(string(b))
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if n, err := strconv.Atoi(pid); err != nil || n == 0 {
				return fmt.Errorf("process %s is of another PID namespace", pid)
			}
			if err := write(to, pid); err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return err
			}
		}
	}
	return errors.New("it does not get empty")
}

// fillCPUSet gives a group of v1's cpuset, and those above it, the processors and memory of their parents: until then they take nobody.
func fillCPUSet(root, group string) error {
	if group == "." {
		return nil
	}
	if err := fillCPUSet(root, filepath.Dir(group)); err != nil {
		return err
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(root, group, file))
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(own))) > 0 {
			continue
		}
		above, err := os.ReadFile(filepath.Join(root, filepath.Dir(group), file))
		if err != nil {
			return err
		}
		if err := write(filepath.Join(root, group, file), strings.TrimSpace(string(above))); err != nil {
			return err
		}
	}
	return nil
}
