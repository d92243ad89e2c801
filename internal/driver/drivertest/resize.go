package drivertest

import (
	"errors"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func sizeOf(mb int64) gondola.Size {
	return gondola.Size{Requests: gondola.Resources{CPUMillis: 100, MemoryBytes: mb << 20}, Limits: gondola.Resources{MemoryBytes: mb << 20}}
}

// sizable is a container that uses 150 MB once it is told to.
func sizable(name string, mb int64) pilot.Container {
	c := container(name, "await", "/tmp/go", ";", "alloc", "150000000", ";", "run")
	size := sizeOf(mb)
	ext(&c).Requests, ext(&c).Limits = &size.Requests, &size.Limits
	return c
}

// resizeLimits gives one container more memory and another one less while they run, and looks who may use it.
func resizeLimits(t *testing.T, f Fixture) {
	spec := f.Spec(t, []pilot.Container{sizable("more", 64), sizable("less", 512), sizable("again", 64)}, nil)
	ext(&spec.Containers[2]).ResizeRestart = []string{"memory"}
	spec.Requests, spec.Limits = sizeOf(640).Requests, sizeOf(640).Limits
	m := launchSpec(t, f, spec, nil)
	for _, name := range []string{"more", "less", "again"} {
		m.running(name)
	}
	size := pilot.Size{Size: sizeOf(960), Containers: map[string]gondola.Size{"more": sizeOf(512), "less": sizeOf(64), "again": sizeOf(384)}}
	if err := m.api.Resize(t.Context(), size); err != nil {
		t.Fatalf("Resize = %v", err)
	}
	s := m.await("the sizes", func(s pilot.Status) bool {
		for name, want := range size.Containers {
			c := status(s, name)
			if c.State.Kind != gondola.ContainerRunning || c.Size == nil || *c.Size != want {
				return false
			}
		}
		return s.Size != nil && *s.Size == size.Size
	})
	if a, b, c := status(s, "more"), status(s, "less"), status(s, "again"); a.RestartCount != 0 || b.RestartCount != 0 || c.RestartCount != 1 {
		t.Errorf("restarts = %d, %d and %d; want 0, 0 and 1", a.RestartCount, b.RestartCount, c.RestartCount)
	}
	for _, name := range []string{"more", "less"} {
		if st, out := m.exec(name, "write", "/tmp/go", "x"); st.Code != 0 {
			t.Fatalf("exec = %+v, %s", st, out)
		}
	}
	s = m.await("the overrun", func(s pilot.Status) bool { return status(s, "less").State.Kind == gondola.ContainerExited })
	if got := status(s, "less").State; got.Reason != "OOMKilled" {
		t.Errorf("less = %+v, want it OOMKilled over its new limit", got)
	}
	m.awaitLog("more", "allocated")
	err := m.api.Resize(t.Context(), pilot.Size{Size: sizeOf(960), Containers: map[string]gondola.Size{"more": sizeOf(100), "again": sizeOf(384)}})
	if !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Resize below what is used = %v, want ErrPrecondition", err)
	}
	if got := status(m.running("more"), "more"); got.RestartCount != 0 || *got.Size != sizeOf(512) {
		t.Errorf("more = %+v with %+v, want it running on", got, got.Size)
	}
}
