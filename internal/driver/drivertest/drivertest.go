// Package drivertest is the suite that every driver.Driver passes: what a Machine's user can see of it, from the order of containers to what
// is left after a crash. It launches real pilots through the Driver; what runs in the containers is package program.
package drivertest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
)

// Fixture is a Driver and what the suite needs around it.
type Fixture struct {
	Driver driver.Driver
	// Spec returns a Spec that is ready to be launched: directories and, if the driver has one, network are there. Its containers all have
	// the image of package program, at /program. Name, Args, Config and what else is set in containers is kept. The fixture undoes it all
	// at the end of the test; the suite kills what it launches.
	Spec func(t *testing.T, containers []pilot.Container, volumes []pilot.Volume) pilot.Spec
	// Renew prepares the host for another sandbox of spec, after one has ended: what a sandbox uses up, such as the network. If nil, there
	// is nothing to do.
	Renew func(t *testing.T, spec pilot.Spec)
	// Reopen returns the Driver of a worker that was started anew. If nil, Driver goes on.
	Reopen func(t *testing.T) driver.Driver
	// KillSandbox and KillPilot are kill -9.
	KillSandbox, KillPilot func(t *testing.T, spec pilot.Spec)
	// Patience is how long a wait may take. If zero, 15 s.
	Patience time.Duration
}

// Run runs the suite; newFixture is called for every test.
func Run(t *testing.T, newFixture func(t *testing.T) Fixture) {
	for _, test := range cases() {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			if f.Patience == 0 {
				f.Patience = 15 * time.Second
			}
			for _, need := range test.needs {
				if has, name := need(f.Driver.Capabilities()); !has {
					t.Skipf("driver %s has no %s", f.Driver.Name(), name)
				}
			}
			test.run(t, f)
		})
	}
}

// testCase is a test of the suite and what a driver must be able to do for it.
type testCase struct {
	name  string
	needs []capability
	run   func(*testing.T, Fixture)
}

// capability says whether a driver has it, and how it is called.
type capability func(driver.Capabilities) (bool, string)

func needs(all ...capability) []capability { return all }

func cases() []testCase {
	return []testCase{
		{"Container_ExitCodeIsKept", nil, exitCodeIsKept},
		{"Container_StartErrorIsTold", nil, startErrorIsTold},
		{"Container_SeesEnvironmentDirectoryAndUser", nil, seesEnvironment},
		{"Container_FilesAreThereBeforeItStarts", nil, filesAreThere},
		{"Container_TerminationMessageIsRead", nil, terminationMessage},
		{"Container_WaitsAtATerminalWithoutInput", needs(tty), terminalWithoutInput},
		{"Order_InitContainersRunOneAfterTheOther", needs(multi), initOrder},
		{"Order_FailedInitEndsTheMachine", needs(multi), failedInit},
		{"Restart_OnlyTheFailedContainer", needs(multi), restartInPlace},
		{"Stop_SignalThenExit", nil, stopSignal},
		{"Stop_KillsAfterGrace", nil, stopKills},
		{"Signal_ReachesTheContainer", nil, signalReaches},
		{"Exec_CodeOutputAndInput", nil, execPlain},
		{"Exec_EndsWithItsContext", nil, execCancelled},
		{"Exec_SlowReader", nil, execSlowReader},
		{"Exec_Terminal", needs(tty), execTerminal},
		{"Attach_OutputAndInput", nil, attach},
		{"Attach_Terminal", needs(tty), attachTerminal},
		{"Logs_StreamsTimestampsTail", nil, logs},
		{"Logs_PreviousAndFollow", nil, logsPrevious},
		{"Logs_NothingIsLost", nil, logsWhole},
		{"Memory_OverrunOfOneContainer", needs(multi, memory), memoryOverrun},
		{"Memory_OverrunOfTheSandbox", needs(memory), sandboxOverrun},
		{"Resize_ChangesWhatContainersMayUse", needs(multi, memory), resizeLimits},
		{"Payload_RefreshIsSeenLive", nil, payloadRefresh},
		{"Payload_VariablesOfSecrets", nil, payloadEnv},
		{"Payload_SecretsOfTheApp", nil, appSecrets},
		{"Volume_SharedBetweenContainers", needs(multi), sharedVolume},
		{"Volume_UnixSocketBetweenContainers", needs(multi), sharedSocket},
		{"Volume_ReadOnlyAndSubPath", nil, subPath},
		{"Volume_OfAnImage", nil, imageVolume},
		{"Rootfs_BeginsWithTheImage", nil, freshRootfs},
		{"Rootfs_IsKeptWhereTheSpecSaysSo", nil, keptRootfs},
		{"Sysctl_IsTheMachinesOwn", needs(sysctls), ownSysctl},
		{"Dial_ReachesLoopback", needs(forward), dialLoopback},
		{"API_IsReachedByItsSocket", needs(multi), apiSocket},
		{"API_OutlivesDaemonAndPilot", needs(adoption), apiOutlives},
		{"Probe_ExecMakesReady", nil, probeExec},
		{"Probe_LivenessRestarts", nil, probeLiveness},
		{"Crash_WorkerFindsMachine", nil, workerCrash},
		{"Crash_PilotLeavesContainersRunning", needs(adoption), pilotCrash},
		{"Crash_SandboxIsMadeAnew", nil, sandboxCrash},
		{"Ephemeral_RunsOnceBesideTheOthers", needs(multi), ephemeralOnce},
		{"Ephemeral_IsNotWaitedFor", needs(multi), ephemeralIsNotWaitedFor},
		{"Ephemeral_SharesTheProcessesOfItsTarget", needs(multi, targets), ephemeralProcesses},
		{"Ephemeral_OutlivesThePilotAndNotTheSandbox", needs(multi, adoption), ephemeralCrash},
		{"Suspend_RunsOn", needs(suspends, multi, forward), runsOnAfterSuspend},
		{"Suspend_KeepsAResize", needs(suspends, memory, forward), resizedRunsOn},
		{"Suspend_DamagedSnapshotStartsFromTheBeginning", needs(suspends, forward), damagedSnapshot},
		{"Suspend_OtherVersionStartsFromTheBeginning", needs(suspends, forward), otherVersion},
		{"Suspend_RunsOnWhereItCannotBeWritten", needs(suspends, forward), cannotSuspend},
		{"Suspend_FailureKeepsTheTerminal", needs(suspends, tty), cannotSuspendTerminal},
		{"Suspend_OfOneselfIsAnswered", needs(suspends, forward), suspendsItself},
		{"Suspend_EndsCommands", needs(suspends, forward), commandEndsWithSuspend},
		{"Suspend_EndsConnections", needs(suspends, forward), connectionEndsWithSuspend},
		{"Kill_LeavesNothingRunning", nil, killAll},
	}
}

func multi(c driver.Capabilities) (bool, string)    { return c.MultiContainer, "several containers" }
func tty(c driver.Capabilities) (bool, string)      { return c.TTY, "terminals" }
func memory(c driver.Capabilities) (bool, string)   { return c.MemoryLimit, "memory limits" }
func forward(c driver.Capabilities) (bool, string)  { return c.PortForward, "port forwarding" }
func sysctls(c driver.Capabilities) (bool, string)  { return c.Sysctls, "settings of the kernel" }
func targets(c driver.Capabilities) (bool, string)  { return c.Target, "process namespaces to share" }
func adoption(c driver.Capabilities) (bool, string) { return c.Adoption, "adoption" }

// machine is a launched Machine.
type machine struct {
	t      *testing.T
	f      Fixture
	driver driver.Driver
	spec   pilot.Spec
	api    pilot.API
}

// container returns a container that runs the program with args and does not restart.
func container(name string, args ...string) pilot.Container {
	c := pilot.Container{Name: name, Args: append([]string{"/program"}, args...)}
	c.Config.Name = name
	c.Config.Restart = &gondola.RestartPolicy{Policy: gondola.RestartNo}
	return c
}

// ext is the extension of a container, made if need be.
func ext(c *pilot.Container) *gondola.ContainerExtension {
	if c.Config.Gondola == nil {
		c.Config.Gondola = &gondola.ContainerExtension{}
	}
	return c.Config.Gondola
}

// launch launches a Machine of these containers.
func launch(t *testing.T, f Fixture, volumes []pilot.Volume, containers ...pilot.Container) *machine {
	t.Helper()
	return launchSpec(t, f, f.Spec(t, containers, volumes), nil)
}

func launchSpec(t *testing.T, f Fixture, spec pilot.Spec, p *gondola.Payload) *machine {
	t.Helper()
	m := &machine{t: t, f: f, driver: f.Driver, spec: spec}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := m.driver.Kill(ctx, m.spec); err != nil {
			t.Errorf("Kill = %v", err)
		}
	})
	m.launch(p)
	return m
}

func (m *machine) launch(p *gondola.Payload) {
	m.t.Helper()
	api, err := m.driver.Launch(m.t.Context(), m.spec, p)
	if err != nil {
		m.t.Fatalf("Launch = %v", err)
	}
	m.api = api
}

// relaunch launches again after the sandbox has ended.
func (m *machine) relaunch() {
	m.t.Helper()
	if m.f.Renew != nil {
		m.f.Renew(m.t, m.spec)
	}
	m.launch(nil)
}

// await waits until f is true of the Status.
func (m *machine) await(what string, f func(pilot.Status) bool) pilot.Status {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.f.Patience)
	defer cancel()
	var last pilot.Status
	ch, err := m.api.Watch(ctx)
	switch {
	case errors.Is(err, pilot.ErrGone): // it may have come to its end before we asked
		if last, err = pilot.ReadStatus(m.spec.Dir); err == nil && f(last) {
			return last
		}
	case err != nil:
		m.t.Fatalf("Watch = %v while waiting for %s", err, what)
	default:
		for s := range ch {
			if last = s; f(s) {
				return s
			}
		}
	}
	m.t.Fatalf("%s did not come; the last status was %s", what, show(last))
	return last
}

func show(s pilot.Status) string {
	var b strings.Builder
	b.WriteString(string(s.Phase) + " " + s.Message)
	for _, c := range s.Containers {
		b.WriteString("\n  " + c.Name + ": " + string(c.State.Kind) + " " + c.State.Reason + " " + c.State.Message)
	}
	for _, n := range s.Notes {
		b.WriteString("\n  note " + n.Container + " " + n.Reason + ": " + n.Message)
	}
	return b.String()
}

func (m *machine) ended() pilot.Status {
	m.t.Helper()
	return m.await("the end", func(s pilot.Status) bool { return s.Phase == pilot.Ended })
}

// status returns the status of a container.
func status(s pilot.Status, name string) gondola.ContainerStatus {
	for _, c := range s.Containers {
		if c.Name == name {
			return c
		}
	}
	return gondola.ContainerStatus{}
}

// running waits until a container runs.
func (m *machine) running(name string) pilot.Status {
	m.t.Helper()
	return m.await(name+" to run", func(s pilot.Status) bool { return status(s, name).State.Kind == gondola.ContainerRunning })
}

// log returns what a container has written so far.
func (m *machine) log(opts gondola.LogOptions) string {
	m.t.Helper()
	r, err := pilot.OpenLog(m.t.Context(), m.spec.Dir, opts)
	if err != nil {
		m.t.Fatalf("OpenLog = %v", err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		m.t.Fatalf("read log: %v", err)
	}
	return string(data)
}

// awaitLog waits until the log of a container has the text, and returns the log.
func (m *machine) awaitLog(name, text string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.f.Patience)
	defer cancel()
	r, err := pilot.OpenLog(ctx, m.spec.Dir, gondola.LogOptions{Container: name, Follow: true})
	if err != nil {
		m.t.Fatalf("OpenLog = %v", err)
	}
	defer r.Close()
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := r.Read(buf)
		all = append(all, buf[:n]...)
		if strings.Contains(string(all), text) {
			return string(all)
		}
		if err != nil {
			m.t.Fatalf("the log of %s has no %q: %q (%v)", name, text, all, err)
		}
	}
}

// exec runs the program in a container and returns its output.
func (m *machine) exec(name string, args ...string) (gondola.ExitStatus, string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), m.f.Patience)
	defer cancel()
	var out output
	st, err := m.api.Exec(ctx, gondola.ExecOptions{Container: name, Command: append([]string{"/program"}, args...)},
		gondola.ExecIO{Stdout: &out, Stderr: &out})
	if err != nil {
		m.t.Fatalf("Exec %q = %v", args, err)
	}
	return st, out.String()
}

// output collects what is written to it, and tells those who wait for some text.
type output struct {
	mu   sync.Mutex
	b    bytes.Buffer
	wake chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	if o.wake != nil {
		close(o.wake)
		o.wake = nil
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// await waits until the text was written.
func (o *output) await(t *testing.T, patience time.Duration, text string) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		o.mu.Lock()
		got := o.b.String()
		if o.wake == nil {
			o.wake = make(chan struct{})
		}
		wake := o.wake
		o.mu.Unlock()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-wake:
		case <-timer.C:
			t.Fatalf("no %q in the output %q", text, got)
		}
	}
}
