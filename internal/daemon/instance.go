package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/durable"
)

// ensureData makes the data directory. One with other content is refused: `down --purge` empties it.
func ensureData(data string) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	_, err := isFresh(data)
	return err
}

// isFresh says whether a directory holds nothing but the traces of an `up` that got no further.
func isFresh(data string) (bool, error) {
	entries, err := os.ReadDir(data)
	if err != nil {
		return false, fmt.Errorf("data directory: %w", err)
	}
	other := ""
	for _, e := range entries {
		if e.Name() == instanceFile {
			return false, nil
		}
		if !slices.Contains([]string{lockFile, instanceFile + durable.Unfinished, logFile, restoring, "lost+found"}, e.Name()) {
			other = e.Name()
		}
	}
	if other != "" {
		return false, gondola.Errorf(gondola.ErrConflict, "%s is not a data directory of gondola: it holds %s but no file %q; choose an empty or a new one with --data",
			data, other, instanceFile)
	}
	return true, nil
}

const instanceFile = "instance"

// ensureInstance returns the name of the installation in the data directory, made up the first time: 8 random characters that everything
// outside the directory carries, so that several installations live side by side.
func ensureInstance(data string) (string, error) {
	if s, err := readInstance(data); err == nil || !errors.Is(err, os.ErrNotExist) {
		return s, err
	}
	b := make([]byte, 8)
	rand.Read(b)
	for i := range b {
		b[i] = "abcdefghijklmnopqrstuvwxyz234567"[b[i]&31]
	}
	return string(b), durable.WriteFile(filepath.Join(data, instanceFile), append(b, '\n'), 0o600)
}

func readInstance(data string) (string, error) {
	path := filepath.Join(data, instanceFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	s := strings.TrimSpace(string(b))
	if len(s) != 8 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return "", gondola.Errorf(gondola.ErrInvalid, "%s is damaged: it should hold the 8 characters in the names of this installation's namespaces; "+
			"write back those that `ls /run/gondola` shows, or move %s away to begin anew", path, data)
	}
	return s, nil
}

// minDisk is what the databases need to be opened.
const minDisk = 16 << 20

// checkDisk says in plain words what SQLite would say in its own.
func checkDisk(data string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(data, &fs); err != nil {
		return fmt.Errorf("data directory %s: %w", data, err)
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < minDisk {
		return gondola.Errorf(gondola.ErrPrecondition, "the disk of %s is full: %d MB free, at least %d MB needed; make room there and try again (Machines run on meanwhile)",
			data, free>>20, minDisk>>20)
	}
	return nil
}
