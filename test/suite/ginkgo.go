package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// progress takes what the suite tells about each spec as it ends, and writes passed ones down at once, so that a run that is killed is not lost.
type progress struct {
	file  string // of the results
	total int
	begun time.Time

	mu      sync.Mutex
	results *results
	ended   int
}

func (p *progress) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var update struct {
		Msg string `json:"msg"`
	}
	if json.NewDecoder(r.Body).Decode(&update) != nil {
		return
	}
	state, spec, _ := strings.Cut(update.Msg, " ")
	if state != "PASSED" && state != "FAILED" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended++
	fmt.Printf("%6s %3d/%d %s %s\n", time.Since(p.begun).Round(time.Second), p.ended, p.total, state, spec)
	if state == "PASSED" {
		p.results.Specs[spec] = result{Passed: true}
	} else {
		p.results.Specs[spec] = result{Message: "failed; the message was lost with the end of the run"}
	}
	if err := p.results.save(p.file); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// runSpecs runs the specs, in parallel where they allow it, then the others, and adds what became of them to the results. When ctx ends, the
// specs that run are broken off.
func (h *host) runSpecs(ctx context.Context, p *progress, bin, reports string, specs []string, procs int, limit time.Duration) error {
	url, err := h.serve("127.0.0.1:0", p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(reports, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(reports, "ginkgo.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	c := h.command(filepath.Join(bin, "ginkgo"), fmt.Sprintf("--procs=%d", procs), "--no-color", "--timeout="+limit.String(), "--focus="+focus(specs),
		"--json-report=ginkgo.json", "--junit-report=junit.xml", "--output-dir="+reports, filepath.Join(bin, "e2e.test"), "--",
		"--kubeconfig="+h.kubeconfig(), "--provider=skeleton", "--kubectl-path="+filepath.Join(h.dir, "bin", "kubectl"), "--dump-logs-on-failure=false",
		"--report-dir="+reports, "--progress-report-url=http://"+url)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C comes from us, once
	if err := c.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Process.Signal(os.Interrupt) })
	defer stop()
	err = c.Wait()
	if failed := new(exec.ExitError); errors.As(err, &failed) {
		err = nil // the report says what failed
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(err, p.results.take(filepath.Join(reports, "ginkgo.json")))
}
