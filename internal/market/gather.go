package market

import (
	"context"
	"errors"
	"sync"
	"time"

	"gondola"
)

// listWithin bounds how long a list waits for a worker that does not answer.
const listWithin = 5 * time.Second

// gather asks all workers in rows at once and returns what they have together.
func gather[Row, Thing any](rows map[gondola.WorkerName][]Row, of func(gondola.WorkerName, []Row) ([]Thing, error)) ([]Thing, error) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []Thing
	var errs []error
	for name, rows := range rows {
		wg.Go(func() {
			things, err := of(name, rows)
			mu.Lock()
			defer mu.Unlock()
			if errs = append(errs, err); all == nil { // often there is one worker, with thousands of them
				all = things
				return
			}
			all = append(all, things...)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return all, nil
}

// ask asks one worker, for so long as a list may wait for it.
func ask[Thing any](ctx context.Context, m *Market, name gondola.WorkerName, list func(context.Context, Worker) ([]Thing, error)) (Worker, []Thing, error) {
	w, err := m.worker(name)
	if err != nil {
		return w, nil, err
	}
	within, cancel := context.WithTimeout(ctx, listWithin)
	defer cancel()
	things, err := list(within, w)
	if err != nil {
		return w, nil, err
	}
	return w, things, nil
}

// silent says whether a worker did not answer, so that what is known of it must do.
func silent(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (errors.Is(err, gondola.ErrUnavailable) || errors.Is(err, gondola.ErrDeadline))
}
