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
		err = h.serveImages(images)
	} else {
		err = h.start(ctx, images, upFlags(o.drivers))
	}
	if err != nil {
		return err
	}
	p.begun = time.Now()
	fmt.Printf("cluster is up after %s; %d specs, %d at a time\n", time.Since(begun).Round(time.Second), len(specs), o.procs)
	if len(specs) > 0 {
		err = h.runSpecs(ctx, p, bin, filepath.Join(bin, "reports"), specs, o.procs, o.limit)
	}
	return errors.Join(err, report(o, p, all, specs, module, bin))
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
	p := &progress{file: filepath.Join(bin, "results-"+o.drivers+".json"), results: &results{Specs: map[string]result{}}}
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

// report saves and prints what became of the specs.
func report(o options, p *progress, all, specs []string, module, bin string) error {
	r := p.results
	r.Took, r.Ended = r.Took+time.Since(p.begun), time.Now()
	if out, err := exec.Command(filepath.Join(filepath.Dir(bin), "gondola"), "version").Output(); err == nil {
		r.Version = strings.TrimPrefix(firstLines(string(out), 1), "gondola ")
	}
	if err := r.save(p.file); err != nil {
		return err
	}
	causes, err := readCauses(filepath.Join(module, "causes.txt"))
	if err != nil {
		return err
	}
	passed, failed, open := r.count(specs)
	fmt.Print(r.failures(specs, causes))
	fmt.Printf("\n%d of %d specs passed, %d failed, %d not reached, in %s\n", passed, len(specs), failed, open, time.Since(p.begun).Round(time.Second))
	if !o.quick && (o.resume || o.focus == "") {
		runs, err := allRuns(bin)
		if err != nil {
			return err
		}
		if err := writeTable(filepath.Join(module, "RESULTS.md"), all, runs, causes); err != nil {
			return err
		}
	}
	if passed < len(specs) {
		return fmt.Errorf("%d specs have not passed", len(specs)-passed)
	}
	return nil
}
