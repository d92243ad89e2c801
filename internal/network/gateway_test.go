package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"gondola"
	"gondola/internal/network"
)

// nodes is a host with the gateways of two virtual nodes of network blue, and Machines.
type nodes struct {
	services
	list     []network.Gateway
	one, two *guest // inside the gateways
	red      *guest // of another network
}

func withNodes(t *testing.T) nodes {
	t.Helper()
	s := nodes{services: withServices(t)}
	for i, name := range []string{"one", "two"} {
		v4, v6, err := s.Plan().NodeAddress(1, i+1)
		check(t, err)
		s.list = append(s.list, network.Gateway{Network: "blue", Name: name, Addresses: []netip.Addr{v4, v6}, Taken: []uint16{10250}})
	}
	check(t, s.EnsureGateways(t.Context(), s.list))
	s.one, s.two = s.enter(t, s.Network, "one"), s.enter(t, s.Network, "two")
	s.red = attach(t, s.Network, 9, "red", 8)
	return s
}

// enter attaches a Machine with the network of a gateway.
func (s nodes) enter(t *testing.T, n *network.Network, name string) *guest {
	t.Helper()
	m := network.Machine{ID: gondola.NewMachineID(), Worker: 1, Number: 20, Network: "blue", NetworkID: 7, Gateway: name, HostNetwork: true}
	a, err := n.Attach(t.Context(), m, true)
	check(t, err)
	return &guest{m, a, t}
}

// give attaches the Machine again, with these ports of gateway one.
func (s nodes) give(t *testing.T, g *guest, ports ...gondola.HostPort) error {
	t.Helper()
	g.Machine.Gateway, g.Machine.Ports = "one", ports
	_, err := s.Attach(t.Context(), g.Machine, false)
	return err
}

func TestGateway_IsReachedByItsNetworkAndTheHost(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	s.set(t, 0, ports(s.b, 8080)...)
	for i, a := range s.list[0].Addresses {
		s.one.serve(t, "one", a, 8088)
		for who, g := range map[string]*guest{"a Machine": s.a, "the host": nil, "another gateway": s.two, "itself": s.one} {
			for _, proto := range []string{"tcp", "udp"} {
				t.Log(who, proto, a)
				g.reaches(t, proto, at(a, 8088), "one")
				g.refused(t, proto, at(a, 8089))
			}
		}
		s.red.refused(t, "tcp", at(a, 8088))
		if from := s.one.reaches(t, "tcp", at(s.b.Addresses[i], 8080), "b"); from != a.String() {
			t.Errorf("a Machine sees %s as the client in the gateway, want %s", from, a)
		}
		s.one.reaches(t, "tcp", at(s.vips()[i], 80), "b")
		s.one.refused(t, "tcp", at(s.red.Addresses[i], 8080))
	}
}

func TestGateway_ListensForTheProcessThatAsks(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	addr := at(s.list[0].Addresses[0], 10250)
	l, err := s.ListenIn("blue", "one", addr)
	check(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "kubelet ", c.RemoteAddr())
			c.Close()
		}
	}()
	s.a.reaches(t, "tcp", addr, "kubelet")
	(*guest)(nil).reaches(t, "tcp", addr, "kubelet")
	s.one.reaches(t, "tcp", addr, "kubelet")
	if _, err := s.ListenIn("blue", "three", addr); !errors.Is(err, gondola.ErrUnsupported) {
		t.Errorf("ListenIn(three) = %v, want %v", err, gondola.ErrUnsupported)
	}
}

func TestHostPorts_LeadToTheirMachine(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	node4, node6 := s.list[0].Addresses[0], s.list[0].Addresses[1]
	check(t, s.give(t, s.b, gondola.HostPort{HostPort: 80, Port: 8080}, gondola.HostPort{HostPort: 53, Port: 8080, Protocol: "udp"}))
	for who, g := range map[string]*guest{"a Machine": s.a, "the host": nil, "another gateway": s.two, "inside": s.one, "the Machine itself": s.b} {
		for _, a := range []netip.Addr{node4, node6} {
			t.Log(who, a)
			g.reaches(t, "tcp", at(a, 80), "b")
			g.reaches(t, "udp", at(a, 53), "b")
			g.refused(t, "tcp", at(a, 53))
		}
	}
	s.one.reaches(t, "tcp", "127.0.0.1:80", "b")
	s.one.reaches(t, "udp", "127.0.0.1:53", "b")
	if from := s.a.reaches(t, "tcp", at(node4, 80), "b"); from != s.a.v4().String() {
		t.Errorf("the Machine sees %s as its client, want %s", from, s.a.v4())
	}
	for where, g := range map[string]*guest{"the host": nil, "the other gateway": s.two, "a Machine": s.a} {
		t.Log(where)
		g.refused(t, "tcp", "127.0.0.1:80") // is each one's own
	}
	s.red.refused(t, "tcp", at(node4, 80))
	(*guest)(nil).refused(t, "tcp", at(s.list[1].Addresses[0], 80))
}

func TestHostPorts_TakeUDPFlowsThatWereEarly(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	source := netip.AddrPortFrom(netip.IPv4Unspecified(), 5353)
	early := []struct {
		who  string
		from *guest
		to   string
	}{
		{"a Machine", s.a, at(s.list[0].Addresses[0], 30053)}, {"the host", nil, at(s.list[0].Addresses[0], 30053)},
		{"inside", s.one, at(s.list[0].Addresses[0], 30053)}, {"inside, at loopback", s.one, "127.0.0.1:30053"},
	}
	for i, open := range []struct {
		what string
		do   func() error
	}{
		{"a hostPort", func() error { return s.give(t, s.b, gondola.HostPort{HostPort: 30053, Port: 8080, Protocol: "udp"}) }},
		{"none any more, but a node port", func() error {
			return errors.Join(s.give(t, s.b), s.SetServices(t.Context(), "blue", []gondola.VirtualService{{Name: "dns", Public: &gondola.Public{},
				Ports: []gondola.VirtualPort{{Protocol: "udp", Port: 53, NodePort: 30053, Backends: ports(s.c, 8080)}}}}))
		}},
	} {
		for j, e := range early {
			if name, _, err := e.from.askFrom("udp", e.to, netip.AddrPortFrom(source.Addr(), source.Port()+uint16(j))); i == 0 && err == nil {
				t.Errorf("%s: answer of %q before there is a port", e.who, name)
			}
		}
		check(t, open.do())
		for j, e := range early {
			name, _, err := e.from.askFrom("udp", e.to, netip.AddrPortFrom(source.Addr(), source.Port()+uint16(j)))
			if want := []string{"b", "c"}[i]; err != nil || name != want {
				t.Errorf("%s has %s: answer of %q, %v; want %s", e.who, open.what, name, err, want)
			}
		}
	}
}

func TestHostPorts_OneNumberForEachAddressAndProtocol(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	node := s.list[0].Addresses[0]
	check(t, s.give(t, s.b, gondola.HostPort{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 54323, Port: 8080}))
	check(t, s.give(t, s.c, gondola.HostPort{HostIP: node, HostPort: 54323, Port: 8081}))
	check(t, s.give(t, s.a, gondola.HostPort{HostIP: node, HostPort: 54323, Port: 8082, Protocol: "udp"}))
	s.a.serve(t, "a", s.a.v4(), 8082)
	s.one.reaches(t, "tcp", "127.0.0.1:54323", "b")
	name, from, err := s.one.askFrom("tcp", "127.0.0.1:54323", netip.AddrPortFrom(node, 0))
	if name != "b" || from != node.String() {
		t.Errorf("from the node's address to 127.0.0.1: answer of %q to %q, %v", name, from, err)
	}
	s.one.reaches(t, "tcp", at(node, 54323), "c2")
	s.b.reaches(t, "tcp", at(node, 54323), "c2")
	s.one.reaches(t, "udp", at(node, 54323), "a")

	err = s.give(t, s.b, gondola.HostPort{HostPort: 54323, Port: 8080})
	if !errors.Is(err, gondola.ErrConflict) || !strings.Contains(err.Error(), "54323/tcp") {
		t.Errorf("a port that another Machine has: %v, want an ErrConflict that names it", err)
	}
	s.one.reaches(t, "tcp", "127.0.0.1:54323", "b") // as it was
	if err := s.give(t, s.b, gondola.HostPort{HostPort: 10250, Port: 8080}); !errors.Is(err, gondola.ErrConflict) {
		t.Errorf("the kubelet's port: %v, want an ErrConflict", err)
	}

	check(t, s.Detach(t.Context(), s.c.ID))
	s.one.refused(t, "tcp", at(node, 54323))
	check(t, s.give(t, s.b, gondola.HostPort{HostIP: node, HostPort: 54323, Port: 8080}))
	s.one.reaches(t, "tcp", at(node, 54323), "b")
	s.one.refused(t, "tcp", "127.0.0.1:54323") // a Machine has the ports that it asked for last
}

func TestGateway_StaysOverARestart(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	node := s.list[0].Addresses[0]
	check(t, s.give(t, s.b, gondola.HostPort{HostPort: 80, Port: 8080}))
	check(t, s.give(t, s.c, gondola.HostPort{HostPort: 81, Port: 8080}))
	s.one.serve(t, "one", node, 8088)
	ended := s.c.ID
	check(t, os.WriteFile("/run/netns/gondola-test1234-"+string(ended)+".x", nil, 0o600)) // nobody's
	again := open(t)
	check(t, again.EnsureGateways(t.Context(), s.list[:1]))
	s.a.reaches(t, "tcp", at(node, 8088), "one")
	s.a.reaches(t, "tcp", at(node, 80), "b")
	s.one.reaches(t, "tcp", "127.0.0.1:81", "c")
	if _, err := again.Attach(t.Context(), network.Machine{ID: gondola.NewMachineID(), Worker: 1, Number: 30, Network: "blue", NetworkID: 7,
		Gateway: "one", Ports: []gondola.HostPort{{HostPort: 80, Port: 1}}}, true); !errors.Is(err, gondola.ErrConflict) {
		t.Errorf("a port of a Machine of before: %v, want an ErrConflict", err)
	}
	if again.GatewayAddresses("blue", "two") != nil {
		t.Error("gateway two is still there, which is not wanted any more")
	}
	if _, err := os.Stat("/run/netns/gondola-test1234-gateway.blue.two"); !os.IsNotExist(err) {
		t.Errorf("the namespace of gateway two: %v, want none", err)
	}
	check(t, again.Detach(t.Context(), s.b.ID))
	s.a.refused(t, "tcp", at(node, 80))
	s.one.refused(t, "tcp", "127.0.0.1:80")
	if ids, err := again.Attached(); err != nil || len(ids) == 0 || strings.Contains(fmt.Sprint(ids), "gateway") {
		t.Errorf("Attached() = %v, %v; want Machines alone", ids, err)
	}
	check(t, again.Purge(t.Context()))
	if left, _ := os.ReadDir("/run/netns"); len(left) > 0 {
		t.Errorf("purge left namespaces: %v", left)
	}
}

func TestGateway_HasTheAddressesThatLoHad(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	v4, v6, err := n.Plan().NodeAddress(1, 1)
	check(t, err)
	check(t, n.EnsureHost(t.Context(), network.HostPlan{Addresses: []netip.Addr{v4, v6}})) // as before there were gateways
	check(t, n.EnsureGateways(t.Context(), []network.Gateway{{Network: "blue", Name: "one", Addresses: []netip.Addr{v4, v6}}}))
	addrs, err := net.InterfaceAddrs()
	check(t, err)
	if strings.Contains(fmt.Sprint(addrs), v4.String()+"/") {
		t.Errorf("the host still has %s: %v", v4, addrs)
	}
	s := nodes{}
	one := s.enter(t, n, "one")
	one.serve(t, "one", v4, 80)
	(*guest)(nil).reaches(t, "tcp", at(v4, 80), "one")
}

func TestGateway_HasNodePorts(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	set := func(nodePort uint16) {
		check(t, s.SetServices(t.Context(), "blue", []gondola.VirtualService{{Name: "web", Addresses: []netip.Addr{s.vip4, s.vip6}, Public: &gondola.Public{},
			Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80, NodePort: nodePort, Backends: ports(s.b, 8080)}}}}))
	}
	set(30080)
	for _, a := range s.list[0].Addresses {
		for who, g := range map[string]*guest{"a Machine": s.a, "the host": nil, "inside": s.one, "another gateway": s.two, "another network": s.red} {
			t.Log(who, a)
			g.reaches(t, "tcp", at(a, 30080), "b")
		}
	}
	s.one.reaches(t, "tcp", "127.0.0.1:30080", "b")
	set(30081)
	s.one.refused(t, "tcp", "127.0.0.1:30080")
	s.one.reaches(t, "tcp", "127.0.0.1:30081", "b")
}

func TestGateway_IsExemptFromPolicies(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withNodes(t)
	check(t, s.SetPolicies(t.Context(), "blue", "test", gondola.PolicySet{Policies: []gondola.Policy{{Name: "none",
		Ingress: &gondola.PolicyRules{}}}}))
	for _, g := range []*guest{s.a, s.b, s.c} {
		check(t, s.Describe(t.Context(), gondola.PolicySubject{ID: g.ID, App: "app"}))
	}
	s.a.refused(t, "tcp", at(s.b.v4(), 8080))
	s.one.reaches(t, "tcp", at(s.b.v4(), 8080), "b")
	s.one.serve(t, "one", s.one.v4(), 8088)
	s.a.reaches(t, "tcp", at(s.one.v4(), 8088), "one")
}
