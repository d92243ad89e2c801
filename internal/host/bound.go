package host

import (
	"fmt"
	"path/filepath"
	"runtime"

	"gondola/internal/driver/cgroup"
)

// Bound limits what all Machines of the instance take together, so that the host and what else is on it stay usable whatever they do: memory
// to what there is for Machines, processes to three quarters of what the kernel can have. CPU is not limited, but weighed like as many busy
// threads of others as there are cores. It may be done again at any time.
func (h *Host) Bound() error {
	_, processes := processes()
	tree, all := cgroup.Host(), int64(runtime.NumCPU())*1000
	if err := tree.Limit("gondola", cgroup.Limits{Weight: all}); err != nil {
		return fmt.Errorf("bound the Machines of this host: %w", err)
	}
	limits := cgroup.Limits{Weight: all, MemoryBytes: h.Total().MemoryBytes, PIDs: processes / 4 * 3}
	if err := tree.Limit(h.group(), limits); err != nil {
		return fmt.Errorf("bound the Machines of this instance: %w", err)
	}
	return nil
}

func (h *Host) group() string { return filepath.Join("gondola", h.places.instance) }

// MaxProcesses is how many processes and threads a Machine may have where nobody says so: 4096, or less where the kernel numbers few, so that
// it takes several Machines gone mad to use up the numbers.
func (h *Host) MaxProcesses() int64 {
	_, all := processes()
	return min(4096, max(all/16, 256))
}

// forMachines is how much memory Machines can still have; false where they are not bounded.
func (h *Host) forMachines() (int64, bool) {
	tree := cgroup.Host()
	_, limit := tree.Memory(h.group())
	if limit == 0 || limit > memTotal() {
		return 0, false
	}
	return max(limit-tree.Usage(h.group()).WorkingSet, 0), true
}
