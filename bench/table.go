package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// row is a figure beside what it is compared with; other is empty where there is nothing to compare.
type row struct{ what, ours, other string }

// table collects the rows of a run.
type table struct {
	rows     []row
	requests [][]string // what went on, and how each kind of request fared meanwhile; first the header
}

// add notes a figure, and says it at once to whoever watches.
func (t *table) add(what, ours, other string) {
	t.rows = append(t.rows, row{what, ours, other})
	fmt.Fprintf(os.Stderr, "  %s: %s", what, ours)
	if other != "" {
		fmt.Fprintf(os.Stderr, " (beside: %s)", other)
	}
	fmt.Fprintln(os.Stderr)
}

func (t *table) markdown() string {
	header, compared := []string{"what", "Gondola"}, slices.ContainsFunc(t.rows, func(r row) bool { return r.other != "" })
	if compared {
		header = append(header, "compared with")
	}
	lines := [][]string{header}
	for _, r := range t.rows {
		lines = append(lines, []string{r.what, r.ours, r.other}[:len(header)])
	}
	if len(t.requests) == 0 {
		return columns(lines)
	}
	return columns(t.requests) + "\n" + columns(lines)
}

// columns is a Markdown table.
func columns(lines [][]string) string {
	var b strings.Builder
	for i, cells := range lines {
		b.WriteString("| " + strings.Join(cells, " | ") + " |\n")
		if i == 0 {
			b.WriteString("|" + strings.Repeat("---|", len(cells)) + "\n")
		}
	}
	return b.String()
}

// times are how long one thing took, again and again.
type times []time.Duration

// quantile returns the time that the share q did not exceed (nearest rank).
func (t times) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[max(int(math.Ceil(q*float64(len(sorted)))), 1)-1]
}

// String is "p50 / p99 ms".
func (t times) String() string {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("%.0f / %.0f ms", ms(t.quantile(0.5)), ms(t.quantile(0.99)))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func mebibytes(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }

// share prints CPU time used in a window as a part of one core.
func share(used, window time.Duration) string {
	return fmt.Sprintf("%.3g %% of a core", 100*used.Seconds()/window.Seconds())
}

// readFacts says when and where the run happens.
func readFacts() (string, error) {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "", err
	}
	model, cores := "unknown CPU", 0
	for line := range strings.Lines(string(cpuinfo)) {
		key, value, _ := strings.Cut(line, ":")
		switch strings.TrimSpace(key) {
		case "processor":
			cores++
		case "model name":
			model = strings.TrimSpace(value)
		}
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "", err
	}
	memory, err := meminfo("MemTotal")
	if err != nil {
		return "", err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %s, %d cores, %.0f GiB, Linux %s; load average before the run %s\n", time.Now().UTC().Format("2006-01-02 15:04 UTC"), model,
		cores, memory/(1<<30), unix.ByteSliceToString(uts.Release[:]), strings.Join(strings.Fields(string(load))[:3], " ")), nil
}
