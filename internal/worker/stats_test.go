package worker

import (
	"testing"
	"time"

	"gondola"
)

func TestRates_OnlyOfTheSameRun(t *testing.T) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	stats := func(after time.Duration, nanos int64, containers ...gondola.ContainerStats) gondola.MachineStats {
		return gondola.MachineStats{Time: at.Add(after), StartedAt: at, CPU: gondola.CPUStats{UsageNanos: nanos}, Containers: containers}
	}
	run := func(name string, began time.Duration, nanos int64) gondola.ContainerStats {
		return gondola.ContainerStats{Name: name, StartedAt: at.Add(began), CPU: gondola.CPUStats{UsageNanos: nanos}}
	}
	for _, c := range []struct {
		name                   string
		before, later          gondola.MachineStats
		machine, first, second int64
	}{
		{"two seconds", stats(0, 1e9, run("a", 0, 5e8), run("b", 0, 5e8)), stats(2*time.Second, 3e9, run("a", 0, 2e9), run("b", 0, 1e9)), 1e9, 75e7, 25e7},
		{"nothing before", gondola.MachineStats{}, stats(2*time.Second, 3e9, run("a", 0, 2e9), run("b", 0, 1e9)), 0, 0, 0},
		{"one has been restarted", stats(0, 1e9, run("a", 0, 5e8), run("b", 0, 5e8)), stats(time.Second, 2e9, run("a", 0, 1e9), run("b", time.Second, 1e7)), 1e9, 5e8, 0},
		{"counted anew", stats(0, 1e9, run("a", 0, 5e8), run("b", 0, 0)), stats(time.Second, 5e8, run("a", 0, 1e8), run("b", 0, 0)), 0, 0, 0},
		{"too long ago", stats(0, 1e9, run("a", 0, 0), run("b", 0, 0)), stats(time.Hour, 2e9, run("a", 0, 1e9), run("b", 0, 1e9)), 0, 0, 0},
	} {
		got := withRates(c.before, c.later)
		if got.CPU.RateNanos != c.machine || got.Containers[0].CPU.RateNanos != c.first || got.Containers[1].CPU.RateNanos != c.second {
			t.Errorf("%s: rates = %d, %d, %d; want %d, %d, %d", c.name, got.CPU.RateNanos, got.Containers[0].CPU.RateNanos, got.Containers[1].CPU.RateNanos, c.machine, c.first, c.second)
		}
	}
}
