package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// CheckRange says whether the prefix can be used on this host: an ErrConflict names the route that overlaps it and, for a range of
// Machines, proposes another. The zero prefix is the instance's own range. Routes that this instance added do not count. It needs no root.
func (n *Network) CheckRange(p netip.Prefix) error {
	if !p.IsValid() {
		p = n.plan.prefix()
	}
	taken, err := n.foreignRoutes()
	if err != nil {
		return err
	}
	by, overlaps := overlapping(p, taken)
	if !overlaps {
		return nil
	}
	way := "remove that route"
	if free, ok := proposeRange(taken); ok && p == n.plan.prefix() {
		way = fmt.Sprintf("%s is free", free)
	}
	return gondola.Errorf(gondola.ErrConflict, "address range %s overlaps the route to %s on this host; %s", p, by, way)
}

// CheckServiceRange says whether the k-th Service ranges of the plan can be used on this host: an ErrConflict names the network of the host that lies
// in them and would be cut off. What is wider, such as all of 10.0.0.0/8 behind a VPN, loses no more than the range.
func CheckServiceRange(cfg Config, k int) error {
	taken, err := foreignRoutes(cfg)
	if err != nil {
		return err
	}
	return checkServiceRange(cfg, k, taken, false)
}

// FreeServiceRange returns the first k whose Service ranges no route of this host overlaps, else the first that CheckServiceRange accepts, or an
// ErrConflict.
func FreeServiceRange(cfg Config) (int, error) {
	taken, err := foreignRoutes(cfg)
	if err != nil {
		return 0, err
	}
	for _, wider := range []bool{true, false} {
		for k := 1; k <= MaxClusters; k++ {
			if err := checkServiceRange(cfg, k, taken, wider); !errors.Is(err, gondola.ErrConflict) {
				return k, err
			}
		}
	}
	return 0, gondola.Errorf(gondola.ErrConflict, "no range for Services is free on this host: networks of it lie in every /16 of 10.43.0.0/16 and on; %s", withoutServices)
}

// checkServiceRange is CheckServiceRange, given the routes, and whether wider ones count too.
func checkServiceRange(cfg Config, k int, taken []netip.Prefix, wider bool) error {
	v4, v6, err := Plan{Range: cfg.Range}.ServiceRange(k)
	if err != nil {
		return err
	}
	for _, p := range []netip.Prefix{v4, v6} {
		for _, by := range taken {
			if by.Overlaps(p) && (wider || by.Bits() >= p.Bits()) {
				return gondola.Errorf(gondola.ErrConflict, "Service range %s overlaps the route to %s on this host, which would be cut off; %s", p, by, withoutServices)
			}
		}
	}
	return nil
}

const withoutServices = "remove a route, or start without Kubernetes: gondola up --no-kubernetes"

func foreignRoutes(cfg Config) ([]netip.Prefix, error) {
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, err
	}
	return n.foreignRoutes()
}

// CheckRange is like the method, for an instance that is not open yet.
func CheckRange(cfg Config, p netip.Prefix) error {
	n, err := newNetwork(cfg)
	if err != nil {
		return err
	}
	return n.CheckRange(p)
}

// proposeRange tries the private ranges of the size that a configuration takes; last the one that is shared by providers, and by Tailscale where that is
// not here.
func proposeRange(taken []netip.Prefix) (netip.Prefix, bool) {
	candidates := []netip.Prefix{DefaultRange()}
	for _, first := range []string{"10.128.0.0", "10.192.0.0", "10.0.0.0", "100.64.0.0"} {
		candidates = append(candidates, netip.PrefixFrom(netip.MustParseAddr(first), DefaultRange().Bits()))
	}
	for _, p := range candidates {
		if _, overlaps := overlapping(p, taken); !overlaps {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func overlapping(p netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	for _, t := range taken {
		if t.Overlaps(p) {
			return t, true
		}
	}
	return netip.Prefix{}, false
}

// foreignRoutes are the destinations of this host's routes and addresses that are not this instance's, which lead to lo; default routes do not count.
func (n *Network) foreignRoutes() ([]netip.Prefix, error) {
	state, err := n.state.read()
	if err != nil {
		return nil, err
	}
	own := map[netip.Prefix]bool{SixPN(): true} // of all instances
	for _, p := range state.Routes {
		own[p] = true
	}
	for _, a := range state.Addresses {
		own[netip.PrefixFrom(a, a.BitLen())] = true
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := n.links(h)
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{}
	for _, l := range links {
		ours[l.Attrs().Index] = true
	}
	lo, err := h.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	var foreign []netip.Prefix
	for _, f := range families() {
		// Routes of all tables: policy routing (Tailscale, VPNs) takes addresses too.
		routes, err := dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(f.netlink, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			p, ok := prefixOf(r.Dst)
			if ok && p.Bits() > 0 && !ours[r.LinkIndex] && !(own[p] && r.LinkIndex == lo.Attrs().Index) && !p.Addr().IsMulticast() && !p.Addr().IsLinkLocalUnicast() {
				foreign = append(foreign, p)
			}
		}
	}
	return foreign, nil
}

func prefixOf(ipNet *net.IPNet) (netip.Prefix, bool) {
	if ipNet == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(ipNet.IP)
	bits, size := ipNet.Mask.Size()
	if size == 32 {
		a = a.Unmap()
	}
	return netip.PrefixFrom(a, bits).Masked(), ok && a.BitLen() == size
}

func prefixNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
