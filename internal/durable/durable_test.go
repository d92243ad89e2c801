package durable_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gondola/internal/durable"
)

func TestWriteFile_ReplacesWhole(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "file")
	// A crash has left half of a write, which was longer.
	if err := os.WriteFile(path+".new", []byte(strings.Repeat("half", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"first", "2nd"} {
		if err := durable.WriteFile(path, []byte(want), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if info, _ := os.Stat(path); err != nil || string(got) != want || info.Mode() != 0o755 {
			t.Errorf("file = %q, %v, %v; want %q of mode 755", got, info.Mode(), err, want)
		}
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("beside it are %v", left)
	}
}

func TestWriteFile_ThatFailsLeavesWhatWasThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("new"), 0o600); err == nil {
		t.Error("written, though there was no place for the new file")
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("file = %q, want what it was", got)
	}
}
