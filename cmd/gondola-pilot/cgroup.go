package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// enterCgroup moves this process into a cgroup that the driver has made, in every hierarchy that has it. It comes before the first child, so
// that none is left in the daemon's cgroup, where systemd would end it with the daemon.
func enterCgroup(cgroup string) error {
	files := []string{filepath.Join("/sys/fs/cgroup", cgroup, "cgroup.procs")}
	v1, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", cgroup, "cgroup.procs"))
	if err != nil {
		return err
	}
	for _, file := range append(files, v1...) {
		if err := os.WriteFile(file, []byte("0"), 0); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}
