package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// HostPlan is what a cluster needs on the host.
type HostPlan struct {
	Addresses     []netip.Addr   // on lo, reachable for Machines of all networks: API server, DNS, virtual nodes
	ServiceRanges []ServiceRange // virtual addresses, which the host reaches too
}

// ServiceRange is a range of virtual addresses.
type ServiceRange struct {
	Prefix netip.Prefix
	Source netip.Addr // the host's own address towards it. If zero, the gateway.
}

// EnsureHost adds what the plan lists to what is there. What is in a Service range without a virtual service is refused at once.
func (n *Network) EnsureHost(ctx context.Context, p HostPlan) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, a := range p.Addresses {
		if err := n.ensureAddress(a); err != nil {
			return err
		}
	}
	if err := n.transact(func(c *nftables.Conn) error { return n.addHost(c, p) }); err != nil {
		return fmt.Errorf("add host addresses and Service ranges to the firewall: %w", err)
	}
	for _, r := range p.ServiceRanges {
		if err := n.ensureRoute(r); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) addHost(c *nftables.Conn, p HostPlan) error {
	for _, f := range families() {
		hosts, ranges := hostElements(p, f)
		present, err := reading().GetSetElements(n.set(setRanges, f))
		if err != nil {
			return fmt.Errorf("read Service ranges: %w", err)
		}
		ranges = slices.DeleteFunc(ranges, func(e nftables.SetElement) bool {
			return slices.ContainsFunc(present, func(p nftables.SetElement) bool { return slices.Equal(p.Key, e.Key) && p.IntervalEnd == e.IntervalEnd })
		})
		if err := addElements(c, n.set(setHosts, f), hosts); err != nil {
			return err
		}
		if err := addElements(c, n.set(setRanges, f), ranges); err != nil {
			return err
		}
	}
	return nil
}

// ReleaseHost takes away what EnsureHost added for the plan.
func (n *Network) ReleaseHost(ctx context.Context, p HostPlan) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.transact(func(c *nftables.Conn) error { return n.deleteHost(c, p) }); err != nil {
		return fmt.Errorf("take host addresses and Service ranges out of the firewall: %w", err)
	}
	for _, r := range p.ServiceRanges {
		if err := n.removeRoute(r.Prefix); err != nil {
			return err
		}
	}
	for _, a := range p.Addresses {
		if err := n.removeAddress(a); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) deleteHost(c *nftables.Conn, p HostPlan) error {
	for _, f := range families() {
		hosts, ranges := hostElements(p, f)
		for name, elements := range map[string][]nftables.SetElement{setHosts: hosts, setRanges: ranges} {
			present, err := reading().GetSetElements(n.set(name, f))
			if err != nil {
				return fmt.Errorf("read %s: %w", n.set(name, f).Name, err)
			}
			elements = slices.DeleteFunc(elements, func(e nftables.SetElement) bool {
				return !slices.ContainsFunc(present, func(p nftables.SetElement) bool { return slices.Equal(p.Key, e.Key) && p.IntervalEnd == e.IntervalEnd })
			})
			if err := deleteElements(c, n.set(name, f), elements); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostElements are the plan's in a family: addresses, and ranges as begin and end.
func hostElements(p HostPlan, f family) (hosts, ranges []nftables.SetElement) {
	for _, a := range p.Addresses {
		if familyOf(a) == f {
			hosts = append(hosts, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	for _, r := range p.ServiceRanges {
		if familyOf(r.Prefix.Addr()) == f {
			ranges = append(ranges, nftables.SetElement{Key: r.Prefix.Masked().Addr().AsSlice()},
				nftables.SetElement{Key: behind(r.Prefix).AsSlice(), IntervalEnd: true})
		}
	}
	return hosts, ranges
}

// behind returns the first address after a prefix.
func behind(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Next()
}

// ensureGateway prepares the host for any Machine at all: forwarding, and the addresses under which Machines see it.
func (n *Network) ensureGateway() error {
	// With forwarding on, the kernel ignores router advertisements where accept_ra is 1, and a host that has its own default route from one
	// would lose it: 2 means to accept them all the same.
	if was, _ := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding"); strings.TrimSpace(string(was)) == "0" {
		paths, _ := filepath.Glob("/proc/sys/net/ipv6/conf/*/accept_ra")
		for _, path := range paths {
			name := filepath.Base(filepath.Dir(path))
			if v, err := os.ReadFile(path); err != nil || strings.TrimSpace(string(v)) != "1" || slices.Contains([]string{"all", "default", "lo"}, name) {
				continue
			}
			if err := n.setSysctl("net/ipv6/conf/"+name+"/accept_ra", "2"); err != nil {
				return err
			}
		}
	}
	for _, path := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := n.setSysctl(path, "1"); err != nil {
			return fmt.Errorf("switch forwarding on: %w", err)
		}
	}
	if err := n.setSysctl("net/ipv6/conf/lo/disable_ipv6", "0"); err != nil { // a host may have it off on all links; others stay as they are
		return fmt.Errorf("switch IPv6 on for lo: %w", err)
	}
	for _, a := range []netip.Addr{n.gateway4, n.gateway6} {
		if err := n.ensureAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// ensureNobody makes the addresses of Machines that are not here lead to lo, where the firewall refuses them at once: otherwise they would go
// to the host's default gateway, if it has one, and wander. Routes of others, to Machines on other hosts, are more specific or go before.
func (n *Network) ensureNobody() error {
	const metric = 1 << 30
	return errors.Join(n.addRoute(n.plan.prefix(), n.gateway4.AsSlice(), metric), n.addRoute(SixPN(), nil, metric))
}

func (n *Network) ensureAddress(a netip.Addr) error {
	if err := n.state.update(func(r *hostRecord) { r.Addresses = include(r.Addresses, a) }); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if lo.Attrs().RawFlags&unix.IFF_UP == 0 {
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
	}
	if err := netlink.AddrReplace(lo, &netlink.Addr{IPNet: ipNet(a), Flags: nodad(a)}); err != nil {
		return fmt.Errorf("add address %s to lo: %w", a, err)
	}
	return nil
}

func (n *Network) removeAddress(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.AddrDel(lo, &netlink.Addr{IPNet: ipNet(a)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove address %s from lo: %w", a, err)
	}
	return n.state.update(func(r *hostRecord) {
		r.Addresses = slices.DeleteFunc(r.Addresses, func(b netip.Addr) bool { return a == b })
	})
}

// ensureRoute makes a range of virtual addresses reachable from the host: without a route, a host that has only lo would say "network is
// unreachable" before the firewall translates anything, and without a source the kernel would take one that is the same on every host.
func (n *Network) ensureRoute(r ServiceRange) error {
	source := r.Source
	if !source.IsValid() {
		source = n.gateway(r.Prefix.Addr())
	}
	if source.Is4() != r.Prefix.Addr().Is4() {
		return gondola.Errorf(gondola.ErrInvalid, "Service range %s: source %s is of the other address family", r.Prefix, source)
	}
	return n.addRoute(r.Prefix, source.AsSlice(), 0)
}

// addRoute leads a range to lo. If source is nil the kernel chooses one, as for the range that all instances on a host have together.
func (n *Network) addRoute(p netip.Prefix, source net.IP, metric int) error {
	if err := n.state.update(func(s *hostRecord) { s.Routes = include(s.Routes, p.Masked()) }); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = netlink.RouteReplace(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: prefixNet(p), Src: source, Priority: metric, Scope: unix.RT_SCOPE_LINK})
	if err != nil {
		return fmt.Errorf("add route to %s: %w", p, err)
	}
	return nil
}

func (n *Network) removeRoute(p netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	// The library asks for the scope as well: without it no IPv4 route would be found.
	if err := netlink.RouteDel(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: prefixNet(p), Scope: unix.RT_SCOPE_LINK}); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("remove route to %s: %w", p, err)
	}
	return n.state.update(func(r *hostRecord) {
		r.Routes = slices.DeleteFunc(r.Routes, func(q netip.Prefix) bool { return p.Masked() == q })
	})
}
