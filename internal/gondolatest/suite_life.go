package gondolatest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gondola"
)

// lifeContracts are what the public API's documentation says of a Machine's life beside its states: events, restarts, processes, checks, sizes.
var lifeContracts = []contract{
	{"EventsTellTheLife", (*suite).eventsOfALife},
	{"ExitEventTellsHow", (*suite).exitEvents},
	{"OutOfMemoryIsToldAsSuch", (*suite).outOfMemory},
	{"RestartPolicies", (*suite).restartPolicies},
	{"WaitFromEvent", (*suite).waitFromEvent},
	{"WaitRefusesWhatCannotBe", (*suite).waitRefuses},
	{"UpdateKeepsWhatItIsTold", (*suite).updateKeepsState},
	{"StopConfig", (*suite).stopConfig},
	{"Init", (*suite).initOfAMachine},
	{"Environment", (*suite).environment},
	{"FilesAreWritten", (*suite).files},
	{"FilesOfImageConfigs", (*suite).imageConfigs},
	{"RootfsPersists", (*suite).rootfsPersists},
	{"RootfsEndsWithItsTime", (*suite).rootfsEnds},
	{"SeveralProcesses", (*suite).severalProcesses},
	{"ContainersInOrder", (*suite).containersInOrder},
	{"Checks", (*suite).checks},
	{"ChecksOfServices", (*suite).serviceChecks},
	{"GuestSizes", (*suite).guestSizes},
	{"RefusedByName", (*suite).refusedByName},
	{"ScheduleIsChecked", (*suite).scheduleIsChecked},
}

// line is an Event in one word.
func line(e gondola.Event) string { return e.Type + "/" + e.Status + "/" + e.Source }

func (s *suite) eventsOfALife() {
	m := s.create(gondola.CreateRequest{Config: config("run")})
	ref := m.Ref()
	s.await(ref, gondola.Started)
	s.no(s.p.Restart(s.Context(), ref, gondola.RestartRequest{ForceStop: true}), "Restart")
	s.eventually("it runs again", func() bool { v := s.get(ref); return v.State == gondola.Started && len(v.Events) == 7 })
	s.no(s.p.Cordon(s.Context(), ref), "Cordon")
	s.no(s.p.Uncordon(s.Context(), ref), "Uncordon")
	s.no(s.p.Stop(s.Context(), ref, gondola.StopRequest{Signal: "SIGKILL"}), "Stop")
	s.await(ref, gondola.Stopped)
	_, err := s.p.Start(s.Context(), ref)
	s.no(err, "Start")
	s.await(ref, gondola.Started)
	v, err := s.p.Update(s.Context(), ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config("run")}})
	s.no(err, "Update")
	_, err = s.p.Wait(s.Context(), ref, gondola.WaitRequest{Version: v.Version, Timeout: patience})
	s.no(err, "Wait")
	s.no(s.p.Destroy(s.Context(), ref, true), "Destroy")
	s.await(ref, gondola.Destroyed)
	events, err := s.p.Events(s.Context(), ref, 0)
	s.no(err, "Events")
	want := []string{
		"launch/pending/flyd", "launch/created/user", "start/started/flyd",
		"restart/stopping/user", "exit/stopped/flyd", "restart/starting/flyd", "start/started/flyd",
		"cordon/started/user", "uncordon/started/user",
		"stop/stopping/user", "exit/stopped/flyd",
		"start/starting/user", "start/started/flyd",
		"update/replacing/user", "exit/stopped/flyd", "update/starting/flyd", "start/started/flyd",
		"destroy/destroying/user", "destroy/destroyed/flyd",
	}
	var got []string
	for _, e := range slices.Backward(events) {
		got = append(got, line(e))
		if at := time.UnixMilli(e.Timestamp); len(e.ID) != 26 || at.Before(m.CreatedAt.Add(-time.Second)) || time.Until(at) > time.Minute {
			s.Errorf("event %+v: want a ULID and milliseconds", e)
		}
	}
	if !slices.Equal(got, want) {
		s.Errorf("events of a life:\n got %s\nwant %s", strings.Join(got, " "), strings.Join(want, " "))
	}
	if !slices.IsSortedFunc(events, func(a, b gondola.Event) int { return strings.Compare(b.ID, a.ID) }) {
		s.Errorf("ids do not fall from the newest to the oldest: %+v", events)
	}
}

// exits returns the exit events of a Machine, newest first.
func (s *suite) exits(ref gondola.Ref) (exits []gondola.ExitEvent) {
	s.Helper()
	for _, e := range s.get(ref).Events {
		if e.Type != "exit" {
			continue
		}
		var raw struct {
			ExitEvent struct {
				ExitedAt string `json:"exited_at"`
			} `json:"exit_event"`
		}
		var x gondola.ExitEvent
		if err := errors.Join(json.Unmarshal(e.Request, &raw), json.Unmarshal(e.Request, &x)); err != nil {
			s.Fatalf("request %s of an exit: %v", e.Request, err)
		}
		if at, err := time.Parse(time.RFC3339, raw.ExitEvent.ExitedAt); err != nil || time.Since(at) > time.Hour {
			s.Errorf("exited_at = %q, want RFC 3339", raw.ExitEvent.ExitedAt)
		}
		exits = append(exits, x)
	}
	return exits
}

func (s *suite) exitEvents() {
	last := func(c gondola.Config, act func(ref gondola.Ref)) gondola.ExitEvent {
		s.Helper()
		m := s.create(gondola.CreateRequest{Config: c})
		if act != nil {
			s.await(m.Ref(), gondola.Started)
			s.hasLog(m.Ref(), "ready\n")
			act(m.Ref())
		}
		s.await(m.Ref(), gondola.Stopped)
		exits := s.exits(m.Ref())
		if len(exits) == 0 {
			s.Fatalf("no exit event")
		}
		return exits[0]
	}
	same := func(what string, got gondola.ExitEvent, want gondola.ExitDetails, restarts int) {
		s.Helper()
		want.ExitedAt = got.ExitEvent.ExitedAt
		if got.ExitEvent != want || got.RestartCount != restarts {
			s.Errorf("%s: exit event = %+v, want %+v and %d restarts", what, got, want, restarts)
		}
	}
	same("it ends", last(config("exit", "3"), nil), gondola.ExitDetails{ExitCode: 3, GuestExitCode: 3, GuestSignal: -1, Signal: -1}, 0)
	same("a signal ends it", last(config("ignore"), func(ref gondola.Ref) { s.no(s.p.Signal(s.Context(), ref, "SIGKILL"), "Signal") }),
		gondola.ExitDetails{ExitCode: 137, GuestExitCode: 137, GuestSignal: 9, Signal: 9}, 0)
	same("it is stopped", last(config("trap", ";", "exit", "5"), func(ref gondola.Ref) { s.no(s.p.Stop(s.Context(), ref, gondola.StopRequest{}), "Stop") }),
		gondola.ExitDetails{ExitCode: 5, GuestExitCode: 5, GuestSignal: -1, Signal: -1, RequestedStop: true}, 0)
	retries := config("exit", "4")
	retries.Restart = &gondola.RestartPolicy{Policy: gondola.RestartOnFailure, MaxRetries: 1}
	same("it fails twice", last(retries, nil), gondola.ExitDetails{ExitCode: 4, GuestExitCode: 4, GuestSignal: -1, Signal: -1}, 1)
}

func (s *suite) outOfMemory() {
	m := s.create(gondola.CreateRequest{Config: config("alloc", fmt.Sprint(300<<20), ";", "trap")})
	s.await(m.Ref(), gondola.Stopped)
	if exits := s.exits(m.Ref()); len(exits) == 0 || !exits[0].ExitEvent.OOMKilled || exits[0].ExitEvent.ExitCode != 137 {
		s.Errorf("exit events = %+v, want oom_killed and 137", exits)
	}
}

func (s *suite) restartPolicies() {
	with := func(policy string, retries int, command ...string) gondola.Machine {
		c := config(command...)
		c.Restart = &gondola.RestartPolicy{Policy: policy, MaxRetries: retries}
		return s.create(gondola.CreateRequest{Config: c})
	}
	count := func(m gondola.Machine) int { return s.get(m.Ref()).Gondola.Containers[0].RestartCount }
	never, clean := with(gondola.RestartNo, 0, "exit", "1"), with("", 0, "exit", "0")
	twice := with(gondola.RestartOnFailure, 2, "exit", "1")
	always := with(gondola.RestartAlways, 0, "exit", "0")
	for m, want := range map[*gondola.Machine]int{&never: 0, &clean: 0, &twice: 2} {
		s.await(m.Ref(), gondola.Stopped)
		if got := count(*m); got != want {
			s.Errorf("policy %+v: %d restarts, want %d", m.Config.Restart, got, want)
		}
	}
	s.eventually("policy always restarts what has ended well", func() bool {
		return s.get(always.Ref()).State == gondola.Started && count(always) > 0
	})
	s.no(s.p.Stop(s.Context(), always.Ref(), gondola.StopRequest{}), "Stop")
	s.await(always.Ref(), gondola.Stopped)
	if v, err := s.p.Wait(s.Context(), always.Ref(), gondola.WaitRequest{Timeout: 200 * time.Millisecond}); err == nil {
		s.Errorf("a machine that was stopped is %s again: policy always does not count then", v.State)
	}
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Restart: &gondola.RestartPolicy{Policy: "spot-price"}}})
	s.wants(err, gondola.ErrInvalid, "Create with an unknown restart policy")
}

func (s *suite) waitFromEvent() {
	m := s.create(gondola.CreateRequest{Config: config("sleep", "300ms"), SkipLaunch: true})
	from := m.Events[0].ID
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	s.await(m.Ref(), gondola.Stopped)
	// It has been started, and has ended, since that event.
	res, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{FromEventID: from, Timeout: time.Second})
	if err != nil || res.State != gondola.Started || res.EventID <= from {
		s.Errorf("Wait for started from before the start = %+v, %v", res, err)
	}
	now := s.get(m.Ref()).Events[0].ID
	_, err = s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{FromEventID: now, States: []gondola.State{gondola.Started, gondola.Stopped}, Timeout: 100 * time.Millisecond})
	s.wants(err, gondola.ErrDeadline, "Wait for what has been before that event")
	// A program that is started again has not stopped its Machine.
	again := s.started(config())
	from = again.Events[0].ID
	s.no(s.p.Restart(s.Context(), again.Ref(), gondola.RestartRequest{ForceStop: true}), "Restart")
	_, err = s.p.Wait(s.Context(), again.Ref(), gondola.WaitRequest{FromEventID: from, Timeout: patience})
	s.no(err, "Wait for the restart")
	s.eventually("it runs again", func() bool { return s.get(again.Ref()).State == gondola.Started })
	_, err = s.p.Wait(s.Context(), again.Ref(), gondola.WaitRequest{FromEventID: from, States: []gondola.State{gondola.Stopped}, Timeout: 100 * time.Millisecond})
	s.wants(err, gondola.ErrDeadline, "Wait for stopped after a restart")
}

func (s *suite) waitRefuses() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	_, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Version: gondola.NewVersion(time.Now()), Timeout: time.Second})
	s.wants(err, gondola.ErrNotFound, "Wait for a version that never was")
	s.no(s.p.Destroy(s.Context(), m.Ref(), false), "Destroy")
	s.await(m.Ref(), gondola.Destroyed)
	if _, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Timeout: patience}); err == nil || !strings.HasSuffix(err.Error(), "currently destroyed") {
		s.Errorf("Wait for a destroyed machine to start = %v, want an error at once that says so", err)
	}
}

func (s *suite) updateKeepsState() {
	created := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	keep := gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config("run"), SkipLaunch: true}}
	for _, c := range []struct {
		m    gondola.Machine
		want gondola.State
	}{{created, gondola.Created}, {s.started(config()), gondola.Stopped}} {
		_, err := s.p.Update(s.Context(), c.m.Ref(), keep)
		s.no(err, "Update")
		got := s.await(c.m.Ref(), c.want)
		if line(got.Events[0]) != "update/"+string(c.want)+"/flyd" || got.Version == c.m.Version {
			s.Errorf("after an update of a %s machine that does not launch: %s, version %s", c.m.State, line(got.Events[0]), got.Version)
		}
	}
}

func (s *suite) stopConfig() {
	c := config("trap")
	sig, timeout := gondola.Signal("SIGUSR2"), gondola.Duration(20*time.Second)
	c.StopConfig = &gondola.StopConfig{Signal: &sig, Timeout: &timeout}
	m := s.started(c)
	s.hasLog(m.Ref(), "ready\n")
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	s.hasLog(m.Ref(), "ready\ngot SIGUSR2\n")
	c = config("ignore")
	timeout = gondola.Duration(300 * time.Millisecond)
	c.StopConfig = &gondola.StopConfig{Timeout: &timeout}
	m = s.started(c)
	s.hasLog(m.Ref(), "ready\n")
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	s.hasLog(m.Ref(), "ready\nignored SIGINT\n") // a Machine's own signal is SIGINT
	if x := s.exits(m.Ref())[0].ExitEvent; x.Signal != 9 || !x.RequestedStop {
		s.Errorf("exit of what did not listen = %+v, want signal 9", x)
	}
}

func (s *suite) initOfAMachine() {
	for want, in := range map[string]gondola.Init{
		"by cmd\n":        {Cmd: []string{"print", "by cmd"}},
		"by entrypoint\n": {Entrypoint: []string{"/program", "print"}, Cmd: []string{"by entrypoint"}},
		"by exec\n":       {Exec: []string{"/program", "print", "by exec"}, Cmd: []string{"ignored"}},
	} {
		m := s.create(gondola.CreateRequest{Config: gondola.Config{Image: "test/app", Init: in}})
		s.await(m.Ref(), gondola.Stopped)
		s.hasLog(m.Ref(), want)
	}
	tty := config("size")
	tty.Init.TTY = true
	m := s.started(tty)
	s.eventually("it has a terminal", func() bool { return strings.HasPrefix(s.readLog(m.Ref(), gondola.LogOptions{}), "80x24") })
}

func (s *suite) environment() {
	names := []string{"FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_ALLOC_ID", "FLY_REGION", "FLY_IMAGE_REF", "FLY_MACHINE_VERSION", "FLY_PRIVATE_IP", "FLY_PROCESS_GROUP",
		"FLY_VM_MEMORY_MB", "PRIMARY_REGION", "OWN"}
	c := config(append([]string{"env"}, names...)...)
	c.Env = map[string]string{"OWN": "1", "PRIMARY_REGION": "fra"}
	c.Metadata = map[string]string{"fly_process_group": "web"}
	m := s.create(gondola.CreateRequest{Config: c})
	m = s.await(m.Ref(), gondola.Stopped)
	values := []string{string(suiteApp), string(m.ID), string(m.ID), string(m.Region), "test/app", string(m.Version), m.PrivateIP, "web", "256", "fra", "1"}
	want := ""
	for i, n := range names {
		want += n + "=" + values[i] + "\n"
	}
	s.hasLog(m.Ref(), want)
}

func (s *suite) severalProcesses() {
	c := config()
	c.Env = map[string]string{"ALL": "a"}
	c.Processes = []gondola.Process{
		{Cmd: []string{"env", "ALL", "ONE", ";", "id", ";", "trap"}, Env: map[string]string{"ONE": "1"}, User: "1001:1002"},
		{Exec: []string{"/program", "env", "ALL", "ONE", "WHERE", ";", "trap"}, EnvFrom: []gondola.EnvFrom{{EnvVar: "WHERE", FieldRef: "region"}}},
	}
	m := s.started(c)
	for name, want := range map[string]string{"process-1": "ALL=a\nONE=1\n1001:1002 ", "process-2": "ALL=a\nONE=(unset)\nWHERE=" + string(m.Region) + "\nready\n"} {
		s.eventually(name+" says "+want, func() bool { return strings.HasPrefix(s.readLog(m.Ref(), gondola.LogOptions{Container: name}), want) })
	}
	s.eventually("the Machine tells a container for each process", func() bool {
		all := s.get(m.Ref()).Containers
		return len(all) == 2 && all[0].Name == "process-1" && all[0].State == "running" && all[1].State == "running"
	})
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	c.Containers = []gondola.Container{{Name: "x", Image: "test/app"}}
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
	s.wants(err, gondola.ErrInvalid, "Create with processes and containers")
}

func (s *suite) containersInOrder() {
	k := func(name string, command ...string) gondola.Container {
		return gondola.Container{Name: name, Image: "test/app", Cmd: command}
	}
	web, late := k("web", "http", "8080", "/tmp/sick"), k("late", "run")
	web.Healthchecks = []gondola.Healthcheck{{Name: "up", Interval: 1, FailureThreshold: 1, HTTP: &gondola.HTTPProbe{Port: 8080}}}
	web.DependsOn = []gondola.Dependency{{Name: "setup", Condition: gondola.DependsExited}}
	late.DependsOn = []gondola.Dependency{{Name: "web", Condition: gondola.DependsHealthy}}
	setup := k("setup", "await", "/tmp/go")
	m := s.started(gondola.Config{Image: "test/app", Containers: []gondola.Container{late, web, setup}})
	kinds := func() string {
		out := ""
		for _, c := range s.get(m.Ref()).Gondola.Containers {
			out += c.Name + " " + string(c.State.Kind) + ", "
		}
		return out
	}
	if got, want := kinds(), "late waiting, web waiting, setup running, "; got != want {
		s.Errorf("while setup runs: %s, want %s", got, want)
	}
	_, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Container: "setup", Command: []string{"/program", "write", "/tmp/go", "x"}})
	s.no(err, "Exec")
	s.eventually("all are up in their order", func() bool { return kinds() == "late running, web running, setup exited, " })
	_, err = s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: gondola.Config{Containers: []gondola.Container{
		{Name: "a", Image: "test/app", DependsOn: []gondola.Dependency{{Name: "b"}}}, {Name: "b", Image: "test/app", DependsOn: []gondola.Dependency{{Name: "a"}}}}}})
	s.wants(err, gondola.ErrInvalid, "Create of containers that wait for each other")
}

// second is the shortest interval of a check.
var second = gondola.Duration(time.Second)

// hasChecks waits until the checks are "name status, …".
func (s *suite) hasChecks(ref gondola.Ref, want string) (checks []gondola.CheckStatus) {
	s.Helper()
	s.eventually("checks are "+want, func() bool {
		checks = s.get(ref).Checks
		got := ""
		for _, c := range checks {
			got += c.Name + " " + c.Status + ", "
		}
		return got == want
	})
	return checks
}

func (s *suite) checks() {
	c := config("http", "8080", "/tmp/sick")
	c.Checks = map[string]gondola.Check{
		"web":    {Type: "http", Port: 8080, Interval: &second, Path: "/health", Method: "HEAD", Headers: []gondola.HTTPHeader{{Name: "X", Values: []string{"1"}}}},
		"port":   {Type: "tcp", Port: 8080, Interval: &second, Kind: "readiness"},
		"closed": {Type: "tcp", Port: 9, Interval: &second},
	}
	m := s.create(gondola.CreateRequest{Config: c, SkipLaunch: true})
	s.hasChecks(m.Ref(), "closed warning, port warning, web warning, ")
	_, err := s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	checks := s.hasChecks(m.Ref(), "closed critical, port passing, web passing, ")
	if !strings.Contains(checks[0].Output, "refused") && !strings.Contains(checks[0].Output, "waiting") || !strings.Contains(checks[2].Output, "200 OK") || checks[2].UpdatedAt.IsZero() {
		s.Errorf("checks = %+v, want outputs that say why", checks)
	}
	if v := s.get(m.Ref()); !v.TakesTraffic() {
		s.Errorf("a check that is informational keeps traffic away: %+v", v.Checks)
	}
	_, err = s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "write", "/tmp/sick", "x"}})
	s.no(err, "Exec")
	checks = s.hasChecks(m.Ref(), "closed critical, port passing, web critical, ")
	if !strings.Contains(checks[2].Output, "500") {
		s.Errorf("output of a failed check = %q", checks[2].Output)
	}
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{Signal: "SIGKILL"}), "Stop")
	s.await(m.Ref(), gondola.Stopped)
	s.hasChecks(m.Ref(), "closed warning, port warning, web warning, ")
	negative, short := gondola.Duration(-time.Second), gondola.Duration(15)
	for what, k := range map[string]gondola.Check{"an unknown type": {Type: "udp", Port: 80}, "no port": {Type: "tcp"}, "port 70000": {Type: "tcp", Port: 70000},
		"an interval of 15 ns": {Type: "tcp", Port: 80, Interval: &short}, "a negative timeout": {Type: "tcp", Port: 80, Timeout: &negative},
		"an unknown kind": {Type: "tcp", Port: 80, Kind: "vital"}, "a relative path": {Type: "http", Port: 80, Path: "x"}} {
		c.Checks = map[string]gondola.Check{"bad": k}
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
		s.wants(err, gondola.ErrInvalid, "Create with a check that has "+what)
	}
}

func (s *suite) serviceChecks() {
	c := config("await", "/tmp/go", ";", "http", "8080")
	grace := gondola.Duration(10 * time.Minute)
	c.Services = []gondola.Service{{Protocol: "tcp", InternalPort: 8080, Checks: []gondola.Check{{Type: "tcp", Interval: &second}, {Type: "http", Interval: &second, GracePeriod: &grace}}}}
	m := s.started(c)
	checks := s.hasChecks(m.Ref(), "servicecheck-00-tcp-8080 critical, servicecheck-01-http-8080 critical, ")
	if v := s.get(m.Ref()); v.TakesTraffic() {
		s.Error("a machine takes traffic before the checks of its service have passed")
	}
	s.eventually("the first check has failed", func() bool { return strings.Contains(s.get(m.Ref()).Checks[0].Output, "refused") })
	if got := s.get(m.Ref()).Checks[1].Output; got != checks[1].Output {
		s.Errorf("within its grace period a check tells %q", got)
	}
	_, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "write", "/tmp/go", "x"}})
	s.no(err, "Exec")
	s.hasChecks(m.Ref(), "servicecheck-00-tcp-8080 passing, servicecheck-01-http-8080 passing, ")
	if v := s.get(m.Ref()); !v.TakesTraffic() {
		s.Errorf("a machine whose checks pass takes no traffic: %+v", v.Checks)
	}
}

func (s *suite) guestSizes() {
	for _, c := range []struct {
		guest gondola.Guest
		says  string // the refusal; empty: none
	}{
		{gondola.Guest{CPUKind: "shared", CPUs: 2, MemoryMB: 512}, ""},
		{gondola.Guest{CPUs: 8, MemoryMB: 2304}, ""},
		{gondola.Guest{CPUKind: "performance", CPUs: 1}, ""},
		{gondola.Guest{CPUKind: "quantum", CPUs: 1, MemoryMB: 256}, "config.guest.cpu_kind"},
		{gondola.Guest{CPUs: 3, MemoryMB: 768}, "1 2 4 6 8"},
		{gondola.Guest{CPUs: 1, MemoryMB: 128}, "256 to 2048 in steps of 256"},
		{gondola.Guest{CPUs: 1, MemoryMB: 4096}, "256 to 2048 in steps of 256"},
		{gondola.Guest{CPUs: 1, MemoryMB: 300}, "256 to 2048 in steps of 256"},
		{gondola.Guest{CPUKind: "performance", CPUs: 2, MemoryMB: 1024}, "4096 to 16384 in steps of 2048"},
		{gondola.Guest{CPUKind: "performance", CPUs: 18, MemoryMB: 36864}, "10 12 14 16"},
	} {
		cfg := config()
		cfg.Guest = &c.guest
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: cfg, SkipLaunch: true})
		switch {
		case c.says == "" && err != nil:
			s.Errorf("Create of %+v = %v", c.guest, err)
		case c.says != "" && (!errors.Is(err, gondola.ErrInvalid) || !strings.Contains(err.Error(), c.says)):
			s.Errorf("Create of %+v = %v, want invalid and %q", c.guest, err, c.says)
		}
	}
	cfg := config()
	cfg.Size = "a10"
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: cfg})
	s.wants(err, gondola.ErrInvalid, "Create of size a10")
}

func (s *suite) refusedByName() {
	for field, change := range map[string]func(c *gondola.Config){
		"init.swap_size_mb":            func(c *gondola.Config) { c.Init.SwapSizeMB = 512 },
		"init.kernel_args":             func(c *gondola.Config) { c.Init.KernelArgs = []string{"quiet"} },
		"cache_drive":                  func(c *gondola.Config) { c.CacheDrive = &gondola.CacheDrive{SizeMB: 1} },
		"spot":                         func(c *gondola.Config) { c.Spot = &gondola.Spot{MaxPriceFraction: 0.5} },
		"standbys":                     func(c *gondola.Config) { c.Standbys = []string{"00000000000000"} },
		"rootfs.size_gb":               func(c *gondola.Config) { c.Rootfs = &gondola.Rootfs{SizeGB: 10} },
		"guest.gpus":                   func(c *gondola.Config) { c.Guest = &gondola.Guest{CPUKind: "performance", CPUs: 8, GPUs: 1} },
		"guest.kernel_args":            func(c *gondola.Config) { c.Guest = &gondola.Guest{KernelArgs: []string{"quiet"}} },
		"guest.host_dedication_id":     func(c *gondola.Config) { c.Guest = &gondola.Guest{HostDedicationID: "mine"} },
		"guest.required_host_features": func(c *gondola.Config) { c.Guest = &gondola.Guest{RequiredHostFeatures: []string{"avx"}} },
		"guest.max_memory_mb":          func(c *gondola.Config) { c.Guest = &gondola.Guest{CPUs: 1, MemoryMB: 256, MaxMemoryMB: 512} },
	} {
		c := config()
		change(&c)
		_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c, SkipLaunch: true})
		if !errors.Is(err, gondola.ErrUnsupported) || !strings.Contains(err.Error(), "config."+field) {
			s.Errorf("Create with %s = %v, want unsupported by that name", field, err)
		}
	}
	// What says that nothing is wanted is no reason to refuse.
	c := config()
	c.Rootfs, c.Guest = &gondola.Rootfs{Persist: "never"}, &gondola.Guest{CPUs: 1, MemoryMB: 256, PersistRootfs: 0}
	s.create(gondola.CreateRequest{Config: c, SkipLaunch: true})
}

func (s *suite) scheduleIsChecked() {
	c := config("exit", "0")
	c.Schedule = "sometimes"
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
	s.wants(err, gondola.ErrInvalid, "Create with an unknown schedule")
	c.Schedule = "hourly"
	c.Restart = &gondola.RestartPolicy{Policy: gondola.RestartAlways}
	m := s.create(gondola.CreateRequest{Config: c})
	if m = s.await(m.Ref(), gondola.Stopped); m.Config.Schedule != "hourly" { // policy always counts as on-failure: it has to end
		s.Errorf("schedule = %q", m.Config.Schedule)
	}
	long := gondola.Duration(301 * time.Second)
	c.StopConfig = &gondola.StopConfig{Timeout: &long}
	_, err = s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: c})
	s.wants(err, gondola.ErrInvalid, "Create with a stop timeout of 301 s")
}
