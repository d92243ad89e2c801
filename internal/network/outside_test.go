package network_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
)

// outside is a machine beyond the host, on a link of the host's: 198.51.100.2 and 2001:db8::2, the host being .1 and ::1.
func outside(t *testing.T) *guest {
	t.Helper()
	path := "/run/netns/outside"
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	g := &guest{t: t}
	ns := newNetNS(t, path)
	check(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "up0", TxQLen: -1}, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(ns))}))
	g.NetNS = path
	setUp := func(name string, addrs ...string) error {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = 2 // IFA_F_NODAD
			if addr.IP.To4() != nil {
				addr.Flags = 0
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return netlink.LinkSetUp(l)
	}
	check(t, setUp("up0", "198.51.100.1/24", "2001:db8::1/64"))
	check(t, g.do(func() error { return setUp("eth0", "198.51.100.2/24", "2001:db8::2/64") }))
	for _, a := range []string{"198.51.100.2", "2001:db8::2"} {
		g.Addresses = append(g.Addresses, netip.MustParseAddr(a))
	}
	return g
}

func TestOutside_MachinesReachItMasqueradedAndItDoesNotReachThem(t *testing.T) {
	if !onHost(t) {
		return
	}
	n := open(t)
	a := attach(t, n, 1, "blue", 7)
	out := outside(t)
	for i, host := range []string{"198.51.100.1", "2001:db8::1"} {
		out.serve(t, "out", out.Addresses[i], 80)
		for _, proto := range []string{"tcp", "udp"} {
			if from := a.reaches(t, proto, at(out.Addresses[i], 80), "out"); from != host {
				t.Errorf("%s: the outside saw %s, want the host's %s", proto, from, host)
			}
		}
		a.serve(t, "a", a.Addresses[i], 80)
		check(t, out.do(func() error { return routeVia(a.Addresses[i], host) }))
		out.refused(t, "tcp", at(a.Addresses[i], 80))
	}
	// Metadata services of clouds are not for Machines.
	check(t, out.do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addr, _ := netlink.ParseAddr("169.254.169.254/32")
		return netlink.AddrAdd(l, addr)
	}))
	check(t, routeVia(netip.MustParseAddr("169.254.169.254"), "198.51.100.2"))
	out.serve(t, "metadata", netip.MustParseAddr("169.254.169.254"), 80)
	var host *guest
	host.reaches(t, "tcp", "169.254.169.254:80", "metadata")
	a.refused(t, "tcp", "169.254.169.254:80")
}
