package network_test

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gondola"
	"gondola/internal/network"
)

func TestAttach_MachinesOfANetworkReachEachOther(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := attach(t, n, 1, "blue", 7), attach(t, n, 2, "blue", 7)
	b.serve(t, "b", b.v4(), 80)
	b.serve(t, "b", b.v6(), 80)
	for _, proto := range []string{"tcp", "udp"} {
		if from := a.reaches(t, proto, at(b.v4(), 80), "b"); from != a.v4().String() {
			t.Errorf("%s: b saw %s, want %s", proto, from, a.v4())
		}
		if from := a.reaches(t, proto, at(b.v6(), 80), "b"); from != a.v6().String() {
			t.Errorf("%s: b saw %s, want %s", proto, from, a.v6())
		}
		var host *guest
		v4, v6 := n.Plan().Gateway()
		if from := host.reaches(t, proto, at(b.v4(), 80), "b"); from != v4.String() {
			t.Errorf("%s: b saw the host as %s, want %s", proto, from, v4)
		}
		if from := host.reaches(t, proto, at(b.v6(), 80), "b"); from != v6.String() {
			t.Errorf("%s: b saw the host as %s, want %s", proto, from, v6)
		}
	}
}

func TestAttach_OtherNetworksAreClosed(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := attach(t, n, 1, "blue", 7), attach(t, n, 2, "red", 8)
	b.serve(t, "b", b.v4(), 80)
	b.serve(t, "b", b.v6(), 80)
	for _, proto := range []string{"tcp", "udp"} {
		a.refused(t, proto, at(b.v4(), 80))
		a.refused(t, proto, at(b.v6(), 80))
	}
	var host *guest
	v4, v6 := n.Plan().Gateway()
	host.serve(t, "host", v4, 22)
	host.serve(t, "host", v6, 22)
	a.refused(t, "tcp", at(v4, 22))
	a.refused(t, "tcp", at(v6, 22))
	a.refused(t, "tcp", "169.254.1.1:22")
	check(t, n.EnsureHost(t.Context(), network.HostPlan{Addresses: n4n6(n)}))
	a.reaches(t, "tcp", at(v4, 22), "host")
	a.reaches(t, "udp", at(v6, 22), "host")
}

func TestAttach_FreshKeepsAddressesAndKeptKeepsTheNamespace(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a, b := attach(t, n, 1, "blue", 7), attach(t, n, 2, "blue", 7)
	b.serve(t, "before", b.v4(), 80)
	kept, err := n.Attach(t.Context(), b.Machine, false)
	check(t, err)
	if kept.NetNS != b.NetNS || kept.Addresses[0] != b.v4() || kept.Addresses[1] != b.v6() {
		t.Errorf("kept %v, want %v", kept, b.Attached)
	}
	a.reaches(t, "tcp", at(b.v4(), 80), "before")

	// Another process of the instance finds everything as it was.
	n = open(t)
	a.reaches(t, "tcp", at(b.v4(), 80), "before")
	_, err = n.Attach(t.Context(), b.Machine, false)
	check(t, err)
	a.reaches(t, "tcp", at(b.v4(), 80), "before")

	again, err := n.Attach(t.Context(), b.Machine, true)
	check(t, err)
	if again.Addresses[0] != b.v4() || again.Addresses[1] != b.v6() {
		t.Errorf("made anew with %v, want %v", again.Addresses, b.Addresses)
	}
	if _, _, err := a.ask("tcp", at(b.v4(), 80)); err == nil {
		t.Error("the server of the old namespace still answers")
	}
	b.serve(t, "after", b.v4(), 80)
	a.reaches(t, "tcp", at(b.v4(), 80), "after")
}

func TestKeep_MendsWhatTheTableLostOfMachinesThatRun(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	node := network.Gateway{Network: "blue", Name: "fra", Addresses: addrs("10.127.240.65", "fdaa:ffff::1:2")}
	check(t, n.EnsureGateways(t.Context(), []network.Gateway{node}))
	a, b, red := attach(t, n, 1, "blue", 7), attach(t, n, 2, "blue", 7), attach(t, n, 3, "red", 8)
	b.Gateway, b.Ports = "fra", []gondola.HostPort{{Port: 80, HostPort: 8000}, {Port: 80, HostPort: 8000, Protocol: "udp"}}
	check(t, n.Keep(t.Context(), b.Machine)) // opens its ports
	for _, addr := range b.Addresses {
		b.serve(t, "b", addr, 80)
	}
	reached := func() {
		t.Helper()
		for i, addr := range b.Addresses {
			for _, proto := range []string{"tcp", "udp"} {
				a.reaches(t, proto, at(addr, 80), "b")
				a.reaches(t, proto, at(node.Addresses[i], 8000), "b")
				red.refused(t, proto, at(addr, 80))
			}
		}
	}
	reached()
	dropTable(t)
	n = open(t)
	check(t, n.EnsureGateways(t.Context(), []network.Gateway{node}))
	for _, g := range []*guest{a, b, red} {
		check(t, n.Keep(t.Context(), g.Machine))
	}
	reached()
	check(t, n.Detach(t.Context(), a.ID))
	if err := n.Keep(t.Context(), a.Machine); !errors.Is(err, gondola.ErrPrecondition) {
		t.Errorf("Keep of a Machine without a network = %v, want ErrPrecondition", err)
	}
	if ids, err := n.Attached(); err != nil || len(ids) != 2 {
		t.Errorf("%v are attached (%v), want b and red: Keep makes nothing", ids, err)
	}
}

func TestRun_TellsThatSomebodyRemovedTheTable(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	ended := make(chan error, 1)
	go func() { ended <- n.Run(t.Context()) }()
	dropTable(t)
	select {
	case err := <-ended:
		if !errors.Is(err, gondola.ErrPrecondition) || !strings.Contains(err.Error(), "gondola-test1234") || !strings.Contains(err.Error(), "gondola up") {
			t.Errorf("Run = %v, want the table and the way out named", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody has noticed")
	}
}

func TestAttach_ManyAtOnce(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	const count = 100
	ids := make([]gondola.MachineID, count)
	begin := time.Now()
	var wg sync.WaitGroup
	for i := range count {
		ids[i] = gondola.NewMachineID()
		wg.Go(func() {
			m := network.Machine{ID: ids[i], Worker: 1, Number: uint16(i + 1), Network: "blue", NetworkID: 7}
			if _, err := n.Attach(t.Context(), m, true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	all := time.Since(begin)
	t.Logf("%d attached in %v, %v each", count, all, all/count)
	attached, err := n.Attached()
	check(t, err)
	if len(attached) != count {
		t.Errorf("%d are attached, want %d", len(attached), count)
	}
	begin = time.Now()
	for _, id := range ids[:10] {
		check(t, n.Detach(t.Context(), id))
	}
	t.Logf("detach: %v each", time.Since(begin)/10)
	begin = time.Now()
	for i, id := range ids[:10] {
		_, err := n.Attach(t.Context(), network.Machine{ID: id, Worker: 1, Number: uint16(i + 1), Network: "blue", NetworkID: 7}, true)
		check(t, err)
	}
	t.Logf("attach, one after the other: %v each", time.Since(begin)/10)
}

func TestAttach_AReusedAddressInheritsNoConnections(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	old, b := attach(t, n, 1, "blue", 7), attach(t, n, 2, "blue", 7)
	b.serve(t, "b", b.v4(), 80)
	source := netip.AddrPortFrom(netip.IPv4Unspecified(), 5353)
	if _, _, err := old.askFrom("udp", at(b.v4(), 80), source); err != nil {
		t.Fatal(err)
	}
	check(t, n.Detach(t.Context(), old.ID))
	next := attach(t, n, 1, "red", 8)
	if name, _, err := next.askFrom("udp", at(b.v4(), 80), source); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a Machine of another network with the address of an old one: answer of %q, %v; want connection refused", name, err)
	}
}
