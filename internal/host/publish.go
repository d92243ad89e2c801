package host

import (
	"cmp"
	"context"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"gondola"
)

// Publisher opens the plain ports of Machines' services on this host, and leads them to those Machines of the App that are started, not
// cordoned and, where that is known, healthy. An App keeps a port as long as one of its Machines has it, running or not. Rules stay in the
// kernel when it ends.
type Publisher struct {
	host    *Host
	watcher gondola.Watcher
	apps    gondola.Apps
	workers []gondola.WorkerName
	ready   chan struct{}

	machines map[gondola.MachineID]gondola.Machine // Run's
	networks map[gondola.AppName]string            // Run's
	said     map[gondola.PortRefusal]bool          // Run's
}

// Publisher returns one for these workers of this host, which watches their Machines.
func (h *Host) Publisher(w gondola.Watcher, apps gondola.Apps, workers []gondola.WorkerName) *Publisher {
	return &Publisher{host: h, watcher: w, apps: apps, workers: workers, ready: make(chan struct{}), networks: map[gondola.AppName]string{},
		said: map[gondola.PortRefusal]bool{}}
}

// Ready closes when the ports of all Machines that there were are open.
func (p *Publisher) Ready() <-chan struct{} { return p.ready }

func (p *Publisher) String() string { return "publisher of Machines' ports" }

// Run keeps the ports until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := p.follow(ctx); err != nil && ctx.Err() == nil {
			p.host.log.Warn("ports of Machines: trying again", "err", err)
		}
		wait(ctx, time.Second)
	}
	return ctx.Err()
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// follow takes one stream of changes to its end. Nothing is set before every worker has told all of its Machines: a port must not lose
// Machines because the daemon began again.
func (p *Publisher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes, err := p.watcher.Watch(ctx, gondola.WatchRequest{})
	if err != nil {
		return err
	}
	const gather, again = 20 * time.Millisecond, 5 * time.Second
	p.machines = map[gondola.MachineID]gondola.Machine{}
	synced := map[gondola.WorkerName]bool{}
	var last map[string][]gondola.VirtualService
	refused := false
	due := time.NewTimer(again)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case c, ok := <-changes:
			if !ok {
				return nil
			}
			if c.Synced && slices.Contains(p.workers, c.Worker) {
				synced[c.Worker] = true
			}
			if p.take(c) || c.Synced {
				due.Reset(gather)
			}
			continue
		case <-due.C:
		}
		if len(synced) < len(p.workers) {
			continue
		}
		want, err := p.services(ctx)
		if err == nil && (last == nil || refused || !reflect.DeepEqual(want, last)) {
			if err = p.host.network.SetAppServices(ctx, want); err == nil {
				last = want
				refused = p.tellRefusals()
			}
		}
		if err != nil {
			return err
		}
		select {
		case <-p.ready:
		default:
			close(p.ready)
		}
		due.Reset(again)
	}
}

// take notes a change and says whether it was one.
func (p *Publisher) take(c gondola.Change) bool {
	m := c.Machine
	if m == nil || !slices.Contains(p.workers, c.Worker) {
		return false
	}
	_, had := p.machines[m.ID]
	if m.State == gondola.Destroyed || m.Config == nil || len(m.Config.Services) == 0 {
		delete(p.machines, m.ID)
		return had
	}
	if !had { // the App may be a new one with the name of one that is gone
		delete(p.networks, m.Ref().App)
	}
	p.machines[m.ID] = *m
	return true
}

// services is what is to be open, by network.
func (p *Publisher) services(ctx context.Context) (map[string][]gondola.VirtualService, error) {
	type door struct {
		app      gondola.AppName
		protocol string
		port     uint16
	}
	doors := map[door][]netip.AddrPort{}
	for _, m := range p.machines {
		for _, s := range m.Config.Services {
			open, _, err := s.PlainPorts()
			if err != nil {
				continue // the worker has refused it
			}
			for _, port := range open {
				d := door{m.Ref().App, cmp.Or(s.Protocol, "tcp"), port}
				doors[d] = append(doors[d], backends(m, uint16(s.InternalPort))...)
			}
		}
	}
	out := map[string][]gondola.VirtualService{}
	for d, b := range doors {
		network, err := p.networkOf(ctx, d.app)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(b, netip.AddrPort.Compare)
		out[network] = append(out[network], PublicPort(d.app, d.protocol, d.port, b...))
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b gondola.VirtualService) int {
			return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Ports[0].Port, b.Ports[0].Port), cmp.Compare(a.Ports[0].Protocol, b.Ports[0].Protocol))
		})
	}
	return out, nil
}

// PublicPort is a port of the host that an App has. Every port is a service of its own, so that one that is taken keeps no other closed.
func PublicPort(app gondola.AppName, protocol string, port uint16, backends ...netip.AddrPort) gondola.VirtualService {
	return gondola.VirtualService{Name: string(app), Public: &gondola.Public{Host: true, KeepSource: true},
		Ports: []gondola.VirtualPort{{Protocol: protocol, Port: port, Backends: backends}}}
}

// backends are where a Machine takes connections now; none if it does not.
func backends(m gondola.Machine, port uint16) (out []netip.AddrPort) {
	if m.State != gondola.Started || m.Cordoned || m.Gondola == nil || !m.TakesTraffic() {
		return nil
	}
	if k := m.Gondola.Containers; len(k) > 0 && !slices.ContainsFunc(k, func(c gondola.ContainerStatus) bool { return c.Ready && c.State.Kind == gondola.ContainerRunning }) {
		return nil
	}
	for _, a := range m.Gondola.Addresses {
		out = append(out, netip.AddrPortFrom(a, port))
	}
	return out
}

// networkOf asks for an App's network when there is a new Machine of it: it never changes.
func (p *Publisher) networkOf(ctx context.Context, app gondola.AppName) (string, error) {
	if n, ok := p.networks[app]; ok {
		return n, nil
	}
	a, err := p.apps.App(ctx, app)
	if err != nil {
		return "", err
	}
	p.networks[app] = cmp.Or(a.Network, gondola.DefaultNetwork)
	return p.networks[app], nil
}

// tellRefusals logs what is new among the ports that could not be opened, and says whether there are any.
func (p *Publisher) tellRefusals() bool {
	e, err := p.host.network.Entrance()
	if err != nil {
		p.host.log.Warn("ports of Machines", "err", err)
		return true
	}
	any := false
	for _, r := range e.Refusals {
		if _, ours := p.networks[gondola.AppName(r.Service)]; !ours {
			continue
		}
		any = true
		if !p.said[r] {
			p.said[r] = true
			p.host.log.Warn("port of an app is not open", "app", r.Service, "port", r.Port, "protocol", r.Protocol, "reason", r.Reason)
		}
	}
	return any
}
