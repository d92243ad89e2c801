package daemon

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	return path, writeFile(path, b, 0o755)
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
