package runsc

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gondola"
	"gondola/internal/driver/cgroup"
)

// Stats returns what sandbox and containers use; see pilot.Runtime.
func (r *Runtime) Stats(ctx context.Context) (gondola.MachineStats, error) {
	box, err := r.booted()
	if err != nil {
		return gondola.MachineStats{}, err
	}
	m := gondola.MachineStats{Time: time.Now(), Containers: []gondola.ContainerStats{}}
	counted := map[string]int64{} // container → CPU time that the sandbox counts for it
	alive := r.alive()
	for _, name := range slices.Sorted(maps.Keys(alive)) {
		p := alive[name]
		used, err := readGuest(p.c.Sandbox, p.c.ID)
		if err != nil {
			continue // it has ended just now
		}
		counted[name] = used.cpu
		c := gondola.ContainerStats{Name: name, Processes: used.pids,
			Memory: gondola.MemoryStats{Usage: used.memory, WorkingSet: used.memory, RSS: used.memory}}
		layers, _ := filepath.Glob(filepath.Join(r.rootfs(name), "*", "upper")) // the pattern is well formed
		for _, dir := range layers {
			d := r.disk.Measure(ctx, dir)
			c.Rootfs.Used, c.Rootfs.Inodes, c.Rootfs.Partial = c.Rootfs.Used+d.Used, c.Rootfs.Inodes+d.Inodes, c.Rootfs.Partial || d.Partial
		}
		m.Processes += used.pids
		m.Containers = append(m.Containers, c)
	}
	host := readHost(r.sandboxCgroup())
	if r.spec.Cgroup == "" || host.cpu == 0 { // nobody counts but the sandbox
		for i := range m.Containers {
			m.Memory.Usage += m.Containers[i].Memory.Usage
			host.cpu += counted[m.Containers[i].Name]
		}
		m.Memory.WorkingSet, m.Memory.RSS = m.Memory.Usage, m.Memory.Usage
	} else {
		m.Memory = host.memory
	}
	m.CPU.UsageNanos = host.cpu
	r.shares.update(host.cpu, counted, alive)
	for i := range m.Containers {
		m.Containers[i].CPU.UsageNanos = r.shares.of(alive[m.Containers[i].Name])
	}
	m.Network = readNetwork(box.Sandbox.Getpid())
	return m, nil
}

// shares splits the CPU time of a sandbox among its containers: what has been used since the last look in the proportion of what the
// sandbox counts for each of them since then, evenly where it counts nothing. What has been attributed stays, so a container's time never goes back.
type shares struct {
	mu    sync.Mutex
	host  int64 // when it was last split
	parts map[*process]share
}

type share struct{ counted, given int64 }

func (s *shares) update(host int64, counted map[string]int64, alive map[string]*process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := map[*process]share{}
	var all int64
	grown := map[*process]int64{}
	for name, n := range counted {
		p := alive[name]
		old := s.parts[p]
		grown[p] = max(n-old.counted, 0)
		all += grown[p]
		parts[p] = share{n, old.given}
	}
	spent := max(host-s.host, 0)
	if host < s.host { // another sandbox
		spent = host
	}
	for p, part := range parts {
		if all > 0 {
			part.given += int64(float64(spent) * (float64(grown[p]) / float64(all)))
		} else {
			part.given += spent / int64(len(parts))
		}
		parts[p] = part
	}
	if len(parts) > 0 { // otherwise the next container's to have, as the sandbox was made for it
		s.host = host
	}
	s.parts = parts
}

func (s *shares) of(p *process) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[p].given
}

// hostUsage is what the host's cgroup counts for a sandbox.
type hostUsage struct {
	cpu    int64 // ns
	memory gondola.MemoryStats
}

// readHost reads a cgroup, of v2 or v1 with its files in several hierarchies. A sandbox's guests live in shared memory, which v1 and v2 count
// as cache; here it is RSS.
func readHost(group string) (u hostUsage) {
	for _, dir := range cgroup.Host().Dirs(group) {
		read := func(file string) (string, bool) {
			b, err := os.ReadFile(filepath.Join(dir, file))
			return string(b), err == nil
		}
		number := func(text string) int64 { n, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64); return n }
		if text, ok := read("cpuacct.usage"); ok { // v1
			u.cpu = number(text)
		} else if text, ok := read("cpu.stat"); ok && field(text, "usage_usec") > 0 { // v2
			u.cpu = 1000 * field(text, "usage_usec")
		}
		stat, ok := read("memory.stat")
		if !ok {
			continue
		}
		if text, ok := read("memory.current"); ok { // v2
			u.memory = memory(number(text), field(stat, "inactive_file"), field(stat, "anon")+field(stat, "shmem"))
		} else if text, ok := read("memory.usage_in_bytes"); ok { // v1
			u.memory = memory(number(text), field(stat, "total_inactive_file"), field(stat, "total_rss")+field(stat, "total_shmem"))
		}
	}
	return u
}

func memory(usage, idleFiles, rss int64) gondola.MemoryStats {
	return gondola.MemoryStats{Usage: usage, WorkingSet: max(usage-idleFiles, 0), RSS: rss}
}

// readNetwork sums the interfaces, without the loopback, of the network namespace that a process is in.
func readNetwork(pid int) (n gondola.NetworkStats) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/dev", pid))
	if err != nil {
		return n // the sandbox has just ended
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		name, rest, ok := strings.Cut(s.Text(), ":")
		fields := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(fields) < 11 {
			continue
		}
		for i, to := range map[int]*int64{0: &n.RxBytes, 1: &n.RxPackets, 2: &n.RxErrors, 8: &n.TxBytes, 9: &n.TxPackets, 10: &n.TxErrors} {
			v, _ := strconv.ParseInt(fields[i], 10, 64)
			*to += v
		}
	}
	return n
}
