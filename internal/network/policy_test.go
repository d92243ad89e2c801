package network_test

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"

	"gondola"
	"gondola/internal/network"
)

// described attaches a Machine of network blue with metadata app=<app>, as a worker does: described first.
func described(t *testing.T, n *network.Network, number uint16, app string) *guest {
	t.Helper()
	m := network.Machine{ID: gondola.NewMachineID(), Worker: 1, Number: number, Network: "blue", NetworkID: 7}
	check(t, n.Describe(t.Context(), subject(m.ID, app)))
	a, err := n.Attach(t.Context(), m, true)
	check(t, err)
	g := &guest{m, a, t}
	for _, a := range g.Addresses {
		for _, port := range []uint16{80, 81, 82} {
			g.serve(t, app, a, port)
		}
	}
	return g
}

func subject(id gondola.MachineID, app string) gondola.PolicySubject {
	return gondola.PolicySubject{ID: id, Metadata: map[string]string{"app": app}}
}

func selects(app string) gondola.MachineSelector {
	return gondola.MachineSelector{Metadata: []gondola.MetadataMatch{{Key: "app", Op: "in", Values: []string{app}}}}
}

func allow(rules ...gondola.PolicyRule) *gondola.PolicyRules {
	return &gondola.PolicyRules{Allow: rules}
}

func group(name string, members ...*guest) gondola.PolicyGroup {
	g := gondola.PolicyGroup{Name: name}
	for _, m := range members {
		g.Addresses = append(g.Addresses, m.Addresses...)
	}
	return g
}

func from(groups ...string) (peers []gondola.PolicyPeer) {
	for _, g := range groups {
		peers = append(peers, gondola.PolicyPeer{Group: g})
	}
	return peers
}

func setPolicies(t *testing.T, n *network.Network, set gondola.PolicySet) {
	t.Helper()
	check(t, n.SetPolicies(t.Context(), "blue", "test", set))
}

// all asks in both families and both protocols.
func (g *guest) all(t *testing.T, to *guest, port uint16, ok bool) {
	t.Helper()
	for _, a := range to.Addresses {
		for _, proto := range []string{"tcp", "udp"} {
			if ok {
				if _, _, err := g.ask(proto, at(a, port)); err != nil {
					t.Errorf("%s to %s: %v; want an answer", proto, at(a, port), err)
				}
			} else {
				g.refused(t, proto, at(a, port))
			}
		}
	}
}

func TestPolicies_IngressAdmitsGroupsAndPortsOnly(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	web, friend, stranger := described(t, n, 1, "web"), described(t, n, 2, "friend"), described(t, n, 3, "stranger")
	friend.all(t, web, 80, true)
	setPolicies(t, n, gondola.PolicySet{
		Groups: []gondola.PolicyGroup{group("friends", friend)},
		Policies: []gondola.Policy{
			{Name: "deny", Selector: selects("web"), Ingress: allow()},
			{Name: "friends", Selector: selects("web"), Ingress: allow(gondola.PolicyRule{Peers: from("friends"),
				Ports: []gondola.PolicyPort{{Protocol: "tcp", Port: 80, EndPort: 81}, {Protocol: "udp", Port: 80, EndPort: 81}}})},
		},
	})
	friend.all(t, web, 80, true)
	friend.all(t, web, 81, true)
	friend.all(t, web, 82, false)
	stranger.all(t, web, 80, false)
	web.all(t, stranger, 80, true) // replies come back, and egress is not isolated
	stranger.all(t, friend, 80, true)
	var host *guest
	host.all(t, web, 82, true) // a host reaches its own Machines
	web.all(t, web, 82, true)  // and a Machine itself
	setPolicies(t, n, gondola.PolicySet{})
	stranger.all(t, web, 82, true)
	if left := policyThings(t); len(left) > 0 {
		t.Errorf("without policies the table still has %v", left)
	}
}

func TestPolicies_EgressCountsForServicesAndTheHost(t *testing.T) {
	if !onHost(t) {
		return
	}
	s := withServices(t)
	s.set(t, 0, ports(s.b, 8080)...)
	c4, c6, _ := s.Plan().ClusterAddress(1)
	var host *guest
	host.serve(t, "dns", c4, 53)
	host.serve(t, "dns", c6, 53)
	host.serve(t, "api", c4, 6443)
	check(t, s.Describe(t.Context(), subject(s.a.ID, "a")))
	dns := gondola.PolicyRule{Peers: from("dns"), Ports: []gondola.PolicyPort{{Group: "dns ports"}}}
	groups := []gondola.PolicyGroup{
		{Name: "dns", Addresses: []netip.Addr{c4, c6}}, group("b", s.b),
		{Name: "dns ports", Ends: []gondola.PolicyEnd{{Address: c4, Protocol: "udp", Port: 53}, {Address: c6, Protocol: "udp", Port: 53}, {Address: s.b.v4(), Protocol: "tcp", Port: 1}}},
	}
	setPolicies(t, s.Network, gondola.PolicySet{Groups: groups, Policies: []gondola.Policy{{Name: "dns", Selector: selects("a"), Egress: allow(dns)}}})
	s.a.reaches(t, "udp", at(c4, 53), "dns")
	s.a.reaches(t, "udp", at(c6, 53), "dns")
	s.a.refused(t, "tcp", at(c4, 53))
	s.a.refused(t, "tcp", at(c4, 6443))
	for _, vip := range s.vips() {
		s.a.refused(t, "tcp", at(vip, 80))
		s.a.refused(t, "udp", at(vip, 80))
	}
	s.a.refused(t, "tcp", at(s.c.v4(), 8080))
	s.b.reaches(t, "tcp", at(s.c.v4(), 8080), "c")

	// What counts is where the Service leads: the Machine and its port.
	web := gondola.PolicyRule{Peers: from("b"), Ports: []gondola.PolicyPort{{Port: 8080}}}
	setPolicies(t, s.Network, gondola.PolicySet{Groups: groups, Policies: []gondola.Policy{{Name: "web", Selector: selects("a"), Egress: allow(web)}}})
	for _, vip := range s.vips() {
		s.a.reaches(t, "tcp", at(vip, 80), "b")
		s.a.refused(t, "udp", at(vip, 80))
	}
	s.a.refused(t, "udp", at(c4, 53))

	// A Machine reaches itself through its Service, whatever its policies are.
	check(t, s.Describe(t.Context(), subject(s.b.ID, "b")))
	setPolicies(t, s.Network, gondola.PolicySet{Policies: []gondola.Policy{{Name: "deny", Selector: selects("b"), Ingress: allow(), Egress: allow()}}})
	for _, vip := range s.vips() {
		s.b.reaches(t, "tcp", at(vip, 80), "b")
		s.b.reaches(t, "udp", at(vip, 80), "b")
		s.a.refused(t, "udp", at(vip, 80))
	}
}

func TestPolicies_RangesHaveExceptions(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b, c := described(t, n, 1, "a"), described(t, n, 2, "b"), described(t, n, 3, "c")
	ranges := func(but *guest) (peers []gondola.PolicyPeer) {
		for i, s := range []string{"10.0.0.0/8", "fdaa::/16"} {
			r, addr := netip.MustParsePrefix(s), but.Addresses[i]
			peers = append(peers, gondola.PolicyPeer{Range: &r, Except: []netip.Prefix{netip.PrefixFrom(addr, addr.BitLen())}})
		}
		return peers
	}
	setPolicies(t, n, gondola.PolicySet{Policies: []gondola.Policy{{Name: "but b", Selector: selects("a"),
		Ingress: allow(gondola.PolicyRule{Peers: ranges(b)}), Egress: allow(gondola.PolicyRule{Peers: ranges(c)})}}})
	b.all(t, a, 80, false)
	c.all(t, a, 80, true)
	a.all(t, b, 80, true)
	a.all(t, c, 80, false)
	everything := netip.MustParsePrefix("0.0.0.0/0")
	setPolicies(t, n, gondola.PolicySet{Policies: []gondola.Policy{{Name: "IPv4", Selector: selects("a"),
		Ingress: allow(gondola.PolicyRule{Peers: []gondola.PolicyPeer{{Range: &everything}}})}}})
	b.reaches(t, "tcp", at(a.v4(), 80), "a")
	b.refused(t, "tcp", at(a.v6(), 80))
}

func TestPolicies_HaveAsManyRangesAsTheyLike(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b, c := described(t, n, 1, "a"), described(t, n, 2, "b"), described(t, n, 3, "c")
	var peers []gondola.PolicyPeer
	add := func(addr netip.Addr) {
		r := netip.PrefixFrom(addr, addr.BitLen())
		peers = append(peers, gondola.PolicyPeer{Range: &r})
	}
	for i := range 700 { // none beside another, and all before those of Machines
		v6 := network.SixPN().Addr().As16()
		v6[13], v6[15] = byte(i/100), byte(2*(i%100))
		add(netip.AddrFrom4([4]byte{10, 0, byte(i / 100), byte(2 * (i % 100))}))
		add(netip.AddrFrom16(v6))
	}
	for _, addr := range b.Addresses {
		add(addr)
	}
	setPolicies(t, n, gondola.PolicySet{Policies: []gondola.Policy{{Name: "many", Selector: selects("a"), Ingress: allow(gondola.PolicyRule{Peers: peers})}}})
	b.all(t, a, 80, true)
	c.all(t, a, 80, false)
	n = open(t)
	check(t, n.Describe(t.Context(), subject(a.ID, "a")))
	b.all(t, a, 80, true)
	c.all(t, a, 80, false)
}

func TestPolicies_ThatCannotBeCarriedOutAreForgotten(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := described(t, n, 1, "a"), described(t, n, 2, "b")
	deny := func(app string) gondola.PolicySet {
		return gondola.PolicySet{Policies: []gondola.Policy{{Name: "deny", Selector: selects(app), Ingress: allow()}}}
	}
	setPolicies(t, n, deny("b"))
	dropTable(t)
	if err := n.SetPolicies(t.Context(), "blue", "test", deny("a")); err == nil {
		t.Fatal("policies are set in a table that is not there")
	}
	n = open(t)
	for _, g := range []*guest{a, b} {
		check(t, n.Describe(t.Context(), subject(g.ID, map[*guest]string{a: "a", b: "b"}[g])))
		_, err := n.Attach(t.Context(), g.Machine, false)
		check(t, err)
	}
	b.all(t, a, 80, true)
	a.all(t, b, 80, false) // those of before
}

func TestPolicies_FollowMetadataAndEndOpenConnections(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := described(t, n, 1, "a"), described(t, n, 2, "b")
	setPolicies(t, n, gondola.PolicySet{Policies: []gondola.Policy{{Name: "deny", Selector: selects("closed"), Ingress: allow(), Egress: allow()}}})
	source := netip.AddrPortFrom(netip.IPv4Unspecified(), 4000) // one flow, which stays known for 30 s and more
	if name, _, err := b.askFrom("udp", at(a.v4(), 80), source); name != "a" {
		t.Fatalf("udp: answer of %q, %v", name, err)
	}
	check(t, n.Describe(t.Context(), subject(a.ID, "closed")))
	if name, _, err := b.askFrom("udp", at(a.v4(), 80), source); err == nil {
		t.Errorf("an open flow goes on: answer of %q", name)
	}
	b.all(t, a, 80, false)
	a.all(t, b, 80, false)
	check(t, n.Describe(t.Context(), subject(a.ID, "open")))
	b.all(t, a, 80, true)
	a.all(t, b, 80, true)
}

func TestPolicies_OutliveTheProcessAndTheTable(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := described(t, n, 1, "a"), described(t, n, 2, "b")
	deny := gondola.PolicySet{Policies: []gondola.Policy{{Name: "deny", Selector: selects("a"), Ingress: allow(gondola.PolicyRule{Peers: from("friends")})}},
		Groups: []gondola.PolicyGroup{group("friends", b)}}
	setPolicies(t, n, deny)

	// Another process: the Machines are as isolated as before, described again or not.
	n = open(t)
	c := described(t, n, 3, "c")
	b.all(t, a, 80, true)
	c.all(t, a, 80, false)
	deny.Groups = []gondola.PolicyGroup{group("friends", c)}
	setPolicies(t, n, deny) // of a nothing is known yet: its rules are kept, and the group is as it should be
	b.all(t, a, 80, false)
	c.all(t, a, 80, true)
	check(t, n.Describe(t.Context(), subject(a.ID, "a")))
	c.all(t, a, 80, true)
	setPolicies(t, n, gondola.PolicySet{})
	b.all(t, a, 80, true)
	setPolicies(t, n, deny)

	// A reboot takes the table. Machines come back before anybody sets policies.
	check(t, n.Detach(t.Context(), a.ID))
	dropTable(t)
	n = open(t)
	check(t, n.Describe(t.Context(), subject(a.ID, "a")))
	attached, err := n.Attach(t.Context(), a.Machine, true)
	check(t, err)
	a = &guest{a.Machine, attached, t}
	a.serve(t, "a", a.v4(), 80)
	b = described(t, n, 4, "b")
	b.refused(t, "tcp", at(a.v4(), 80))
}

func TestPolicies_ANewMachineIsIsolatedBeforeItsFirstPacket(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	peer := described(t, n, 1, "peer")
	setPolicies(t, n, gondola.PolicySet{Policies: []gondola.Policy{{Name: "deny", Selector: selects("closed"), Ingress: allow(), Egress: allow()}}})
	addr, _, err := n.Plan().Machine(1, 2, 7)
	check(t, err)
	// Somebody knocks all the while. Without a Machine there the answer is no too; one that is open would say yes.
	ctx, cancel := context.WithCancel(t.Context())
	came := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if name, _, err := peer.ask("tcp", at(addr, 80)); err == nil {
				came <- name
				return
			}
		}
	}()
	for range 30 {
		g := described(t, n, 2, "closed")
		g.refused(t, "tcp", at(peer.v4(), 80))
		check(t, n.Detach(t.Context(), g.ID))
		n.Forget(g.ID)
	}
	cancel()
	<-done
	select {
	case name := <-came:
		t.Errorf("a packet reached Machine %s", name)
	default:
	}
}

func TestPolicies_ThatMakeNoSenseChangeNothing(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := described(t, n, 1, "a"), described(t, n, 2, "b")
	err := n.SetPolicies(t.Context(), "blue", "test", gondola.PolicySet{Policies: []gondola.Policy{{Name: "default/p", Selector: selects("a"),
		Ingress: allow(gondola.PolicyRule{Peers: from("nobody")})}}})
	if !strings.Contains(errText(err), `policy "default/p": there is no group "nobody"`) {
		t.Errorf("SetPolicies = %v, want the policy and the group named", err)
	}
	b.all(t, a, 80, true)
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func dropTable(t *testing.T) {
	t.Helper()
	c, err := nftables.New()
	check(t, err)
	c.DelTable(&nftables.Table{Name: "gondola-test1234", Family: nftables.TableFamilyINet})
	check(t, c.Flush())
}

// policyThings lists the chains and sets in the table that are there for policies in force only.
func policyThings(t *testing.T) (names []string) {
	t.Helper()
	c, err := nftables.New()
	check(t, err)
	chains, err := c.ListChains()
	check(t, err)
	for _, ch := range chains {
		if strings.HasPrefix(ch.Name, "ingress") || strings.HasPrefix(ch.Name, "egress") {
			names = append(names, ch.Name)
		}
	}
	sets, err := c.GetSets(&nftables.Table{Name: "gondola-test1234", Family: nftables.TableFamilyINet})
	check(t, err)
	for _, s := range sets {
		if strings.HasPrefix(s.Name, "group") || strings.HasPrefix(s.Name, "ends") {
			names = append(names, s.Name)
		}
	}
	return names
}
