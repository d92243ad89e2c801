package pilot_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gondola"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

// simulate runs a Machine of these containers on driver/fake, in a bubble whose time does not pass while anything is done.
func simulate(t *testing.T, spec pilot.Spec, test func(t *testing.T, d *fake.Driver, api pilot.API)) {
	t.Helper()
	simulateWith(t, nil, spec, test)
}

func simulateWith(t *testing.T, check fake.Program, spec pilot.Spec, test func(t *testing.T, d *fake.Driver, api pilot.API)) {
	t.Helper()
	spec.Machine, spec.Version = "m1", "01"
	if spec.Dir == "" {
		spec.Dir, spec.RunDir = t.TempDir(), t.TempDir()
	}
	synctest.Test(t, func(t *testing.T) {
		d := fake.NewDriver()
		d.Programs["hang"] = func(e program.Env) int { <-e.Done; return 0 }
		d.Programs["check"] = check
		api, err := d.Launch(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		test(t, d, api)
	})
}

// now returns the present Status.
func now(t *testing.T, api pilot.API) pilot.Status {
	t.Helper()
	synctest.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ch, err := api.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return <-ch
}

func pass(d time.Duration) { <-time.After(d) }

func notes(s pilot.Status, reason string) (messages []string) {
	for _, n := range s.Notes {
		if n.Reason == reason {
			messages = append(messages, n.Message)
		}
	}
	return messages
}

func restarting(policy string, args ...string) pilot.Container {
	c := pilot.Container{Name: "app", Args: args}
	c.Config.Restart = &gondola.RestartPolicy{Policy: policy, MaxRetries: -1}
	return c
}

func TestBackoff_IsTheKubelets(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{restarting("always", "/program", "exit", "1")}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		s := now(t, api).Containers[0]
		if s.RestartCount != 1 || s.State.Reason != "CrashLoopBackOff" || s.State.Message != "back-off 10s restarting failed container=app pod=m1" ||
			s.Last == nil || s.Last.ExitCode != 1 {
			t.Errorf("after the first failures: %+v, want one immediate restart and a back-off of 10s", s)
		}
		for i, wait := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
			pass(wait*time.Second - 10*time.Millisecond)
			if got := now(t, api).Containers[0].RestartCount; got != 1+i {
				t.Fatalf("restart %d came before %d s", got, wait)
			}
			pass(10 * time.Millisecond)
			if got := now(t, api).Containers[0].RestartCount; got != 2+i {
				t.Fatalf("restart count = %d after %d s, want %d", got, wait, 2+i)
			}
		}
		if got := notes(now(t, api), "BackOff"); len(got) < 5 || got[0] != "Back-off restarting failed container app in pod m1" {
			t.Errorf("BackOff notes = %q", got)
		}
	})
}

func TestRestart_RulesOfExitCodesComeBeforeThePolicy(t *testing.T) {
	for _, row := range []struct {
		policy, code string
		rules        []gondola.RestartRule
		restarted    bool
	}{
		{"no", "42", []gondola.RestartRule{{ExitCodes: []int{41, 42}}}, true},
		{"no", "40", []gondola.RestartRule{{ExitCodes: []int{41, 42}}}, false},
		{"no", "0", []gondola.RestartRule{{ExitCodes: []int{0}}}, true},
		{"no", "7", []gondola.RestartRule{{ExitCodes: []int{1}}, {ExitCodes: []int{0, 1}, Not: true}}, true},
		{"no", "0", []gondola.RestartRule{{ExitCodes: []int{0, 1}, Not: true}}, false},
		{"on-failure", "3", []gondola.RestartRule{{ExitCodes: []int{0}}}, true},
	} {
		c := restarting(row.policy, "/program", "exit", row.code)
		c.Config.Gondola = &gondola.ContainerExtension{RestartRules: row.rules}
		simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
			pass(time.Second)
			if s := now(t, api).Containers[0]; (s.RestartCount > 0) != row.restarted {
				t.Errorf("policy %s, rules %+v, exit code %s: %d restarts, want restarted = %v", row.policy, row.rules, row.code, s.RestartCount, row.restarted)
			}
		})
	}
}

func TestBackoff_LongRunIsForgiven(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{restarting("always", "/program", "sleep", "601")}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(1900 * time.Second)
		if s := now(t, api).Containers[0]; s.RestartCount != 3 || s.State.Kind != gondola.ContainerRunning {
			t.Errorf("after 1900 s: %+v, want three immediate restarts", s)
		}
	})
}

func TestBackoff_StopEndsTheWait(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{restarting("always", "/program", "exit", "3")}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		synctest.Wait()
		if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		s := now(t, api)
		if s.Phase != pilot.Ended || s.Containers[0].State.ExitCode != 3 {
			t.Errorf("status = %+v, want the end with the last exit", s)
		}
	})
}

func TestRestart_RetriesEnd(t *testing.T) {
	c := restarting("on-failure", "/program", "exit", "1")
	c.Config.Restart.MaxRetries = 2
	simulate(t, pilot.Spec{Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Minute)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].RestartCount != 2 {
			t.Errorf("status = %+v, want the end after 2 restarts", s)
		}
	})
}

func TestStop_GraceIsExactAndMayBeShortened(t *testing.T) {
	c := restarting("always", "/program", "ignore")
	grace := gondola.Duration(30 * time.Second)
	c.Config.Stop = &gondola.StopConfig{Timeout: &grace}
	simulate(t, pilot.Spec{Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		synctest.Wait()
		api.Stop(t.Context(), gondola.StopRequest{})
		pass(10 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ending || s.Containers[0].State.Kind != gondola.ContainerRunning {
			t.Fatalf("after 10 s: %+v, want it still running", s)
		}
		short := gondola.Duration(time.Second)
		api.Stop(t.Context(), gondola.StopRequest{Timeout: &short})
		pass(time.Second + time.Millisecond)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].State.ExitCode != 137 {
			t.Errorf("after the second stop: %+v, want 137", s)
		}
	})
}

func TestStop_ReverseOrderOfDependency(t *testing.T) {
	db, app := restarting("always", "/program", "trap"), restarting("always", "/program", "trap", ";", "sleep", "3")
	db.Name, app.Name = "db", "app"
	app.Config.DependsOn = []gondola.Dependency{{Name: "db", Condition: gondola.DependsStarted}}
	simulate(t, pilot.Spec{Containers: []pilot.Container{db, app}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		synctest.Wait()
		api.Stop(t.Context(), gondola.StopRequest{})
		pass(2 * time.Second)
		if s := now(t, api); s.Containers[0].State.Kind != gondola.ContainerRunning {
			t.Errorf("db = %+v, want it running while app does", s.Containers[0])
		}
		pass(2 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ended {
			t.Errorf("phase = %s, want ended", s.Phase)
		}
	})
}

func TestHooks_PreStopCountsIntoGraceAndPostStartGatesReadiness(t *testing.T) {
	c := restarting("always", "/program", "ignore")
	grace := gondola.Duration(10 * time.Second)
	c.Config.Stop = &gondola.StopConfig{Timeout: &grace}
	c.Config.Gondola = &gondola.ContainerExtension{PostStart: &gondola.Hook{SleepSeconds: 2}, PreStop: &gondola.Hook{SleepSeconds: 4}}
	simulate(t, pilot.Spec{Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Second)
		if s := now(t, api).Containers[0]; s.Ready || s.Started {
			t.Errorf("during the post-start hook: %+v, want not ready", s)
		}
		pass(2 * time.Second)
		if s := now(t, api).Containers[0]; !s.Ready || !s.Started {
			t.Errorf("after the post-start hook: %+v, want ready", s)
		}
		began := time.Now()
		api.Stop(t.Context(), gondola.StopRequest{})
		for now(t, api).Phase != pilot.Ended {
			pass(100 * time.Millisecond)
		}
		if took := time.Since(began).Round(time.Second); took != 10*time.Second {
			t.Errorf("stop took %v, want 10 s with the hook", took)
		}
	})
}

func TestHooks_FailedPostStartKills(t *testing.T) {
	c := restarting("no", "/program", "run")
	c.Config.Gondola = &gondola.ContainerExtension{PostStart: &gondola.Hook{Exec: []string{"false"}}}
	simulate(t, pilot.Spec{Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		s := now(t, api)
		if s.Phase != pilot.Ended || s.Containers[0].State.ExitCode != 143 || len(notes(s, "FailedPostStartHook")) != 1 {
			t.Errorf("status = %+v, want 143 and the note", s)
		}
	})
}

func TestHooks_AnyAnswerIsEnoughForAPodsHTTPHook(t *testing.T) {
	for backoff, failed := range map[string]int{"kubernetes": 0, "": 1} {
		c := restarting("always", "/program", "write", "/sick", "x", ";", "http", "80", "/sick")
		c.Config.Healthchecks = []gondola.Healthcheck{{Interval: 1, TCP: &gondola.TCPProbe{Port: 80}}}
		c.Config.Gondola = &gondola.ContainerExtension{PreStop: &gondola.Hook{HTTP: &gondola.HTTPProbe{Port: 80, Path: "/bye"}}}
		d := fake.NewDriver()
		defer d.Close()
		spec := pilot.Spec{Machine: "m1", Version: "01", Dir: t.TempDir(), RunDir: t.TempDir(), RestartBackoff: backoff, Containers: []pilot.Container{c}}
		api, err := d.Launch(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		await(t, api, "ready", func(s pilot.Status) bool { return s.Containers[0].Ready })
		if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		s := await(t, api, "the end", isEnded)
		if got := notes(s, "FailedPreStopHook"); len(got) != failed {
			t.Errorf("back-off %q: notes of a hook that was answered with 500 = %q, want %d", backoff, got, failed)
		}
	}
}

func TestProbes_StartupGatesTheOthersAndFailureRestarts(t *testing.T) {
	c := restarting("always", "hang")
	c.Config.Healthchecks = []gondola.Healthcheck{
		{Kind: "liveness", Interval: 1, FailureThreshold: 1, Exec: &gondola.ExecProbe{Command: []string{"false"}}},
		{Interval: 5, FailureThreshold: 3, Exec: &gondola.ExecProbe{Command: []string{"false"}}, Gondola: &gondola.HealthcheckExtension{Startup: true}},
	}
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(9 * time.Second)
		if s := now(t, api).Containers[0]; s.RestartCount != 0 || s.Started || s.Ready {
			t.Errorf("after 9 s: %+v, want it to run unstarted: liveness must wait", s)
		}
		pass(2 * time.Second)
		s := now(t, api)
		if s.Containers[0].RestartCount != 1 {
			t.Errorf("after 11 s: %+v, want a restart by the startup probe", s.Containers[0])
		}
		if got := notes(s, "Killing"); len(got) != 1 || got[0] != "Container app failed startup probe, will be restarted" {
			t.Errorf("Killing notes = %q", got)
		}
		if got := notes(s, "Unhealthy"); len(got) != 1 || !strings.HasPrefix(got[0], "Startup probe failed: ") {
			t.Errorf("Unhealthy notes = %q, want one: the same again is no news", got)
		}
	})
}

func TestProbes_OneThatCannotBeRunHasNoOutcome(t *testing.T) {
	c := restarting("always", "hang")
	c.Config.Healthchecks = []gondola.Healthcheck{
		{Kind: "liveness", Interval: 1, FailureThreshold: 1, Exec: &gondola.ExecProbe{Command: []string{"missing"}}},
		{Interval: 1, Exec: &gondola.ExecProbe{Command: []string{"check"}}},
	}
	var ran atomic.Bool
	once := func(program.Env) int { ran.Store(true); return 0 }
	simulateWith(t, once, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(10 * time.Second)
		s := now(t, api)
		if got := s.Containers[0]; got.RestartCount != 0 || !got.Ready {
			t.Errorf("after 10 s: %+v, want it to run on, ready", got)
		}
		if got := notes(s, "Unhealthy"); len(got) == 0 || !strings.HasPrefix(got[0], "Liveness probe errored and resulted in unknown state: ") {
			t.Errorf("Unhealthy notes = %q, want them to tell", got)
		}
	})
}

func TestProbes_ReadinessComesAndGoes(t *testing.T) {
	dir := t.TempDir()
	mark := filepath.Join(dir, "sick")
	var mu sync.Mutex
	sick := func(e program.Env) int {
		mu.Lock()
		defer mu.Unlock()
		if _, err := os.Stat(mark); err == nil {
			return 1
		}
		return 0
	}
	c := restarting("always", "hang")
	c.Config.Healthchecks = []gondola.Healthcheck{{Interval: 2, GracePeriod: 3, FailureThreshold: 2, Exec: &gondola.ExecProbe{Command: []string{"check"}}}}
	web := restarting("always", "hang")
	web.Name = "web"
	web.Config.DependsOn = []gondola.Dependency{{Name: "app", Condition: gondola.DependsHealthy}}
	simulateWith(t, sick, pilot.Spec{Containers: []pilot.Container{c, web}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(2 * time.Second)
		if s := now(t, api); s.Containers[0].Ready || s.Containers[1].State.Kind != gondola.ContainerWaiting {
			t.Errorf("before the first probe: %+v", s.Containers)
		}
		pass(2 * time.Second)
		if s := now(t, api); !s.Containers[0].Ready || s.Containers[1].State.Kind != gondola.ContainerRunning {
			t.Errorf("after the first probe: %+v", s.Containers)
		}
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Second)
		if s := now(t, api).Containers[0]; !s.Ready {
			t.Error("not ready after one failure, want a threshold of 2")
		}
		pass(2 * time.Second)
		if s := now(t, api).Containers[0]; s.Ready || s.RestartCount != 0 {
			t.Errorf("after two failures: %+v, want not ready and no restart", s)
		}
		os.Remove(mark)
		pass(3 * time.Second)
		if s := now(t, api).Containers[0]; !s.Ready {
			t.Error("not ready again after a success")
		}
	})
}

func TestProbes_HTTPAndTCPReachTheMachine(t *testing.T) {
	c := restarting("always", "/program", "http", "80", "/sick")
	c.Config.Healthchecks = []gondola.Healthcheck{
		{Interval: 1, HTTP: &gondola.HTTPProbe{Port: 80, Path: "/x"}},
		{Interval: 1, TCP: &gondola.TCPProbe{Port: 80}},
		{Kind: "liveness", Interval: 1, FailureThreshold: 2, HTTP: &gondola.HTTPProbe{Port: 80}},
	}
	d := fake.NewDriver()
	defer d.Close()
	spec := pilot.Spec{Machine: "m1", Version: "01", Dir: t.TempDir(), RunDir: t.TempDir(), Containers: []pilot.Container{c}}
	api, err := d.Launch(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	await(t, api, "ready", func(s pilot.Status) bool { return s.Containers[0].Ready })
	if _, err := api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "write", "/sick", ""}}, gondola.ExecIO{}); err != nil {
		t.Fatal(err)
	}
	s := await(t, api, "a restart", func(s pilot.Status) bool { return s.Containers[0].RestartCount == 1 })
	if got := notes(s, "Unhealthy"); len(got) == 0 || !strings.HasSuffix(got[len(got)-1], "HTTP probe failed with statuscode: 500") {
		t.Errorf("Unhealthy notes = %q", got)
	}
}

func TestConfig_UnstartableContainerWaits(t *testing.T) {
	user := int64(0)
	c := restarting("always", "hang")
	c.Config.Gondola = &gondola.ContainerExtension{Security: &gondola.Security{User: &user, NonRoot: true}}
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(25 * time.Second)
		s := now(t, api)
		if got := s.Containers[0]; got.State.Reason != "CreateContainerConfigError" || got.RestartCount != 0 || s.Phase != pilot.Running ||
			!strings.Contains(got.State.Message, "breaks non-root policy (pod: \"m1\", container: app)") {
			t.Errorf("status = %+v, want CreateContainerConfigError", s)
		}
	})
}

func TestConfig_UnstartableContainerStartsWithANewerPayload(t *testing.T) {
	c := restarting("always", "hang")
	c.Config.Gondola = &gondola.ContainerExtension{Env: []gondola.EnvVar{{Name: "DIR", Secret: true}}}
	c.Config.Mounts = []gondola.ContainerMount{{Name: "v", Path: "/part", Gondola: &gondola.MountExtension{SubPathExpr: "$(DIR)"}}}
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}, Volumes: []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		put := func(dir string) {
			t.Helper()
			if err := api.PutPayload(t.Context(), gondola.Payload{Env: map[string]map[string]string{"app": {"DIR": dir}}}); err != nil {
				t.Fatal(err)
			}
		}
		env := func() string {
			t.Helper()
			var out bytes.Buffer
			if _, err := api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "env", "DIR"}}, gondola.ExecIO{Stdout: &out}); err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(out.String())
		}
		put("")
		pass(25 * time.Second)
		if got := now(t, api).Containers[0].State; got.Reason != "CreateContainerConfigError" || !strings.Contains(got.Message, "subPathExpr") {
			t.Errorf("state = %+v, want an error of the subPathExpr", got)
		}
		put("good")
		pass(11 * time.Second)
		if got := now(t, api).Containers[0]; got.State.Kind != gondola.ContainerRunning || got.RestartCount != 0 {
			t.Errorf("status = %+v, want its first run", got)
		}
		put("later")
		if got := env(); got != "DIR=good" {
			t.Errorf("a command in the container has %s, want what the container was started with", got)
		}
	})
}

func TestWatch_EndsWithTheFinalStatusOrThePilot(t *testing.T) {
	simulate(t, pilot.Spec{Containers: []pilot.Container{restarting("always", "hang")}}, func(t *testing.T, d *fake.Driver, api pilot.API) {
		ch, err := api.Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var last pilot.Status
		done := make(chan struct{})
		go func() {
			defer close(done)
			for last = range ch {
			}
		}()
		synctest.Wait()
		if err := d.KillPilot("m1"); err != nil {
			t.Fatal(err)
		}
		<-done
		if last.Phase != pilot.Running {
			t.Errorf("last phase = %s, want running: the pilot, not the Machine, has gone", last.Phase)
		}
		if _, err := api.Watch(t.Context()); err != pilot.ErrGone {
			t.Errorf("Watch of a dead pilot = %v, want ErrGone", err)
		}
	})
}

func TestRestart_EndsCarryTheirContainersIDAndTheRunBeforeStaysKnown(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{restarting("always", "/program", "exit", "1")}}
	spec.Machine, spec.Version, spec.Dir, spec.RunDir = "m1", "01", t.TempDir(), t.TempDir()
	simulate(t, spec, func(t *testing.T, d *fake.Driver, api pilot.API) {
		pass(11 * time.Second) // three runs, of which the third ended a second ago
		c := now(t, api).Containers[0]
		if c.State.Reason != "CrashLoopBackOff" || c.Last == nil || c.Last.ContainerID != c.ContainerID || c.ContainerID != "gondola://m1/app/2" {
			t.Fatalf("in back-off: %+v, last %+v, want the last run's end with its id", c, c.Last)
		}
		if err := d.KillPilot("m1"); err != nil {
			t.Fatal(err)
		}
		api, err := d.Launch(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		c = now(t, api).Containers[0]
		if c.State.ContainerID != "gondola://m1/app/2" || c.Last == nil || c.Last.ContainerID != "gondola://m1/app/1" {
			t.Errorf("stopped in back-off by the next pilot: state %+v, last %+v, want those of the runs 2 and 1", c.State, c.Last)
		}
	})
}
