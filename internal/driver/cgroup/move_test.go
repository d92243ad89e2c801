package cgroup_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"gondola/internal/driver/cgroup"
)

func TestMove_TakesEveryProcessInEveryHierarchy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups are made by root")
	}
	const top = "gondola-test-move"
	tree := cgroup.Host()
	t.Cleanup(func() {
		if err := tree.Remove(context.Background(), top); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Make(top + "/from"); err != nil {
		t.Fatal(err)
	}
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/cpuset"); len(dirs) > 0 { // in which Make makes none, and runtimes do
		if err := os.MkdirAll("/sys/fs/cgroup/cpuset/"+top+"/from", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sleep := exec.Command("sleep", "60")
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	defer sleep.Wait()
	defer sleep.Process.Kill()
	pid := strconv.Itoa(sleep.Process.Pid)
	for _, dir := range tree.Dirs(top + "/from") {
		if strings.Contains(dir, "cpuset") {
			continue // it has no processors
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Move(top+"/from", top+"/to"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil || strings.Contains(string(b), "/from") || !strings.Contains(string(b), top+"/to") {
		t.Errorf("after Move it is in %s (%v)", b, err)
	}
	if b, err := os.ReadFile("/sys/fs/cgroup/cpuset/" + top + "/to/cpuset.cpus"); err == nil && len(strings.TrimSpace(string(b))) == 0 {
		t.Error("the new group of cpuset has no processors")
	}
}
