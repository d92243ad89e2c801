package pilot_test

import (
	"os"
	"path/filepath"
	"testing"

	"gondola/internal/pilot"
)

func TestDiskMeter_CountsBlocksAndEachFileOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "a", "b", "file")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	hole, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if err := hole.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	var m pilot.DiskMeter
	got := m.Measure(t.Context(), dir)
	if got.Used < 1<<20 || got.Used > 1<<20+1<<16 || got.Inodes != 5 || got.Partial {
		t.Errorf("Measure = %+v, want 1 MiB in 5 inodes", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if again := m.Measure(t.Context(), dir); again != got {
		t.Errorf("Measure at once again = %+v, want what was measured before", again)
	}
	if none := m.Measure(t.Context(), filepath.Join(dir, "nothing")); none.Used != 0 {
		t.Errorf("Measure of nothing = %+v", none)
	}
}
