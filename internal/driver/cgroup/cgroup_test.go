package cgroup_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gondola/internal/driver/cgroup"
)

// tree writes files below a new directory, as the kernel would show them.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func content(t *testing.T, root, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

var limits = cgroup.Limits{CPUMillis: 250, MemoryBytes: 64 << 20, PIDs: 100, Weight: 500}

func TestLimit_Unified(t *testing.T) {
	for name, counted := range map[string]bool{"swap is counted": true, "swap is not counted": false} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{
				"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "cpu memory pids",
				"a/cgroup.controllers": "cpu memory pids", "a/cgroup.subtree_control": "cpu memory pids",
				"a/b/memory.max": "max", "a/b/cpu.max": "max", "a/b/pids.max": "max", "a/b/cpu.weight": "",
			}
			wants := map[string]string{"memory.max": "67108864", "cpu.max": "25000 100000", "pids.max": "100", "cpu.weight": "20"}
			if counted {
				files["a/b/memory.swap.max"], wants["memory.swap.max"] = "m", "0"
			}
			root := tree(t, files)
			if err := cgroup.At(root).Limit("a/b", limits); err != nil {
				t.Fatal(err)
			}
			for file, want := range wants {
				if got := content(t, root, "a/b/"+file); got != want {
					t.Errorf("%s = %q, want %q", file, got, want)
				}
			}
		})
	}
}

func TestCountsSwap(t *testing.T) {
	for name, row := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"v2":         {map[string]string{"cgroup.controllers": "memory", "gondola/memory.swap.max": "max"}, true},
		"v2 without": {map[string]string{"cgroup.controllers": "memory", "gondola/memory.max": "max"}, false},
		"v1":         {map[string]string{"memory/memory.memsw.limit_in_bytes": ""}, true},
		"v1 without": {map[string]string{"memory/memory.limit_in_bytes": ""}, false},
	} {
		if got := cgroup.At(tree(t, row.files)).CountsSwap(); got != row.want {
			t.Errorf("%s: CountsSwap = %t, want %t", name, got, row.want)
		}
	}
}

func TestLimit_UnifiedGivesControllersDownTheWay(t *testing.T) {
	root := tree(t, map[string]string{
		"cgroup.controllers": "memory", "cgroup.subtree_control": "", "a/cgroup.controllers": "memory", "a/cgroup.subtree_control": "", "a/b/memory.max": "max",
	})
	if err := cgroup.At(root).Limit("a/b", cgroup.Limits{MemoryBytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"cgroup.subtree_control", "a/cgroup.subtree_control"} {
		if got := content(t, root, file); got != "+memory" {
			t.Errorf("%s = %q, want +memory", file, got)
		}
	}
}

// TestLimit_UnifiedCountsWithoutALimit: a group without a limit of memory has files that tell what it uses.
func TestLimit_UnifiedCountsWithoutALimit(t *testing.T) {
	root := tree(t, map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu", "a/cpu.weight": ""})
	if err := cgroup.At(root).Limit("a", cgroup.Limits{Weight: 500}); err != nil {
		t.Fatal(err)
	}
	if got := content(t, root, "cgroup.subtree_control"); got != "+memory" {
		t.Errorf("cgroup.subtree_control = %q, want +memory", got)
	}
}

func TestLimit_UnifiedNamesAMissingController(t *testing.T) {
	root := tree(t, map[string]string{"cgroup.controllers": "cpu pids", "cgroup.subtree_control": ""})
	err := cgroup.At(root).Limit("a", cgroup.Limits{MemoryBytes: 1 << 20})
	if err == nil || !strings.Contains(err.Error(), "memory") || !strings.Contains(err.Error(), root) {
		t.Errorf("Limit = %v, want an error that names the controller and the group", err)
	}
}

func TestLimit_OneHierarchyPerController(t *testing.T) {
	files := map[string]string{"memory/a/memory.limit_in_bytes": "", "cpu/a/cpu.cfs_quota_us": "", "cpu/a/cpu.shares": "", "pids/a/pids.max": ""}
	for _, h := range []string{"memory", "cpu", "pids", "cpuset"} {
		files[h+"/cgroup.procs"] = ""
	}
	root := tree(t, files)
	if err := cgroup.At(root).Limit("a", limits); err != nil { // without memory.memsw.limit_in_bytes: not every kernel counts swap
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory/a/memory.limit_in_bytes": "67108864", "cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.shares": "512", "pids/a/pids.max": "100"} {
		if got := content(t, root, file); got != want {
			t.Errorf("%s = %q, want %q", file, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "cpuset/a")); err == nil {
		t.Error("a group was made in cpuset, where it takes nobody")
	}
}

// TestLimit_CanBeRaised: the kernel of v1 refuses a limit of memory above that of memory with swap, which go up and down together.
func TestLimit_CanBeRaised(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups are made by root")
	}
	const group = "gondola-test-limit"
	tree := cgroup.Host()
	t.Cleanup(func() {
		if err := tree.Remove(context.Background(), group); err != nil {
			t.Error(err)
		}
	})
	for _, mb := range []int64{64, 128, 64} {
		if err := tree.Limit(group, cgroup.Limits{MemoryBytes: mb << 20}); err != nil {
			t.Fatalf("Limit to %d MB = %v", mb, err)
		}
		if _, limit := tree.Memory(group); limit != mb<<20 {
			t.Errorf("the limit is %d bytes, want %d MB", limit, mb)
		}
	}
}

func TestUsageAndOOMKills(t *testing.T) {
	for name, root := range map[string]string{
		"v2": tree(t, map[string]string{"cgroup.controllers": "", "a/cgroup.procs": "", "a/cpu.stat": "usage_usec 7\n", "a/pids.current": "3\n", "a/memory.current": "1000\n",
			"a/memory.stat": "anon 600\ninactive_file 300\nactive_file 200\nshmem 50\n", "a/memory.events": "oom 1\noom_kill 2\n"}),
		"v1": tree(t, map[string]string{"cpuacct/a/cgroup.procs": "", "cpuacct/a/cpuacct.usage": "7000\n", "pids/a/cgroup.procs": "", "pids/a/pids.current": "3\n",
			"memory/a/cgroup.procs": "", "memory/a/memory.usage_in_bytes": "1000\n", "memory/a/memory.stat": "total_rss 600\ntotal_inactive_file 300\ntotal_active_file 200\ntotal_shmem 50\n",
			"memory/a/memory.oom_control": "oom_kill_disable 0\noom_kill 2\n"}),
	} {
		t.Run(name, func(t *testing.T) {
			want := cgroup.Usage{CPUNanos: 7000, Memory: 1000, WorkingSet: 700, Kept: 500, RSS: 650, PIDs: 3}
			if got := cgroup.At(root).Usage("a"); got != want {
				t.Errorf("Usage = %+v, want %+v", got, want)
			}
			if got := cgroup.At(root).OOMKills("a"); got != 2 {
				t.Errorf("OOMKills = %d, want 2", got)
			}
		})
	}
}

func TestHoldMemory_AndWhatMemorySaysOfIt(t *testing.T) {
	for _, tc := range []struct{ name, used, limit, swap, none string }{
		{"v2", "a/memory.current", "a/memory.max", "", "max"},
		{"v1", "memory/a/memory.usage_in_bytes", "memory/a/memory.limit_in_bytes", "memory/a/memory.memsw.limit_in_bytes", "-1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			files := map[string]string{tc.used: "1000\n", tc.limit: ""}
			if tc.swap == "" {
				files["cgroup.controllers"] = "memory"
			} else {
				files[tc.swap] = ""
			}
			root := tree(t, files)
			for bytes, want := range map[int64]string{0: tc.none, 67108864: "67108864"} {
				if err := errors.Join(os.WriteFile(filepath.Join(root, tc.limit), nil, 0o644), cgroup.At(root).HoldMemory("a", bytes)); err != nil {
					t.Fatal(err)
				}
				if got := content(t, root, tc.limit); got != want {
					t.Errorf("held at %d: limit %q, want %q", bytes, got, want)
				}
			}
			for text, want := range map[string]int64{"max\n": 0, "9223372036854771712\n": 0, "67108864\n": 67108864} {
				if err := os.WriteFile(filepath.Join(root, tc.limit), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
				if used, limit := cgroup.At(root).Memory("a"); used != 1000 || limit != want {
					t.Errorf("with a limit of %q: Memory = %d, %d, want 1000, %d", text, used, limit, want)
				}
			}
		})
	}
}

func TestResize_SetsAndTakesLimitsAway(t *testing.T) {
	for _, tc := range []struct {
		name        string
		files       map[string]string
		more, never map[string]string
	}{
		{"v2", map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu memory", "a/memory.max": "1", "a/cpu.max": "1", "a/cpu.weight": "1"},
			map[string]string{"a/memory.max": "67108864", "a/cpu.max": "25000 100000", "a/cpu.weight": "10"},
			map[string]string{"a/memory.max": "max", "a/cpu.max": "max", "a/cpu.weight": "10"}},
		{"v2 that counts swap", map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu memory", "a/memory.max": "1", "a/memory.swap.max": "1",
			"a/cpu.max": "1", "a/cpu.weight": "1"},
			map[string]string{"a/memory.max": "67108864", "a/memory.swap.max": "0"},
			map[string]string{"a/memory.max": "max", "a/memory.swap.max": "max"}},
		{"v1", map[string]string{"memory/a/memory.limit_in_bytes": "1", "memory/a/memory.memsw.limit_in_bytes": "1", "cpu/a/cpu.cfs_quota_us": "1", "cpu/a/cpu.shares": "1"},
			map[string]string{"memory/a/memory.limit_in_bytes": "67108864", "memory/a/memory.memsw.limit_in_bytes": "67108864", "cpu/a/cpu.cfs_quota_us": "25000", "cpu/a/cpu.shares": "256"},
			map[string]string{"memory/a/memory.limit_in_bytes": "-1", "memory/a/memory.memsw.limit_in_bytes": "-1", "cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.shares": "256"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range tc.files {
				if err := os.MkdirAll(filepath.Dir(filepath.Join(root, file)), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for _, step := range []struct {
				limits cgroup.Limits
				want   map[string]string
			}{
				{cgroup.Limits{CPUMillis: 250, MemoryBytes: 64 << 20, Weight: 250, Container: true}, tc.more},
				{cgroup.Limits{}, tc.never},
			} {
				for file := range tc.files { // the kernel's files forget what was in them
					if step.want[file] != "" && step.limits.MemoryBytes > 0 {
						if err := os.Truncate(filepath.Join(root, file), 0); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := cgroup.At(root).Resize("a", step.limits); err != nil {
					t.Fatal(err)
				}
				for file, want := range step.want {
					if b, _ := os.ReadFile(filepath.Join(root, file)); !strings.HasPrefix(string(b), want) {
						t.Errorf("%s = %q after %+v, want %q", file, b, step.limits, want)
					}
				}
			}
		})
	}
}
