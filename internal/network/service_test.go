package network_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"gondola"
	"gondola/internal/network"
)

// services is a host with two Service addresses and three Machines of network blue.
type services struct {
	*network.Network
	vip4, vip6 netip.Addr
	a, b, c    *guest
}

func withServices(t *testing.T) services {
	t.Helper()
	s := services{Network: open(t), vip4: netip.MustParseAddr("10.43.0.10"), vip6: netip.MustParseAddr("fdaa:fffe::1:10")}
	s.ensureHost(t)
	s.a, s.b, s.c = attach(t, s.Network, 1, "blue", 7), attach(t, s.Network, 2, "blue", 7), attach(t, s.Network, 3, "blue", 7)
	for name, g := range map[string]*guest{"b": s.b, "c": s.c} {
		for _, a := range g.Addresses {
			g.serve(t, name, a, 8080)
			g.serve(t, name+"2", a, 8081)
		}
	}
	return s
}

func (s services) ensureHost(t *testing.T) {
	t.Helper()
	c4, c6, err := s.Plan().ClusterAddress(1)
	check(t, err)
	r4, r6, err := s.Plan().ServiceRange(1)
	check(t, err)
	check(t, s.EnsureHost(t.Context(), network.HostPlan{
		Addresses:     []netip.Addr{c4, c6},
		ServiceRanges: []network.ServiceRange{{Prefix: r4, Source: c4}, {Prefix: r6, Source: c6}},
	}))
}

// set makes one service with port 80, of both protocols and families, with these backends.
func (s services) set(t *testing.T, affinity int, backends ...netip.AddrPort) {
	t.Helper()
	check(t, s.SetServices(t.Context(), "blue", []gondola.VirtualService{{
		Name: "default/web", Addresses: []netip.Addr{s.vip4, s.vip6}, Affinity: affinity,
		Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80, Backends: backends}, {Protocol: "udp", Port: 80, Backends: backends}},
	}}))
}

func (s services) vips() []netip.Addr { return []netip.Addr{s.vip4, s.vip6} }

func ports(g *guest, port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(g.v4(), port), netip.AddrPortFrom(g.v6(), port)}
}

func TestServices_BalanceOverBackendsWithDifferentPorts(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, append(ports(s.b, 8080), ports(s.c, 8081)...)...)
	for _, client := range []*guest{s.a, nil} {
		for _, vip := range s.vips() {
			for _, proto := range []string{"tcp", "udp"} {
				count := map[string]int{}
				for range 64 { // one side never: 2^-63
					name, _, err := client.ask(proto, at(vip, 80))
					check(t, err)
					count[name]++
				}
				if count["b"] == 0 || count["c2"] == 0 || len(count) != 2 {
					t.Errorf("%s to %s: answers %v, want some of b and some of c2", proto, vip, count)
				}
			}
		}
	}
}

func TestServices_HaveAsManyBackendsAsTheyLike(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	const first, count, answering = 20000, 700, 100
	var backends []netip.AddrPort
	for i := range uint16(count) {
		backends = append(backends, ports(s.b, first+i)...)
		if i >= count-answering { // the last of them, which no first piece has
			s.b.serve(t, "b", s.b.v4(), first+i)
			s.b.serve(t, "b", s.b.v6(), first+i)
		}
	}
	s.set(t, 60, backends...)
	s.set(t, 0, backends...)
	for _, vip := range s.vips() {
		const tries = 300 // to hit none of a seventh: 10^-20
		for i := range tries {
			if name, _, err := s.a.ask("tcp", at(vip, 80)); err == nil && name == "b" {
				break
			} else if i == tries-1 {
				t.Errorf("none of the last %d of %d backends of %s answers: %v", answering, count, vip, err)
			}
		}
	}
}

func TestServices_SourceIsTheClient(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	if from := s.a.reaches(t, "tcp", at(s.vip4, 80), "b"); from != s.a.v4().String() {
		t.Errorf("b saw %s, want %s", from, s.a.v4())
	}
	if from := s.a.reaches(t, "tcp", at(s.vip6, 80), "b"); from != s.a.v6().String() {
		t.Errorf("b saw %s, want %s", from, s.a.v6())
	}
	c4, c6, _ := s.Plan().ClusterAddress(1)
	var host *guest
	if from := host.reaches(t, "tcp", at(s.vip4, 80), "b"); from != c4.String() {
		t.Errorf("b saw the host as %s, want %s", from, c4)
	}
	if from := host.reaches(t, "udp", at(s.vip6, 80), "b"); from != c6.String() {
		t.Errorf("b saw the host as %s, want %s", from, c6)
	}
}

func TestServices_AMachineReachesItself(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	for _, vip := range s.vips() {
		for _, proto := range []string{"tcp", "udp"} {
			s.b.reaches(t, proto, at(vip, 80), "b")
		}
	}
}

func TestServices_NothingThereIsRefusedAtOnce(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0)
	for _, client := range []*guest{s.a, nil} {
		for _, vip := range s.vips() {
			client.refused(t, "tcp", at(vip, 80)) // no backends
			client.refused(t, "udp", at(vip, 80))
			client.refused(t, "tcp", at(vip, 81))        // no such port
			client.refused(t, "tcp", at(vip.Next(), 80)) // no such service
		}
	}
	s.set(t, 0, ports(s.b, 8080)...)
	s.a.reaches(t, "tcp", at(s.vip4, 80), "b")
	s.a.refused(t, "tcp", at(s.vip4, 81))
	check(t, s.SetServices(t.Context(), "blue", nil))
	s.a.refused(t, "tcp", at(s.vip4, 80))
}

func TestServices_OfAnotherNetworkAreRefused(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	c4, c6, _ := s.Plan().ClusterAddress(1)
	var host *guest
	host.serve(t, "api", c4, 6443)
	host.serve(t, "api", c6, 6443)
	s.set(t, 0, netip.AddrPortFrom(c4, 6443), netip.AddrPortFrom(c6, 6443))
	red := attach(t, s.Network, 4, "red", 8)
	for _, vip := range s.vips() {
		s.a.reaches(t, "tcp", at(vip, 80), "api") // a backend on the host, on another port
		s.a.reaches(t, "udp", at(vip, 80), "api")
		host.reaches(t, "tcp", at(vip, 80), "api")
		red.refused(t, "tcp", at(vip, 80))
	}
}

func TestServices_OnAHostAddressLeaveItsOtherPortsAlone(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.vip4, s.vip6, _ = s.Plan().ClusterAddress(1)
	var host *guest
	for _, vip := range s.vips() {
		host.serve(t, "kubelet", vip, 10250)
	}
	s.set(t, 0, ports(s.b, 8080)...)
	for _, client := range []*guest{s.a, host} {
		for _, vip := range s.vips() {
			client.reaches(t, "tcp", at(vip, 80), "b")
			client.reaches(t, "tcp", at(vip, 10250), "kubelet")
		}
	}
}

func TestServices_AffinityKeepsAClientsBackend(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	both := append(ports(s.b, 8080), ports(s.c, 8080)...)
	s.set(t, 2, both...)
	for _, vip := range s.vips() {
		first, _, err := s.a.ask("tcp", at(vip, 80))
		check(t, err)
		for range 20 {
			s.a.reaches(t, "tcp", at(vip, 80), first)
		}
		// More backends do not move the client.
		more := append(both, append(ports(s.b, 8081), ports(s.c, 8081)...)...)
		s.set(t, 2, more...)
		for range 20 {
			s.a.reaches(t, "tcp", at(vip, 80), first)
		}
		// Its backend gone, it gets another and keeps that.
		left := ports(map[string]*guest{"b": s.c, "c": s.b}[first], 8080)
		s.set(t, 2, left...)
		other, _, err := s.a.ask("tcp", at(vip, 80))
		check(t, err)
		if other == first {
			t.Errorf("%s still answers after it was taken away", first)
		}
		s.set(t, 2, both...)
		for range 10 {
			s.a.reaches(t, "tcp", at(vip, 80), other)
		}
	}
	// After the time without a connection a client is free again.
	s.set(t, 1, both...)
	seen := map[string]bool{}
	deadline := time.After(15 * time.Second)
	for len(seen) < 2 {
		name, _, err := s.a.ask("tcp", at(s.vip4, 80))
		check(t, err)
		seen[name] = true
		select {
		case <-time.After(1100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("only %v after 15 s", seen)
		}
	}
}

func TestServices_WithAffinityBackendsComeAndGo(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	for range 2 {
		s.set(t, 10) // as a Service is before its Pods are there
		if _, _, err := s.a.ask("tcp", at(s.vip4, 80)); err == nil {
			t.Error("a service without backends answers")
		}
		s.set(t, 10, ports(s.b, 8080)...)
		for _, vip := range s.vips() {
			s.a.reaches(t, "tcp", at(vip, 80), "b")
		}
	}
	s.set(t, 10)
	check(t, s.SetServices(t.Context(), "blue", nil))
}

func TestServices_UDPFlowsLeaveABackendThatIsGone(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	source := netip.AddrPortFrom(netip.IPv4Unspecified(), 5353)
	ask := func() string {
		name, _, err := s.a.askFrom("udp", at(s.vip4, 80), source)
		check(t, err)
		return name
	}
	if got := ask(); got != "b" {
		t.Fatalf("answer of %s, want b", got)
	}
	s.set(t, 0, ports(s.c, 8080)...)
	if got := ask(); got != "c" {
		t.Errorf("answer of %s after b was taken away, want c", got)
	}
}

func TestServices_OutliveTheProcessThatSetThem(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	both := append(ports(s.b, 8080), ports(s.c, 8080)...)
	s.set(t, 60, both...)
	first, _, err := s.a.ask("tcp", at(s.vip4, 80))
	check(t, err)
	s.Network = open(t)
	for range 10 {
		s.a.reaches(t, "tcp", at(s.vip4, 80), first)
	}
	s.set(t, 60, append(both, ports(s.b, 8081)...)...)
	for range 10 {
		s.a.reaches(t, "tcp", at(s.vip4, 80), first)
	}
	s.Network = open(t)
	check(t, s.SetServices(t.Context(), "blue", nil))
	s.a.refused(t, "tcp", at(s.vip4, 80))
	if got := serviceChains(t); len(got) != 0 {
		t.Errorf("chains %v are left", got)
	}
}

func TestServices_AnAddressHasOneNetwork(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	err := s.SetServices(t.Context(), "red", []gondola.VirtualService{{Name: "x", Addresses: []netip.Addr{s.vip4}}})
	if want := "services of network red: address 10.43.0.10 belongs to a service of network blue"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestServices_OfAThousandOnlyWhatChangesIsWritten(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	all := make([]gondola.VirtualService, 1000)
	for i := range all {
		v4, v6 := netip.AddrFrom4([4]byte{10, 43, byte(1 + i/250), byte(i % 250)}), s.vip6.As16()
		v6[14], v6[15] = byte(1+i/250), byte(i%250)
		var backends []netip.AddrPort
		for p := range 5 {
			backends = append(append(backends, ports(s.b, uint16(1000+5*i+p))...), ports(s.c, 8080)...)
		}
		all[i] = gondola.VirtualService{Name: fmt.Sprint(i), Addresses: []netip.Addr{v4, netip.AddrFrom16(v6)},
			Ports: []gondola.VirtualPort{{Protocol: "tcp", Port: 80, Backends: backends}, {Protocol: "udp", Port: 80, Backends: backends}}}
	}
	all[999].Ports[0].Backends = ports(s.c, 8080)
	begin := time.Now()
	check(t, s.SetServices(t.Context(), "blue", all))
	t.Logf("1000 services set in %v", time.Since(begin))
	s.a.reaches(t, "tcp", at(all[999].Addresses[0], 80), "c")
	all[999].Ports[0].Backends = ports(s.b, 8080)
	before := chains(t)
	begin = time.Now()
	check(t, s.SetServices(t.Context(), "blue", all))
	t.Logf("one of them changed in %v", time.Since(begin))
	after, fresh, gone := chains(t), 0, 0
	for name, first := range after {
		if was, ok := before[name]; !ok {
			fresh++
		} else if was != first {
			t.Errorf("chain %s of another service was written anew", name)
		}
	}
	for name := range before {
		if _, ok := after[name]; !ok {
			gone++
		}
	}
	if fresh != 2 || gone > 2 { // one for each family
		t.Errorf("a service with other backends made %d chains and removed %d, want 2 and at most 2", fresh, gone)
	}
	s.a.reaches(t, "tcp", at(all[999].Addresses[0], 80), "b")
	begin = time.Now()
	check(t, s.SetServices(t.Context(), "blue", nil))
	t.Logf("all removed in %v", time.Since(begin))
	s.a.refused(t, "tcp", at(all[999].Addresses[0], 80))
}

// chains are those of services, with the handle of the first rule of each.
func chains(t *testing.T) map[string]uint64 {
	t.Helper()
	c, err := nftables.New()
	check(t, err)
	list, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	check(t, err)
	out := map[string]uint64{}
	for _, ch := range list {
		if !strings.HasPrefix(ch.Name, "service-") {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		check(t, err)
		if len(rules) > 0 {
			out[ch.Name] = rules[0].Handle
		}
	}
	return out
}

func TestGuard_SpoofedSourcesAreDropped(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	listening := make(chan *net.UDPConn, 1)
	check(t, s.b.do(func() error {
		u, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(s.b.v4(), 9)))
		listening <- u
		return err
	}))
	u := <-listening
	defer u.Close()
	send := func(from *guest, source netip.Addr) {
		check(t, from.do(func() error {
			// IP_TRANSPARENT sends from addresses that the Machine does not have.
			d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)), Control: func(_, _ string, c syscall.RawConn) (err error) {
				c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_IP, syscall.IP_TRANSPARENT, 1) })
				return err
			}}
			c, err := d.Dial("udp", at(s.b.v4(), 9))
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		}))
	}
	send(s.a, s.c.v4()) // a says that it is c
	send(s.a, s.a.v4())
	u.SetReadDeadline(time.Now().Add(2 * time.Second))
	b := make([]byte, 10)
	_, from, err := u.ReadFromUDPAddrPort(b)
	check(t, err)
	if from.Addr() != s.a.v4() {
		t.Errorf("b got a packet from %s, want only those of %s", from.Addr(), s.a.v4())
	}
}
