package gondolatest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/gondolatest"
)

// latencies are how long one thing took, again and again.
type latencies []time.Duration

// report tells p50 and p99 in milliseconds, and how often it was done in a second of the window.
func (l latencies) report(b *testing.B, window time.Duration) {
	b.Helper()
	slices.Sort(l)
	ms := func(q float64) float64 { return l[max(int(math.Ceil(q*float64(len(l)))), 1)-1].Seconds() * 1000 }
	b.ReportMetric(ms(0.5), "p50-ms")
	b.ReportMetric(ms(0.99), "p99-ms")
	b.ReportMetric(float64(len(l))/window.Seconds(), "per-s")
}

// timed does something so many times, in workers goroutines, and reports.
func timed(b *testing.B, times, workers int, do func(n int) error) {
	b.Helper()
	var mu sync.Mutex
	var all latencies
	var next atomic.Int64
	var wait sync.WaitGroup
	b.ResetTimer()
	began := time.Now()
	for range workers {
		wait.Go(func() {
			for {
				n := int(next.Add(1)) - 1
				if n >= times {
					return
				}
				start := time.Now()
				err := do(n)
				took := time.Since(start)
				mu.Lock()
				if err != nil {
					b.Error(err)
				}
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	wait.Wait()
	window := time.Since(began)
	b.StopTimer()
	all.report(b, window)
}

// benchMachines is how many Machines the lists of BenchmarkAPI have, benchRunning how many of them run. A worker has addresses for 4,000; each that
// runs takes two open files of this one process.
const (
	benchMachines = 10_000
	benchRunning  = 5_000
)

// BenchmarkAPI measures the API over HTTP on a platform of 10,000 Machines on driver/fake, of which 5,000 run.
func BenchmarkAPI(b *testing.B) {
	p := gondolatest.New(b, gondolatest.Options{Workers: 4, Total: gondola.Resources{CPUMillis: 10_000_000, MemoryBytes: 10 << 40}})
	if _, err := p.CreateApp(b.Context(), gondola.NewApp{Name: "fleet"}); err != nil {
		b.Fatal(err)
	}
	if _, err := p.CreateApp(b.Context(), gondola.NewApp{Name: "small"}); err != nil {
		b.Fatal(err)
	}
	create := func(app gondola.AppName, launch bool) (gondola.Machine, error) {
		return p.Create(context.Background(), app, gondola.CreateRequest{SkipLaunch: !launch, Config: gondola.Config{Image: "test/app", Env: map[string]string{"A": "b"}, Init: gondola.Init{Cmd: []string{"trap"}},
			Services: []gondola.Service{{Protocol: "tcp", InternalPort: 8080}}, Metadata: map[string]string{"role": "bench"}}})
	}
	ids := make([]gondola.MachineID, benchMachines)
	var next atomic.Int64
	var wait sync.WaitGroup
	began := time.Now()
	for range 8 {
		wait.Go(func() {
			for n := next.Add(1) - 1; n < benchMachines; n = next.Add(1) - 1 {
				m, err := create("fleet", n < benchRunning)
				if err != nil {
					b.Error(err)
					return
				}
				ids[n] = m.ID
			}
		})
	}
	wait.Wait()
	if b.Failed() {
		b.FailNow()
	}
	b.Logf("%d Machines in %s", benchMachines, time.Since(began))
	for _, id := range ids[:benchRunning] { // quiet before anything is measured
		if _, err := p.Wait(b.Context(), gondola.Ref{App: "fleet", ID: id}, gondola.WaitRequest{}); err != nil {
			b.Fatal(err)
		}
	}
	read := func(path string) error {
		req, err := http.NewRequest("GET", p.URL+path, nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+p.Auth.Root())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err != nil || resp.StatusCode != 200 {
			return fmt.Errorf("GET %s = %d, %d bytes, %v", path, resp.StatusCode, n, err)
		}
		return nil
	}
	b.Run("get", func(b *testing.B) {
		timed(b, 10*b.N, 8, func(n int) error { return read("/v1/apps/fleet/machines/" + string(ids[n*7919%benchMachines])) })
	})
	b.Run("list", func(b *testing.B) { timed(b, b.N, 1, func(int) error { return read("/v1/apps/fleet/machines") }) })
	b.Run("summary", func(b *testing.B) {
		timed(b, b.N, 1, func(int) error { return read("/v1/apps/fleet/machines?summary=true") })
	})
	b.Run("page", func(b *testing.B) {
		timed(b, b.N, 1, func(int) error { return read("/v1/apps/fleet/machines?limit=100") })
	})
	b.Run("small", func(b *testing.B) { timed(b, 10*b.N, 8, func(int) error { return read("/v1/apps/small/machines") }) })
	b.Run("create", func(b *testing.B) {
		timed(b, b.N, 1, func(int) error { _, err := create("small", true); return err })
	})
}

// BenchmarkFleet measures placement over a thousand workers, real ones but for their hosts: first one Machine after the other, then many at once
// until no worker has room, and then how fast a full region says no. No worker may ever hold more than it has.
func BenchmarkFleet(b *testing.B) {
	const workers, each = 1000, 4 // Machines for which a worker has room
	guest, _ := gondola.GuestPreset("performance-1x")
	want, _ := guest.Resources()
	p := gondolatest.New(b, gondolatest.Options{Workers: workers, AskDeadline: 50 * time.Millisecond, Total: gondola.Resources{CPUMillis: each * want.CPUMillis, MemoryBytes: each * want.MemoryBytes}})
	if _, err := p.CreateApp(b.Context(), gondola.NewApp{Name: "fleet"}); err != nil {
		b.Fatal(err)
	}
	req := gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Guest: &guest, Init: gondola.Init{Cmd: []string{"trap"}}}}
	var placed atomic.Int64
	place := func() (full bool, err error) {
		_, err = p.Market.Create(context.Background(), "fleet", req)
		if errors.Is(err, gondola.ErrCapacity) {
			return true, nil
		}
		if err == nil {
			placed.Add(1)
		}
		return false, err
	}
	b.Run("place", func(b *testing.B) {
		timed(b, min(b.N, workers), 1, func(int) error { _, err := place(); return err })
	})
	rate, oversold := 0.0, 0
	flood := sync.OnceFunc(func() { // a benchmark is run twice
		before, began := placed.Load(), time.Now()
		var wait sync.WaitGroup
		for range 16 {
			wait.Go(func() {
				for full, err := false, error(nil); !full; {
					if full, err = place(); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wait.Wait()
		rate = float64(placed.Load()-before) / time.Since(began).Seconds()
		holds := 0
		for _, w := range p.Workers {
			ms, err := w.List(context.Background(), "", gondola.ListFilter{})
			if err != nil {
				b.Error(err)
			}
			holds += len(ms)
			oversold += max(0, len(ms)-each)
		}
		if oversold > 0 || holds != workers*each || placed.Load() != workers*each {
			b.Errorf("%d Machines are placed, the workers hold %d and have room for %d; %d are more than their worker has room for", placed.Load(), holds, workers*each, oversold)
		}
	})
	b.Run("flood", func(b *testing.B) {
		flood()
		b.ReportMetric(rate, "per-s")
		b.ReportMetric(float64(oversold), "oversold")
	})
	b.Run("full", func(b *testing.B) {
		timed(b, b.N, 1, func(int) error {
			_, err := p.Create(context.Background(), "fleet", req)
			if !errors.Is(err, gondola.ErrCapacity) {
				return fmt.Errorf("a full region says %v", err)
			}
			return nil
		})
	})
}
