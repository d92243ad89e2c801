package network

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// staleFlows matches the UDP flows to virtual ports that go where the ports no longer lead. A TCP connection ends with its backend; a UDP
// flow would be sent into the void for as long as its client goes on.
type staleFlows map[netip.AddrPort]map[netip.AddrPort]bool // virtual port → its backends

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s staleFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	backends, ok := s[addrPort(f.Forward.DstIP, f.Forward.DstPort)]
	return ok && !backends[addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)]
}

func addrPort(ip []byte, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

func (n *Network) forgetFlows(d serviceDiff) {
	for _, f := range families() {
		stale := staleFlows{}
		add := func(k vipKey, t target) {
			if k.proto != unix.IPPROTO_UDP || familyOf(k.addr) != f {
				return
			}
			backends := map[netip.AddrPort]bool{}
			for _, b := range t.backends {
				backends[b] = true
			}
			stale[netip.AddrPortFrom(k.addr, k.port)] = backends
		}
		for k := range d.remove {
			add(k, target{})
		}
		for k := range d.replace {
			add(k, d.put[k])
		}
		if len(stale) == 0 {
			continue
		}
		// The services are set all the same; a flow that stays ends by its own timeout.
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.netlink), stale); err != nil {
			n.log.Warn("cannot forget UDP flows to backends that are gone", "error", err)
		}
	}
}
