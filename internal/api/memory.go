package api

import (
	"context"
	"net/http"
	"time"

	"gondola"
)

// resizeTime is how long the answer to a new limit waits until that is in effect.
const resizeTime = 10 * time.Second

type memoryBody struct {
	LimitMB int `json:"limit_mb"`
}

func (a *API) memory(c *call) error {
	_, limit, used, err := a.memoryOf(c.ctx(), c.ref())
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, memoryAnswer(limit, used))
}

// setMemory changes the limit of a Machine that runs, and with it the size that it has.
func (a *API) setMemory(c *call) error {
	var req memoryBody
	if err := c.decode(&req); err != nil {
		return err
	}
	if req.LimitMB <= 0 {
		return malformedf("limit_mb is missing: say how much memory the machine may use, in MB")
	}
	m, _, used, err := a.memoryOf(c.ctx(), c.ref())
	if err != nil {
		return err
	}
	limit := int64(req.LimitMB) << 20
	if used >= limit {
		return gondola.Errorf(gondola.ErrPrecondition, "limit_mb %d: machine %s uses %d MB", req.LimitMB, m.ID, used>>20)
	}
	var size gondola.Size
	size.Requests, size.Limits = m.Config.Requests()
	if size.Requests.MemoryBytes == size.Limits.MemoryBytes || size.Requests.MemoryBytes > limit {
		size.Requests.MemoryBytes = limit
	}
	size.Limits.MemoryBytes = limit
	if m, err = a.server.Resize(c.ctx(), c.ref(), gondola.ResizeRequest{Size: size}); err == nil {
		err = a.awaitResize(c.ctx(), m)
	}
	if err != nil {
		return err
	}
	return c.send(http.StatusOK, memoryAnswer(limit, used))
}

// memoryOf returns a Machine that runs, its limit and what it uses of that, in bytes. One without a limit may have the memory of its host.
func (a *API) memoryOf(ctx context.Context, ref gondola.Ref) (m gondola.Machine, limit, used int64, err error) {
	if m, err = a.server.Get(ctx, ref); err != nil {
		return m, 0, 0, err
	}
	if m.State != gondola.Started {
		return m, 0, 0, gondola.Errorf(gondola.ErrPrecondition, "machine %s has no memory: it is %s", m.ID, m.State)
	}
	workers, err := a.server.Stats(ctx, gondola.StatsRequest{Ref: m.Ref()})
	if err != nil {
		return m, 0, 0, err
	}
	_, limits := m.Config.Requests()
	limit = limits.MemoryBytes
	for _, w := range workers {
		for _, s := range w.Machines {
			used = s.Memory.WorkingSet
			if limit == 0 {
				limit = w.Host.MemoryTotal
			}
		}
	}
	return m, limit, used, nil
}

func memoryAnswer(limit, used int64) gondola.Memory {
	return gondola.Memory{LimitMB: int(limit >> 20), AvailableMB: int(max(0, limit-used) >> 20)}
}

// awaitResize waits until the new size of a Machine is in effect.
func (a *API) awaitResize(ctx context.Context, m gondola.Machine) (err error) {
	ctx, cancel := context.WithTimeout(ctx, resizeTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		switch {
		case m.Gondola == nil || m.Gondola.Resize == nil || m.State != gondola.Started:
			return nil
		case m.Gondola.Resize.Error != "":
			return gondola.Errorf(gondola.ErrPrecondition, "the new size of machine %s is on record, and not in effect yet: %s", m.ID, m.Gondola.Resize.Error)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return gondola.Errorf(gondola.ErrDeadline, "the new size of machine %s is on record, and not in effect yet: %w", m.ID, ctx.Err())
		}
		if m, err = a.server.Get(ctx, m.Ref()); err != nil {
			return err
		}
	}
}
