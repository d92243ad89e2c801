package drivertest

import (
	"errors"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

func ephemeral(name string, args ...string) pilot.Container {
	c := container(name, args...)
	ext(&c).Ephemeral = true
	return c
}

func (m *machine) add(c pilot.Container) {
	m.t.Helper()
	m.running("main")
	first := m.spec.Containers[0]
	c.Image, c.ImageID, c.Tree, c.Env = first.Image, first.ImageID, first.Tree, first.Env
	if err := m.api.AddContainer(m.t.Context(), c); err != nil {
		m.t.Fatalf("AddContainer = %v", err)
	}
	m.spec.Containers = append(m.spec.Containers, c)
}

func ephemeralOnce(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	c := ephemeral("debug", "print", "looking", ";", "exit", "7")
	m.add(c)
	s := m.await("the end of the ephemeral container", func(s pilot.Status) bool {
		return len(s.Containers) == 2 && s.Containers[1].State.Kind == gondola.ContainerExited
	})
	if got := s.Containers[1]; !got.Ephemeral || got.State.ExitCode != 7 || got.RestartCount != 0 {
		t.Errorf("status = %+v, want an ephemeral container that exited with 7", got)
	}
	if got := m.running("main"); got.Phase != pilot.Running {
		t.Errorf("phase = %s, want that the machine runs on", got.Phase)
	}
	if log := m.log(gondola.LogOptions{Container: "debug"}); log != "looking\n" {
		t.Errorf("log = %q", log)
	}
	if err := m.api.AddContainer(t.Context(), c); err != nil {
		t.Errorf("AddContainer again = %v, want no error", err)
	}
	if err := m.api.AddContainer(t.Context(), container("plain", "run")); !errors.Is(err, gondola.ErrInvalid) {
		t.Errorf("AddContainer of one that is not ephemeral = %v, want ErrInvalid", err)
	}
	m.add(ephemeral("second", "run"))
	m.awaitLog("second", "running") // by then it takes signals: as process 1 of its namespace it would not end as by one
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := status(m.ended(), "second").State; got.ExitCode != 143 {
		t.Errorf("second = %+v, want 143 by SIGTERM with the rest", got)
	}
}

func ephemeralIsNotWaitedFor(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "await", "/tmp/go", ";", "exit", "0"))
	m.add(ephemeral("debug", "run"))
	m.awaitLog("debug", "running")
	m.exec("main", "write", "/tmp/go", "x") // its own code does not count: it ends by SIGKILL where its container ends before it
	s := m.ended()
	if got := status(s, "main").State; got.ExitCode != 0 {
		t.Errorf("main = %+v, want that it has seen the file", got)
	}
	if got := status(s, "debug").State; got.ExitCode != 143 {
		t.Errorf("debug = %+v, want that it was ended with the machine", got)
	}
}

func ephemeralProcesses(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "run"))
	m.add(ephemeral("alone", "read", "/proc/1/cmdline"))
	c := ephemeral("inside", "read", "/proc/1/cmdline")
	ext(&c).Target = "main"
	m.add(c)
	m.await("both ends", func(s pilot.Status) bool {
		return status(s, "alone").State.Kind == gondola.ContainerExited && status(s, "inside").State.Kind == gondola.ContainerExited
	})
	if log := m.log(gondola.LogOptions{Container: "alone"}); !strings.Contains(log, "/proc/1/cmdline") {
		t.Errorf("process 1 without a target is %q, want the container's own", log)
	}
	if log := m.log(gondola.LogOptions{Container: "inside"}); log != "/program\x00run\x00" {
		t.Errorf("process 1 with a target is %q, want the target's", log)
	}
}

func ephemeralCrash(t *testing.T, f Fixture) {
	main := container("main", "run")
	main.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	m := launch(t, f, nil, main)
	m.add(ephemeral("debug", "run"))
	m.running("debug")
	f.KillPilot(t, m.spec)
	m.launch(nil)
	if s := m.running("debug"); status(s, "debug").RestartCount != 0 {
		t.Errorf("after the pilot's death: %s, want the ephemeral container running on", show(s))
	}
	f.KillSandbox(t, m.spec)
	m.await("the loss", func(s pilot.Status) bool { return s.Phase == pilot.Lost })
	m.relaunch()
	if got := status(m.running("main"), "debug"); got.State.Kind != gondola.ContainerExited || got.State.ExitCode != 137 {
		t.Errorf("after the sandbox's death: %+v, want an end by 137 and no second run", got)
	}
}
