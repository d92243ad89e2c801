package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"gondola"
)

const (
	statsFresh = 5 * time.Second        // for how long figures of a Machine hold
	statsKept  = 2 * time.Minute        // older ones are not the beginning of a window any more
	firstLook  = 500 * time.Millisecond // window of the first figures
	statsAt    = 8                      // Machines asked at a time
)

// sampler keeps the last figures of a Machine, so that those who ask together cost one look, and rates have a beginning.
type sampler struct {
	mu           sync.Mutex
	before, last gondola.MachineStats
}

// Stats tells what Machines use. Nothing is measured unless somebody asks.
func (w *Worker) Stats(ctx context.Context, req gondola.StatsRequest) ([]gondola.WorkerStats, error) {
	if req.Region != "" && req.Region != w.cfg.Region {
		return []gondola.WorkerStats{}, nil
	}
	if req.Ref.ID != "" {
		if _, err := w.machine(ctx, req.Ref); err != nil {
			return nil, err
		}
	}
	out := gondola.WorkerStats{Worker: w.cfg.Name, Region: w.cfg.Region, Host: w.cfg.Host.Stats(), Machines: []gondola.MachineStats{}}
	if req.HostOnly {
		return []gondola.WorkerStats{out}, nil
	}
	views := w.hub.list(func(v *gondola.Machine) bool {
		return v.State == gondola.Started && (req.Ref.ID == "" || req.Ref.ID == v.ID) && (req.Ref.App == "" || req.Ref.App == v.Gondola.App) &&
			hasMetadata(v.Config.Metadata, req.Metadata)
	})
	found := make([]*gondola.MachineStats, len(views))
	var wg sync.WaitGroup
	slots := make(chan struct{}, statsAt)
	for i, v := range views {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			found[i] = w.statsOf(ctx, v)
		})
	}
	wg.Wait()
	for _, m := range found {
		if m != nil {
			out.Machines = append(out.Machines, *m)
		}
	}
	return []gondola.WorkerStats{out}, ctx.Err()
}

// statsOf returns the figures of one Machine, nil if it has just ended or its pilot is away.
func (w *Worker) statsOf(ctx context.Context, v *gondola.Machine) *gondola.MachineStats {
	m := w.lookup(v.Ref())
	if m == nil {
		return nil
	}
	s := &m.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last.Time) > statsFresh {
		if err := w.sample(ctx, v.Ref(), s); err != nil {
			if !errors.Is(err, gondola.ErrPrecondition) && ctx.Err() == nil {
				w.log.Debug("figures of a machine cannot be had", "machine", v.ID, "err", err)
			}
			return nil
		}
	}
	out := withRates(s.before, s.last)
	out.Ref, out.Metadata = v.Ref(), v.Config.Metadata
	return &out
}

// sample takes new figures, and where there are none of before, a second time a moment later.
func (w *Worker) sample(ctx context.Context, ref gondola.Ref, s *sampler) error {
	api, err := w.pilot(ctx, ref)
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	look := func() error {
		now, err := api.Stats(within)
		if err != nil {
			return w.piloted(err)
		}
		s.before, s.last = s.last, now
		return nil
	}
	if err := look(); err != nil {
		return err
	}
	if continues(s.before, s.last) || !pause(within, firstLook) {
		return nil
	}
	return look()
}

// continues says whether later is what came of before, recently enough for a rate, with all its containers.
func continues(before, later gondola.MachineStats) bool {
	if before.Time.IsZero() || later.Time.Sub(before.Time) > statsKept || !before.StartedAt.Equal(later.StartedAt) ||
		len(before.Containers) < len(later.Containers) {
		return false
	}
	for _, c := range later.Containers {
		if _, ok := run(before, c); !ok {
			return false
		}
	}
	return true
}

// run returns what was known of the same run of a container.
func run(before gondola.MachineStats, c gondola.ContainerStats) (gondola.ContainerStats, bool) {
	for _, b := range before.Containers {
		if b.Name == c.Name && b.StartedAt.Equal(c.StartedAt) {
			return b, true
		}
	}
	return gondola.ContainerStats{}, false
}

// withRates adds to later what was used per second since before. Pure.
func withRates(before, later gondola.MachineStats) gondola.MachineStats {
	window := later.Time.Sub(before.Time)
	if before.Time.IsZero() || window <= 0 || window > statsKept {
		return later
	}
	rate := func(was, is gondola.CPUStats) gondola.CPUStats {
		if is.UsageNanos < was.UsageNanos { // counted anew
			return is
		}
		is.RateNanos, is.Window = int64(float64(is.UsageNanos-was.UsageNanos)/window.Seconds()), window
		return is
	}
	if before.StartedAt.Equal(later.StartedAt) {
		later.CPU = rate(before.CPU, later.CPU)
	}
	containers := make([]gondola.ContainerStats, len(later.Containers))
	for i, c := range later.Containers {
		if was, ok := run(before, c); ok {
			c.CPU = rate(was.CPU, c.CPU)
		}
		containers[i] = c
	}
	later.Containers = containers
	return later
}
