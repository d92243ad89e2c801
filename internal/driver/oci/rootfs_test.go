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

// TestMakeRootfs_LinksThatLeadNowhere: an image may have them on the way to a file or a mount point, as /etc/resolv.conf in many; what is to be there
// is made where they lead, and nothing outside.
func TestMakeRootfs_LinksThatLeadNowhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("file systems are mounted by root")
	}
	tree, source := t.TempDir(), t.TempDir()
	for dir, links := range map[string]map[string]string{
		"":    {"relative": "made/relative", "absolute": "/made/absolute", "up": "../../../made/up", "first": "second", "second": "made/second/", "dir": "b/c", "deep": "dir/../made/deep"},
		"etc": {"resolv.conf": "../run/resolve/stub.conf", "self": "self/below"},
		"b/c": {"beside": "../beside"},
	} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for name, to := range links {
			if err := os.Symlink(to, filepath.Join(tree, dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	file := filepath.Join(source, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c := pilot.Container{Name: "main", Tree: tree}
	makeRootfs := func(run pilot.Run) (string, error) {
		spec := &pilot.Spec{Dir: t.TempDir(), Containers: []pilot.Container{c}}
		t.Cleanup(func() { driver.UnmountBelow(spec.Dir) })
		run.Container = c
		return oci.MakeRootfs(spec, &run, nil)
	}
	run := pilot.Run{Files: []gondola.File{{GuestPath: "/first/file"}, {GuestPath: "/up/file"}}}
	for at, from := range map[string]string{"/relative": source, "/absolute/below": source, "/dir/beside/below": source, "/deep": source, "/etc/resolv.conf": file} {
		run.Mounts = append(run.Mounts, pilot.Mount{Path: at, Source: from})
	}
	root, err := makeRootfs(run)
	if err != nil {
		t.Fatal(err)
	}
	for path, isDir := range map[string]bool{"made/relative": true, "made/absolute/below": true, "b/beside/below": true, "b/made/deep": true, "made/second/file": false,
		"made/up/file": false, "run/resolve/stub.conf": false} {
		if info, err := os.Lstat(filepath.Join(root, path)); err != nil || info.IsDir() != isDir {
			t.Errorf("%s = %v, %v; want it made, a directory: %t", path, info, err, isDir)
		}
	}
	if _, err := makeRootfs(pilot.Run{Files: []gondola.File{{GuestPath: "/etc/self/file"}}}); err == nil || !strings.Contains(err.Error(), "/etc/self/file") {
		t.Errorf("a link that leads to itself = %v, want an error that names the file", err)
	}
}
