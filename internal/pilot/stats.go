package pilot

import (
	"context"
	"net/http"
	"path/filepath"

	"gondola"
)

// Stats implements API: what the runtime knows, and what only the pilot does.
func (s *Supervisor) Stats(ctx context.Context) (gondola.MachineStats, error) {
	if err := s.ready(ctx); err != nil {
		return gondola.MachineStats{}, err
	}
	m, err := s.rt.Stats(ctx)
	if err != nil {
		return gondola.MachineStats{}, err
	}
	status, _ := s.ledger.status()
	m.StartedAt = status.StartedAt
	kept := []gondola.ContainerStats{}
	for _, c := range m.Containers {
		state := s.ledger.container(c.Name).Status.State
		if state.Kind != gondola.ContainerRunning || state.StartedAt.IsZero() {
			continue // it is starting, or has just ended
		}
		c.StartedAt = state.StartedAt
		c.Rootfs = onFileSystem(c.Rootfs, s.spec.Dir)
		c.Logs = onFileSystem(s.disk.Measure(ctx, logDir(s.spec.Dir, c.Name)), s.spec.Dir)
		kept = append(kept, c)
	}
	m.Containers = kept
	for _, v := range s.spec.Volumes {
		if v.Kind != VolumeDisk {
			continue // memory, or a disk of its own that outlives the Machine
		}
		disk := s.disk.Measure(ctx, filepath.Join(s.spec.Dir, "volumes", v.Name))
		m.Volumes = append(m.Volumes, gondola.VolumeStats{Name: v.Name, Disk: onFileSystem(disk, s.spec.Dir)})
	}
	return m, nil
}

func (h *handler) stats(w http.ResponseWriter, r *http.Request) {
	m, err := h.api.Stats(r.Context())
	answer(w, m, err)
}

// Stats implements API.
func (c *Client) Stats(ctx context.Context) (m gondola.MachineStats, err error) {
	return m, c.call(ctx, http.MethodGet, "/v1/stats", nil, &m)
}
