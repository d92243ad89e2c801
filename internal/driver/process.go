package driver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"gondola/internal/failpoint"
)

// Process is one process of this host, told apart from a later one with the same number by its start time.
type Process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`          // field 22 of /proc/<pid>/stat: ticks since boot
	Boot  string `json:"boot"`           // the kernel's boot id: what was before a reboot is nobody now
	Path  string `json:"path,omitempty"` // of its binary, which is kept while it runs
}

// RecordProcess writes down which process pid is; path is that of its binary, or empty. The record is there whole or not at all.
func RecordProcess(file string, pid int, path string) error {
	start, err := startTime(pid)
	if err != nil {
		return err
	}
	b, err := json.Marshal(Process{pid, start, bootID(), path})
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	failpoint.Hit("driver.process.written")
	return os.Rename(file+".new", file)
}

// ReadProcess reads what RecordProcess wrote.
func ReadProcess(file string) (Process, error) {
	var p Process
	b, err := os.ReadFile(file)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return p, fmt.Errorf("%s: %w", file, err)
	}
	return p, nil
}

// Alive says whether the process still runs, and is no other one with its number.
func (p Process) Alive() bool {
	start, err := startTime(p.PID)
	return err == nil && start == p.Start && p.Boot == bootID()
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// startTime returns when a process started, in ticks since boot; one that has ended (also a zombie) is an error.
func startTime(pid int) (uint64, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in parentheses and may hold anything.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	if state := fields[0][0]; state == 'Z' || state == 'X' {
		return 0, fmt.Errorf("process %d has ended", pid)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}

// KillRecorded kills the recorded process and waits for its end. Without a record, or when it has ended, there is nothing to do.
func KillRecorded(ctx context.Context, file string) error {
	p, err := ReadProcess(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // asked only now, when the number can no longer become another's
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", p.PID, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", p.PID, err)
		}
	}
	return fmt.Errorf("process %d does not end after SIGKILL", p.PID)
}
