package runsc_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A full disk costs nothing but the snapshot.
func TestCheckpoint_DiskFullRunsOn(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	dir := filepath.Join(m.spec.Dir, "snapshot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	err := m.Checkpoint(t.Context(), dir, func() error { t.Error("commit was called"); return nil })
	if err == nil {
		t.Fatal("Checkpoint = nil on a disk of 64 KB")
	}
	t.Log(err)
	if out, st := m.exec("one", "echo", "alive"); st.Code != 0 || out != "alive" {
		t.Errorf("exec = %q, %+v", out, st)
	}
}
