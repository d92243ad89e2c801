package worker_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

// dying is a driver some of whose pilots die: at once, or while they are asked for the first time.
type dying struct {
	driver.Driver
	mu       sync.Mutex
	launches int // that fail because the pilot dies at once
	adopted  int // that are found and are gone then
}

func (d *dying) Launch(ctx context.Context, s pilot.Spec, p *gondola.Payload) (pilot.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.launches--; d.launches >= 0 {
		return nil, fmt.Errorf("launch machine %s: %w: signal: killed", s.Machine, pilot.ErrGone)
	}
	return d.Driver.Launch(ctx, s, p)
}

func (d *dying) Adopt(ctx context.Context, s pilot.Spec) (pilot.API, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.adopted--; d.adopted >= 0 {
		return gone{}, nil
	}
	return d.Driver.Adopt(ctx, s)
}

// gone is a pilot whose socket still answers, and which does not.
type gone struct{ pilot.API }

func (gone) Watch(context.Context) (<-chan pilot.Status, error) {
	return nil, fmt.Errorf("watch: %w: connection reset by peer", pilot.ErrGone)
}

// said is what a worker logs.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.b.String(), text)
}

// TestSandboxThatRuns_KeepsItsNetworkWhateverBecomesOfItsPilots: the network of a sandbox is made anew only once the sandbox is dead. A new
// one would leave it without: nobody could reach what runs in it any more.
func TestSandboxThatRuns_KeepsItsNetworkWhateverBecomesOfItsPilots(t *testing.T) {
	for _, c := range []struct {
		name              string
		launches, adopted int
		atOnce            bool // no pause is due
	}{
		{"the next one dies at once", 1, 0, false},
		{"the next two die at once", 2, 0, false},
		{"it dies while it is asked", 0, 1, true},
		{"it dies while it is asked, and the next one at once", 1, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, gondola.Resources{})
			pilots := &dying{Driver: r.driver}
			log := &said{}
			r.via, r.change = pilots, func(c *worker.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) }
			w, _ := r.run()
			m := r.create(w, gondola.CreateRequest{Config: longRunning()})
			m = r.await(w, m.ID, gondola.Started)
			r.fake.FailOn(func(step string, _ gondola.MachineID) error {
				if step == "Prepare" {
					t.Error("the network was made anew")
				}
				return nil
			})
			pilots.let(c.launches, c.adopted)
			if err := r.driver.KillPilot(m.ID); err != nil {
				t.Fatal(err)
			}
			r.answers(w, m.Ref())
			now, err := w.Get(t.Context(), m.Ref())
			if err != nil || now.State != gondola.Started || now.Gondola.SandboxID != m.Gondola.SandboxID {
				t.Errorf("machine is %s in sandbox %s (%v), want it started in %s", now.State, now.Gondola.SandboxID, err, m.Gondola.SandboxID)
			}
			if c.atOnce && log.has("tried again") {
				t.Error("it waited before it started another pilot")
			}
			r.fake.FailOn(nil)
		})
	}
}

// keeping is a Host that notes of which Machines it is to keep the network.
type keeping struct {
	worker.Host
	kept chan worker.HostMachine
}

func (k keeping) Keep(ctx context.Context, m worker.HostMachine) error {
	k.kept <- m
	return errors.New("not quite") // which changes nothing
}

// TestSandboxThatRuns_HasItsNetworkKeptWhenItIsFoundAgain: somebody may have emptied the host's firewall meanwhile.
func TestSandboxThatRuns_HasItsNetworkKeptWhenItIsFoundAgain(t *testing.T) {
	t.Parallel()
	r := newRig(t, gondola.Resources{})
	host := keeping{r.fake, make(chan worker.HostMachine, 10)}
	r.host = host
	w, stop := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	m = r.await(w, m.ID, gondola.Started)
	kept := func(when string) {
		t.Helper()
		select {
		case k := <-host.kept:
			if k.ID != m.ID || k.Number == 0 || k.Network == "" {
				t.Errorf("%s: kept %+v, want machine %s with its number and network", when, k, m.ID)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: nobody keeps its network", when)
		}
	}
	stop()
	w, _ = r.run()
	kept("the daemon begins again")
	if err := r.driver.KillPilot(m.ID); err != nil {
		t.Fatal(err)
	}
	kept("its pilot is replaced")
	r.answers(w, m.Ref())
	if now, err := w.Get(t.Context(), m.Ref()); err != nil || now.Gondola.SandboxID != m.Gondola.SandboxID {
		t.Errorf("machine is in sandbox %s (%v), want %s", now.Gondola.SandboxID, err, m.Gondola.SandboxID)
	}
}

// TestStop_IsAskedOfTheNextPilotWhereOneDies: a pilot that dies is no reason to end a sandbox without its programs being asked to.
func TestStop_IsAskedOfTheNextPilotWhereOneDies(t *testing.T) {
	t.Parallel()
	r := newRig(t, gondola.Resources{})
	pilots := &dying{Driver: r.driver}
	r.via = pilots
	w, _ := r.run()
	m := r.create(w, gondola.CreateRequest{Config: longRunning()})
	m = r.await(w, m.ID, gondola.Started)
	pilots.let(1, 0)
	if err := r.driver.KillPilot(m.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.Stop(t.Context(), m.Ref(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	m = r.await(w, m.ID, gondola.Stopped)
	if end := m.Gondola.Containers[0].State; end.ExitCode != 0 {
		t.Errorf("the program ended as %+v, want 0: it was asked to", end)
	}
	if logs := r.logs(w, m.Ref()); !strings.Contains(logs, "got SIGINT") {
		t.Errorf("log = %q, want the stop signal in it", logs)
	}
}

// let says how many pilots die from now on.
func (d *dying) let(launches, adopted int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.launches, d.adopted = launches, adopted
}

// answers waits until a command runs in a Machine, for which it needs its pilot.
func (r *rig) answers(w *worker.Worker, ref gondola.Ref) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for ; ; <-again.C {
		_, err := w.Exec(ctx, ref, gondola.ExecRequest{Command: []string{"/program", "exit", "0"}})
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			r.t.Fatalf("Exec = %v", err)
		}
	}
}

func (r *rig) logs(w *worker.Worker, ref gondola.Ref) string {
	r.t.Helper()
	log, err := w.Logs(r.t.Context(), ref, gondola.LogOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	defer log.Close()
	b, err := io.ReadAll(log)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}
