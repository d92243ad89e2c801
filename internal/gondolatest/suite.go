package gondolatest

import (
	"context"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"gondola"
)

// patience bounds every wait of the suite; only a test that fails needs it.
const patience = 20 * time.Second

// Machines is the contract suite of gondola.Machines and of the contracts beside it (Bidder, Watcher, Logs, Streams, Files, Services, Images).
// A worker, a market and a client pass it alike. open returns a platform of one worker with 8 CPUs and 16 GB on driver/fake and no Machines;
// where it keeps Apps, the suite makes the one it uses.
func Machines(t *testing.T, open func(t *testing.T) gondola.Platform) {
	for _, c := range append([]contract{
		{"CreateLaunches", (*suite).createLaunches},
		{"CreateAgainIsTheSameMachine", (*suite).createAgain},
		{"CreateRefusesWhatCannotBe", (*suite).createRefuses},
		{"CreateFailsFastWithoutCapacity", (*suite).createCapacity},
		{"SkipLaunchThenStart", (*suite).skipLaunch},
		{"StopAndStart", (*suite).stopAndStart},
		{"SuspendAndStart", (*suite).suspendAndStart},
		{"SuspendRefuses", (*suite).suspendRefuses},
		{"SuspendDiscarded", (*suite).suspendDiscarded},
		{"SuspendAndNoRoom", (*suite).suspendAndNoRoom},
		{"Restart", (*suite).restart},
		{"Signal", (*suite).signal},
		{"DestroyWantsForce", (*suite).destroy},
		{"EndsByItself", (*suite).endsByItself},
		{"List", (*suite).list},
		{"Wait", (*suite).wait},
		{"Update", (*suite).update},
		{"Metadata", (*suite).metadata},
		{"Leases", (*suite).leases},
		{"LeaseEnds", (*suite).leaseEnds},
		{"LeasedFromBirth", (*suite).leasedFromBirth},
		{"Cordon", (*suite).cordon},
		{"Versions", (*suite).versions},
		{"NetworkPolicies", (*suite).networkPolicies},
		{"Secrets", (*suite).secrets},
		{"SecretsOfMachines", (*suite).secretsOfMachines},
		{"SecretsOfContainers", (*suite).secretsOfContainers},
		{"SecretsFromTheServer", (*suite).putSecrets},
		{"Exec", (*suite).exec},
		{"Processes", (*suite).processes},
		{"UnknownMachineIsNotFound", (*suite).unknown},
		{"ContextIsADeadline", (*suite).deadline},
		{"Ask", (*suite).ask},
		{"Watch", (*suite).watch},
		{"WatchFilters", (*suite).watchFilters},
		{"Logs", (*suite).logs},
		{"ExecStream", (*suite).execStream},
		{"ExecStreamEndsWithItsContext", (*suite).execStreamEnds},
		{"Attach", (*suite).attach},
		{"Dial", (*suite).dial},
		{"PayloadIsRefreshed", (*suite).payload},
		{"ContainerIsAdded", (*suite).addContainer},
		{"Resize", (*suite).resize},
		{"ServicesAndImages", (*suite).servicesAndImages},
		{"Stats", (*suite).stats},
		{"RaceForALease", (*suite).raceForLease},
		{"RaceForAVersion", (*suite).raceForVersion},
		{"RaceForAVolume", (*suite).raceForVolume},
		{"RaceForTheLastCPUs", (*suite).raceForCPU},
	}, lifeContracts...) {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each has a platform of its own
			c.run(newSuite(t, open))
		})
	}
	runVolumes(t, open)
}

// contract is one part of the suite.
type contract struct {
	name string
	run  func(s *suite)
}

func newSuite(t *testing.T, open func(t *testing.T) gondola.Platform) *suite {
	s := &suite{T: t, p: open(t)}
	if apps, ok := s.p.(gondola.Apps); ok {
		if _, err := apps.CreateApp(t.Context(), gondola.NewApp{Name: suiteApp}); err != nil {
			t.Fatalf("CreateApp = %v", err)
		}
	}
	return s
}

const suiteApp gondola.AppName = "suite"

// suite is one test of the contract.
type suite struct {
	*testing.T
	p gondola.Platform
}

// config is a Machine that runs the given command of package program; none: it runs until it is stopped.
func config(command ...string) gondola.Config {
	if len(command) == 0 {
		command = []string{"trap"}
	}
	return gondola.Config{Image: "test/app", Init: gondola.Init{Cmd: command}, Restart: &gondola.RestartPolicy{Policy: gondola.RestartNo}}
}

func (s *suite) create(req gondola.CreateRequest) gondola.Machine {
	s.Helper()
	m, err := s.p.Create(s.Context(), suiteApp, req)
	if err != nil {
		s.Fatalf("Create = %v", err)
	}
	return m
}

// started creates a Machine and waits until it runs.
func (s *suite) started(c gondola.Config) gondola.Machine {
	s.Helper()
	m := s.create(gondola.CreateRequest{Config: c})
	return s.await(m.Ref(), gondola.Started)
}

// allStarted is started for a Machine of several containers, which is started with the first of them.
func (s *suite) allStarted(c gondola.Config) gondola.Machine {
	s.Helper()
	m := s.started(c)
	s.eventually("all containers run", func() bool {
		m = s.get(m.Ref())
		return !slices.ContainsFunc(m.Gondola.Containers, func(c gondola.ContainerStatus) bool { return c.State.Kind != gondola.ContainerRunning })
	})
	return m
}

func (s *suite) await(ref gondola.Ref, states ...gondola.State) gondola.Machine {
	s.Helper()
	if _, err := s.p.Wait(s.Context(), ref, gondola.WaitRequest{States: states, Timeout: patience}); err != nil {
		m, _ := s.p.Get(s.Context(), ref)
		s.Fatalf("Wait for %v = %v; the machine: %+v", states, err, m.Gondola)
	}
	return s.get(ref)
}

func (s *suite) get(ref gondola.Ref) gondola.Machine {
	s.Helper()
	m, err := s.p.Get(s.Context(), ref)
	if err != nil {
		s.Fatalf("Get(%s) = %v", ref, err)
	}
	return m
}

// wants fails unless err is of the kind.
func (s *suite) wants(err, kind error, call string) {
	s.Helper()
	if !errors.Is(err, kind) {
		s.Errorf("%s = %v, want %q", call, err, kind)
	}
}

// no fails if err is one.
func (s *suite) no(err error, call string) {
	s.Helper()
	if err != nil {
		s.Fatalf("%s = %v", call, err)
	}
}

func (s *suite) createLaunches() {
	m := s.create(gondola.CreateRequest{Name: "web-1", Config: config()})
	if len(m.ID) != 14 || m.Name != "web-1" || m.Region == "" || len(m.Version) != 26 || m.InstanceID != m.Version || m.Config == nil {
		s.Errorf("Create = %+v", m)
	}
	address := m.PrivateIP
	if a, err := netip.ParseAddr(address); err != nil || !a.Is6() {
		s.Errorf("a machine that was just created has private_ip %q, want its 6PN address", address)
	}
	if m.HostStatus != "ok" || m.CreatedAt.IsZero() || len(m.Events) == 0 || m.Gondola == nil || m.Gondola.App != suiteApp || m.Gondola.Worker == "" {
		s.Errorf("Create = %+v, gondola %+v", m, m.Gondola)
	}
	m = s.await(m.Ref(), gondola.Started)
	if len(m.Gondola.Addresses) == 0 || m.PrivateIP != address || len(m.Gondola.Containers) != 1 || m.Gondola.Containers[0].State.Kind != gondola.ContainerRunning {
		s.Errorf("a started machine has addresses %v, private_ip %q (created with %q), containers %+v", m.Gondola.Addresses, m.PrivateIP, address, m.Gondola.Containers)
	}
	if m.Gondola.Allocated.MemoryBytes != 256<<20 {
		s.Errorf("allocated = %v, want the 256 MB of shared-cpu-1x", m.Gondola.Allocated)
	}
	events, err := s.p.Events(s.Context(), m.Ref(), 0)
	s.no(err, "Events")
	if len(events) < 2 || events[0].Timestamp < events[len(events)-1].Timestamp || events[len(events)-1].Type != "launch" {
		s.Errorf("Events = %+v, want the launch last", events)
	}
	one, err := s.p.Events(s.Context(), m.Ref(), 1)
	if err != nil || len(one) != 1 || one[0].ID != events[0].ID {
		s.Errorf("Events(1) = %+v, %v", one, err)
	}
}

func (s *suite) createAgain() {
	req := gondola.CreateRequest{Name: "db", Config: config(), SkipLaunch: true}
	first, second := s.create(req), s.create(req)
	if first.ID != second.ID {
		s.Errorf("creating the same again made %s beside %s", second.ID, first.ID)
	}
	req.Config.Env = map[string]string{"OTHER": "1"}
	_, err := s.p.Create(s.Context(), suiteApp, req)
	s.wants(err, gondola.ErrNameTaken, "Create of another machine of that name")
	a, b := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true}), s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	if a.ID == b.ID || a.Name == b.Name {
		s.Errorf("two nameless creates made one machine: %s %s", a.Name, b.Name)
	}
}

func (s *suite) createRefuses() {
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{})
	s.wants(err, gondola.ErrInvalid, "Create without an image")
	bad := config()
	bad.Gondola = &gondola.ConfigExtension{Driver: "vapour"}
	_, err = s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Config: bad})
	if !errors.Is(err, gondola.ErrUnsupported) && !errors.Is(err, gondola.ErrCapacity) {
		s.Errorf("Create with an unknown driver = %v", err)
	}
}

func (s *suite) createCapacity() {
	huge := config()
	huge.Guest = &gondola.Guest{CPUKind: "performance", CPUs: 16, MemoryMB: 1 << 17}
	begin := time.Now()
	_, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Name: "huge", Config: huge})
	s.wants(err, gondola.ErrCapacity, "Create of a machine of 16 CPUs")
	if r := gondola.Refusals(err); len(r) != 1 || r[0].Reason == "" || r[0].Worker == "" || r[0].Capacity.CPUMillis != 8000 {
		s.Errorf("refusals = %+v", r)
	}
	if took := time.Since(begin); took > 5*time.Second {
		s.Errorf("the refusal took %s", took)
	}
	// The name is not spent.
	s.create(gondola.CreateRequest{Name: "huge", Config: config(), SkipLaunch: true})
}

func (s *suite) skipLaunch() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	if m.State != gondola.Created {
		s.Errorf("state = %s, want created", m.State)
	}
	res, err := s.p.Start(s.Context(), m.Ref())
	if err != nil || res.PreviousState != gondola.Created {
		s.Errorf("Start = %+v, %v", res, err)
	}
	s.await(m.Ref(), gondola.Started)
	if _, err := s.p.Start(s.Context(), m.Ref()); err != nil {
		s.Errorf("Start of a started machine = %v", err)
	}
}

func (s *suite) stopAndStart() {
	m := s.started(config())
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{Signal: "SIGTERM"}), "Stop")
	m = s.await(m.Ref(), gondola.Stopped)
	if m.Gondola.Allocated != (gondola.Resources{}) {
		s.Errorf("a stopped machine holds %v", m.Gondola.Allocated)
	}
	s.no(s.p.Stop(s.Context(), m.Ref(), gondola.StopRequest{}), "Stop of a stopped machine")
	res, err := s.p.Start(s.Context(), m.Ref())
	if err != nil || res.PreviousState != gondola.Stopped {
		s.Errorf("Start = %+v, %v", res, err)
	}
	again := s.await(m.Ref(), gondola.Started)
	if !reflect.DeepEqual(again.Gondola.Addresses, m.Gondola.Addresses) {
		s.Errorf("addresses changed over a stop: %v, then %v", m.Gondola.Addresses, again.Gondola.Addresses)
	}
}

func (s *suite) restart() {
	m := s.started(config())
	timeout := gondola.Duration(2 * time.Second)
	s.no(s.p.Restart(s.Context(), m.Ref(), gondola.RestartRequest{Timeout: &timeout}), "Restart")
	res, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{FromEventID: m.Events[0].ID, States: []gondola.State{gondola.Started}, Timeout: patience})
	if err != nil || res.State != gondola.Started {
		s.Fatalf("Wait = %+v, %v", res, err)
	}
	if again := s.get(m.Ref()); again.Gondola.SandboxID == m.Gondola.SandboxID {
		s.Errorf("the sandbox is the same after a restart")
	}
}

func (s *suite) signal() {
	m := s.started(config("trap", ";", "exit", "7"))
	s.hasLog(m.Ref(), "ready\n")
	s.no(s.p.Signal(s.Context(), m.Ref(), "SIGUSR1"), "Signal")
	m = s.await(m.Ref(), gondola.Stopped)
	if got := m.Gondola.Containers[0].State; got.Kind != gondola.ContainerExited || got.ExitCode != 7 {
		s.Errorf("container = %+v, want exit code 7", got)
	}
	s.wants(s.p.Signal(s.Context(), m.Ref(), "SIGUSR1"), gondola.ErrPrecondition, "Signal to a stopped machine")
}

func (s *suite) destroy() {
	m := s.create(gondola.CreateRequest{Name: "gone", Config: config()})
	s.await(m.Ref(), gondola.Started)
	s.wants(s.p.Destroy(s.Context(), m.Ref(), false), gondola.ErrPrecondition, "Destroy of a started machine without force")
	s.no(s.p.Destroy(s.Context(), m.Ref(), true), "Destroy")
	if got := s.await(m.Ref(), gondola.Destroyed); got.State != gondola.Destroyed {
		s.Errorf("state = %s", got.State)
	}
	s.no(s.p.Destroy(s.Context(), m.Ref(), true), "Destroy of a destroyed machine")
	s.await(m.Ref(), gondola.Destroyed)
	_, err := s.p.Start(s.Context(), m.Ref())
	if err == nil {
		s.Error("a destroyed machine was started")
	}
	if again := s.create(gondola.CreateRequest{Name: "gone", Config: config(), SkipLaunch: true}); again.ID == m.ID {
		s.Error("a destroyed machine's id came back")
	}
}

func (s *suite) endsByItself() {
	m := s.create(gondola.CreateRequest{Config: config("exit", "3")})
	m = s.await(m.Ref(), gondola.Stopped)
	var exit *gondola.Event
	for i := range m.Events {
		if m.Events[i].Type == "exit" {
			exit = &m.Events[i]
		}
	}
	if exit == nil || len(exit.Request) == 0 {
		s.Errorf("events = %+v, want an exit", m.Events)
	}
	auto := config("exit", "0")
	auto.AutoDestroy = true
	m = s.create(gondola.CreateRequest{Name: "once", Config: auto})
	s.await(m.Ref(), gondola.Destroyed)
	// Its name is free again, as soon as whoever keeps names has heard of it.
	s.eventually("the name of a machine that destroyed itself is free", func() bool {
		again, err := s.p.Create(s.Context(), suiteApp, gondola.CreateRequest{Name: "once", Config: config(), SkipLaunch: true})
		return err == nil && again.ID != m.ID
	})
}

// eventually asks again and again.
func (s *suite) eventually(what string, ok func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.Fatalf("not so after %s: %s", patience, what)
		}
	}
}

func (s *suite) list() {
	one := config()
	one.Metadata = map[string]string{"role": "web"}
	a := s.create(gondola.CreateRequest{Name: "a", Config: one, SkipLaunch: true})
	b := s.create(gondola.CreateRequest{Name: "b", Config: config(), SkipLaunch: true})
	ids := func(f gondola.ListFilter, app gondola.AppName) (ids []gondola.MachineID) {
		s.Helper()
		ms, err := s.p.List(s.Context(), app, f)
		s.no(err, "List")
		for _, m := range ms {
			ids = append(ids, m.ID)
		}
		return ids
	}
	same := func(what string, got []gondola.MachineID, want ...gondola.MachineID) {
		s.Helper()
		if len(got) != len(want) || len(want) > 0 && !reflect.DeepEqual(got, want) {
			s.Errorf("%s = %v, want %v", what, got, want)
		}
	}
	same("List", ids(gondola.ListFilter{}, suiteApp), a.ID, b.ID)
	same("List of all apps", ids(gondola.ListFilter{}, ""), a.ID, b.ID)
	same("List by metadata", ids(gondola.ListFilter{Metadata: map[string]string{"role": "web"}}, suiteApp), a.ID)
	same("List of started ones", ids(gondola.ListFilter{States: []gondola.State{gondola.Started}}, suiteApp))
	same("List of created or started ones", ids(gondola.ListFilter{States: []gondola.State{gondola.Started, gondola.Created}}, suiteApp), a.ID, b.ID)
	same("List of another region", ids(gondola.ListFilter{Region: "xyz"}, suiteApp))
	s.no(s.p.Destroy(s.Context(), a.Ref(), false), "Destroy of a created machine")
	s.await(a.Ref(), gondola.Destroyed)
	same("List after a destroy", ids(gondola.ListFilter{}, suiteApp), b.ID)
	same("List with deleted ones", ids(gondola.ListFilter{IncludeDeleted: true}, suiteApp), a.ID, b.ID)
	same("List of started or destroyed ones", ids(gondola.ListFilter{States: []gondola.State{gondola.Started, gondola.Destroyed}}, suiteApp), a.ID)
}

func (s *suite) wait() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	_, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Timeout: 50 * time.Millisecond})
	s.wants(err, gondola.ErrDeadline, "Wait")
	if want := "machine failed to reach desired state, started, currently created"; err == nil || err.Error() != want {
		s.Errorf("Wait error = %v, want %q", err, want)
	}
	res, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Settled: true, Timeout: time.Second})
	if err != nil || !res.OK || res.State != gondola.Created || res.Version != m.Version {
		s.Errorf("Wait for settled = %+v, %v", res, err)
	}
	waited := make(chan error, 1)
	go func() {
		_, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{States: []gondola.State{gondola.Stopped, gondola.Started}, Timeout: patience})
		waited <- err
	}()
	_, err = s.p.Start(s.Context(), m.Ref())
	s.no(err, "Start")
	if err := <-waited; err != nil {
		s.Errorf("Wait during a start = %v", err)
	}
}

func (s *suite) update() {
	first := config("print", "one", ";", "trap")
	first.Gondola = &gondola.ConfigExtension{ClusterDomain: "cluster.local"}
	m := s.started(first)
	second := first
	second.Init.Cmd = []string{"print", "two", ";", "trap"}
	got, err := s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CurrentVersion: m.Version, CreateRequest: gondola.CreateRequest{Config: second}})
	s.no(err, "Update")
	if got.Version == m.Version || got.ID != m.ID {
		s.Errorf("Update = version %s of %s", got.Version, got.ID)
	}
	_, err = s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Version: got.Version, States: []gondola.State{gondola.Started}, Timeout: patience})
	s.no(err, "Wait for the new version")
	res, err := s.p.Wait(s.Context(), m.Ref(), gondola.WaitRequest{Version: m.Version, Timeout: time.Second})
	if err != nil || res.State != gondola.Replaced {
		s.Errorf("Wait for the old version = %+v, %v, want replaced", res, err)
	}
	s.hasLog(m.Ref(), "two\nready\n")
	_, err = s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CurrentVersion: m.Version, CreateRequest: gondola.CreateRequest{Config: second}})
	s.wants(err, gondola.ErrConflict, "Update of a stale version")
	_, err = s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config()}})
	s.wants(err, gondola.ErrInvalid, "Update that drops gondola")
	_, err = s.p.Update(s.Context(), m.Ref(), gondola.UpdateRequest{Force: true, CreateRequest: gondola.CreateRequest{Config: config()}})
	s.no(err, "forced Update that drops gondola")
}

func (s *suite) metadata() {
	c := config()
	c.Metadata = map[string]string{"keep": "1", "drop": "2"}
	m := s.create(gondola.CreateRequest{Config: c, SkipLaunch: true})
	added, empty := "3", ""
	s.no(s.p.SetMetadata(s.Context(), m.Ref(), m.Version, map[string]*string{"add": &added, "drop": nil, "never": &empty}), "SetMetadata")
	got := s.get(m.Ref()).Config.Metadata
	if want := map[string]string{"keep": "1", "add": "3"}; !reflect.DeepEqual(got, want) {
		s.Errorf("metadata = %v, want %v", got, want)
	}
	err := s.p.SetMetadata(s.Context(), m.Ref(), gondola.NewVersion(time.Now()), map[string]*string{"add": nil})
	s.wants(err, gondola.ErrPrecondition, "SetMetadata of a stale version")
}

func (s *suite) exec() {
	m := s.started(config())
	res, err := s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "print", "out", ";", "printerr", "err", ";", "echo", ";", "exit", "4"}, Stdin: "in"})
	if err != nil || res.ExitCode != 4 || res.Stdout != "out\nin" || res.Stderr != "err\n" {
		s.Errorf("Exec = %+v, %v", res, err)
	}
	_, err = s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Container: "nobody", Command: []string{"/program", "exit"}})
	s.wants(err, gondola.ErrNotFound, "Exec in an unknown container")
	_, err = s.p.Exec(s.Context(), m.Ref(), gondola.ExecRequest{Command: []string{"/program", "sleep", "infinity"}, Timeout: 1})
	s.wants(err, gondola.ErrDeadline, "Exec that takes too long")
}

func (s *suite) processes() {
	m := s.started(config())
	ps, err := s.p.Processes(s.Context(), m.Ref())
	if err != nil || len(ps) == 0 || ps[0].Command == "" {
		s.Errorf("Processes = %+v, %v", ps, err)
	}
}

func (s *suite) unknown() {
	ref, ctx := gondola.Ref{App: suiteApp, ID: "00000000000000"}, s.Context()
	_, err := s.p.Get(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "Get")
	_, err = s.p.Update(ctx, ref, gondola.UpdateRequest{CreateRequest: gondola.CreateRequest{Config: config()}})
	s.wants(err, gondola.ErrNotFound, "Update")
	_, err = s.p.Start(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "Start")
	s.wants(s.p.Stop(ctx, ref, gondola.StopRequest{}), gondola.ErrNotFound, "Stop")
	s.wants(s.p.Restart(ctx, ref, gondola.RestartRequest{}), gondola.ErrNotFound, "Restart")
	s.wants(s.p.Signal(ctx, ref, "SIGTERM"), gondola.ErrNotFound, "Signal")
	s.wants(s.p.Destroy(ctx, ref, true), gondola.ErrNotFound, "Destroy")
	_, err = s.p.Wait(ctx, ref, gondola.WaitRequest{Timeout: time.Second})
	s.wants(err, gondola.ErrNotFound, "Wait")
	_, err = s.p.Exec(ctx, ref, gondola.ExecRequest{Command: []string{"true"}})
	s.wants(err, gondola.ErrNotFound, "Exec")
	_, err = s.p.Events(ctx, ref, 0)
	s.wants(err, gondola.ErrNotFound, "Events")
	_, err = s.p.Processes(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "Processes")
	s.wants(s.p.SetMetadata(ctx, ref, "", map[string]*string{"a": nil}), gondola.ErrNotFound, "SetMetadata")
	s.wants(s.p.Cordon(ctx, ref), gondola.ErrNotFound, "Cordon")
	_, err = s.p.Versions(ctx, ref)
	s.wants(err, gondola.ErrNotFound, "Versions")
	_, err = s.p.AcquireLease(ctx, ref, gondola.LeaseRequest{})
	s.wants(err, gondola.ErrNotFound, "AcquireLease")
	_, err = s.p.Logs(ctx, ref, gondola.LogOptions{})
	s.wants(err, gondola.ErrNotFound, "Logs")
	_, err = s.p.ExecStream(ctx, ref, gondola.ExecOptions{Command: []string{"true"}}, gondola.ExecIO{})
	s.wants(err, gondola.ErrNotFound, "ExecStream")
	_, err = s.p.Attach(ctx, ref, "", gondola.ExecIO{})
	s.wants(err, gondola.ErrNotFound, "Attach")
	_, err = s.p.Dial(ctx, ref, 80)
	s.wants(err, gondola.ErrNotFound, "Dial")
	s.wants(s.p.PutPayload(ctx, ref, gondola.Payload{}), gondola.ErrNotFound, "PutPayload")
	s.wants(s.p.AddContainer(ctx, ref, gondola.AddContainerRequest{}), gondola.ErrNotFound, "AddContainer")
	_, err = s.p.Resize(ctx, ref, gondola.ResizeRequest{})
	s.wants(err, gondola.ErrNotFound, "Resize")
}

func (s *suite) deadline() {
	m := s.create(gondola.CreateRequest{Config: config(), SkipLaunch: true})
	ctx, cancel := context.WithTimeout(s.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.p.Wait(ctx, m.Ref(), gondola.WaitRequest{Timeout: patience})
	s.wants(err, gondola.ErrDeadline, "Wait with a context of 100 ms")
}

func (s *suite) ask() {
	want := gondola.Resources{CPUMillis: 2000, MemoryBytes: 4 << 30}
	a, err := s.p.Ask(s.Context(), gondola.Ask{Requests: want})
	s.no(err, "Ask")
	if len(a.Bids) != 1 || len(a.Refusals) != 0 || a.Bids[0].Fits != 4 || a.Bids[0].Price <= 0 || a.Bids[0].Capacity.CPUMillis != 8000 {
		s.Errorf("Ask = %+v, want one bid for 4", a)
	}
	big := config()
	big.Gondola = &gondola.ConfigExtension{Requests: &gondola.Resources{CPUMillis: 7000, MemoryBytes: 1 << 30}}
	m := s.started(big)
	a, err = s.p.Ask(s.Context(), gondola.Ask{Requests: want})
	s.no(err, "Ask")
	if len(a.Bids) != 0 || len(a.Refusals) != 1 || a.Refusals[0].Reason == "" || a.Refusals[0].Free.CPUMillis != 1000 {
		s.Errorf("Ask of a worker with 1 CPU left = %+v, want a refusal", a)
	}
	s.no(s.p.Destroy(s.Context(), m.Ref(), true), "Destroy")
	s.await(m.Ref(), gondola.Destroyed)
	if a, err = s.p.Ask(s.Context(), gondola.Ask{Requests: want}); err != nil || len(a.Bids) != 1 {
		s.Errorf("Ask after the destroy = %+v, %v, want a bid", a, err)
	}
}
