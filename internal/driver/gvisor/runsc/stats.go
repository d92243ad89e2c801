package runsc

import (
	"context"
	"maps"
	"slices"
	"time"

	"gondola"
)

// alive returns the runs that have not ended, by container.
func (r *Runtime) alive() map[string]*process {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := maps.Clone(r.runs)
	maps.DeleteFunc(out, func(_ string, p *process) bool {
		select {
		case <-p.ended:
			return true
		default:
			return false
		}
	})
	return out
}

// Usage returns the memory of each running container; see pilot.Runtime.
func (r *Runtime) Usage(context.Context) (map[string]int64, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := map[string]int64{}
	for name, p := range r.alive() {
		used, err := readGuest(p.c.Sandbox, p.c.ID)
		if err != nil {
			continue // it has ended just now
		}
		out[name] = used.memory
	}
	return out, nil
}

// Processes lists the processes of all containers; see pilot.Runtime.
func (r *Runtime) Processes(context.Context) ([]gondola.ProcessStat, error) {
	if _, err := r.booted(); err != nil {
		return nil, err
	}
	out := []gondola.ProcessStat{}
	alive := r.alive()
	for _, name := range slices.Sorted(maps.Keys(alive)) {
		p := alive[name]
		list, err := p.c.Sandbox.Processes(p.c.ID)
		if err != nil {
			continue // it has ended just now
		}
		for _, proc := range list {
			used, _ := time.ParseDuration(proc.Time)
			out = append(out, gondola.ProcessStat{
				PID: int(proc.PID), Command: proc.Cmd, CPU: int64(proc.C), RTime: used.Milliseconds(),
				ListenSockets: []gondola.ListenSocket{},
			})
		}
	}
	return out, nil
}
