package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ensureInstance makes the data directory and returns the name of the installation in it: 8 random characters that everything outside the
// directory carries, so that several installations live side by side.
func ensureInstance(data string) (string, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return "", fmt.Errorf("data directory: %w", err)
	}
	if s, err := readInstance(data); err == nil || !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	b := make([]byte, 8)
	rand.Read(b)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz234567"[b[i]&31]
	}
	return string(b), writeFile(filepath.Join(data, "instance"), append(b, '\n'), 0o600)
}

func readInstance(data string) (string, error) {
	b, err := os.ReadFile(filepath.Join(data, "instance"))
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if len(s) != 8 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return "", fmt.Errorf("%s does not hold the name of an installation: is %s a data directory of gondola?", filepath.Join(data, "instance"), data)
	}
	return s, nil
}

// writeFile writes a file whole or not at all.
func writeFile(path string, data []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// lock takes the data directory for this process, or says which process has it. The kernel gives it back when the process ends, however.
func lock(data string) (release func(), err error) {
	path := filepath.Join(data, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid := holder(data)
		f.Close()
		return nil, fmt.Errorf("gondola runs already in %s (process %d): stop it with Ctrl-C there, or with: gondola down", data, pid)
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil
}

// holder returns the process that has the data directory, 0 if none is known.
func holder(data string) int {
	b, _ := os.ReadFile(filepath.Join(data, "lock"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}
