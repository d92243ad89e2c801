package runsc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// pauseName stands for the sandbox's root among the containers; no container can be called so.
const pauseName = "/pause"

// id returns runsc's id of a container. Ids are hashes because runsc finds them by prefix (equal lengths cannot be ambiguous), and unique on a
// host because a control socket whose path would be too long gets a name of the id alone.
func (r *Runtime) id(name string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s", r.spec.Instance, r.spec.Machine, name))
	return hex.EncodeToString(sum[:8])
}

// recordName is the file in RunDir that says which process the sandbox is. The driver reads it too.
const recordName = "sandbox.json"

// sandboxRecord is a process, told apart from a later one with the same number by its start time.
type sandboxRecord struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // field 22 of /proc/<pid>/stat: ticks since boot
	Boot  string `json:"boot"`  // the kernel's boot id: what was before a reboot is nobody now
}

func readRecord(runDir string) (sandboxRecord, error) {
	var rec sandboxRecord
	b, err := os.ReadFile(filepath.Join(runDir, recordName))
	if err != nil {
		return rec, err
	}
	return rec, json.Unmarshal(b, &rec)
}

func (s sandboxRecord) alive() bool {
	start, err := startTime(s.PID)
	return err == nil && start == s.Start && s.Boot == bootID()
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
