package fake_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"gondola"
	"gondola/internal/driver/fake"
	"gondola/internal/pilot"
	"gondola/internal/worker"
)

func prepare(t *testing.T, h *fake.Host, containers ...pilot.Container) pilot.Spec {
	t.Helper()
	id := gondola.NewMachineID()
	p, err := h.Prepare(t.Context(), worker.HostMachine{ID: id, Number: 1, Network: "default"}, true)
	if err != nil {
		t.Fatal(err)
	}
	return pilot.Spec{Machine: id, Instance: "test", Version: gondola.NewVersion(time.Now()), Dir: p.Dir, RunDir: p.RunDir, Addresses: p.Addresses,
		Hostname: string(id), Containers: containers}
}

func await(t *testing.T, api pilot.API, what string, f func(pilot.Status) bool) pilot.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ch, err := api.Watch(ctx)
	if err != nil {
		t.Fatalf("Watch = %v", err)
	}
	var last pilot.Status
	for st := range ch {
		if last = st; f(st) {
			return st
		}
	}
	t.Fatalf("%s: never; last status %+v", what, last)
	return last
}

func TestLaunch_RunsAndStops(t *testing.T) {
	d := fake.NewDriver()
	t.Cleanup(func() { d.Close() })
	h := fake.NewHost(fake.HostConfig{Dir: t.TempDir()})
	spec := prepare(t, h, pilot.Container{Name: "main", Args: []string{"/program", "trap"}})
	api, err := d.Launch(t.Context(), spec, nil)
	if err != nil {
		t.Fatal(err)
	}
	await(t, api, "running", func(s pilot.Status) bool { return s.Phase == pilot.Running && s.Containers[0].Ready })
	var out bytes.Buffer
	status, err := api.Exec(t.Context(), gondola.ExecOptions{Command: []string{"/program", "print", "hi", ";", "exit", "7"}}, gondola.ExecIO{Stdout: &out})
	if err != nil || status.Code != 7 || out.String() != "hi\n" {
		t.Fatalf("Exec = %v, %v, %q", status, err, out.String())
	}
	r, err := pilot.OpenLog(t.Context(), spec.Dir, gondola.LogOptions{Container: "main", Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ready := make([]byte, len("ready\n")) // from then on it traps signals
	if _, err := io.ReadFull(r, ready); err != nil {
		t.Fatal(err)
	}
	if err := api.Stop(t.Context(), gondola.StopRequest{}); err != nil {
		t.Fatal(err)
	}
	st := await(t, api, "ended", func(s pilot.Status) bool { return s.Phase == pilot.Ended })
	if got := st.Containers[0].State; got.Kind != gondola.ContainerExited || got.ExitCode != 0 || got.Reason != "Completed" {
		t.Errorf("state = %+v", got)
	}
	var log strings.Builder
	if _, err := io.Copy(&log, r); err != nil {
		t.Fatal(err)
	}
	if string(ready)+log.String() != "ready\ngot SIGTERM\n" {
		t.Errorf("log = %q", string(ready)+log.String())
	}
}
