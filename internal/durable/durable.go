// Package durable writes small files past a crash and a power cut.
package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Unfinished ends the name of a file that is being written.
const Unfinished = ".new"

// WriteFile makes path hold data, with this mode whatever the umask, or leaves what was there. What a crash leaves beside it, path with Unfinished
// behind it, the next call overwrites: a path has one writer at a time.
func WriteFile(path string, data []byte, mode fs.FileMode) error {
	tmp := path + Unfinished
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir writes to disk what was made, renamed and removed in a directory.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
