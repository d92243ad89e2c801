package drivertest

import (
	"strconv"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func probeExec(t *testing.T, f Fixture) {
	c := container("main", "sleep", "500ms", ";", "write", "/tmp/healthy", "", ";", "run")
	c.Config.Healthchecks = []gondola.Healthcheck{{Kind: "readiness", Interval: 1, Timeout: 5, Exec: &gondola.ExecProbe{Command: []string{"/program", "read", "/tmp/healthy"}}}}
	m := launch(t, f, nil, c)
	if s := m.running("main"); status(s, "main").Ready {
		t.Error("ready before the first probe")
	}
	m.await("ready", func(s pilot.Status) bool { return status(s, "main").Ready })
}

func probeLiveness(t *testing.T, f Fixture) {
	c := container("main", "run")
	c.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	c.Config.Healthchecks = []gondola.Healthcheck{{Kind: "liveness", Interval: 1, Timeout: 5, FailureThreshold: 1, GracePeriod: 1,
		Exec: &gondola.ExecProbe{Command: []string{"/program", "exit", "1"}}}}
	m := launch(t, f, nil, c)
	s := m.await("a restart", func(s pilot.Status) bool { return status(s, "main").RestartCount >= 1 })
	var unhealthy, killing bool
	for _, n := range s.Notes {
		unhealthy = unhealthy || n.Reason == "Unhealthy" && strings.HasPrefix(n.Message, "Liveness probe failed")
		killing = killing || n.Reason == "Killing" && n.Message == "Container main failed liveness probe, will be restarted"
	}
	if !unhealthy || !killing {
		t.Errorf("notes = %+v, want Unhealthy and Killing", s.Notes)
	}
}

// reopen is a worker that was started anew.
func (m *machine) reopen() {
	m.t.Helper()
	if m.f.Reopen != nil {
		m.driver = m.f.Reopen(m.t)
	}
}

func workerCrash(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.awaitLog("main", "running")
	before := m.running("main")
	m.reopen()
	api, err := m.driver.Adopt(t.Context(), m.spec)
	if err != nil {
		t.Fatalf("Adopt = %v", err)
	}
	m.api = api
	after := m.running("main")
	if after.SandboxID != before.SandboxID || status(after, "main").RestartCount != 0 {
		t.Errorf("after: %s, before: %s", show(after), show(before))
	}
	m.launch(nil) // finds the one that runs
	if again := m.running("main"); again.SandboxID != before.SandboxID {
		t.Errorf("Launch made sandbox %s beside %s", again.SandboxID, before.SandboxID)
	}
}

func pilotCrash(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "ticks"))
	m.awaitLog("main", "tick 5\n")
	before := m.running("main")
	f.KillPilot(t, m.spec)
	if alive, err := m.driver.Alive(t.Context(), m.spec); !alive || err != nil {
		t.Fatalf("Alive = %v, %v without the pilot, want true", alive, err)
	}
	if _, err := m.driver.Adopt(t.Context(), m.spec); err == nil {
		t.Error("Adopt found a pilot that was killed")
	}
	m.launch(nil)
	after := m.running("main")
	if after.SandboxID != before.SandboxID || status(after, "main").RestartCount != 0 || after.Seq < before.Seq {
		t.Errorf("after: %+v, before: %+v", after, before)
	}
	ticks := strings.Count(m.log(gondola.LogOptions{Container: "main"}), "\n")
	log := m.awaitLog("main", "tick "+strconv.Itoa(ticks+20)+"\n")
	for i, line := range strings.Split(strings.TrimSuffix(log, "\n"), "\n") {
		if line != "tick "+strconv.Itoa(i) {
			t.Fatalf("line %d of the log = %q: the log has a gap", i, line)
		}
	}
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatalf("Stop = %v", err)
	}
	if got := status(m.ended(), "main").State; got.ExitCode != 143 {
		t.Errorf("state = %+v, want 143 by SIGTERM: the exit of an adopted container", got)
	}
}

func sandboxCrash(t *testing.T, f Fixture) {
	setup := initContainer("setup", "append", "/v/runs", "x")
	setup = mount(setup, "v", "/v")
	main := mount(container("main", "read", "/v/runs", ";", "run"), "v", "/v")
	main.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	main.Config.DependsOn = []gondola.Dependency{{Name: "setup", Condition: gondola.DependsExited}}
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}, setup, main)
	m.awaitLog("main", "running")
	before := m.running("main")
	f.KillSandbox(t, m.spec)
	m.await("the loss", func(s pilot.Status) bool { return s.Phase == pilot.Lost })
	m.relaunch()
	after := m.running("main")
	got := status(after, "main")
	if got.RestartCount != 1 || got.Last == nil || got.Last.ExitCode != 137 || after.SandboxID == before.SandboxID {
		t.Errorf("after: %+v, want restart count 1, last exit 137 and another sandbox", got)
	}
	if s := status(after, "setup"); s.RestartCount != 1 {
		t.Errorf("init container = %+v, want that it ran again", s)
	}
	changed := false
	for _, n := range after.Notes {
		changed = changed || n.Reason == "SandboxChanged"
	}
	if !changed {
		t.Errorf("notes = %+v, want SandboxChanged", after.Notes)
	}
	if log := m.awaitLog("main", "running"); log != "x\nx\nrunning\n" {
		t.Errorf("log = %q: the volume should have kept what was in it", log)
	}
}

func killAll(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "ignore"))
	m.awaitLog("main", "ready")
	for range 2 { // idempotent
		if err := m.driver.Kill(t.Context(), m.spec); err != nil {
			t.Fatalf("Kill = %v", err)
		}
	}
	if alive, err := m.driver.Alive(t.Context(), m.spec); alive || err != nil {
		t.Errorf("Alive = %v, %v after Kill, want false", alive, err)
	}
	if _, err := m.driver.Adopt(t.Context(), m.spec); err == nil {
		t.Error("Adopt after Kill found a pilot")
	}
}
