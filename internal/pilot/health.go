package pilot

import (
	"context"
	"fmt"
	"sync"
	"time"

	"gondola"
)

// watchRun runs the post-start hook of a run and then its probes, until ctx ends. kill asks for the end of the container.
func (s *Supervisor) watchRun(ctx context.Context, c *Container, end func(kill)) {
	if !s.postStart(ctx, c, end) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if has(c, startupProbe) && !s.ledger.container(c.Name).Status.Started {
		s.watchKind(ctx, &wg, c, startupProbe, end)
		if !s.ledger.await(ctx.Done(), func() bool { return s.ledger.container(c.Name).Status.Started }) {
			return
		}
	} else {
		s.markStarted(c)
	}
	s.watchKind(ctx, &wg, c, readinessProbe, end)
	s.watchKind(ctx, &wg, c, livenessProbe, end)
}

// postStart runs the post-start hook unless it is through already. Until it is, the container is neither started nor ready; if it fails,
// the container is ended.
func (s *Supervisor) postStart(ctx context.Context, c *Container, end func(kill)) bool {
	ext := c.Config.Gondola
	if ext == nil || ext.PostStart == nil || s.ledger.container(c.Name).Hooked {
		return true
	}
	err := s.hook(ctx, c, ext.PostStart)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		s.log.Warn("a post-start hook failed", "container", c.Name, "err", err)
		s.ledger.note(true, c.Name, "FailedPostStartHook", "PostStartHook failed")
		end(kill{note: "FailedPostStartHook"})
		return false
	}
	s.ledger.change(c.Name, false, func(r *containerRecord) bool { r.Hooked = true; return true })
	return true
}

// markStarted records that the startup probe has passed or that there is none.
func (s *Supervisor) markStarted(c *Container) {
	ready := !has(c, readinessProbe)
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		if r.Status.State.Kind != gondola.ContainerRunning || r.Status.Started {
			return false
		}
		r.Status.Started = true
		r.Status.Ready = r.Status.Ready || ready
		return true
	})
}

// watchKind runs the probes of one kind.
func (s *Supervisor) watchKind(ctx context.Context, wg *sync.WaitGroup, c *Container, kind probeKind, end func(kill)) {
	started := s.ledger.container(c.Name).Status.State.StartedAt
	readiness := &allReady{ok: map[int]bool{}}
	for i, h := range c.Config.Healthchecks {
		if kindOf(h) == kind {
			readiness.ok[i] = false
		}
	}
	for i, h := range c.Config.Healthchecks {
		if kindOf(h) != kind {
			continue
		}
		wg.Go(func() {
			s.prober.watchHealth(ctx, c, h, time.Since(started), func(output string, err error) {
				if err != nil {
					s.ledger.note(true, c.Name, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %v", kind, err))
				} else {
					s.ledger.note(true, c.Name, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind, output))
				}
			}, func(ok bool) bool {
				switch kind {
				case startupProbe:
					if ok {
						s.markStarted(c)
						return false
					}
				case readinessProbe:
					s.setReady(c, readiness.set(i, ok))
					return true
				case livenessProbe:
					if ok {
						return true
					}
				}
				end(kill{note: fmt.Sprintf("Container %s failed %s probe, will be restarted", c.Name, lower(kind)), grace: probeGrace(h)})
				return false
			})
		})
	}
}

func lower(kind probeKind) string {
	switch kind {
	case startupProbe:
		return "startup"
	case livenessProbe:
		return "liveness"
	case readinessProbe:
		return "readiness"
	}
	return string(kind)
}

func probeGrace(h gondola.Healthcheck) *time.Duration {
	if h.Gondola == nil || h.Gondola.GraceSeconds == nil {
		return nil
	}
	d := time.Duration(*h.Gondola.GraceSeconds) * time.Second
	return &d
}

// allReady joins several readiness probes of one container.
type allReady struct {
	mu sync.Mutex
	ok map[int]bool
}

func (a *allReady) set(i int, ok bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ok[i] = ok
	for _, ok := range a.ok {
		if !ok {
			return false
		}
	}
	return true
}

func (s *Supervisor) setReady(c *Container, ready bool) {
	s.ledger.change(c.Name, false, func(r *containerRecord) bool {
		if r.Status.Ready == ready || r.Status.State.Kind != gondola.ContainerRunning {
			return false
		}
		r.Status.Ready = ready
		return true
	})
}

// hook runs a hook to its end.
func (s *Supervisor) hook(ctx context.Context, c *Container, h *gondola.Hook) error {
	switch {
	case len(h.Exec) > 0:
		var out limited
		status, err := s.run(ctx, c.Name, h.Exec, gondola.ExecIO{Stdout: &out, Stderr: &out})
		if err != nil {
			return err
		}
		if status.Code != 0 {
			return fmt.Errorf("command exited with %d: %s", status.Code, out.String())
		}
		return nil
	case h.HTTP != nil:
		status, _, err := s.prober.get(ctx, h.Host, h.HTTP)
		if err != nil {
			return err
		}
		if !s.kubernetes() && (status < 200 || status >= 400) { // for a kubelet any answer is one
			return fmt.Errorf("HTTP hook answered with status %d", status)
		}
		return nil
	case h.SleepSeconds > 0:
		timer := time.NewTimer(time.Duration(h.SleepSeconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	}
	return nil
}
