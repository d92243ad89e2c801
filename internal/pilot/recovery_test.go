package pilot_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/driver/drivertest/program"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
)

// run supervises until the final phase, or until the returned function ends the pilot.
func run(t *testing.T, spec pilot.Spec, rt pilot.Runtime) (*pilot.Supervisor, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	sup := pilot.NewSupervisor(pilot.SupervisorConfig{Spec: spec, Runtime: rt, Volatile: true})
	done := make(chan struct{})
	go func() { defer close(done); sup.Run(ctx) }()
	end := func() { cancel(); <-done }
	t.Cleanup(end)
	return sup, end
}

func TestRecovery_TornJournalLineIsDropped(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	rt := newProcesses(t)
	sup, end := run(t, spec, rt)
	before := await(t, sup, "running", isRunning)
	end()
	f, err := os.OpenFile(filepath.Join(spec.Dir, "journal"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"seq":99,"containers":[{"status":{"na`)
	f.Close()
	sup, _ = run(t, spec, rt)
	after := await(t, sup, "running", isRunning)
	if after.SandboxID != before.SandboxID || after.Containers[0].RestartCount != 0 || after.Seq <= before.Seq {
		t.Errorf("after a torn line: %+v, before: %+v", after, before)
	}
}

// A full disk takes half a line and then none. What happened meanwhile is known again, to later pilots too, once there is room.
func TestRecovery_JournalIsWholeAgainAfterAFullDisk(t *testing.T) {
	spec := pilot.Spec{Dir: smallDisk(t), RunDir: t.TempDir(), Containers: []pilot.Container{restarting("always", "check")}}
	var well atomic.Bool
	program := func(e program.Env) int {
		if !well.Load() {
			return 1
		}
		<-e.Done
		return 0
	}
	simulateWith(t, program, spec, func(t *testing.T, d *fake.Driver, api pilot.API) {
		spec.Machine, spec.Version = "m1", "01"
		now(t, api) // it has begun
		ballast := filepath.Join(spec.Dir, "ballast")
		if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill the disk: %v", err)
		}
		pass(10 * time.Minute) // restarts enough for what is left of the journal's last page
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		well.Store(true)
		pass(2 * time.Minute)
		before := now(t, api)
		if c := before.Containers[0]; c.State.Kind != gondola.ContainerRunning || c.RestartCount < 10 {
			t.Fatalf("container = %+v, want it running after many restarts", c)
		}
		if err := d.KillPilot("m1"); err != nil {
			t.Fatal(err)
		}
		api, err := d.Launch(t.Context(), spec, nil)
		if err != nil {
			t.Fatal(err)
		}
		after := now(t, api)
		if b, a := before.Containers[0], after.Containers[0]; a.ContainerID != b.ContainerID || a.RestartCount != b.RestartCount ||
			!a.State.StartedAt.Equal(b.State.StartedAt) || after.Seq < before.Seq {
			t.Errorf("the next pilot tells change %d, run %s, %d restarts and %+v, want change %d or a later one, run %s, %d restarts and %+v",
				after.Seq, a.ContainerID, a.RestartCount, a.State, before.Seq, b.ContainerID, b.RestartCount, b.State)
		}
	})
}

// smallDisk is a directory with room for 256 KB.
func smallDisk(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("a disk of its own needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestRecovery_NewVersionStartsFromACleanSlate(t *testing.T) {
	spec := testSpec(t, "echo $HOSTNAME; exit 1")
	rt := newProcesses(t)
	sup, _ := run(t, spec, rt)
	await(t, sup, "the end", isEnded)
	spec.Version, spec.Containers[0].Args[2] = "02", "echo second; sleep 60"
	sup, _ = run(t, spec, rt)
	s := await(t, sup, "running", isRunning)
	if c := s.Containers[0]; s.Version != "02" || c.RestartCount != 0 || c.Last != nil {
		t.Errorf("status = %+v, want nothing of version 01", s)
	}
	if log := readLog(t, spec, gondola.LogOptions{Previous: true}); log != "h\n" {
		t.Errorf("log of the version before = %q, want it kept", log)
	}
}

func TestRecovery_NewVersionOfAPodGoesOnCounting(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	spec.RestartBackoff = "kubernetes"
	rt := newProcesses(t)
	sup, _ := run(t, spec, rt)
	await(t, sup, "running", isRunning)
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, sup, "the end", isEnded)
	spec.Version, spec.Containers[0].Image = "02", "test/program:2"
	sup, _ = run(t, spec, rt)
	s := await(t, sup, "running", isRunning)
	if c := s.Containers[0]; c.RestartCount != 1 || c.Last == nil || c.Last.ExitCode != 143 || c.Image != "test/program:2" {
		t.Errorf("container = %+v, want the run of version 01 counted and told", c)
	}
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	await(t, sup, "the end", isEnded)
	sup, _ = run(t, spec, rt)
	if c := await(t, sup, "running", isRunning).Containers[0]; c.RestartCount != 0 || c.Last != nil {
		t.Errorf("container = %+v after a stop and start of one version, want a clean slate", c)
	}
}

func TestRecovery_StartAfterAStopRunsAgain(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	rt := newProcesses(t)
	for range 2 {
		sup, _ := run(t, spec, rt)
		s := await(t, sup, "running", isRunning)
		if s.Containers[0].RestartCount != 0 {
			t.Errorf("restart count = %d after a stop and start, want 0", s.Containers[0].RestartCount)
		}
		if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
			t.Fatal(err)
		}
		await(t, sup, "the end", isEnded)
	}
}

func TestRecovery_StopGoesOnAfterThePilotDied(t *testing.T) {
	spec := testSpec(t, `trap '' TERM; echo up; while :; do sleep 0.05; done`)
	rt := newProcesses(t)
	sup, end := run(t, spec, rt)
	await(t, sup, "running", isRunning)
	awaitLine(t, spec, "up")
	timeout := gondola.Duration(500 * time.Millisecond)
	if err := sup.Stop(t.Context(), gondola.StopRequest{Timeout: &timeout}); err != nil {
		t.Fatal(err)
	}
	end()
	sup, _ = run(t, spec, rt)
	if s := await(t, sup, "the end", isEnded); s.Containers[0].State.ExitCode != 137 {
		t.Errorf("state = %+v, want 137", s.Containers[0].State)
	}
}

// slowBoot is a Runtime whose sandbox takes until released.
type slowBoot struct {
	*processes
	booting, release chan struct{}
}

func (s slowBoot) Boot(ctx context.Context, spec pilot.Spec) (bool, error) {
	close(s.booting)
	<-s.release
	return s.processes.Boot(ctx, spec)
}

func TestStop_WhileBootingIsKept(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	rt := slowBoot{newProcesses(t), make(chan struct{}), make(chan struct{})}
	sup, _ := run(t, spec, rt)
	<-rt.booting
	if err := sup.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	close(rt.release)
	if s := await(t, sup, "the end", isEnded); s.Containers[0].ContainerID != "" {
		t.Errorf("container = %+v, want it never started", s.Containers[0])
	}
}

func TestRecovery_RebootLeavesWhatHadEndedAsItWas(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	done := pilot.Container{Name: "done", Args: []string{"/bin/sh", "-c", "exit 0"}}
	done.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartOnFailure}
	spec.Containers = append(spec.Containers, done)
	rt := newProcesses(t)
	sup, end := run(t, spec, rt)
	await(t, sup, "both", func(s pilot.Status) bool {
		return isRunning(s) && s.Containers[1].State.Reason == "Completed"
	})
	end()
	rt.Destroy(t.Context(), spec) // the host is off
	os.RemoveAll(spec.RunDir)
	os.Mkdir(spec.RunDir, 0o700)
	sup, _ = run(t, spec, newProcesses(t))
	s := await(t, sup, "running", isRunning)
	if c := s.Containers[0]; c.RestartCount != 1 || c.Last == nil || c.Last.ExitCode != 137 || c.Last.Reason != "Error" {
		t.Errorf("main = %+v, want one restart after 137", c)
	}
	if c := s.Containers[1]; c.RestartCount != 0 || c.State.Reason != "Completed" || !strings.HasSuffix(c.ContainerID, "/0") {
		t.Errorf("done = %+v, want it left alone", c)
	}
}

// Of a Pod a container whose policy lets it not run again is not run again by a new sandbox either, and what waits for it never runs.
func TestRecovery_LossOfASandboxEndsWhatMayNotRunAgain(t *testing.T) {
	for lost, c := range map[string]struct {
		first string   // what the init container does
		want  []string // how all containers end
	}{
		"main":  {"exit 0", []string{"first exited Completed 0", "main exited Error 137", "other exited Error 137"}},
		"first": {"sleep 60", []string{"first exited Error 137", "main waiting PodInitializing 0", "other waiting PodInitializing 0"}},
	} {
		t.Run(lost, func(t *testing.T) {
			spec := testSpec(t, "sleep 60")
			spec.RestartBackoff = "kubernetes"
			first, main, other := spec.Containers[0], spec.Containers[0], spec.Containers[0]
			first.Name, first.Args = "first", []string{"/bin/sh", "-c", c.first}
			first.Config.Gondola = &gondola.ContainerExtension{Init: true}
			other.Name = "other"
			spec.Containers = []pilot.Container{first, main, other}
			rt := newProcesses(t)
			sup, end := run(t, spec, rt)
			await(t, sup, lost, func(s pilot.Status) bool {
				return slices.ContainsFunc(s.Containers, func(k gondola.ContainerStatus) bool {
					return k.Name == lost && k.State.Kind == gondola.ContainerRunning
				}) && (lost == "first" || s.Containers[2].State.Kind == gondola.ContainerRunning)
			})
			end()
			rt.Destroy(t.Context(), spec) // the host is off
			os.RemoveAll(spec.RunDir)
			os.Mkdir(spec.RunDir, 0o700)
			sup, _ = run(t, spec, newProcesses(t))
			s := await(t, sup, "the end", func(s pilot.Status) bool { return s.Phase == pilot.Ended })
			var got []string
			for _, k := range s.Containers {
				got = append(got, fmt.Sprintf("%s %s %s %d", k.Name, k.State.Kind, k.State.Reason, k.State.ExitCode))
				if k.RestartCount != 0 {
					t.Errorf("%s was restarted %d times", k.Name, k.RestartCount)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("the end is %q, want %q", got, c.want)
			}
		})
	}
}

// lateGone is a Runtime whose sandbox dies: its container's end is told first, that of the sandbox when gone is closed.
type lateGone struct {
	*processes
	killed, gone chan struct{}
}

func (l lateGone) Gone() <-chan struct{} { return l.gone }

func (l lateGone) Wait(ctx context.Context, _ string) (pilot.Exit, error) {
	select {
	case <-l.killed:
		return pilot.Exit{Code: 137, Signal: 9}, nil
	case <-ctx.Done():
		return pilot.Exit{}, ctx.Err()
	}
}

func TestRecovery_DeathOfASandboxIsOneRestartHoweverLateItIsTold(t *testing.T) {
	spec := testSpec(t, "sleep 60")
	spec.Containers[0].Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	rt := lateGone{newProcesses(t), make(chan struct{}), make(chan struct{})}
	sup, end := run(t, spec, rt)
	await(t, sup, "running", isRunning)
	close(rt.killed)
	time.AfterFunc(250*time.Millisecond, func() { close(rt.gone) })
	await(t, sup, "the loss", func(s pilot.Status) bool { return s.Phase == pilot.Lost })
	end()
	sup, _ = run(t, spec, newProcesses(t))
	s := await(t, sup, "running", isRunning)
	if c := s.Containers[0]; c.RestartCount != 1 || c.Last == nil || c.Last.ExitCode != 137 || c.Last.StartedAt.IsZero() {
		t.Errorf("container = %+v, want one restart after a run that ended with 137", c)
	}
}

func TestJournal_HoldsNoSecrets(t *testing.T) {
	spec := testSpec(t, `echo up; sleep 60`)
	spec.Containers[0].Config.Gondola = &gondola.ContainerExtension{Env: []gondola.EnvVar{{Name: "PW", Secret: true}}}
	spec.Volumes = []pilot.Volume{{Name: "v", Kind: pilot.VolumePayload}}
	if err := pilot.WritePayload(spec.RunDir, gondola.Payload{Env: map[string]map[string]string{"main": {"PW": "hunter2"}},
		Volumes:     map[string][]gondola.PayloadFile{"v": {{Path: "f", Data: []byte("hunter2")}}},
		Credentials: []gondola.RegistryCredential{{Password: "hunter2"}}}); err != nil {
		t.Fatal(err)
	}
	if err := pilot.WriteSpec(spec); err != nil {
		t.Fatal(err)
	}
	sup, _ := run(t, spec, newProcesses(t))
	await(t, sup, "running", isRunning)
	filepath.WalkDir(spec.Dir, func(path string, d os.DirEntry, err error) error {
		if data, err := os.ReadFile(path); err == nil && strings.Contains(string(data), "hunter2") {
			t.Errorf("%s holds a secret", path)
		}
		return err
	})
}
