package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"time"

	"gondola"
)

// api measures what a client of the Machines API waits for: on this host's sandboxes, and on driver/fake with many Machines and many workers,
// where it is about the API and the market alone.
func (b *bench) api(ctx context.Context) error {
	if err := b.ensureApp(ctx); err != nil {
		return err
	}
	if err := b.calls(ctx); err != nil {
		return err
	}
	return b.fleet(ctx)
}

// calls measures the calls of a Machine's life, each until it is done: with the wait where the call only begins it.
func (b *bench) calls(ctx context.Context) error {
	n := b.rounds(30, 3)
	var created, began, stopped, started, execs times
	for range n {
		if err := b.lifeOnce(ctx, &created, &began, &stopped, &started, &execs); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		what string
		took times
	}{{"create: POST → answer", created}, {"create: POST → started", began}, {"stop: POST → stopped", stopped}, {"start: POST → started", started}, {"exec of true", execs}} {
		b.add(fmt.Sprintf("API on gvisor, %s, p50 / p99 of %d", f.what, len(f.took)), f.took.String(), "")
	}
	return nil
}

func (b *bench) lifeOnce(ctx context.Context, created, began, stopped, started, execs *times) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	api, start := b.host.api, time.Now()
	m, err := b.create(ctx, gvisor)
	if err != nil {
		return err
	}
	defer func() {
		if end := b.destroy(context.WithoutCancel(ctx), m); err == nil {
			err = end
		}
	}()
	*created = append(*created, time.Since(start))
	if err := b.become(ctx, m, gondola.Started); err != nil {
		return err
	}
	*began = append(*began, time.Since(start))
	for range 3 {
		start = time.Now()
		res, err := api.Exec(ctx, m.Ref(), gondola.ExecRequest{Command: []string{"true"}})
		if err != nil || res.ExitCode != 0 {
			return fmt.Errorf("exec: %+v, %w", res, err)
		}
		*execs = append(*execs, time.Since(start))
	}
	start = time.Now()
	if err := api.Stop(ctx, m.Ref(), gondola.StopRequest{Signal: "SIGTERM"}); err != nil {
		return err
	}
	if err := b.become(ctx, m, gondola.Stopped); err != nil {
		return err
	}
	*stopped = append(*stopped, time.Since(start))
	start = time.Now()
	if _, err := api.Start(ctx, m.Ref()); err != nil {
		return err
	}
	if err := b.become(ctx, m, gondola.Started); err != nil {
		return err
	}
	*started = append(*started, time.Since(start))
	return nil
}

func (b *bench) become(ctx context.Context, m gondola.Machine, s gondola.State) error {
	_, err := b.host.api.Wait(ctx, m.Ref(), gondola.WaitRequest{States: []gondola.State{s}, Timeout: 30 * time.Second})
	return err
}

// fleet runs the benchmarks of internal/gondolatest, and makes rows of what they report.
func (b *bench) fleet(ctx context.Context) error {
	c := exec.CommandContext(ctx, "go", "test", "./internal/gondolatest", "-run=^$", "-bench=^Benchmark(API|Fleet)$", "-timeout=20m", fmt.Sprintf("-benchtime=%dx", b.rounds(300, 30)))
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, row := range []struct{ benchmark, what string }{
		{"API/get", "API with 10,000 Machines on driver/fake, of which 5,000 run, GET of one, 8 connections"},
		{"API/list", "the same, GET of all 10,000"},
		{"API/summary", "the same, GET of all 10,000 with summary=true"},
		{"API/page", "the same, GET of the first 100"},
		{"API/small", "the same, GET of the empty list of another App, 8 connections"},
		{"API/create", "the same, POST of one more"},
		{"Fleet/place", "placing a Machine among 1,000 workers, one after the other"},
		{"Fleet/flood", "the same, 16 at once until no worker has room"},
		{"Fleet/full", "no from a full region of 1,000 workers, over HTTP"},
	} {
		line := regexp.MustCompile(`(?m)^Benchmark` + row.benchmark + `(?:-\d+)?\s.*$`).Find(out)
		if line == nil {
			return fmt.Errorf("the benchmark says nothing of %s: %s", row.benchmark, out)
		}
		b.add(row.what, figures(string(line)), "")
	}
	return nil
}

// figures are what a benchmark's line reports, as "p50 / p99 ms, per second, oversold".
func figures(line string) string {
	values := map[string]string{}
	fields := strings.Fields(line)
	for i := 3; i < len(fields); i += 2 {
		values[fields[i]] = fields[i-1]
	}
	var parts []string
	if values["p50-ms"] != "" {
		parts = append(parts, values["p50-ms"]+" / "+values["p99-ms"]+" ms p50 / p99")
	}
	if values["per-s"] != "" {
		parts = append(parts, values["per-s"]+" per second")
	}
	if values["oversold"] != "" {
		parts = append(parts, values["oversold"]+" oversold")
	}
	return strings.Join(parts, ", ")
}
