package drivertest

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// blockSnapshot puts a full file system where a snapshot would be written; nil where only root could.
func blockSnapshot(t *testing.T, dir string) (undo func()) {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4k"); err != nil {
		t.Fatalf("mount: %v", err)
	}
	return func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount: %v", err)
		}
		os.Remove(dir)
	}
}
