package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Resize changes CPU, memory and weight of a group that Limit or a runtime has made. Other than for Limit, zero amounts of CPU and memory take a
// limit away; PIDs stay as they are, and so does a Weight of zero. The kernel refuses memory below what it cannot take back.
func (t Tree) Resize(group string, l Limits) error {
	if t.Unified() {
		return t.resizeUnified(group, l)
	}
	quota, memory := int64(-1), int64(-1)
	if l.CPUMillis > 0 {
		quota = Quota(l.CPUMillis)
	}
	if l.MemoryBytes > 0 {
		memory = l.MemoryBytes
	}
	at := func(controller, file string) string { return filepath.Join(t.root, controller, group, file) }
	if err := t.resizeMemory(group, strconv.FormatInt(memory, 10)); err != nil {
		return fmt.Errorf("resize cgroup: %w", err)
	}
	if err := write(at("cpu", "cpu.cfs_quota_us"), strconv.FormatInt(quota, 10)); err != nil {
		return fmt.Errorf("resize cgroup: %w", err)
	}
	if n := l.shares(); n > 0 {
		if err := write(at("cpu", "cpu.shares"), strconv.FormatInt(n, 10)); err != nil {
			return fmt.Errorf("resize cgroup: %w", err)
		}
	}
	return nil
}

// resizeMemory writes v1's limits of memory and of memory with swap, of which the first must never be the larger: going up, the second has to be
// written first.
func (t Tree) resizeMemory(group, value string) error {
	memory, swap := filepath.Join(t.root, "memory", group, "memory.limit_in_bytes"), filepath.Join(t.root, "memory", group, "memory.memsw.limit_in_bytes")
	with := func() error {
		if err := write(swap, value); err != nil && !errors.Is(err, os.ErrNotExist) { // not every kernel counts swap
			return err
		}
		return nil
	}
	if with() == nil {
		return write(memory, value)
	}
	if err := write(memory, value); err != nil {
		return err
	}
	return with()
}

func (t Tree) resizeUnified(group string, l Limits) error {
	// This gives the group the controllers that it may lack, and writes what is limited.
	if err := t.limitUnified(group, Limits{CPUMillis: l.CPUMillis, MemoryBytes: l.MemoryBytes, Weight: l.Weight, Container: l.Container}); err != nil {
		return err
	}
	for file, limit := range map[string]int64{"memory.max": l.MemoryBytes, swapMax: l.MemoryBytes, "cpu.max": l.CPUMillis} {
		if limit > 0 {
			continue
		}
		if err := write(filepath.Join(t.root, group, file), "max"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("resize cgroup: %w", err)
		}
	}
	return nil
}
