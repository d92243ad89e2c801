package oci

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"gondola/internal/pilot"
)

// ExitOf tells how a process ended.
func ExitOf(ws unix.WaitStatus) pilot.Exit {
	if ws.Signaled() {
		return pilot.Exit{Code: 128 + int(ws.Signal()), Signal: int(ws.Signal())}
	}
	return pilot.Exit{Code: ws.ExitStatus()}
}

// LastError returns what a runtime that logs as JSON gave as its reason for failing; empty if nothing. Prefixes that name its own steps are left out,
// in this order: the end says it.
func LastError(logFile string, prefixes ...string) string {
	b, err := os.ReadFile(logFile)
	if err != nil {
		return ""
	}
	said := ""
	for line := range bytes.Lines(b) {
		var entry struct{ Msg, Level string }
		if json.Unmarshal(line, &entry) == nil && entry.Level == "error" && entry.Msg != "" {
			said = entry.Msg
		}
	}
	for _, prefix := range prefixes {
		said = strings.TrimPrefix(said, prefix)
	}
	return said
}
