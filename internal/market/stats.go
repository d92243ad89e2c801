package market

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"gondola"
)

// Stats implements gondola.Stats: of all workers at once, or of the one that has the Machine.
func (m *Market) Stats(ctx context.Context, req gondola.StatsRequest) ([]gondola.WorkerStats, error) {
	if req.Ref.ID != "" {
		return to(ctx, m, req.Ref, func(w Worker, ref gondola.Ref) ([]gondola.WorkerStats, error) {
			one := req
			one.Ref = ref
			return w.Stats(ctx, one)
		})
	}
	if req.Ref.App != "" {
		if _, err := m.index.App(ctx, req.Ref.App); err != nil {
			return nil, err
		}
	}
	ws, _ := m.current()
	ws = slices.Clone(ws)
	ws = slices.DeleteFunc(ws, func(w Worker) bool { return req.Region != "" && w.Region != req.Region })
	within, cancel := context.WithTimeout(ctx, statsWithin)
	defer cancel()
	var mu sync.Mutex
	out := []gondola.WorkerStats{}
	err := all(ws, func(w Worker) error {
		stats, err := w.Stats(within, req)
		mu.Lock()
		defer mu.Unlock()
		out = append(out, stats...)
		return err
	})
	if err != nil && (len(out) == 0 || ctx.Err() != nil || !isAway(err)) {
		return nil, err
	}
	slices.SortFunc(out, func(a, b gondola.WorkerStats) int { return strings.Compare(string(a.Worker), string(b.Worker)) })
	return out, nil
}

// statsWithin bounds how long a worker that does not answer is waited for.
const statsWithin = 3 * listWithin

func isAway(err error) bool {
	return errors.Is(err, gondola.ErrUnavailable) || errors.Is(err, gondola.ErrDeadline) || errors.Is(err, gondola.ErrUnsupported)
}
