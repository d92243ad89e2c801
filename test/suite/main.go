// Command suite runs the Kubernetes conformance suite against a Gondola of its own: it builds the suite and its images, starts `gondola up` with
// two regions in a network namespace, runs the specs and writes what became of them to test/conformance/RESULTS.md. Everything it makes is gone
// when it ends; Ctrl-C ends it early.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	focus, drivers string
	resume, quick  bool
	keep, attach   bool
	repeat         int
	kill           bool
	procs          int
	limit          time.Duration
}

func main() {
	var o options
	flag.StringVar(&o.focus, "focus", "", "run only specs whose name matches this expression; RESULTS.md stays as it is, unless -resume")
	flag.BoolVar(&o.resume, "resume", false, "go on with the last run: leave out what passed in it")
	flag.BoolVar(&o.quick, "quick", false, "run only the specs of test/conformance/quick.txt; RESULTS.md stays as it is")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster up, for -attach; the next run without that takes it away")
	flag.BoolVar(&o.attach, "attach", false, "use the cluster that -keep has left")
	flag.StringVar(&o.drivers, "drivers", "gvisor", "drivers that Pods may have: gvisor, or gvisor+runc, where runc runs what asks for more than gVisor can give")
	flag.IntVar(&o.repeat, "repeat", 1, "run the specs this many times, one run after the other on one cluster; RESULTS.md compares them")
	flag.BoolVar(&o.kill, "kill", false, "run the specs once more and kill -9 the daemon in the middle; RESULTS.md compares the runs")
	flag.IntVar(&o.procs, "procs", 6, "specs that run at the same time")
	flag.DurationVar(&o.limit, "limit", 4*time.Hour, "time that the specs have")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	begun := time.Now()
	if o.repeat < 1 || o.resume && len(o.names()) > 1 {
		return fmt.Errorf("-repeat and -kill are for runs that begin anew: leave -resume out, and repeat at least once")
	}
	if o.kill && o.attach {
		return fmt.Errorf("-kill needs a daemon of this run: leave -attach out")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	module, bin := filepath.Join(root, "test", "conformance"), filepath.Join(root, "bin", "conformance")
	if _, err := os.Stat(filepath.Join(module, "go.mod")); err != nil {
		return fmt.Errorf("%w: run it in the root of the repository, by make conformance", err)
	}
	source, err := build(ctx, module, bin)
	if err != nil {
		return err
	}
	all, err := conformanceSpecs(source)
	if err != nil {
		return err
	}
	images, err := imagesOf(bin, source)
	if err != nil {
		return err
	}
	fmt.Printf("suite and images built in %s\n", time.Since(begun).Round(time.Second))
	p, specs, err := choose(o, all, module, bin)
	if err != nil {
		return err
	}
	h := newHost(filepath.Join(bin, "cluster"), filepath.Join(root, "bin", "gondola"))
	defer func() {
		if !o.keep {
			err = errors.Join(err, h.stop(), h.remove())
		}
	}()
	if o.attach {
		if err = h.serveImages(images); err == nil {
			err = h.attach()
		}
	} else {
		err = h.start(ctx, images, upFlags(o.drivers))
	}
	if err != nil {
		return err
	}
	fmt.Printf("cluster is up after %s\n", time.Since(begun).Round(time.Second))
	p.results.begin(versionOf(h.gondola), o.attach)
	runs, err := h.runs(ctx, o, p, bin, specs)
	several := &rounds{Focus: o.focus, Specs: specs, Runs: runs}
	if err == nil && !o.keep && !o.attach {
		several.Left, err = h.takeDown()
		p.results.Purged, p.results.Remains = err == nil, several.Left
		err = errors.Join(err, p.results.save(p.file))
	}
	return errors.Join(err, report(o, p, all, several, module, bin))
}

// versionOf is what a gondola says it is.
func versionOf(gondola string) string {
	out, err := exec.Command(gondola, "version").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimPrefix(firstLines(string(out), 1), "gondola ")
}

// upFlags are those of `gondola up` for a set of drivers.
func upFlags(drivers string) (flags []string) {
	for _, d := range strings.Split(drivers, "+")[1:] {
		flags = append(flags, "--fallback-driver", d)
	}
	return flags
}

// choose says which specs are to run, and where results are kept.
func choose(o options, all []string, module, bin string) (*progress, []string, error) {
	specs := all
	if o.quick {
		var err error
		if specs, err = lines(filepath.Join(module, "quick.txt")); err != nil {
			return nil, nil, err
		}
		for _, s := range specs {
			if !slices.Contains(all, s) {
				return nil, nil, fmt.Errorf("quick.txt: %q is not a spec of conformance", s)
			}
		}
	}
	re, err := regexp.Compile(o.focus)
	if err != nil {
		return nil, nil, fmt.Errorf("focus: %w", err)
	}
	p := newProgress(filepath.Join(bin, "results-"+o.drivers+".json"), 0, &results{Specs: map[string]result{}})
	switch {
	case o.resume:
		if p.results, err = loadResults(p.file); err != nil {
			return nil, nil, err
		}
	case o.quick || o.focus != "":
		p.file = filepath.Join(bin, "part.json")
	}
	p.results.Drivers = o.drivers
	var chosen []string
	for _, s := range specs {
		if re.MatchString(s) && !(o.resume && p.results.Specs[s].Passed) {
			chosen = append(chosen, s)
		}
	}
	p.total = len(chosen)
	if len(chosen) == 0 && !o.resume {
		return nil, nil, fmt.Errorf("no spec of conformance matches %q", o.focus)
	}
	return p, chosen, nil
}

// report prints what became of the specs, and writes it to RESULTS.md if that is about all of them or several runs.
func report(o options, p *progress, all []string, several *rounds, module, bin string) error {
	causes, err := readCauses(filepath.Join(module, "causes.txt"))
	if err != nil {
		return err
	}
	specs, missing := several.Specs, 0
	for _, r := range several.Runs {
		if r.Version == "" { // not the first
			r.Parts, r.Version, r.Builds = p.results.Parts, p.results.Version, p.results.Builds
		}
		passed, failed, open := r.count(specs)
		missing += len(specs) - passed
		fmt.Print(r.failures(specs, causes))
		fmt.Printf("\n%s: %d of %d specs passed, %d failed, %d not reached, in %s\n", r.Name, passed, len(specs), failed, open, r.Took.Round(time.Second))
	}
	page := filepath.Join(module, "RESULTS.md")
	if !o.quick && (o.resume || o.focus == "") {
		runs, err := allRuns(bin)
		if err != nil {
			return err
		}
		if err := writePart(page, wholeTable(all, runs, causes), ""); err != nil {
			return err
		}
	}
	faults := several.faults()
	if len(several.Runs) > 1 && len(several.Runs) == len(o.names()) {
		if err := errors.Join(several.save(filepath.Join(bin, "rounds.json")), writePart(page, "", several.table())); err != nil {
			return err
		}
	}
	if missing > 0 {
		faults = append(faults, fmt.Sprintf("%d specs have not passed", missing))
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}
