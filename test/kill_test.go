package test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// killMachine sends SIGKILL to everything that a Machine has on the host, by its cgroups: pilot, sandbox or monitors, and programs.
func (h *host) killMachine(ts *testscript.TestScript, id string) {
	instance, err := os.ReadFile(filepath.Join(h.data, "instance"))
	ts.Check(err)
	group := filepath.Join("gondola", strings.TrimSpace(string(instance)), id)
	killed := map[int]bool{}
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} { // v2, v1
		groups, err := filepath.Glob(filepath.Join(root, group))
		ts.Check(err)
		for _, g := range groups {
			ts.Check(filepath.WalkDir(g, func(path string, e os.DirEntry, err error) error {
				if err != nil || e.Name() != "cgroup.procs" {
					return err
				}
				b, err := os.ReadFile(path)
				for _, f := range strings.Fields(string(b)) {
					pid, err := strconv.Atoi(f)
					if err == nil && !killed[pid] {
						killed[pid] = true
						err = syscall.Kill(pid, syscall.SIGKILL)
					}
					if err != nil && !errors.Is(err, syscall.ESRCH) {
						return err
					}
				}
				return err
			}))
		}
	}
	if len(killed) < 2 {
		ts.Fatalf("Machine %s has %d processes in %s", id, len(killed), group)
	}
}
