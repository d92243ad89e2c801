package runsc_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"gondola/internal/driver/gvisor/runsc"
	"gondola/internal/pilot"
)

func TestCheckpoint_RunsOnAfterRestore(t *testing.T) {
	m := boot(t, nil)
	m.start("one", nil, "serve", "8080").line(t)
	if out, st := m.exec("one", "write", "/tmp/kept", "words"); st.Code != 0 {
		t.Fatalf("write: %s", out)
	}
	dir := filepath.Join(m.spec.Dir, "snapshot")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	err := m.Checkpoint(t.Context(), dir, func() error { return os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600) })
	if err != nil {
		t.Fatalf("Checkpoint: %v", err)
	}
	if err := m.Destroy(t.Context(), m.spec); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(dir, "manifest.json"))
	os.WriteFile(filepath.Join(dir, "manifest.json"), nil, 0o600)
	null, _ := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	defer null.Close()
	tree, _ := image()
	m.Runtime = runsc.New(runsc.Config{Executable: filepath.Join(tree, "pilot")})
	run := pilot.Run{Container: m.spec.Containers[0], Args: []string{"/bin/probe", "serve", "8080"}, Stdin: null, Stdout: null, Stderr: null}
	if err := m.Restore(t.Context(), m.spec, dir, []pilot.Run{run}, func() error { return nil }); err != nil {
		t.Fatalf("Restore: %v", err)
	}
	conn, err := m.Dial(t.Context(), 8080)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	conn.Close()
	if out, st := m.exec("one", "read", "/tmp/kept"); st.Code != 0 || out != "words" {
		t.Errorf("the file has %q, %+v", out, st)
	}
	if err := os.Remove(filepath.Join(dir, "manifest.json")); err != nil { // as the pilot does: the root file systems go with the sandbox
		t.Error(err)
	}
}

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
