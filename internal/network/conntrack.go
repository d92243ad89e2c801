package network

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows matches the UDP flows to virtual ports that go where the ports no longer lead, into the void for as long as their client goes on. What
// TCP connections of a backend that is still there become of is its own to say.
//
// A flow to a public port may have begun before the port was there, towards the host itself, and one to a hostPort towards the gateway.
type staleFlows struct {
	ports map[netip.AddrPort]map[netip.AddrPort]bool // virtual port → its backends; of the unspecified address: of every local one
	local map[netip.Addr]bool
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to := addrPort(f.Forward.DstIP, f.Forward.DstPort)
	backends, ok := s.ports[to]
	if !ok && s.local[to.Addr()] {
		any := netip.IPv4Unspecified()
		if to.Addr().Is6() {
			any = netip.IPv6Unspecified()
		}
		backends, ok = s.ports[netip.AddrPortFrom(any, to.Port())]
	}
	return ok && !backends[addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)]
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

func (n *Network) forgetFlows(d serviceDiff) {
	for _, f := range families() {
		stale := staleFlows{ports: map[netip.AddrPort]map[netip.AddrPort]bool{}}
		add := func(k vipKey, t target) {
			if k.proto != unix.IPPROTO_UDP || familyOf(k.addr) != f {
				return
			}
			backends := map[netip.AddrPort]bool{}
			for _, b := range t.backends {
				backends[b] = true
			}
			stale.ports[netip.AddrPortFrom(k.addr, k.port)] = backends
		}
		for k := range d.remove {
			add(k, target{})
		}
		for k := range d.replace {
			add(k, d.put[k])
		}
		for k, t := range d.put {
			if k.network == world || n.isGateways(k.addr) {
				add(k, t)
			}
		}
		if len(stale.ports) == 0 {
			continue
		}
		stale.local = n.localAddresses()
		// The services are set all the same; a flow that stays ends by its own timeout.
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.netlink), stale); err != nil {
			n.log.Warn("cannot forget UDP flows to backends that are gone", "error", err)
		}
	}
}

// isGateways says whether an address is one of a gateway.
func (n *Network) isGateways(a netip.Addr) bool {
	for _, g := range n.nodes {
		if slices.Contains(g.Addresses, a) {
			return true
		}
	}
	return false
}

// localAddresses are all of the host; none if they cannot be read.
func (n *Network) localAddresses() map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	list, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		n.log.Warn("cannot list the host's addresses", "error", err)
	}
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			all[addr.Unmap()] = true
		}
	}
	for _, g := range n.nodes {
		for _, a := range g.Addresses {
			all[a] = true
		}
	}
	return all
}
