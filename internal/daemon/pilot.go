package daemon

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"gondola/internal/durable"
)

// ensurePilot puts the pilot into the data directory under its digest, where Machines that use it keep it, and returns its path. packed is
// the embedded one; if empty, a gondola-pilot beside the executable is taken.
func ensurePilot(data string, packed []byte) (string, error) {
	b, err := unpack(packed)
	if err != nil {
		return "", fmt.Errorf("embedded pilot: %w", err)
	}
	if len(packed) == 0 {
		exe, err := os.Executable()
		if err != nil {
			return "", err
		}
		beside := filepath.Join(filepath.Dir(exe), "gondola-pilot")
		if b, err = os.ReadFile(beside); err != nil {
			return "", fmt.Errorf("this gondola was built without its pilot and there is none beside it (%w): build with: make build", err)
		}
	}
	sum := sha256.Sum256(b)
	path := filepath.Join(data, "bin", "gondola-pilot-"+hex.EncodeToString(sum[:]))
	if fi, err := os.Stat(path); err == nil && fi.Size() == int64(len(b)) {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return path, durable.WriteFile(path, b, 0o755)
}

// unpack returns the content of a gzip'ed asset; of nothing, nothing.
func unpack(packed []byte) ([]byte, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// removeOldPilots removes the pilots of versions before that no process runs any more: neither as a Machine's pilot nor as its sandbox.
func removeOldPilots(data, current string, log *slog.Logger) {
	pilots, _ := filepath.Glob(filepath.Join(data, "bin", "gondola-pilot-*"))
	if len(pilots) < 2 {
		return
	}
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var running []os.FileInfo
	for _, l := range links {
		if fi, err := os.Stat(l); err == nil { // not by name, which is another one inside a sandbox
			running = append(running, fi)
		}
	}
	for _, p := range pilots {
		fi, err := os.Stat(p)
		if err != nil || p == current || slices.ContainsFunc(running, func(r os.FileInfo) bool { return os.SameFile(r, fi) }) {
			continue
		}
		if err := os.Remove(p); err != nil {
			log.Warn("old pilot stays", "file", p, "error", err)
		}
	}
}
