package host_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"gondola"
	"gondola/internal/host"
)

// told is a platform that tells what the test sends.
type told struct {
	gondola.Apps
	changes chan gondola.Change
	network atomic.Pointer[string] // of every App
}

func newTold(network string) *told {
	p := &told{changes: make(chan gondola.Change, 10)}
	p.network.Store(&network)
	return p
}

func (p *told) Watch(context.Context, gondola.WatchRequest) (<-chan gondola.Change, error) {
	return p.changes, nil
}

func (p *told) App(_ context.Context, name gondola.AppName) (gondola.App, error) {
	return gondola.App{Name: name, Network: *p.network.Load()}, nil
}

// machine tells of one of App web that has port 80.
func (p *told) machine(worker gondola.WorkerName, id, address string, change func(*gondola.Machine)) {
	m := gondola.Machine{ID: gondola.MachineID(id), State: gondola.Started,
		Config:  &gondola.Config{Services: []gondola.Service{{InternalPort: 8080, Ports: []json.RawMessage{json.RawMessage(`{"port":80}`)}}}},
		Gondola: &gondola.MachineExtension{App: "web", Addresses: []netip.Addr{netip.MustParseAddr(address)}}}
	if change != nil {
		change(&m)
	}
	p.changes <- gondola.Change{Worker: worker, Machine: &m}
}

// publish runs a Publisher until the test ends.
func publish(t *testing.T, b *bench, p *told, workers ...gondola.WorkerName) *host.Publisher {
	t.Helper()
	publisher := b.host.Publisher(p, p, workers)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- publisher.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return publisher
}

// open lists the networks in which there are ports of Apps.
func (w *wires) open() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.services))
}

func TestPublisher_FollowsAnAppThatIsMadeAgainInAnotherNetwork(t *testing.T) {
	b := newBench(t)
	p := newTold("old")
	publish(t, b, p, "fra")
	become := func(want ...string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for !slices.Equal(b.net.open(), want) {
			select {
			case <-deadline:
				t.Fatalf("the app has ports in networks %v, want %v", b.net.open(), want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	p.machine("fra", "1", "10.64.16.1", nil)
	p.changes <- gondola.Change{Worker: "fra", Synced: true}
	become("old")
	p.machine("fra", "1", "10.64.16.1", func(m *gondola.Machine) { m.State = gondola.Destroyed })
	become()
	again := "new"
	p.network.Store(&again)
	p.machine("fra", "2", "10.64.16.2", nil)
	become("new")
}

func TestPublisher_LeadsToTheMachinesThatWork(t *testing.T) {
	b := newBench(t)
	p := newTold("of-web")
	publisher := publish(t, b, p, "fra", "ams")
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
	p.machine("fra", "1", "10.64.16.1", nil)
	p.changes <- gondola.Change{Worker: "fra", Synced: true}
	p.machine("ams", "2", "10.64.32.1", nil)
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
	p.machine("fra", "1", "10.64.16.1", func(m *gondola.Machine) { m.Checks = []gondola.CheckStatus{{Status: "critical"}} })
	become("10.64.32.1:8080")
	p.machine("ams", "2", "10.64.32.1", func(m *gondola.Machine) { m.State = gondola.Stopped })
	become() // the port stays the app's
	p.machine("fra", "1", "10.64.16.1", nil)
	become("10.64.16.1:8080")
	for worker, id := range map[gondola.WorkerName]string{"fra": "1", "ams": "2"} {
		p.machine(worker, id, "10.64.16.1", func(m *gondola.Machine) { m.State = gondola.Destroyed })
	}
	become("no service")
}
