package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"gondola"
	"gondola/internal/driver/cgroup"
)

// TestLimit_WeighsAsAResizeDoes: on v2 a container has the same weight from its start as after a Resize that leaves its request as it is.
func TestLimit_WeighsAsAResizeDoes(t *testing.T) {
	g := &gondola.ContainerExtension{Requests: &gondola.Resources{CPUMillis: 250}, Limits: &gondola.Resources{MemoryBytes: 64 << 20}}
	root := t.TempDir()
	r := &Runtime{tree: cgroup.At(root)}
	res := &specs.LinuxResources{}
	if r.limit(res, g); res.CPU.Shares == nil || *res.CPU.Shares != 256 || len(res.Unified) > 0 {
		t.Errorf("v1: CPU = %+v, %v; want 256 shares", res.CPU, res.Unified)
	}
	if err := os.MkdirAll(filepath.Join(root, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"cgroup.controllers": "cpu memory", "cgroup.subtree_control": "cpu memory", "a/cpu.weight": "", "a/cpu.max": "", "a/memory.max": ""} {
		if err := os.WriteFile(filepath.Join(root, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.tree.Resize("a", cgroup.Limits{Weight: g.Requests.CPUMillis, MemoryBytes: g.Limits.MemoryBytes, Container: true}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(root, "a/cpu.weight"))
	if err != nil {
		t.Fatal(err)
	}
	res = &specs.LinuxResources{}
	if r.limit(res, g); res.CPU.Shares != nil || res.Unified["cpu.weight"] != string(want) || res.Unified["memory.oom.group"] != "1" {
		t.Errorf("v2: CPU = %+v, %v; want a weight of %s, and that the container ends as a whole", res.CPU, res.Unified, want)
	}
}
