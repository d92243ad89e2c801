package drivertest

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/pilot"
)

func exitCodeIsKept(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "print", "out", ";", "printerr", "err", ";", "exit", "3"))
	s := m.ended()
	got := status(s, "main")
	if got.State.Kind != gondola.ContainerExited || got.State.ExitCode != 3 || got.State.Reason != "Error" {
		t.Errorf("state = %+v, want an exit with 3 for Error", got.State)
	}
	if got.State.StartedAt.IsZero() || got.State.FinishedAt.Before(got.State.StartedAt) {
		t.Errorf("times = %v to %v", got.State.StartedAt, got.State.FinishedAt)
	}
	if alive, err := m.driver.Alive(t.Context(), m.spec); alive || err != nil {
		t.Errorf("Alive = %v, %v after the end, want false", alive, err)
	}
	if log := m.log(gondola.LogOptions{Container: "main", Stream: "stderr"}); log != "err\n" {
		t.Errorf("stderr = %q, want %q", log, "err\n")
	}
}

func startErrorIsTold(t *testing.T, f Fixture) {
	c := container("main")
	c.Args = []string{"/no/such/program"}
	s := launch(t, f, nil, c).ended()
	got := status(s, "main").State
	if got.Kind != gondola.ContainerExited || got.ExitCode == 0 || !strings.Contains(got.Message, "/no/such/program") {
		t.Errorf("state = %+v, want an exit whose message names /no/such/program", got)
	}
}

func seesEnvironment(t *testing.T, f Fixture) {
	c := container("main", "env", "A", "B", "C", "HOSTNAME", ";", "cwd", ";", "id", ";", "env", "$(A)")
	c.Env, c.WorkingDir, c.User = []string{"A=image", "C=kept"}, "/tmp", "1234:567"
	ext(&c).Expand = true
	ext(&c).Env = []gondola.EnvVar{{Name: "A", Value: "x"}, {Name: "B", Value: "$(A)-$$(A)-$(NONE)"}}
	spec := f.Spec(t, []pilot.Container{c}, nil)
	m := launchSpec(t, f, spec, nil)
	m.ended()
	want := "A=x\nB=x-$(A)-$(NONE)\nC=kept\nHOSTNAME=" + spec.Hostname + "\n/tmp\n1234:567"
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.HasPrefix(log, want) || !strings.HasSuffix(log, "x=(unset)\n") {
		t.Errorf("log = %q, want %q and x=(unset)", log, want)
	}
}

func filesAreThere(t *testing.T, f Fixture) {
	c := container("main", "read", "/etc/app/config")
	c.Config.Files = []gondola.File{{GuestPath: "/etc/app/config", RawValue: base64.StdEncoding.EncodeToString([]byte("hello file\n"))}}
	m := launch(t, f, nil, c)
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); log != "hello file\n" {
		t.Errorf("log = %q, want the file", log)
	}
}

func terminationMessage(t *testing.T, f Fixture) {
	c := container("main", "write", "/dev/termination-log", "farewell", ";", "exit", "1")
	s := launch(t, f, nil, c).ended()
	if got := status(s, "main").State; got.Message != "farewell" || got.ExitCode != 1 {
		t.Errorf("state = %+v, want the message farewell", got)
	}
}

func initContainer(name string, args ...string) pilot.Container {
	c := container(name, args...)
	ext(&c).Init = true
	return c
}

func initOrder(t *testing.T, f Fixture) {
	shared := []gondola.ContainerMount{{Name: "v", Path: "/v"}}
	a, b, c := initContainer("a", "sleep", "300ms", ";", "append", "/v/order", "a"), initContainer("b", "append", "/v/order", "b"), container("c", "read", "/v/order")
	for _, x := range []*pilot.Container{&a, &b, &c} {
		x.Config.Mounts = shared
	}
	b.Config.DependsOn = []gondola.Dependency{{Name: "a", Condition: gondola.DependsExited}}
	c.Config.DependsOn = []gondola.Dependency{{Name: "b", Condition: gondola.DependsExited}}
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}, a, b, c)
	s := m.ended()
	if log := m.log(gondola.LogOptions{Container: "c"}); log != "a\nb\n" {
		t.Errorf("order = %q, want a, b", log)
	}
	if got := status(s, "a"); !got.Ready || got.State.Reason != "Completed" {
		t.Errorf("init container = %+v, want ready and Completed", got)
	}
}

func failedInit(t *testing.T, f Fixture) {
	main := container("main", "run")
	main.Config.DependsOn = []gondola.Dependency{{Name: "a", Condition: gondola.DependsExited}}
	s := launch(t, f, nil, initContainer("a", "exit", "9"), main).ended()
	if got := status(s, "a").State; got.ExitCode != 9 {
		t.Errorf("init container = %+v, want code 9", got)
	}
	if got := status(s, "main"); got.State.Kind != gondola.ContainerWaiting || got.ContainerID != "" {
		t.Errorf("main = %+v, want that it never ran", got)
	}
}

func restartInPlace(t *testing.T, f Fixture) {
	failing := container("failing", "once", "/v/mark", "4", ";", "run")
	failing.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartOnFailure, MaxRetries: -1}
	failing.Config.Mounts = []gondola.ContainerMount{{Name: "v", Path: "/v"}}
	m := launch(t, f, []pilot.Volume{{Name: "v", Kind: pilot.VolumeDisk}}, container("calm", "run"), failing)
	s := m.await("a restart", func(s pilot.Status) bool {
		return status(s, "failing").RestartCount == 1 && status(s, "failing").State.Kind == gondola.ContainerRunning &&
			status(s, "calm").State.Kind == gondola.ContainerRunning
	})
	if last := status(s, "failing").Last; last == nil || last.ExitCode != 4 || last.Reason != "Error" {
		t.Errorf("last state = %+v, want code 4", last)
	}
	if calm := status(s, "calm"); calm.RestartCount != 0 || calm.State.Kind != gondola.ContainerRunning {
		t.Errorf("the other container = %+v, want it undisturbed", calm)
	}
}

func stopSignal(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "trap", ";", "exit", "5"))
	m.awaitLog("main", "ready")
	timeout := gondola.Duration(time.Hour)
	if err := m.api.Stop(t.Context(), gondola.StopRequest{Timeout: &timeout}); err != nil {
		t.Fatalf("Stop = %v", err)
	}
	s := m.ended() // without the grace period
	if got := status(s, "main").State; got.ExitCode != 5 {
		t.Errorf("state = %+v, want code 5", got)
	}
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.Contains(log, "got SIGTERM") {
		t.Errorf("log = %q, want SIGTERM", log)
	}
}

func stopKills(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "ignore"))
	m.awaitLog("main", "ready")
	timeout := gondola.Duration(time.Second)
	began := time.Now()
	if err := m.api.Stop(t.Context(), gondola.StopRequest{Signal: "SIGINT", Timeout: &timeout}); err != nil {
		t.Fatalf("Stop = %v", err)
	}
	s := m.ended()
	if took := time.Since(began); took < 900*time.Millisecond {
		t.Errorf("killed after %v, want a grace of 1 s", took)
	}
	if got := status(s, "main").State; got.ExitCode != 137 {
		t.Errorf("state = %+v, want code 137", got)
	}
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.Contains(log, "ignored SIGINT") {
		t.Errorf("log = %q, want SIGINT", log)
	}
}

func signalReaches(t *testing.T, f Fixture) {
	m := launch(t, f, nil, container("main", "trap"))
	m.awaitLog("main", "ready")
	if err := m.api.Signal(t.Context(), "main", "SIGUSR1"); err != nil {
		t.Fatalf("Signal = %v", err)
	}
	m.ended()
	if log := m.log(gondola.LogOptions{Container: "main"}); !strings.Contains(log, "got SIGUSR1") {
		t.Errorf("log = %q, want SIGUSR1", log)
	}
}

func memoryOverrun(t *testing.T, f Fixture) {
	greedy := container("greedy", "sleep", "200ms", ";", "alloc", "150000000", ";", "run")
	ext(&greedy).Limits = &gondola.Resources{MemoryBytes: 64 << 20}
	m := launch(t, f, nil, greedy, container("calm", "run"))
	s := m.await("the overrun", func(s pilot.Status) bool { return status(s, "greedy").State.Kind == gondola.ContainerExited })
	if got := status(s, "greedy").State; got.Reason != "OOMKilled" || got.ExitCode != 137 {
		t.Errorf("state = %+v, want OOMKilled with 137", got)
	}
	if calm := status(s, "calm").State; calm.Kind != gondola.ContainerRunning {
		t.Errorf("the other container = %+v, want it running", calm)
	}
}

func sandboxOverrun(t *testing.T, f Fixture) {
	spec := f.Spec(t, []pilot.Container{container("main", "sleep", "300ms", ";", "alloc", "400000000", ";", "run")}, nil)
	spec.Limits.MemoryBytes = 128 << 20
	m := launchSpec(t, f, spec, nil)
	s := m.await("the overrun", func(s pilot.Status) bool {
		return s.Phase.Final() || status(s, "main").State.Kind == gondola.ContainerExited
	})
	if s.Phase == pilot.Lost { // the whole sandbox went: the next pilot tells
		m.relaunch()
		s = m.await("the story", func(s pilot.Status) bool { return status(s, "main").Last != nil })
		if last := status(s, "main").Last; last.Reason != "OOMKilled" || last.ExitCode != 137 {
			t.Errorf("last state = %+v, want OOMKilled with 137", last)
		}
		return
	}
	if got := status(s, "main").State; got.Reason != "OOMKilled" {
		t.Errorf("state = %+v, want OOMKilled", got)
	}
}

func ownSysctl(t *testing.T, f Fixture) {
	c := container("main", "read", "/proc/sys/net/ipv4/ip_local_port_range", ";", "read", "/proc/sys/kernel/shmmni", ";", "run")
	ext(&c).Security = &gondola.Security{Sysctls: map[string]string{"net.ipv4.ip_local_port_range": "2000 3000", "kernel.shmmni": "123"}}
	m := launch(t, f, nil, c)
	if log := m.awaitLog("main", "running"); log != "2000\t3000\n123\nrunning\n" {
		t.Errorf("log = %q, want the settings that were asked for", log)
	}
	bad := container("main", "run")
	ext(&bad).Security = &gondola.Security{Sysctls: map[string]string{"vm.swappiness": "1"}}
	s := launch(t, f, nil, bad).ended()
	if got := status(s, "main").State; !strings.Contains(got.Message, "vm.swappiness") {
		t.Errorf("state = %+v, want that vm.swappiness is refused by name", got)
	}
}
