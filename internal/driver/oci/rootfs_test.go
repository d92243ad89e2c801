package oci_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/driver/oci"
	"gondola/internal/pilot"
)

// TestMakeRootfs_KeptLayer: the mode of the image's directory, and what the run before has left; nothing is written to a device or FIFO that the
// container has put in the place of a file.
func TestMakeRootfs_KeptLayer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("file systems are mounted by root")
	}
	tree := t.TempDir()
	if err := os.Chmod(tree, 0o751); err != nil {
		t.Fatal(err)
	}
	c := pilot.Container{Name: "main", Tree: tree}
	spec := &pilot.Spec{Dir: t.TempDir(), KeepRootfs: true, Containers: []pilot.Container{c}}
	t.Cleanup(func() { driver.UnmountBelow(spec.Dir) })
	run := func(attempt int) (string, error) {
		if err := driver.UnmountBelow(spec.Dir); err != nil {
			t.Fatal(err)
		}
		return oci.MakeRootfs(spec, &pilot.Run{Container: c, Attempt: attempt, Files: []gondola.File{{GuestPath: "/etc/file",
			RawValue: base64.StdEncoding.EncodeToString([]byte("of the config"))}}}, nil)
	}
	root, err := run(0)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("the root has mode %v, %v, want the image's", info.Mode(), err)
	}
	file, kept := filepath.Join(root, "etc/file"), filepath.Join(root, "kept")
	for path, text := range map[string]string{file: "of the container", kept: "of the container"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o700); err != nil {
		t.Fatal(err)
	}
	if root, err = run(1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{file: "of the config", kept: "of the container"} {
		if b, err := os.ReadFile(path); err != nil || string(b) != want {
			t.Errorf("%s has %q, %v, want %q", path, b, err, want)
		}
	}
	if info, err := os.Stat(root); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the root has mode %v, %v, want the container's", info.Mode(), err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = run(2); err == nil || !strings.Contains(err.Error(), "/etc/file") {
		t.Errorf("MakeRootfs over a FIFO = %v, want an error that names it", err)
	}
}
