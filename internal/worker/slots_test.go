package worker_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

// slow is a driver whose sandboxes come up only when up is closed.
type slow struct {
	*fake.Driver
	launched atomic.Int64
	up       chan struct{}
}

func (s *slow) Launch(ctx context.Context, spec pilot.Spec, p *gondola.Payload) (pilot.API, error) {
	api, err := s.Driver.Launch(ctx, spec, p)
	s.launched.Add(1)
	return &slowPilot{api, s.up}, err
}

type slowPilot struct {
	pilot.API
	up chan struct{}
}

func (p *slowPilot) Watch(ctx context.Context) (<-chan pilot.Status, error) {
	statuses, err := p.API.Watch(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan pilot.Status)
	go func() {
		defer close(out)
		select {
		case <-p.up:
		case <-ctx.Done():
			return
		}
		for s := range statuses {
			select {
			case out <- s:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

func TestStarts_WaitForSandboxesThatAreNotUpYet(t *testing.T) {
	r := newRig(t, gondola.Resources{CPUMillis: 1_000_000, MemoryBytes: 1 << 40})
	d := &slow{Driver: r.driver, up: make(chan struct{})}
	r.via = d
	w, stop := r.run()
	defer stop()
	most := max(4, 2*runtime.NumCPU())
	var ids []gondola.MachineID
	for range most + 3 {
		ids = append(ids, r.create(w, gondola.CreateRequest{Config: longRunning()}).ID)
	}
	deadline, tick := time.After(10*time.Second), time.NewTicker(2*time.Millisecond)
	defer tick.Stop()
	for late := false; !late && d.launched.Load() < int64(most); {
		select {
		case <-tick.C:
		case <-deadline:
			late = true
		}
	}
	<-time.After(200 * time.Millisecond) // for one too many
	if got := d.launched.Load(); got != int64(most) {
		t.Errorf("%d Machines are being started at a time, want %d", got, most)
	}
	close(d.up)
	for _, id := range ids {
		r.await(w, id, gondola.Started)
	}
}
