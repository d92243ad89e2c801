package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Limits is what the processes of a group may use together. Zero amounts are not limited.
type Limits struct {
	CPUMillis   int64 // thousandths of a core
	MemoryBytes int64
	PIDs        int64 // threads count too
	Weight      int64 // thousandths of a core to be had when others want the CPU too; see Shares
	Container   bool  // Weight is that of a container, of which zero is one too: see ContainerShares
}

// shares is the weight as v1 has it; zero leaves it as it is.
func (l Limits) shares() int64 {
	switch {
	case l.Container:
		return ContainerShares(l.Weight)
	case l.Weight > 0:
		return Shares(l.Weight)
	}
	return 0
}

// MinWeight is the least that a group is weighed with: one that asks for no CPU must still come to its turn now and then.
const MinWeight = 10

// Shares returns so many thousandths of a core as a weight of cgroup v1, where a core is 1024, as a kubelet has it.
func Shares(millis int64) int64 { return max(millis, MinWeight) * 1024 / 1000 }

// Weigh makes a group weigh as much as one that asks for so many thousandths of a core.
func (t Tree) Weigh(group string, millis int64) error {
	return t.Limit(group, Limits{Weight: max(millis, MinWeight)})
}

// ContainerShares is what a kubelet weighs a container with against the others of its Pod; one that asks for nothing gets the least there is.
func ContainerShares(millis int64) int64 { return max(millis*1024/1000, 2) }

// ContainerWeight is ContainerShares in v2.
func ContainerWeight(millis int64) int64 { return weight(ContainerShares(millis)) }

// weight is v1's shares in v2, in which 1 to 10000 stand for 2 to 262144 (https://github.com/kubernetes/enhancements, KEP 2254).
func weight(shares int64) int64 { return 1 + (min(shares, 262144)-2)*9999/262142 }

// Period is the time in which a group gets its share of CPU, in microseconds.
const Period = 100_000

// Quota returns the microseconds of CPU in a Period that are so many thousandths of a core; the kernel takes no less than 1000.
func Quota(millis int64) int64 { return max(millis*Period/1000, 1000) }

// Limit makes a group, if need be, and limits it.
func (t Tree) Limit(group string, l Limits) error {
	if err := t.Make(group); err != nil {
		return err
	}
	if t.Unified() {
		return t.limitUnified(group, l)
	}
	quota, shares := int64(0), l.shares()
	if l.CPUMillis > 0 {
		quota = Quota(l.CPUMillis)
	}
	if l.MemoryBytes > 0 {
		if err := t.resizeMemory(group, strconv.FormatInt(l.MemoryBytes, 10)); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	for _, s := range []struct {
		controller, file string
		value            int64
	}{
		{"cpu", "cpu.cfs_quota_us", quota},
		{"cpu", "cpu.shares", shares},
		{"pids", "pids.max", l.PIDs},
	} {
		if s.value == 0 {
			continue
		}
		if err := write(filepath.Join(t.root, s.controller, group, s.file), strconv.FormatInt(s.value, 10)); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return nil
}

// limitUnified gives every group on the way down the controllers, and writes the limits. Those that nothing is limited by count, where they can be had.
func (t Tree) limitUnified(group string, l Limits) error {
	values := map[string]string{}
	if l.MemoryBytes > 0 {
		values["memory.max"] = strconv.FormatInt(l.MemoryBytes, 10)
	}
	if l.CPUMillis > 0 {
		values["cpu.max"] = fmt.Sprintf("%d %d", Quota(l.CPUMillis), Period)
	}
	if l.shares() > 0 {
		values["cpu.weight"] = strconv.FormatInt(weight(l.shares()), 10)
	}
	if l.PIDs > 0 {
		values["pids.max"] = strconv.FormatInt(l.PIDs, 10)
	}
	needed := map[string]bool{}
	for file := range values {
		controller, _, _ := strings.Cut(file, ".")
		needed[controller] = true
	}
	dir := t.root
	for _, part := range strings.Split(group, "/") {
		for _, controller := range []string{"cpu", "memory", "pids"} {
			if err := delegate(dir, controller); err != nil && needed[controller] {
				return err
			}
		}
		dir = filepath.Join(dir, part)
	}
	if l.MemoryBytes > 0 {
		if err := writeSwap(dir, "0"); err != nil { // first, so that a limit below what is used swaps nothing out
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	for file, value := range values {
		if err := write(filepath.Join(dir, file), value); err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return nil
}

// swapMax is what a group of v2 may have of swap, beside its memory.
const swapMax = "memory.swap.max"

// writeSwap writes swapMax, where the kernel counts swap: a limit of memory is none if what is beyond it is swapped out.
func writeSwap(dir, value string) error {
	if err := write(filepath.Join(dir, swapMax), value); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// delegate gives the groups below dir a controller (https://docs.kernel.org/admin-guide/cgroup-v2.html#enabling-and-disabling).
func delegate(dir, controller string) error {
	has := func(file string) bool {
		b, err := os.ReadFile(filepath.Join(dir, file))
		return err == nil && slices.Contains(strings.Fields(string(b)), controller)
	}
	if has("cgroup.subtree_control") {
		return nil
	}
	if !has("cgroup.controllers") {
		return fmt.Errorf("cgroup %s has no controller %s: enable it in the group above, or run on the host itself", dir, controller)
	}
	if err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+controller); err != nil {
		return fmt.Errorf("give cgroup controller %s: %w", controller, err)
	}
	return nil
}

// write writes to a file of the kernel's, which must be there.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// CountsSwap says whether limits can be set on memory and swap together. On v2 the group of all groups does not tell, but that of all Machines.
func (t Tree) CountsSwap() bool {
	file := filepath.Join(t.root, "gondola", swapMax)
	if !t.Unified() {
		file = filepath.Join(t.root, "memory", "memory.memsw.limit_in_bytes")
	}
	_, err := os.Stat(file)
	return err == nil
}
