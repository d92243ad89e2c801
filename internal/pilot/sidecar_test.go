package pilot_test

import (
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

// sidecar is an init container that runs on.
func sidecar(name string, args ...string) pilot.Container {
	c := restarting("always", args...)
	c.Name = name
	c.Config.Gondola = &gondola.ContainerExtension{Init: true, Sidecar: true}
	return c
}

func named(name string, c pilot.Container) pilot.Container {
	c.Name = name
	return c
}

func kinds(s pilot.Status) (out []gondola.ContainerKind) {
	for _, c := range s.Containers {
		out = append(out, c.State.Kind)
	}
	return out
}

func TestSidecar_MachineEndsWithItsMainContainersAndSidecarsAfterThemInReverse(t *testing.T) {
	one, two := sidecar("one", "hang"), sidecar("two", "hang")
	two.Config.DependsOn = []gondola.Dependency{{Name: "one", Condition: gondola.DependsStarted}}
	main := named("main", restarting("no", "/program", "sleep", "60"))
	main.Config.DependsOn = []gondola.Dependency{{Name: "two", Condition: gondola.DependsStarted}}
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{one, two, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(59 * time.Second)
		s := now(t, api)
		for _, c := range s.Containers {
			if c.State.Kind != gondola.ContainerRunning || !c.Ready {
				t.Fatalf("status = %+v, want all three running and ready", s)
			}
		}
		pass(2 * time.Second)
		s = now(t, api)
		if s.Phase != pilot.Ended || s.Containers[2].State.ExitCode != 0 {
			t.Fatalf("status = %+v, want the Machine ended with its main container", s)
		}
		if a, b := s.Containers[0].State.FinishedAt, s.Containers[1].State.FinishedAt; a.Before(b) || b.Before(s.Containers[2].State.FinishedAt) {
			t.Errorf("ends = one %v, two %v, main %v, want main, two, one", a, b, s.Containers[2].State.FinishedAt)
		}
	})
}

func TestSidecar_IsRestartedWhileTheMainContainersRunAndNotAfter(t *testing.T) {
	main := named("main", restarting("no", "/program", "sleep", "35"))
	side := sidecar("side", "/program", "sleep", "1", ";", "exit", "1")
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{side, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(34 * time.Second)
		if s := now(t, api); s.Containers[0].RestartCount < 2 {
			t.Errorf("status = %+v, want the sidecar restarted", s)
		}
		pass(2 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].State.Kind != gondola.ContainerExited {
			t.Errorf("status = %+v, want the Machine ended though the sidecar is in back-off", s)
		}
	})
}

func TestSidecar_WhatComesAfterWaitsForItsStartupProbe(t *testing.T) {
	side := sidecar("side", "hang")
	side.Config.Healthchecks = []gondola.Healthcheck{{Kind: "liveness", Interval: 1, GracePeriod: 5, Exec: &gondola.ExecProbe{Command: []string{"/program", "exit", "0"}},
		Gondola: &gondola.HealthcheckExtension{Startup: true}}}
	main := named("main", restarting("always", "hang"))
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{side, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(4 * time.Second)
		if got := now(t, api).Containers[1].State; got.Kind != gondola.ContainerWaiting || got.Reason != "PodInitializing" {
			t.Errorf("main = %+v before the sidecar has started, want PodInitializing", got)
		}
		pass(2 * time.Second)
		if s := now(t, api); s.Containers[1].State.Kind != gondola.ContainerRunning {
			t.Errorf("kinds = %v after the startup probe, want main running", kinds(s))
		}
	})
}

func TestSidecar_StopEndsItLastWithinTheSameGrace(t *testing.T) {
	grace := gondola.Duration(10 * time.Second)
	main := named("main", restarting("always", "/program", "ignore", "SIGTERM", ";", "run"))
	side := sidecar("side", "hang")
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{side, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Second)
		if err := api.Stop(t.Context(), gondola.StopRequest{Timeout: &grace}); err != nil {
			t.Fatal(err)
		}
		pass(9 * time.Second)
		if s := now(t, api); s.Containers[0].State.Kind != gondola.ContainerRunning {
			t.Errorf("kinds = %v while the main container is being asked to end, want the sidecar running", kinds(s))
		}
		pass(2 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ended {
			t.Errorf("phase = %s after the grace, want ended", s.Phase)
		}
	})
}

func TestStop_PreStopHooksOfAPodBeginAtOnceAndSignalsInTurn(t *testing.T) {
	grace := gondola.Duration(4 * time.Second)
	main := named("main", restarting("always", "/program", "ignore"))
	side := sidecar("side", "/program", "trap", ";", "exit", "3")
	side.Config.Gondola.PreStop = &gondola.Hook{Exec: []string{"check"}}
	var hooked atomic.Bool
	hook := func(program.Env) int { hooked.Store(true); return 0 }
	simulateWith(t, hook, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{side, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Second)
		if err := api.Stop(t.Context(), gondola.StopRequest{Timeout: &grace}); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		if s := now(t, api); !hooked.Load() || s.Containers[0].State.Kind != gondola.ContainerRunning {
			t.Errorf("a second after the stop: hook begun = %v, kinds = %v; want it begun and both running", hooked.Load(), kinds(s))
		}
		pass(4 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].State.ExitCode != 3 || s.Containers[0].State.FinishedAt.Before(s.Containers[1].State.FinishedAt) {
			t.Errorf("containers = %+v, want the sidecar asked when main was gone", s.Containers)
		}
	})
}

func TestStop_EachContainerOfAPodHasTwoSecondsFromItsOwnSignal(t *testing.T) {
	grace := gondola.Duration(2 * time.Second)
	main := named("main", restarting("always", "/program", "ignore"))
	side := sidecar("side", "/program", "trap", ";", "sleep", "1", ";", "exit", "3")
	stubborn := sidecar("stubborn", "/program", "ignore")
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{side, stubborn, main}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Second)
		if err := api.Stop(t.Context(), gondola.StopRequest{Timeout: &grace}); err != nil {
			t.Fatal(err)
		}
		pass(4500 * time.Millisecond) // 2 s for main, which ends with the grace period, 2 s for stubborn after it
		if s := now(t, api); s.Containers[1].State.ExitCode != 137 || s.Containers[0].State.Kind != gondola.ContainerRunning {
			t.Errorf("states = %v, want stubborn killed and side being asked", kinds(s))
		}
		pass(time.Second)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].State.ExitCode != 3 {
			t.Errorf("side = %+v, want it to have had the second that it needs", s.Containers[0].State)
		}
	})
}
