package host_test

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"testing"
	"time"

	"gondola"
)

// told is a platform that tells what the test sends.
type told struct {
	gondola.Apps
	changes chan gondola.Change
}

func (p told) Watch(context.Context, gondola.WatchRequest) (<-chan gondola.Change, error) {
	return p.changes, nil
}

func (p told) App(_ context.Context, name gondola.AppName) (gondola.App, error) {
	return gondola.App{Name: name, Network: "of-" + string(name)}, nil
}

func TestPublisher_LeadsToTheMachinesThatWork(t *testing.T) {
	b := newBench(t)
	p := told{changes: make(chan gondola.Change, 10)}
	publisher := b.host.Publisher(p, p, []gondola.WorkerName{"fra", "ams"})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- publisher.Run(ctx) }()
	defer func() { cancel(); <-done }()
	backends := func() []string {
		b.net.mu.Lock()
		defer b.net.mu.Unlock()
		list := b.net.services["of-web"]
		if len(list) != 1 || list[0].Name != "web" || list[0].Ports[0].Port != 80 {
			return []string{"no service"}
		}
		var out []string
		for _, a := range list[0].Ports[0].Backends {
			out = append(out, a.String())
		}
		return out
	}
	become := func(want ...string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for !slices.Equal(backends(), want) {
			select {
			case <-deadline:
				t.Fatalf("port 80 leads to %v, want %v", backends(), want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	machine := func(worker gondola.WorkerName, id, address string, change func(*gondola.Machine)) {
		m := gondola.Machine{ID: gondola.MachineID(id), State: gondola.Started,
			Config:  &gondola.Config{Services: []gondola.Service{{InternalPort: 8080, Ports: []json.RawMessage{json.RawMessage(`{"port":80}`)}}}},
			Gondola: &gondola.MachineExtension{App: "web", Addresses: []netip.Addr{netip.MustParseAddr(address)}}}
		if change != nil {
			change(&m)
		}
		p.changes <- gondola.Change{Worker: worker, Machine: &m}
	}
	machine("fra", "1", "10.64.16.1", nil)
	p.changes <- gondola.Change{Worker: "fra", Synced: true}
	machine("ams", "2", "10.64.32.1", nil)
	select {
	case <-publisher.Ready():
		t.Fatal("ready before worker ams has told its Machines")
	case <-time.After(100 * time.Millisecond):
	}
	if got := backends(); got[0] != "no service" {
		t.Errorf("port 80 leads to %v before worker ams has told its Machines", got)
	}
	p.changes <- gondola.Change{Worker: "ams", Synced: true}
	become("10.64.16.1:8080", "10.64.32.1:8080")
	<-publisher.Ready()
	machine("fra", "1", "10.64.16.1", func(m *gondola.Machine) { m.Checks = []gondola.CheckStatus{{Status: "critical"}} })
	become("10.64.32.1:8080")
	machine("ams", "2", "10.64.32.1", func(m *gondola.Machine) { m.State = gondola.Stopped })
	become() // the port stays the app's
	machine("fra", "1", "10.64.16.1", nil)
	become("10.64.16.1:8080")
	for worker, id := range map[gondola.WorkerName]string{"fra": "1", "ams": "2"} {
		machine(worker, id, "10.64.16.1", func(m *gondola.Machine) { m.State = gondola.Destroyed })
	}
	become("no service")
}
