package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
)

const lockFile = "lock"

// holder is the process that has a data directory, and which command it runs: "up", "down" or "restore".
type holder struct {
	pid     int
	command string
}

// held is the error of lock when another process has the directory.
type held struct {
	data string
	by   holder
}

func (h *held) Unwrap() error { return gondola.ErrConflict }

func (h *held) Error() string {
	if h.by.command != "up" {
		return fmt.Sprintf("gondola %s is at work in %s (process %d): wait until it has ended", h.by.command, h.data, h.by.pid)
	}
	return fmt.Sprintf("gondola runs already in %s (process %d): stop it with Ctrl-C there, or with: gondola down", h.data, h.by.pid)
}

// lock takes the data directory for this process and command; if another has it, the error is a *held. The kernel gives it back when the
// process ends, however.
func lock(data, command string) (release func(), err error) {
	path := filepath.Join(data, lockFile)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("take the data directory: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if !errors.Is(err, unix.EWOULDBLOCK) {
				return nil, fmt.Errorf("take the data directory: lock %s: %w", path, err)
			}
			return nil, &held{data: data, by: holderOf(data)}
		}
		if !isFile(f, path) { // the `down --purge` that had it removed it
			f.Close()
			continue
		}
		err = f.Truncate(0)
		if err == nil {
			_, err = f.WriteAt(fmt.Appendf(nil, "%d %s\n", os.Getpid(), command), 0)
		}
		if err != nil {
			return nil, fmt.Errorf("take the data directory: %w", errors.Join(err, f.Close()))
		}
		return func() { f.Close() }, nil
	}
}

// isFile says whether f is still what is found at path.
func isFile(f *os.File, path string) bool {
	a, err1 := f.Stat()
	b, err2 := os.Stat(path)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// holderOf returns who has the data directory; pid is zero if none is known for sure: what the file names may be a process of before.
func holderOf(data string) holder {
	path := filepath.Join(data, lockFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return holder{}
	}
	pid, command, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	h := holder{command: command}
	if h.pid, err = strconv.Atoi(pid); err != nil || h.pid <= 0 {
		return holder{}
	}
	fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", h.pid))
	for _, fd := range fds {
		if a, err := os.Stat(fd); err == nil {
			if b, err := os.Stat(path); err == nil && os.SameFile(a, b) {
				return h
			}
		}
	}
	return holder{}
}
