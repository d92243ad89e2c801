// Bench measures every figure that the README quotes, each beside what it is compared with, in one run, and prints them as one Markdown table.
// It needs root and the binaries of `make build`.
//
//	go run ./bench -only overload             what a host bears (make overload), with a thousand Pods
//	go run ./bench [-quick] [-only up,idle,machine,warm,api,restart,suspend,pods,burst,control,memory,service,servers]
//
// It makes a network namespace, runs a whole `gondola up` in it and removes both in the end, also on Ctrl-C. Load is bounded: one thing at a
// time, at most 100 Pods, at most 8 connections.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// insideEnv names the work directory to the copy of this program that runs inside the namespace.
const insideEnv = "GONDOLA_BENCH_DIR"

// section is a group of figures that are measured together.
type section struct {
	name    string
	measure func(*bench, context.Context) error
}

// sections are measured in this order; "up" also starts what the others use.
func sections() []section {
	return []section{{"up", (*bench).up}, {"idle", (*bench).idle}, {"machine", (*bench).machine}, {"warm", (*bench).warm}, {"api", (*bench).api}, {"restart", (*bench).restart}, {"suspend", (*bench).suspend},
		{"pods", (*bench).pods}, {"burst", (*bench).burst}, {"control", (*bench).control},
		{"memory", (*bench).memory}, {"service", (*bench).service}, {"servers", (*bench).servers},
		{overloadSection, (*bench).overload}}
}

// options are the flags.
type options struct {
	bin   string // directory of gondola and gondola-hello
	quick bool   // fewer rounds and shorter windows
	only  []string
}

// rounds returns how often something is done.
func (o options) rounds(full, quick int) int {
	if o.quick {
		return quick
	}
	return full
}

func main() {
	var o options
	only := flag.String("only", "", "sections to measure, separated by commas (default: all)")
	flag.BoolVar(&o.quick, "quick", false, "fewer rounds and shorter windows: to see that it works, not to quote")
	flag.StringVar(&o.bin, "bin", "bin", "directory in which make build has put the binaries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := o.complete(*only)
	if err == nil {
		if dir := os.Getenv(insideEnv); dir != "" {
			err = run(ctx, o, dir)
		} else {
			err = enclose(ctx, o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// complete checks the flags.
func (o *options) complete(only string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("needs root: it makes network namespaces and sandboxes")
	}
	var names []string
	for _, s := range sections() {
		names = append(names, s.name)
	}
	o.only = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == overloadSection })
	if only != "" {
		o.only = strings.Split(only, ",")
	}
	for _, n := range o.only {
		if !slices.Contains(names, n) {
			return fmt.Errorf("there is no section %q; there are: %s", n, strings.Join(names, ", "))
		}
	}
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return err
	}
	o.bin = bin
	for _, name := range []string{"gondola", "gondola-hello"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			return fmt.Errorf("%w: run make build first", err)
		}
	}
	return nil
}

// bench is one run, inside its namespace.
type bench struct {
	options
	dir  string // of this run
	host *platform
	table
}

// run measures and prints.
func run(ctx context.Context, o options, dir string) (err error) {
	facts, err := readFacts()
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, host: newPlatform(o.bin, dir)}
	defer func() {
		if stopped := b.host.stop(); err == nil {
			err = stopped
		}
	}()
	if !slices.Contains(o.only, "up") {
		if _, err := b.host.start(ctx); err != nil {
			return err
		}
	}
	for _, s := range sections() {
		if !slices.Contains(o.only, s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "bench: %s\n", s.name)
		if err := s.measure(b, ctx); ctx.Err() != nil {
			return errors.New("interrupted")
		} else if err != nil {
			fmt.Print(facts, "\n", b.table.markdown())
			return fmt.Errorf("%s: %w; the end of the daemon's log:\n%s", s.name, err, b.host.lastLog(20))
		}
	}
	fmt.Print(facts, "\n", b.table.markdown())
	return nil
}
