package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// rounds are several runs of the same specs on one cluster.
type rounds struct {
	Focus string     `json:"focus"` // expression that chose the specs; if empty, they are all
	Specs []string   `json:"specs"`
	Runs  []*results `json:"runs"`
	Left  []string   `json:"left"` // on the host, after the cluster was taken down
}

// names are those of the runs that are wanted.
func (o options) names() (names []string) {
	for i := range o.repeat {
		names = append(names, fmt.Sprintf("run %d", i+1))
	}
	if o.kill {
		names = append(names, killed)
	}
	return names
}

// killed is the name of the run in which the daemon is killed.
const killed = "run with kill -9"

// runs does all runs that are wanted; first is the progress of the first. What is left on the host after each is in its results.
func (h *host) runs(ctx context.Context, o options, first *progress, bin string, specs []string) ([]*results, error) {
	before, err := h.inventory()
	if err != nil {
		return nil, err
	}
	h.mayHave(before)
	var done []*results
	for i, name := range o.names() {
		p := first
		if i > 0 {
			p = newProgress(filepath.Join(bin, fmt.Sprintf("round%d.json", i+1)), len(specs), &results{Drivers: o.drivers, Specs: map[string]result{}})
		}
		p.begun, p.results.Name = time.Now(), name
		done = append(done, p.results)
		reports := filepath.Join(bin, "reports")
		if i > 0 {
			reports = fmt.Sprintf("%s%d", reports, i+1)
		}
		fmt.Printf("%s: %d specs, %d at a time\n", name, len(specs), o.procs)
		if name == killed {
			err = h.runKilled(ctx, p, o, bin, reports, specs)
		} else if len(specs) > 0 {
			err = h.runSpecs(ctx, p, bin, reports, specs, o.procs, o.limit)
		}
		p.results.Took += time.Since(p.begun)
		p.results.Ended = time.Now()
		if err == nil && ctx.Err() == nil {
			p.results.Left, err = h.settle(ctx, before)
		}
		if err = errors.Join(err, p.results.save(p.file)); err != nil || ctx.Err() != nil {
			return done, err
		}
		fmt.Printf("%s: %s\n", name, leftBehind(p.results.Left))
	}
	return done, nil
}

// runKilled runs the specs and kills the daemon when half of them have ended. Specs that were being run then, and failed, are run once more: no
// API server answers meanwhile.
func (h *host) runKilled(ctx context.Context, p *progress, o options, bin, reports string, specs []string) error {
	const begun = 20 * time.Second // so that something runs
	r := p.results
	killing, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() {
		timer := time.NewTimer(begun)
		defer timer.Stop()
		for _, wait := range []func() bool{
			func() bool { return received(killing, p.middle) }, func() bool { return received(killing, timer.C) },
		} {
			if !wait() {
				done <- fmt.Errorf("the specs were over before the daemon could be killed: choose more of them")
				return
			}
		}
		var err error
		r.Killed, r.Ready, err = h.relaunch(ctx)
		fmt.Printf("the daemon was killed, and is ready again after %s\n", r.Ready.Sub(r.Killed).Round(100*time.Millisecond))
		done <- err
	}()
	err := h.runSpecs(ctx, p, bin, reports, specs, o.procs, o.limit)
	stop()
	if err = errors.Join(err, <-done); err != nil {
		return err
	}
	if err := h.deleteNamespaces(); err != nil {
		return err
	}
	var again []string
	for _, s := range r.met(specs) {
		if !r.Specs[s].Passed {
			again = append(again, s)
		}
	}
	if len(again) == 0 {
		return nil
	}
	fmt.Printf("%d specs failed that were being run at the kill: once more\n", len(again))
	next := newProgress(filepath.Join(bin, "again.json"), len(again), &results{Drivers: o.drivers, Specs: map[string]result{}})
	err = h.runSpecs(ctx, next, bin, reports+"-again", again, o.procs, o.limit)
	r.Again = next.results.Specs
	return err
}

// deleteNamespaces deletes those that specs have made and, with no API server to ask, could not delete.
func (h *host) deleteNamespaces() error {
	out, err := h.command("kubectl", "delete", "namespace", "--selector", "e2e-framework", "--wait=false").CombinedOutput()
	if err != nil {
		return fmt.Errorf("delete what specs that met the kill have left: %w: %s", err, out)
	}
	fmt.Printf("of specs that met the kill: %s", out)
	return nil
}

// received waits for a channel; false if ctx ends before.
func received[T any](ctx context.Context, c <-chan T) bool {
	select {
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// met lists the specs that were being run while there was no daemon.
func (r *results) met(specs []string) (met []string) {
	for _, s := range specs {
		if got, ran := r.Specs[s]; ran && !r.Killed.IsZero() && got.Began.Before(r.Ready) && got.Ended.After(r.Killed) {
			met = append(met, s)
		}
	}
	return met
}

// verdict is what became of a spec in the end: "passed", "failed" or "not reached".
func (r *results) verdict(spec string) string {
	got, ran := r.Again[spec]
	if !ran {
		got, ran = r.Specs[spec]
	}
	switch {
	case !ran:
		return "not reached"
	case got.Passed:
		return "passed"
	}
	return "failed"
}

// differences lists the specs that did not come out the same in all runs.
func (rs *rounds) differences() (specs []string) {
	for _, s := range rs.Specs {
		for _, r := range rs.Runs {
			if r.verdict(s) != rs.Runs[0].verdict(s) {
				specs = append(specs, s)
				break
			}
		}
	}
	return specs
}

// faults says what is not as it has to be: empty if every run came out the same and nothing was left behind.
func (rs *rounds) faults() (faults []string) {
	if n := len(rs.differences()); n > 0 {
		faults = append(faults, fmt.Sprintf("%d specs did not come out the same in all runs", n))
	}
	for _, r := range rs.Runs {
		if len(r.Left) > 0 {
			faults = append(faults, fmt.Sprintf("%s left %d things behind", r.Name, len(r.Left)))
		}
	}
	if len(rs.Left) > 0 {
		faults = append(faults, fmt.Sprintf("%d things are left on the host", len(rs.Left)))
	}
	return faults
}

// table is the part of RESULTS.md about several runs.
func (rs *rounds) table() string {
	var b strings.Builder
	last := rs.Runs[len(rs.Runs)-1]
	which := fmt.Sprintf("all %d specs", len(rs.Specs))
	if rs.Focus != "" {
		which = fmt.Sprintf("the %d specs of `FOCUS='%s'`", len(rs.Specs), rs.Focus)
	}
	fmt.Fprintf(&b, "%s\n\nOne cluster, drivers %s, %s, one run after the other; gondola %s, ended %s. \"Left behind\" is what is on the host after a run, its namespaces gone, and was not before the first: processes, network namespaces, links, mounts, cgroups, nft rules, loop devices, sockets, folders of Machines and volumes.\n\n",
		severalHeading, last.Drivers, which, last.Version, last.Ended.UTC().Format("2006-01-02 15:04"))
	b.WriteString("| run | passed | failed | not reached | took | left behind |\n|---|---|---|---|---|---|\n")
	for _, r := range rs.Runs {
		p, f, o := r.count(rs.Specs)
		fmt.Fprintf(&b, "| %s | **%d** of %d | %d | %d | %s | %s |\n", r.Name, p, len(rs.Specs), f, o, r.Took.Round(time.Second), cell(leftBehind(r.Left)))
	}
	for _, r := range rs.Runs {
		if r.Killed.IsZero() {
			continue
		}
		var passed, failed int
		met := r.met(rs.Specs)
		for _, s := range met {
			if r.Specs[s].Passed {
				passed++
			} else {
				failed++
			}
		}
		good, bad, _ := (&results{Specs: r.Again}).count(met)
		fmt.Fprintf(&b, "\nThe daemon was killed when half of the specs had ended and ready again %s later. %d specs were being run meanwhile: %d passed, %d failed for want of an API server; of those, run once more on the same cluster, %d passed and %d failed.\n",
			r.Ready.Sub(r.Killed).Round(100*time.Millisecond), len(met), passed, failed, good, bad)
	}
	if different := rs.differences(); len(different) == 0 {
		b.WriteString("\nEvery spec came out the same in all runs.\n")
	} else {
		b.WriteString("\n| did not come out the same |")
		for _, r := range rs.Runs {
			b.WriteString(" " + r.Name + " |")
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(rs.Runs)) + "\n")
		for _, s := range different {
			b.WriteString("| " + cell(s) + " |")
			for _, r := range rs.Runs {
				b.WriteString(" " + r.verdict(s) + " |")
			}
			b.WriteString("\n")
		}
	}
	fmt.Fprintf(&b, "\nAfter `gondola down --purge`: %s.\n", leftBehind(rs.Left))
	return b.String()
}

// leftBehind says what was left, shortly.
func leftBehind(left []string) string {
	const some, length = 5, 160
	if len(left) == 0 {
		return "nothing"
	}
	short := slices.Clone(left[:min(some, len(left))])
	for i, s := range short {
		short[i] = s[:min(length, len(s))]
	}
	text := strings.Join(short, "; ")
	if n := len(left) - len(short); n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}

func (rs *rounds) save(file string) error {
	b, err := json.MarshalIndent(rs, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
