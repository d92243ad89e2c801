package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"gondola/internal/durable"
)

// hostState records what was changed on the host outside the table and the Machines' links, before it is changed.
type hostState struct {
	file string // If empty, in memory only.

	mu     sync.Mutex
	loaded bool
	is     hostRecord
}

type hostRecord struct {
	Sysctls   map[string]string `json:"sysctls,omitempty"` // path below /proc/sys → value before
	Addresses []netip.Addr      `json:"addresses,omitempty"`
	Routes    []netip.Prefix    `json:"routes,omitempty"`
}

// update changes the record and has it on disk when it returns.
func (s *hostState) update(change func(*hostRecord)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(); err != nil {
		return err
	}
	before, _ := json.Marshal(s.is)
	change(&s.is)
	after, err := json.Marshal(s.is)
	if err != nil || s.file == "" || string(before) == string(after) {
		return err
	}
	return writeFile(s.file, after)
}

func (s *hostState) read() (hostRecord, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(); err != nil {
		return hostRecord{}, err
	}
	return hostRecord{maps.Clone(s.is.Sysctls), slices.Clone(s.is.Addresses), slices.Clone(s.is.Routes)}, nil
}

func (s *hostState) loadLocked() error {
	if s.loaded || s.file == "" {
		return nil
	}
	b, err := os.ReadFile(s.file)
	if err == nil {
		err = json.Unmarshal(b, &s.is)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read network state %s: %w", s.file, err)
	}
	s.loaded = true
	return nil
}

func (s *hostState) remove() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.is, s.loaded = hostRecord{}, false
	if s.file == "" {
		return nil
	}
	if err := os.Remove(s.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// writeFile replaces a file so that a crash leaves the old or the new one.
func writeFile(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o600)
}

// setSysctl sets a value, its path being below /proc/sys, and records the one before.
func (n *Network) setSysctl(path, value string) error {
	file := filepath.Join("/proc/sys", path)
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	old := strings.TrimSpace(string(b))
	if old == value {
		return nil
	}
	err = n.state.update(func(r *hostRecord) {
		if r.Sysctls == nil {
			r.Sysctls = map[string]string{}
		}
		if _, ok := r.Sysctls[path]; !ok {
			r.Sysctls[path] = old
		}
	})
	if err != nil {
		return err
	}
	n.log.Info("set sysctl", "name", sysctlName(path), "value", value, "was", old)
	return os.WriteFile(file, []byte(value), 0)
}

func include[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}
