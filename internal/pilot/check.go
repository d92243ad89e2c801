package pilot

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"gondola"
)

// maxCheckOutput is how many bytes of an answer a CheckStatus shows.
const maxCheckOutput = 512

// waitingCheck is the output of a Check that has no outcome yet.
const waitingCheck = "waiting for the first result"

// watchChecks runs the Machine's Checks until it is told to stop or ctx ends. The returned function ends it.
func (s *Supervisor) watchChecks(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if len(s.spec.Checks) > 0 {
		wg.Go(func() {
			s.ledger.await(ctx.Done(), s.stopping)
			cancel()
		})
	}
	for _, k := range s.spec.Checks {
		wg.Go(func() { s.watchCheck(ctx, k) })
	}
	return func() { cancel(); wg.Wait() }
}

// watchCheck runs one Check again and again. While the grace period lasts a failure is no outcome.
func (s *Supervisor) watchCheck(ctx context.Context, k gondola.NamedCheck) {
	status, _ := s.ledger.status()
	counts := status.StartedAt.Add(time.Duration(*k.Check.GracePeriod))
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		ok, output := s.prober.check(ctx, k.Check)
		if ctx.Err() != nil {
			return
		}
		if ok || !time.Now().Before(counts) {
			s.ledger.checked(k.Name, ok, output)
		}
		timer.Reset(max(0, time.Duration(*k.Check.Interval)-time.Since(began)))
	}
}

// checked records the outcome of a Check where it is news.
func (l *ledger) checked(name string, ok bool, output string) {
	now := gondola.CheckStatus{Name: name, Status: gondola.CheckCritical, Output: output[:min(len(output), maxCheckOutput)], UpdatedAt: time.Now()}
	if ok {
		now.Status = gondola.CheckPassing
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.checks {
		if c.Name == name && c.Status == now.Status && (ok || c.Output == now.Output) {
			return // what a program that is well answers is different every time
		}
	}
	l.commitLocked(entry{Checks: []gondola.CheckStatus{now}}, false)
}

// newChecks are the Checks of a Machine whose sandbox has just been made.
func newChecks(spec *Spec, now time.Time) (checks []gondola.CheckStatus) {
	for _, k := range spec.Checks {
		checks = append(checks, gondola.CheckStatus{Name: k.Name, Status: gondola.CheckCritical, Output: waitingCheck, UpdatedAt: now})
	}
	return checks
}

// check runs a Check once.
func (p *prober) check(ctx context.Context, k gondola.Check) (ok bool, output string) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*k.Timeout))
	defer cancel()
	ok, output, err := p.checkOnce(ctx, k)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		return false, fmt.Sprintf("no answer within %s", time.Duration(*k.Timeout))
	}
	if err != nil {
		return false, err.Error()
	}
	return ok, output
}

func (p *prober) checkOnce(ctx context.Context, k gondola.Check) (ok bool, output string, err error) {
	if k.Type != "http" {
		conn, err := p.dial(ctx, "", k.Port)
		if err != nil {
			return false, "", err
		}
		conn.Close()
		return true, "connected", nil
	}
	url := k.Protocol + "://" + net.JoinHostPort(p.address(), strconv.Itoa(k.Port)) + k.Path
	req, err := http.NewRequestWithContext(ctx, k.Method, url, nil)
	if err != nil {
		return false, "", err
	}
	req.Header.Set("User-Agent", "gondola-check")
	setHeaders(req, k.Headers)
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: k.TLSSkipVerify, ServerName: k.TLSServerName},
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dialAddr(ctx, "", addr) }}
	resp, err := transport.RoundTrip(req) // redirects are not followed: they are no 2xx
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxCheckOutput))
	if err != nil {
		return false, "", fmt.Errorf("HTTP %s %s: %s, and then: %w", k.Method, url, resp.Status, err)
	}
	return resp.StatusCode >= 200 && resp.StatusCode < 300, strings.TrimSpace(fmt.Sprintf("HTTP %s %s: %s Output: %s", k.Method, url, resp.Status, body)), nil
}

// setHeaders sets the headers of a probe.
func setHeaders(req *http.Request, headers []gondola.HTTPHeader) {
	for _, h := range headers {
		for i, v := range h.Values {
			switch {
			case strings.EqualFold(h.Name, "Host"):
				req.Host = v
			case i == 0:
				req.Header.Set(h.Name, v)
			default:
				req.Header.Add(h.Name, v)
			}
		}
	}
}
