package drivertest

import (
	"cmp"
	"os"
	"path/filepath"
	"testing"

	"gondola"
	"gondola/internal/pilot"
)

// rootfsMachine is a Machine whose container adds a line to a file of its root file system at every run, and fails once where it finds no mark.
func rootfsMachine(t *testing.T, f Fixture, keep bool) *machine {
	main := container("main", "append", "/runs", "x", ";", "read", "/runs", ";", "once", "/mark", "4", ";", "run")
	main.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartOnFailure, MaxRetries: -1}
	spec := f.Spec(t, []pilot.Container{main}, nil)
	spec.KeepRootfs = keep
	return launchSpec(t, f, spec, nil)
}

// freshRootfs: a container begins with its image at every start, also at one in place.
func freshRootfs(t *testing.T, f Fixture) {
	m := rootfsMachine(t, f, false)
	m.await("two restarts", func(s pilot.Status) bool { return status(s, "main").RestartCount >= 2 })
	if layers, _ := filepath.Glob(filepath.Join(m.spec.Dir, "rootfs", "main", "*")); len(layers) > 1 {
		t.Errorf("what earlier runs have written is left: %v", layers)
	}
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "x\n" && log != "" {
		t.Errorf("log of the last run = %q: it found what an earlier one had written", log)
	}
	if err := m.driver.Kill(t.Context(), m.spec); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(m.spec.Dir, "rootfs", "*")); left != nil {
		t.Errorf("root file systems are left: %v", left)
	}
}

// keptRootfs: what a container has written is there after a restart in place, the death of the sandbox, a suspension, and a stop and start, until
// it has another image or the Spec does not want it any more.
func keptRootfs(t *testing.T, f Fixture) {
	m := rootfsMachine(t, f, true)
	runs := func(when, want string) {
		t.Helper()
		if log := m.awaitLog("main", "running"); log != want+"running\n" {
			t.Errorf("%s: log = %q, want %q", when, log, want+"running\n")
		}
	}
	kill := func() {
		t.Helper()
		if err := m.driver.Kill(t.Context(), m.spec); err != nil {
			t.Fatal(err)
		}
	}
	restarted := func(s pilot.Status) bool {
		return status(s, "main").RestartCount == 1 && status(s, "main").State.Kind == gondola.ContainerRunning
	}
	m.await("the restart in place", restarted)
	runs("after a restart in place", "x\nx\n")
	f.KillSandbox(t, m.spec)
	m.await("the loss", func(s pilot.Status) bool { return s.Phase == pilot.Lost })
	m.relaunch()
	m.running("main")
	runs("after the sandbox's death", "x\nx\nx\n")
	if f.Driver.Capabilities().Suspend {
		m.suspend()
		m.relaunch()
		if s := m.up(); !s.Resumed {
			t.Errorf("not resumed: %s", show(s))
		}
		if _, out := m.exec("main", "read", "/runs"); out != "x\nx\nx\n" {
			t.Errorf("after a suspension: %q", out)
		}
	}
	if err := m.api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	m.ended()
	kill()
	m.relaunch()
	m.running("main")
	runs("after stop and start", "x\nx\nx\nx\n")
	kill()

	image := m.spec.Containers[0].Tree
	other := filepath.Join(t.TempDir(), "tree")
	if err := os.Symlink(cmp.Or(image, t.TempDir()), other); err != nil { // the fake has none
		t.Fatal(err)
	}
	for _, tree := range []string{other, image} { // also not when the first comes back
		m.spec.Containers[0].Tree, m.spec.Version = tree, m.spec.Version+"x"
		m.relaunch()
		m.await("the restart in place", restarted)
		runs("with another image", "x\nx\n")
		kill()
	}
	m.spec.KeepRootfs = false
	kill()
	if left, _ := filepath.Glob(filepath.Join(m.spec.Dir, "rootfs", "*")); left != nil {
		t.Errorf("root file systems are left: %v", left)
	}
}
