package pilot_test

import (
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

func TestMemory_ContainersOfAPodEndWithTheirSandboxAndBackOff(t *testing.T) {
	greedy := restarting("always", "/program", "sleep", "1", ";", "alloc", "400000000", ";", "run")
	crashing := named("crashing", restarting("always", "/program", "exit", "1"))
	spec := pilot.Spec{RestartBackoff: "kubernetes", Limits: gondola.Resources{MemoryBytes: 128 << 20}, Containers: []pilot.Container{greedy, crashing}}
	spec.Machine, spec.Version, spec.Dir, spec.RunDir = "m1", "01", t.TempDir(), t.TempDir()
	simulate(t, spec, func(t *testing.T, d *fake.Driver, api pilot.API) {
		for try, wait := range []time.Duration{0, 10 * time.Second, 20 * time.Second} {
			pass(2 * time.Second) // one until the memory is used up
			s := now(t, api)
			if c := s.Containers[0]; s.Phase != pilot.Lost || c.State.Reason != "OOMKilled" || c.Ready || c.Started || c.RestartCount != try {
				t.Fatalf("sandbox %d: phase %s, container %+v, want it lost and the container's end told", try, s.Phase, c)
			}
			if c := s.Containers[1]; try == 0 && c.RestartCount != 1 {
				t.Fatalf("the other container = %+v, want it in its first back-off", c)
			}
			var err error
			if api, err = d.Launch(t.Context(), spec, nil); err != nil {
				t.Fatal(err)
			}
			if try == 0 {
				if c := now(t, api).Containers[1]; c.RestartCount != 1 || c.State.Reason != "CrashLoopBackOff" {
					t.Errorf("the other container in the next sandbox = %+v, want it in the same back-off", c)
				}
			}
			for now(t, api).Containers[0].State.Kind != gondola.ContainerRunning {
				if s := now(t, api).Containers[0]; s.State.Reason != "CrashLoopBackOff" || s.Last == nil || s.Last.Reason != "OOMKilled" {
					t.Fatalf("sandbox %d: container %+v, want it in back-off", try, s)
				}
				pass(time.Second)
				wait -= time.Second
			}
			if wait > 2*time.Second || wait < -time.Second {
				t.Errorf("sandbox %d: it was started again %v before it was due", try, wait)
			}
		}
	})
}

// The sandbox of a plain Machine ends with its memory, and the next one counts on.
func TestMemory_RetriesEndThoughEachTakesASandbox(t *testing.T) {
	greedy := restarting("on-failure", "/program", "alloc", "400000000", ";", "run")
	greedy.Config.Restart.MaxRetries = 2
	spec := pilot.Spec{Limits: gondola.Resources{MemoryBytes: 128 << 20}, Containers: []pilot.Container{greedy}}
	spec.Machine, spec.Version, spec.Dir, spec.RunDir = "m1", "01", t.TempDir(), t.TempDir()
	simulate(t, spec, func(t *testing.T, d *fake.Driver, api pilot.API) {
		for range 2 {
			pass(10 * time.Second)
			if s := now(t, api); s.Phase != pilot.Lost {
				t.Fatalf("phase = %s, want the sandbox lost", s.Phase)
			}
			var err error
			if api, err = d.Launch(t.Context(), spec, nil); err != nil {
				t.Fatal(err)
			}
		}
		pass(10 * time.Second)
		if s := now(t, api); s.Phase != pilot.Ended || s.Containers[0].RestartCount != 2 || s.Containers[0].State.Reason != "OOMKilled" {
			t.Errorf("phase %s, container %+v, want the end after 2 restarts", s.Phase, s.Containers[0])
		}
	})
}
