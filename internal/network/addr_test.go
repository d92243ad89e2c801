package network_test

import (
	"errors"
	"net/netip"
	"testing"

	"gondola"
	"gondola/internal/network"
)

func TestPlan_Addresses(t *testing.T) {
	other := netip.MustParsePrefix("10.128.0.0/10")
	for _, c := range []struct {
		name           string
		plan           network.Plan
		worker, number uint16
		id             uint32
		v4, v6         string // If empty, an ErrInvalid.
	}{
		{"the first", network.Plan{}, 1, 1, 0, "10.64.16.1", "fdaa:0:0:0:1:0:1:2"},
		{"of a network", network.Plan{}, 2, 10, 0x180a7b, "10.64.32.10", "fdaa:18:a7b:0:2:0:a:2"},
		{"the last", network.Plan{}, 1022, 4094, 0xfffdffff, "10.127.239.254", "fdaa:fffd:ffff:0:3fe:0:ffe:2"},
		{"another range", network.Plan{Range: other}, 1, 1, 7, "10.128.16.1", "fdaa:0:7:a80:1:0:1:2"},
		{"no worker", network.Plan{}, 0, 1, 0, "", ""},
		{"a worker too many", network.Plan{}, 1023, 1, 0, "", ""},
		{"no number", network.Plan{}, 1, 0, 0, "", ""},
		{"a Machine too many", network.Plan{}, 1, 4095, 0, "", ""},
		{"a reserved network", network.Plan{}, 1, 1, 0xffff0000, "", ""},
		{"a range too small", network.Plan{Range: netip.MustParsePrefix("10.0.0.0/17")}, 1, 1, 0, "", ""},
		{"a range with host bits", network.Plan{Range: netip.MustParsePrefix("10.1.0.0/10")}, 1, 1, 0, "", ""},
		{"an IPv6 range", network.Plan{Range: netip.MustParsePrefix("fd00::/10")}, 1, 1, 0, "", ""},
	} {
		v4, v6, err := c.plan.Machine(c.worker, c.number, c.id)
		if c.v4 == "" {
			if !errors.Is(err, gondola.ErrInvalid) {
				t.Errorf("%s: %v, %v, error %v; want an ErrInvalid", c.name, v4, v6, err)
			}
			continue
		}
		if err != nil || v4 != netip.MustParseAddr(c.v4) || v6 != netip.MustParseAddr(c.v6) {
			t.Errorf("%s: %v, %v, error %v; want %s, %s", c.name, v4, v6, err, c.v4, c.v6)
		}
	}
}

func TestPlan_NoAddressTwice(t *testing.T) {
	ranges := []string{"10.64.0.0/10", "10.128.0.0/10", "172.16.0.0/12", "10.7.0.0/16", "10.0.0.0/10"}
	seen := map[netip.Addr]string{}
	for _, r := range ranges {
		p := network.Plan{Range: netip.MustParsePrefix(r)}
		add := func(what string, v4, v6 netip.Addr, err error) {
			t.Helper()
			check(t, err)
			if !p.Range.Contains(v4) || !network.SixPN().Contains(v6) {
				t.Fatalf("%s of %s: %s, %s are outside", what, r, v4, v6)
			}
			for _, a := range []netip.Addr{v4, v6} {
				if other, ok := seen[a]; ok {
					t.Fatalf("%s is %s and %s of %s", a, other, what, r)
				}
				seen[a] = what + " of " + r
			}
		}
		for _, worker := range []uint16{1, 2, 3, uint16(p.MaxWorkers())} {
			for number := uint16(1); number <= network.MaxMachines; number += 31 {
				v4, v6, err := p.Machine(worker, number, uint32(worker)<<8|7)
				add("Machine", v4, v6, err)
			}
		}
		v4, v6 := p.Gateway()
		add("gateway", v4, v6, nil)
		for k := 1; k <= network.MaxClusters; k++ {
			v4, v6, err := p.ClusterAddress(k)
			add("cluster", v4, v6, err)
			for i := 1; i <= network.MaxNodes; i++ {
				v4, v6, err := p.NodeAddress(k, i)
				add("node", v4, v6, err)
			}
		}
	}
}

func TestPlan_ServiceRangesAreApart(t *testing.T) {
	p := network.Plan{}
	first4, first6, err := p.ServiceRange(1)
	check(t, err)
	if first4.String() != "10.43.0.0/16" || first6.String() != "fdaa:fffe::1:0/112" {
		t.Errorf("first ranges %s, %s", first4, first6)
	}
	ranges := []netip.Prefix{p.Range}
	for k := 1; k <= network.MaxClusters; k++ {
		v4, v6, err := p.ServiceRange(k)
		check(t, err)
		for _, r := range ranges {
			if r.IsValid() && (r.Overlaps(v4) || r.Overlaps(v6)) {
				t.Fatalf("cluster %d: %s, %s overlap %s", k, v4, v6, r)
			}
		}
		if v4.Overlaps(network.DefaultRange()) {
			t.Fatalf("cluster %d: %s is in the range of Machines", k, v4)
		}
		ranges = append(ranges, v4, v6)
	}
	for _, k := range []int{0, -1, network.MaxClusters + 1} {
		if _, _, err := p.ServiceRange(k); !errors.Is(err, gondola.ErrInvalid) {
			t.Errorf("cluster %d: error %v, want an ErrInvalid", k, err)
		}
	}
}

func TestMAC_TellsMachinesApart(t *testing.T) {
	seen := map[string]bool{}
	for worker := uint16(1); worker < 20; worker++ {
		for number := uint16(1); number < 300; number++ {
			mac := network.MAC(worker, number)
			if mac[0]&3 != 2 || seen[mac.String()] {
				t.Fatalf("MAC(%d, %d) = %s: want another, unicast and locally administered", worker, number, mac)
			}
			seen[mac.String()] = true
		}
	}
}
