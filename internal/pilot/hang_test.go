package pilot_test

import (
	"context"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

// hung is a Runtime whose sandbox takes no signal.
type hung struct{ *processes }

func (h hung) Signal(ctx context.Context, _ string, _ gondola.Signal, _ bool) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestStop_KillsASandboxThatTakesNoSignal(t *testing.T) {
	t.Parallel()
	spec := testSpec(t, "sleep 60")
	grace := gondola.Duration(200 * time.Millisecond)
	spec.Containers[0].Config.Stop = &gondola.StopConfig{Timeout: &grace}
	sup, _ := run(t, spec, hung{newProcesses(t)})
	await(t, sup, "running", isRunning)
	began := time.Now()
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	s := await(t, sup, "the end", func(s pilot.Status) bool { return s.Phase.Final() })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("a stop with 0.2 s of grace took %s", took)
	}
	c := s.Containers[0]
	if s.Phase != pilot.Ended || c.State.ExitCode != 137 || c.State.Message == "" {
		t.Errorf("%s, container %+v; want it ended with 137 and why", s.Phase, c.State)
	}
}

func TestLivenessProbe_EndsASandboxThatTakesNoSignal(t *testing.T) {
	t.Parallel()
	spec := testSpec(t, "sleep 60")
	grace := gondola.Duration(200 * time.Millisecond)
	spec.Containers[0].Config.Stop = &gondola.StopConfig{Timeout: &grace}
	spec.Containers[0].Config.Healthchecks = []gondola.Healthcheck{{Kind: "liveness", Interval: 1, FailureThreshold: 1, Unhealthy: "stop",
		Exec: &gondola.ExecProbe{Command: []string{"false"}}}}
	sup, _ := run(t, spec, hung{newProcesses(t)})
	s := await(t, sup, "the end", func(s pilot.Status) bool { return s.Phase.Final() })
	if s.Phase != pilot.Lost || s.Message == "" {
		t.Errorf("%s, %q; want the sandbox lost, so that another one is made", s.Phase, s.Message)
	}
}
