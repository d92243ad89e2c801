package runsc

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/cgroup"
	"gondola/internal/driver/oci"
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
	host := cgroup.Host().Usage(r.sandboxCgroup())
	if r.spec.Cgroup == "" || host.CPUNanos == 0 { // nobody counts but the sandbox
		for i := range m.Containers {
			m.Memory.Usage += m.Containers[i].Memory.Usage
			host.CPUNanos += counted[m.Containers[i].Name]
		}
		m.Memory.WorkingSet, m.Memory.RSS = m.Memory.Usage, m.Memory.Usage
	} else {
		m.Memory = oci.Memory(host)
	}
	m.CPU.UsageNanos = host.CPUNanos
	r.shares.update(host.CPUNanos, counted, alive)
	for i := range m.Containers {
		m.Containers[i].CPU.UsageNanos = r.shares.of(alive[m.Containers[i].Name])
	}
	if r.spec.NetNS == "" {
		m.Network = oci.Network(box.Sandbox.Getpid())
		return m, nil
	}
	err = inNetNS(r.spec.NetNS, func() error { // in which a sandbox that was warm is not
		m.Network = oci.Network(unix.Gettid())
		return nil
	})
	return m, err
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
