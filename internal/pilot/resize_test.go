package pilot_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

func mem(mb int64) gondola.Size {
	r := gondola.Resources{CPUMillis: 100, MemoryBytes: mb << 20}
	return gondola.Size{Requests: r, Limits: r}
}

// sizable is a container of a size whose changes of memory want a restart if restart says so.
func sizable(name string, size gondola.Size, restart bool, args ...string) pilot.Container {
	c := named(name, restarting("on-failure", args...))
	c.Config.Gondola = &gondola.ContainerExtension{Requests: &size.Requests, Limits: &size.Limits}
	if restart {
		c.Config.Gondola.ResizeRestart = []string{"memory"}
	}
	return c
}

func TestResize_InPlaceAndWithARestartOfThoseThatWantOne(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Limits: mem(96).Limits, Requests: mem(96).Requests,
		Containers: []pilot.Container{sizable("stays", mem(32), false, "hang"), sizable("restarts", mem(64), true, "hang")}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		s := now(t, api)
		for i, want := range []gondola.Size{mem(32), mem(64)} {
			if c := s.Containers[i]; c.Size == nil || *c.Size != want {
				t.Fatalf("at first %s has %+v, want %+v", c.Name, c.Size, want)
			}
		}
		ids := []string{s.Containers[0].ContainerID, s.Containers[1].ContainerID}
		size := pilot.Size{Size: mem(192), Containers: map[string]gondola.Size{"stays": mem(64), "restarts": mem(128)}}
		for range 2 {
			if err := api.Resize(t.Context(), size); err != nil {
				t.Fatalf("Resize = %v", err)
			}
		}
		pass(time.Second)
		s = now(t, api)
		if s.Phase != pilot.Running || s.Size == nil || *s.Size != mem(192) {
			t.Errorf("machine = %s, %+v; want it running with %+v", s.Phase, s.Size, mem(192))
		}
		if c := s.Containers[0]; c.RestartCount != 0 || c.ContainerID != ids[0] || *c.Size != mem(64) {
			t.Errorf("stays = %+v, %+v; want the new size without a restart", c, c.Size)
		}
		// It ends with code 0 and its policy is on-failure: the restart is the resize's.
		if c := s.Containers[1]; c.RestartCount != 1 || c.ContainerID == ids[1] || c.State.Kind != gondola.ContainerRunning || *c.Size != mem(128) {
			t.Errorf("restarts = %+v, %+v; want one restart with the new size", c, c.Size)
		}
		if n := notes(s, "Killing"); len(n) != 1 || n[0] != "Container restarts resize requires restart" {
			t.Errorf("notes = %q", n)
		}
		// CPU alone is no reason.
		size.Containers["restarts"] = gondola.Size{Requests: gondola.Resources{CPUMillis: 200, MemoryBytes: 128 << 20}, Limits: mem(128).Limits}
		if err := api.Resize(t.Context(), size); err != nil {
			t.Fatal(err)
		}
		if c := now(t, api).Containers[1]; c.RestartCount != 1 || c.Size.Requests.CPUMillis != 200 {
			t.Errorf("after a change of CPU: %+v, %+v; want no restart", c, c.Size)
		}
	})
}

func TestResize_NotBelowWhatIsUsed(t *testing.T) {
	spec := pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{sizable("app", mem(64), false, "/program", "alloc", "41943040", ";", "run")}}
	simulate(t, spec, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(3 * time.Second)
		err := api.Resize(t.Context(), pilot.Size{Containers: map[string]gondola.Size{"app": mem(32)}})
		if !errors.Is(err, gondola.ErrPrecondition) || !strings.Contains(err.Error(), "memory limit (33554432) below current usage") {
			t.Errorf("Resize below the usage = %v", err)
		}
		if c := now(t, api).Containers[0]; *c.Size != mem(64) || c.State.Kind != gondola.ContainerRunning || c.RestartCount != 0 {
			t.Errorf("app = %+v, %+v; want it as it was", c, c.Size)
		}
	})
}

func TestResize_LimitThatIsNewIsKept(t *testing.T) {
	c := sizable("app", gondola.Size{}, false, "/program", "sleep", "5", ";", "alloc", "41943040", ";", "run")
	c.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartNo}
	simulate(t, pilot.Spec{RestartBackoff: "kubernetes", Containers: []pilot.Container{c}}, func(t *testing.T, _ *fake.Driver, api pilot.API) {
		pass(time.Second)
		if err := api.Resize(t.Context(), pilot.Size{Containers: map[string]gondola.Size{"app": mem(32)}}); err != nil {
			t.Fatal(err)
		}
		pass(10 * time.Second)
		if c := now(t, api).Containers[0]; c.State.Reason != "OOMKilled" {
			t.Errorf("app = %+v, want it killed over the limit that it got while it ran", c)
		}
	})
}

func TestResize_RestartOutlivesThePilot(t *testing.T) {
	rt := newProcesses(t)
	spec := testSpec(t, "trap '' TERM; while :; do sleep 0.1; done")
	size := mem(32)
	spec.Containers[0].Config.Gondola = &gondola.ContainerExtension{Requests: &size.Requests, Limits: &size.Limits, ResizeRestart: []string{"memory"}}
	grace := gondola.Duration(time.Second)
	spec.Containers[0].Config.Stop = &gondola.StopConfig{Timeout: &grace}
	s, stop := run(t, spec, rt)
	name := await(t, s, "running", isRunning).Containers[0].Name
	if err := s.Resize(t.Context(), pilot.Size{Containers: map[string]gondola.Size{name: mem(64)}}); err != nil {
		t.Fatal(err)
	}
	stop() // while the container has time to end
	s, _ = run(t, spec, rt)
	if err := s.Resize(t.Context(), pilot.Size{Containers: map[string]gondola.Size{name: mem(64)}}); err != nil {
		t.Fatal(err)
	}
	st := await(t, s, "a restart", func(st pilot.Status) bool {
		return st.Containers[0].RestartCount == 1 && st.Containers[0].State.Kind == gondola.ContainerRunning
	})
	if got := st.Containers[0].Size; *got != mem(64) {
		t.Errorf("size = %+v, want the new one", got)
	}
}
