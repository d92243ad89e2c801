package network_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/network"
)

// doors is a host with Machines b of network blue and r of network red, and a client outside.
type doors struct {
	services
	red, out *guest
	host     []netip.Addr // its addresses towards the outside
}

func withDoors(t *testing.T) doors {
	t.Helper()
	d := doors{services: withServices(t), out: outside(t), host: addrs("198.51.100.1", "2001:db8::1")}
	d.red = attach(t, d.Network, 9, "red", 8)
	for _, a := range d.red.Addresses {
		d.red.serve(t, "red", a, 8080)
	}
	return d
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// web is a service that leads to b, to be opened as p says.
func (d doors) web(p *gondola.Public, nodePort uint16, backends ...netip.AddrPort) gondola.VirtualService {
	if backends == nil {
		backends = ports(d.b, 8080)
	}
	return gondola.VirtualService{Name: "default/web", Addresses: d.vips(), Public: p, Ports: []gondola.VirtualPort{
		{Protocol: "tcp", Port: 80, NodePort: nodePort, Backends: backends}, {Protocol: "udp", Port: 80, NodePort: nodePort, Backends: backends}}}
}

func (d doors) open(t *testing.T, s ...gondola.VirtualService) {
	t.Helper()
	check(t, d.SetServices(t.Context(), "blue", s))
}

// refusal returns the reason why the only port that is not open is not.
func (d doors) refusal(t *testing.T) string {
	t.Helper()
	e, err := d.Entrance()
	check(t, err)
	if len(e.Refusals) == 0 {
		return ""
	}
	return e.Refusals[0].Reason
}

func TestPublic_NodePortsAnswerEverybody(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	var host *guest
	for _, keep := range []bool{false, true} {
		d.open(t, d.web(&gondola.Public{KeepSource: keep}, 30080))
		c4, c6, _ := d.Plan().ClusterAddress(1)
		for i, gateway := range n4n6(d.Network) {
			for _, proto := range []string{"tcp", "udp"} {
				want := gateway
				if keep {
					want = d.out.Addresses[i]
				}
				if from := d.out.reaches(t, proto, at(d.host[i], 30080), "b"); from != want.String() {
					t.Errorf("%s, source kept %v: b saw the outside as %s, want %s", proto, keep, from, want)
				}
				for _, to := range []netip.Addr{d.host[i], []netip.Addr{c4, c6}[i]} {
					for _, from := range []*guest{host, d.a, d.b, d.red} {
						from.reaches(t, proto, at(to, 30080), "b")
					}
				}
				d.out.refused(t, "tcp", at(d.host[i], 80)) // the port of the virtual address only
			}
		}
		for _, proto := range []string{"tcp", "udp"} {
			host.reaches(t, proto, "127.0.0.1:30080", "b")
		}
	}
	d.open(t)
	for i := range d.host {
		d.out.refused(t, "tcp", at(d.host[i], 30080))
		d.out.refused(t, "udp", at(d.host[i], 30080))
	}
}

func TestPublic_OnlySourcesComeIn(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	reached := func() bool {
		_, _, err := d.out.ask("tcp", at(d.host[0], 80))
		_, _, err6 := d.out.ask("tcp", at(d.host[1], 80))
		if (err == nil) != (err6 == nil) {
			t.Errorf("IPv4 %v, IPv6 %v: want the same", err, err6)
		}
		return err == nil
	}
	for _, c := range []struct {
		sources []string
		want    bool
	}{
		{nil, true},
		{[]string{"198.51.100.2/32", "2001:db8::/64"}, true},
		{[]string{"198.51.100.0/31", "192.0.2.0/24", "2001:db9::/64"}, false},
		{[]string{"198.51.100.0/31", "198.51.100.2/31", "198.51.100.0/24", "0.0.0.0/1", "128.0.0.0/1", "::/0", "2001:db9::/64"}, true},
	} {
		p := &gondola.Public{Host: true, KeepSource: true}
		for _, s := range c.sources {
			p.Sources = append(p.Sources, netip.MustParsePrefix(s))
		}
		d.open(t, d.web(p, 0))
		if got := reached(); got != c.want {
			t.Errorf("sources %v: reached %v, want %v", c.sources, got, c.want)
		}
	}
}

func TestPublic_AnAddressOfAPoolIsTheHostsWhileItIsUsed(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	cfg := config()
	cfg.Pools = []netip.Prefix{netip.MustParsePrefix("198.51.100.64/28"), netip.MustParsePrefix("2001:db8:1::/64")}
	var err error
	d.Network, err = network.Open(cfg)
	check(t, err)
	pool := addrs("198.51.100.65", "2001:db8:1::1")
	check(t, d.out.do(func() error { return routeVia(pool[1], "2001:db8::1") }))
	everywhere, err := net.Listen("tcp", ":9999") // such as sshd
	check(t, err)
	defer everywhere.Close()
	d.open(t, d.web(&gondola.Public{Addresses: pool, KeepSource: true}, 0))
	var host *guest
	for i, a := range pool {
		for _, proto := range []string{"tcp", "udp"} {
			if from := d.out.reaches(t, proto, at(a, 80), "b"); from != d.out.Addresses[i].String() {
				t.Errorf("b saw %s, want the client's %s", from, d.out.Addresses[i])
			}
			host.reaches(t, proto, at(a, 80), "b")
			d.red.reaches(t, proto, at(a, 80), "b")
		}
		d.out.refused(t, "tcp", at(a, 9999))
		d.out.refused(t, "udp", at(a, 9999))
		d.out.refused(t, "tcp", at(d.host[i], 80))
	}
	if d.Network, err = network.Open(cfg); err != nil {
		t.Fatal(err)
	}
	d.out.reaches(t, "tcp", at(pool[0], 80), "b")
	gone := func() {
		t.Helper()
		a, err := net.InterfaceAddrs()
		check(t, err)
		for _, a := range a {
			if ip := a.(*net.IPNet).IP; ip.Equal(pool[0].AsSlice()) || ip.Equal(pool[1].AsSlice()) {
				t.Errorf("address %s is still there", ip)
			}
		}
	}
	d.open(t)
	gone()
	d.open(t, d.web(&gondola.Public{Addresses: pool, KeepSource: true}, 0))
	dropTable(t) // as if a crash had come before it was written
	if d.Network, err = network.Open(cfg); err != nil {
		t.Fatal(err)
	}
	gone()
	d.open(t, d.web(&gondola.Public{Addresses: addrs("8.8.8.8")}, 0))
	if got := d.refusal(t); !strings.Contains(got, "neither one of the host nor of a pool") {
		t.Errorf("refusal %q, want that 8.8.8.8 is not ours", got)
	}
}

func TestPublic_APortThatSomebodyHasIsNotTaken(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	var host *guest
	l, err := net.Listen("tcp", "198.51.100.1:80")
	check(t, err)
	d.open(t, d.web(&gondola.Public{Host: true}, 30080))
	name, err := os.ReadFile("/proc/self/comm")
	check(t, err)
	if got := d.refusal(t); !strings.HasPrefix(got, "process "+strings.TrimSpace(string(name))+" (") || !strings.HasSuffix(got, ") listens on it") {
		t.Errorf("refusal %q, want that this process listens", got)
	}
	d.out.reaches(t, "tcp", at(d.host[0], 30080), "b") // what can be opened is
	d.out.refused(t, "udp", at(d.host[0], 80))         // the ports of one service together or not at all
	l.Close()
	d.open(t, d.web(&gondola.Public{Host: true}, 30080))
	if got := d.refusal(t); got != "" {
		t.Errorf("refusal %q after the process has ended", got)
	}
	d.out.reaches(t, "tcp", at(d.host[0], 80), "b")

	second := d.web(&gondola.Public{Host: true}, 0)
	second.Name, second.Addresses = "default/another", nil // before the first in the alphabet
	d.open(t, second, d.web(&gondola.Public{Host: true}, 30080))
	if got, want := d.refusal(t), "it belongs to Service default/web of network blue"; got != want {
		t.Errorf("refusal %q, want %q", got, want)
	}
	err = d.CheckAppService("red", gondola.VirtualService{Name: "pg", Public: &gondola.Public{Host: true}, Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80}}})
	if want := "services: port 80/tcp cannot be opened on the host for pg: it belongs to Service default/web of network blue; use another port"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
	ssh := d.web(&gondola.Public{Host: true}, 0)
	ssh.Ports[0].Port, ssh.Ports[1].Port = 22, 22
	d.open(t, ssh)
	if got := d.refusal(t); got != "the host needs it for SSH" {
		t.Errorf("refusal %q of port 22", got)
	}
	host.refused(t, "tcp", at(d.host[0], 80)) // given back
}

func TestPublic_APortThatAnotherInstanceHasIsNotTaken(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	d.open(t, d.web(&gondola.Public{Host: true}, 30080))
	cfg := config()
	cfg.Instance, cfg.StateFile, cfg.Range = "other567", "/tmp/other.json", netip.MustParsePrefix("10.128.0.0/10")
	first := d.Network
	var err error
	d.Network, err = network.Open(cfg)
	check(t, err)
	late := d.web(&gondola.Public{Host: true}, 0)
	late.Addresses = nil
	d.open(t, late)
	if got, want := d.refusal(t), "another gondola on this host has it (gondola-test1234)"; got != want {
		t.Errorf("refusal %q, want %q", got, want)
	}
	d.out.reaches(t, "tcp", at(d.host[0], 80), "b")
	check(t, first.SetServices(t.Context(), "blue", nil))
	d.open(t, late)
	if got := d.refusal(t); got != "" {
		t.Errorf("refusal %q after the other has given it back", got)
	}
}

func TestPublic_OnlyMachinesOfTheNetworkAreReached(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	d.open(t, d.web(&gondola.Public{KeepSource: true}, 30080, ports(d.red, 8080)...))
	for i := range d.host {
		d.out.refused(t, "tcp", at(d.host[i], 30080))
		d.a.refused(t, "tcp", at(d.host[i], 30080))
		check(t, d.out.do(func() error { return routeVia(d.b.Addresses[i], d.host[i].String()) }))
		d.out.refused(t, "tcp", at(d.b.Addresses[i], 8080)) // no port of a Machine itself is open
	}
	check(t, d.SetAppServices(t.Context(), map[string][]gondola.VirtualService{"red": {{Name: "red-app", Public: &gondola.Public{Host: true, KeepSource: true},
		Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 5000, Backends: ports(d.red, 8080)}}}}}))
	if from := d.out.reaches(t, "tcp", at(d.host[0], 5000), "red"); from != d.out.Addresses[0].String() {
		t.Errorf("red saw %s", from)
	}
	d.a.reaches(t, "tcp", at(d.host[1], 5000), "red")
	d.open(t) // of another owner
	d.out.reaches(t, "tcp", at(d.host[0], 5000), "red")
}

func TestPublic_AClusterThatWasRenamedGetsItsServicesBack(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	d.open(t, d.web(&gondola.Public{Host: true, KeepSource: true}, 30080))
	check(t, d.SetAppServices(t.Context(), map[string][]gondola.VirtualService{"red": {{Name: "app", Public: &gondola.Public{Host: true, KeepSource: true},
		Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 5000, Backends: ports(d.red, 8080)}}}}}))
	d.b.Gateway, d.b.Ports = "fra", []gondola.HostPort{{Port: 8080, HostPort: 8000}}
	node := network.Gateway{Network: "blue", Name: "fra", Addresses: addrs("10.127.240.65", "fdaa:ffff::1:2")}
	check(t, d.EnsureGateways(t.Context(), []network.Gateway{node}))
	check(t, d.Keep(t.Context(), d.b.Machine))
	d.out.reaches(t, "tcp", at(d.host[0], 30080), "b")

	// The same cluster under another name, in another process.
	d.Network = open(t)
	check(t, d.EnsureGateways(t.Context(), []network.Gateway{node}))
	web := gondola.VirtualService{Name: "default/web", Addresses: d.vips(), Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80, Backends: ports(d.red, 8080)}}}
	check(t, d.SetServices(t.Context(), "red", []gondola.VirtualService{web}))
	var host *guest
	for i, vip := range d.vips() {
		d.red.reaches(t, "tcp", at(vip, 80), "red")
		host.reaches(t, "tcp", at(vip, 80), "red")
		d.a.refused(t, "tcp", at(vip, 80))
		d.out.refused(t, "tcp", at(d.host[i], 30080))
		d.out.refused(t, "tcp", at(d.host[i], 80))
		d.out.reaches(t, "tcp", at(d.host[i], 5000), "red") // an App's stays
		d.a.reaches(t, "tcp", at(node.Addresses[i], 8000), "b")
	}
	web.Ports[0].NodePort, web.Public = 30080, &gondola.Public{KeepSource: true}
	check(t, d.SetServices(t.Context(), "red", []gondola.VirtualService{web}))
	d.out.reaches(t, "tcp", at(d.host[0], 30080), "red")

	// Of the two that are there now the first keeps what it has.
	err := d.SetServices(t.Context(), "blue", []gondola.VirtualService{{Name: "default/web", Addresses: d.vips()[:1]}})
	if want := "services of network blue: address 10.43.0.10 belongs to a service of network red"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	d.red.reaches(t, "tcp", at(d.vip4, 80), "red")
}

func TestPublic_ConnectionsOutliveTheProcessAndChanges(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	d.open(t, d.web(&gondola.Public{Host: true, KeepSource: true}, 0))
	l := make(chan net.Listener, 1)
	check(t, d.b.do(func() error {
		k, err := net.Listen("tcp", at(d.b.v4(), 7000))
		l <- k
		return err
	}))
	listener := <-l
	defer listener.Close()
	s := d.web(&gondola.Public{Host: true, KeepSource: true}, 0)
	s.Ports = append(s.Ports, gondola.VirtualPort{Protocol: "tcp", Port: 7000, Backends: ports(d.b, 7000)})
	d.open(t, s)
	conns := make(chan net.Conn, 1)
	check(t, d.out.do(func() error {
		c, err := net.Dial("tcp", at(d.host[0], 7000))
		conns <- c
		return err
	}))
	client := <-conns
	defer client.Close()
	server, err := listener.Accept()
	check(t, err)
	defer server.Close()
	d.Network = open(t)
	d.open(t, s, gondola.VirtualService{Name: "z/other", Public: &gondola.Public{}, Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 81, NodePort: 30081, Backends: ports(d.c, 8080)}}})
	d.out.reaches(t, "tcp", at(d.host[0], 30081), "c")
	_, err = client.Write([]byte("still"))
	check(t, err)
	b := make([]byte, 10)
	k, err := server.Read(b)
	if err != nil || string(b[:k]) != "still" {
		t.Errorf("the connection brought %q, %v", b[:k], err)
	}
}

func TestPublic_AUDPFlowThatWasEarlyComesIn(t *testing.T) {
	if !onHost(t) {
		return
	}
	d := withDoors(t)
	source := netip.AddrPortFrom(netip.IPv4Unspecified(), 5353)
	if name, _, err := d.out.askFrom("udp", at(d.host[0], 30080), source); err == nil {
		t.Fatalf("answer of %q before there is a service", name)
	}
	d.open(t, d.web(&gondola.Public{KeepSource: true}, 30080))
	name, _, err := d.out.askFrom("udp", at(d.host[0], 30080), source)
	if err != nil || name != "b" {
		t.Errorf("answer of %q, %v; want b", name, err)
	}
}
