package network_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"gondola"
	"gondola/internal/network"
)

// TestPolicies_OfManyPods has a thousand Pods in a hundred namespaces with three policies each: what a change costs follows from what changes.
func TestPolicies_OfManyPods(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	set := func(pods int) (s gondola.PolicySet) {
		for ns := range 100 {
			name := fmt.Sprint("ns", ns)
			g := gondola.PolicyGroup{Name: name}
			for pod := ns; pod < pods; pod += 100 {
				v4, v6, err := n.Plan().Machine(2, uint16(pod+1), 7)
				check(t, err)
				g.Addresses = append(g.Addresses, v4, v6)
			}
			s.Groups = append(s.Groups, g)
			rule := gondola.PolicyRule{Peers: from(name)}
			world := netip.MustParsePrefix("0.0.0.0/0")
			s.Policies = append(s.Policies, gondola.Policy{Name: name + "/deny", Selector: selects(name), Ingress: allow(), Egress: allow()},
				gondola.Policy{Name: name + "/own", Selector: selects(name), Ingress: allow(rule), Egress: allow(rule)},
				gondola.Policy{Name: name + "/world", Selector: selects(name), Egress: allow(gondola.PolicyRule{
					Peers: []gondola.PolicyPeer{{Range: &world, Except: []netip.Prefix{network.DefaultRange()}}}})})
		}
		return s
	}
	timed := func(what string, f func()) {
		begin := time.Now()
		f()
		t.Logf("%s: %v", what, time.Since(begin))
	}
	var guests []*guest
	for i := range 50 {
		guests = append(guests, described(t, n, uint16(i+1), fmt.Sprint("ns", i)))
	}
	timed("300 policies", func() { setPolicies(t, n, set(1000)) })
	timed("a Pod more", func() { setPolicies(t, n, set(1001)) })
	timed("a Machine more", func() { guests = append(guests, described(t, n, 51, "ns0")) })
	guests[1].refused(t, "tcp", at(guests[0].v4(), 80))
	guests[50].refused(t, "tcp", at(guests[0].v4(), 80)) // of the same namespace, and in no group yet
	if chains := len(policyThings(t)); chains > 50*6 {
		t.Errorf("50 namespaces on this host, %d chains and sets: want at most a group and four chains for each family of each", chains)
	}
}
