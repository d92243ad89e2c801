package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// progress reads what ginkgo prints about each spec as it ends, and writes down at once what became of it, so that a run that is killed is not lost.
type progress struct {
	file    string // of the results
	total   int
	begun   time.Time
	middle  chan struct{} // closed when half of the specs have ended
	results *results
}

func newProgress(file string, specs int, r *results) *progress {
	return &progress{file: file, total: specs, begun: time.Now(), middle: make(chan struct{}), results: r}
}

var endRE = regexp.MustCompile(`^• (\[[A-Z ]+\] )?\[[0-9.]+ seconds\]`)

// follow copies what ginkgo prints to log until it ends. Of every spec it says a line "• [1.234 seconds]", with [FAILED] in it if it did, and then
// one with the spec's name and its labels.
func (p *progress) follow(out io.Reader, log io.Writer) error {
	s := bufio.NewScanner(io.TeeReader(out, log))
	s.Buffer(nil, 64<<20)
	halfway := sync.OnceFunc(func() { close(p.middle) })
	if p.total < 2 {
		halfway()
	}
	passed, ended := false, 0
	for named := true; s.Scan(); {
		l := s.Text()
		if i := strings.LastIndex(l, "•"); i > 0 { // behind a row of S for those that are not ours
			l = l[i:]
		}
		if m := endRE.FindStringSubmatch(l); m != nil {
			passed, named = m[1] == "", false
			continue
		}
		if named {
			continue
		}
		named = true
		spec, _, _ := strings.Cut(strings.ReplaceAll(l, "[It] ", ""), " [Conformance]")
		spec += " [Conformance]"
		if !sigRE.MatchString(spec) { // without parallel processes the name comes first, so only the report says it
			continue
		}
		if ended++; ended >= p.total/2 {
			halfway()
		}
		state := "passed"
		if !passed {
			state = "FAILED"
		}
		p.results.Specs[spec] = result{Passed: passed}
		if !passed {
			p.results.Specs[spec] = result{Message: "the message was lost with the end of the run"} // ginkgo's report has it, if there is one
		}
		if err := p.results.save(p.file); err != nil {
			return err
		}
		fmt.Printf("%8s %3d/%d %s %s\n", time.Since(p.begun).Round(time.Second), ended, p.total, state, spec)
	}
	return s.Err()
}

// runSpecs runs the specs, in parallel where they allow it, then the others, and adds what became of them to the results. When ctx ends, the
// specs that run are broken off.
func (h *host) runSpecs(ctx context.Context, p *progress, bin, reports string, specs []string, procs int, limit time.Duration) error {
	if err := errors.Join(os.RemoveAll(reports), os.MkdirAll(reports, 0o755)); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(reports, "ginkgo.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := h.command(filepath.Join(bin, "ginkgo"), fmt.Sprintf("--procs=%d", procs), "-v", "--no-color", "--timeout="+limit.String(), "--focus="+focus(specs),
		"--json-report=ginkgo.json", "--junit-report=junit.xml", "--output-dir="+reports, filepath.Join(bin, "e2e.test"), "--",
		"--kubeconfig="+h.kubeconfig(), "--provider=skeleton", "--kubectl-path="+filepath.Join(h.dir, "bin", "kubectl"), "--dump-logs-on-failure=false",
		"--report-dir="+reports)
	out, err := c.StdoutPipe()
	if err != nil {
		return err
	}
	c.Stderr = log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C comes from us, once
	if err := c.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { breakOff(c.Process, ended) })
	follow := p.follow(out, log)
	err = errors.Join(follow, c.Wait())
	close(ended)
	stop()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		err = nil // the report says what failed
	}
	return errors.Join(err, p.results.take(filepath.Join(reports, "ginkgo.json")))
}

// breakOff has ginkgo end its specs and write its report, then do it without their cleaning up, then ends it and all that it has started.
func breakOff(ginkgo *os.Process, ended <-chan struct{}) {
	for _, end := range []func() error{
		func() error { return ginkgo.Signal(os.Interrupt) }, func() error { return ginkgo.Signal(os.Interrupt) },
		func() error { return syscall.Kill(-ginkgo.Pid, syscall.SIGKILL) },
	} {
		_ = end()
		select {
		case <-ended:
			return
		case <-time.After(30 * time.Second):
		}
	}
}
