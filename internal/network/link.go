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
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
	"gondola/internal/failpoint"
)

// Machine is what the network needs to know of a Machine.
type Machine struct {
	ID        gondola.MachineID
	Worker    uint16 // number of its worker, from 1
	Number    uint16 // within its worker, from 1
	Network   string // name; Machines of different networks cannot reach each other
	NetworkID uint32 // number of that network in 6PN addresses

	Gateway     string // of its network, by name. If empty, none.
	HostNetwork bool   // it is in the gateway's network and has none of its own
	Ports       []gondola.HostPort
}

// Attached is a Machine's network.
type Attached struct {
	NetNS     string       // path of the network namespace; its interface is eth0
	Addresses []netip.Addr // IPv4 first, then 6PN
}

// The next hop of every Machine, the same on all links and hosts.
var (
	nextHop4   = netip.MustParseAddr("169.254.1.1")
	nextHop6   = netip.MustParseAddr("fe80::1")
	nextHopMAC = net.HardwareAddr{0x02, 0x60, 0xff, 0xff, 0xff, 0xff}
)

const insideIndex = 2 // of eth0 in a new namespace: lo has 1

// Attach gives a Machine its network. With fresh the namespace is made anew, with the same addresses: a gVisor sandbox takes them out of
// the namespace it starts in and never puts them back. Otherwise one that is there is kept and only what is missing beside is added. What
// an Attach that fails has made is undone.
//
// A Machine with HostNetwork gets the network of its gateway as it is. One with Ports gets them too; one that another Machine has is an
// ErrConflict. A gateway that is not here is an ErrUnsupported.
func (n *Network) Attach(ctx context.Context, m Machine, fresh bool) (Attached, error) {
	if m.HostNetwork {
		g, err := n.nodeGateway(m.Network, m.Gateway)
		if err != nil {
			return Attached{}, fmt.Errorf("attach %s: %w", m.ID, err)
		}
		return Attached{NetNS: g.path, Addresses: slices.Clone(g.Addresses)}, nil
	}
	v4, v6, err := n.plan.Machine(m.Worker, m.Number, m.NetworkID)
	if err != nil {
		return Attached{}, err
	}
	if err := ctx.Err(); err != nil {
		return Attached{}, err
	}
	defer n.attaching.lock(m.ID)()
	a := Attached{NetNS: filepath.Join(netnsDir, n.netnsName(m.ID)), Addresses: []netip.Addr{v4, v6}}
	want := member{id: m.ID, network: networkKeyOf(m.Network), v4: v4, v6: v6}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return Attached{}, fmt.Errorf("attach %s: %w", m.ID, err)
	}
	defer h.Close()
	if !fresh && isNetNS(a.NetNS) {
		if index, ok := n.routed(h, m.ID, v4, v6); ok {
			return a, errors.Join(n.admit(index, want), n.openPorts(m, v4, v6))
		}
	}
	if err := n.remove(h, m.ID); err != nil {
		return Attached{}, fmt.Errorf("attach %s: %w", m.ID, err)
	}
	index, err := n.build(ctx, h, m, a.NetNS, v4, v6)
	if err == nil {
		failpoint.Hit("network.attach.built")
		err = n.admit(index, want)
		failpoint.Hit("network.attach.admitted")
	}
	if err == nil {
		err = n.openPorts(m, v4, v6)
	}
	if err != nil {
		return Attached{}, errors.Join(fmt.Errorf("attach %s: %w", m.ID, err), n.remove(h, m.ID))
	}
	return a, nil
}

// Addresses are those that Attach gives a Machine, IPv4 first; nil of one with HostNetwork, or where the plan has none for it.
func (n *Network) Addresses(m Machine) []netip.Addr {
	v4, v6, err := n.plan.Machine(m.Worker, m.Number, m.NetworkID)
	if err != nil || m.HostNetwork {
		return nil
	}
	return []netip.Addr{v4, v6}
}

// Keep is for a Machine whose sandbox runs: it puts back what the table has lost of it, as after somebody removed the table, and its ports. Namespace
// and link are never touched; where they are not as Attach made them the error is an ErrPrecondition.
func (n *Network) Keep(ctx context.Context, m Machine) error {
	if m.HostNetwork {
		return nil // EnsureGateways has kept it
	}
	v4, v6, err := n.plan.Machine(m.Worker, m.Number, m.NetworkID)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	defer n.attaching.lock(m.ID)()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("keep %s: %w", m.ID, err)
	}
	defer h.Close()
	index, ok := n.routed(h, m.ID, v4, v6)
	if !ok {
		return gondola.Errorf(gondola.ErrPrecondition, "link %s of machine %s, or a route to it, is gone: restart the machine to get another", n.linkName(m.ID), m.ID)
	}
	if err := errors.Join(n.admit(index, member{id: m.ID, network: networkKeyOf(m.Network), v4: v4, v6: v6}), n.openPorts(m, v4, v6)); err != nil {
		return fmt.Errorf("keep %s: %w", m.ID, err)
	}
	return nil
}

// Detach takes a Machine's network away; one that has none is fine.
func (n *Network) Detach(ctx context.Context, id gondola.MachineID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	defer n.attaching.lock(id)()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	defer h.Close()
	if err := n.remove(h, id); err != nil {
		return fmt.Errorf("detach %s: %w", id, err)
	}
	return nil
}

// Attached lists the Machines of this instance that have something of a network on this host.
func (n *Network) Attached() ([]gondola.MachineID, error) {
	ids, err := n.attached()
	return slices.DeleteFunc(ids, func(id gondola.MachineID) bool { return strings.HasPrefix(string(id), gatewayPrefix) }), err
}

// attached lists gateways too.
func (n *Network) attached() ([]gondola.MachineID, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	links, err := n.links(h)
	if err != nil {
		return nil, err
	}
	var ids []gondola.MachineID
	add := func(name string) {
		if id, ok := strings.CutPrefix(name, netnsPrefix(n.instance)); ok {
			ids = append(ids, gondola.MachineID(id))
		}
	}
	for _, l := range links {
		add(l.Attrs().Alias) // one without has a namespace all the same, which build makes first
	}
	entries, err := os.ReadDir(netnsDir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		add(e.Name())
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// routed returns the index of a Machine's link when it is there with routes to these addresses.
func (n *Network) routed(h *netlink.Handle, id gondola.MachineID, v4, v6 netip.Addr) (int, bool) {
	l, err := h.LinkByName(n.linkName(id))
	if err != nil || l.Attrs().Alias != n.netnsName(id) {
		return 0, false
	}
	for _, a := range []netip.Addr{v4, v6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(familyOf(a).netlink, &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(a)}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		})
		if err != nil || len(routes) == 0 {
			return 0, false
		}
	}
	return l.Attrs().Index, true
}

// remove undoes admit and build, as far as they came.
func (n *Network) remove(h *netlink.Handle, id gondola.MachineID) error {
	if err := n.closePorts(id); err != nil {
		return err
	}
	free, err := n.dismiss(id)
	if err != nil {
		return err
	}
	failpoint.Hit("network.detach.dismissed")
	l, err := h.LinkByName(n.linkName(id))
	switch {
	case err == nil && (l.Attrs().Alias == n.netnsName(id) || l.Attrs().Alias == ""): // none yet: build was interrupted
		if err := n.retire(h, l); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("retire link %s: %w", l.Attrs().Name, err)
		}
	case err == nil:
		return gondola.Errorf(gondola.ErrConflict, "link %s is not the one of Machine %s (its alias is %q): remove it", l.Attrs().Name, id, l.Attrs().Alias)
	case !errors.As(err, new(netlink.LinkNotFoundError)):
		return err
	}
	n.endFlows(free...)
	failpoint.Hit("network.detach.link")
	return removeNetNS(filepath.Join(netnsDir, n.netnsName(id)))
}

// retire takes a link out of service and gives its name free. The kernel deletes it with the namespace of its other side, in the background;
// deleting it here would take 40 ms and stop every other change of links meanwhile. Where a process holds the namespace, Open or Purge do it.
func (n *Network) retire(h *netlink.Handle, l netlink.Link) error {
	if err := h.LinkSetDown(l); err != nil {
		return err
	}
	if err := h.LinkSetAlias(l, ""); err != nil {
		return err
	}
	failpoint.Hit("network.detach.alias")
	return h.LinkSetName(l, n.retiredPrefix()+strconv.FormatInt(int64(l.Attrs().Index), 36))
}

func (n *Network) retiredPrefix() string { return linkPrefix(n.instance) + "-" }

func (n *Network) deleteRetired() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := n.links(h)
	if err != nil {
		return err
	}
	for _, l := range links {
		if !strings.HasPrefix(l.Attrs().Name, n.retiredPrefix()) {
			if err := letLoopbackPass(l); err != nil { // of a version that did not
				n.log.Warn("public ports at 127.0.0.1 will not reach a Machine", "link", l.Attrs().Name, "error", err)
			}
			continue
		}
		if err := h.LinkDel(l); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete retired link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// build makes namespace and link and returns the index of the link's host side.
func (n *Network) build(ctx context.Context, h *netlink.Handle, m Machine, path string, v4, v6 netip.Addr) (int, error) {
	ns, inside, err := createNetNS(path)
	if err != nil {
		return 0, fmt.Errorf("make network namespace %s: %w", path, err)
	}
	defer unix.Close(ns)
	defer inside.Close()
	failpoint.Hit("network.attach.namespace")
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = n.linkName(m.ID), nextHopMAC
	mac := MAC(m.Worker, m.Number)
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac, PeerNamespace: netlink.NsFd(ns)}
	if err := h.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make link %s: %w", attrs.Name, err)
	}
	if veth.Attrs().Index == insideIndex {
		// A first link on a host that has only lo. The kernel takes one whose index is its peer's for a link without a peer and would let it
		// wait a second before it sends; the next one gets another index.
		if err := h.LinkDel(veth); err != nil {
			return 0, fmt.Errorf("make link %s again: %w", attrs.Name, err)
		}
		veth.Index = 0
		if err := h.LinkAdd(veth); err != nil {
			return 0, fmt.Errorf("make link %s again: %w", attrs.Name, err)
		}
	}
	failpoint.Hit("network.attach.link")
	if err := h.LinkSetAlias(veth, n.netnsName(m.ID)); err != nil { // the kernel ignores an alias at creation
		return 0, fmt.Errorf("name link %s: %w", attrs.Name, err)
	}
	if err := n.setUpHostSide(h, veth, mac, v4, v6); err != nil {
		return 0, fmt.Errorf("set up link %s: %w", attrs.Name, err)
	}
	failpoint.Hit("network.attach.host")
	if err := setUpInside(inside, v4, v6); err != nil {
		return 0, fmt.Errorf("set up eth0 in %s: %w", path, err)
	}
	return veth.Attrs().Index, waitUp(ctx, h, veth.Attrs().Index, inside, v6)
}

// waitUp waits until the first packet would pass, for the kernel finishes two things in the background: that the host side of the link may
// send (newer kernels catch up when they are asked), and that the IPv6 address inside is taken as local. A connection made before would lose
// its first packet and take a second.
func waitUp(ctx context.Context, h *netlink.Handle, index int, inside *netlink.Handle, v6 netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		l, err := h.LinkByIndex(index)
		if err != nil {
			return err
		}
		routes, err := inside.RouteGet(v6.AsSlice())
		if l.Attrs().OperState == netlink.OperUp && err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("link %s does not come up: %w", l.Attrs().Name, ctx.Err())
		case <-time.After(500 * time.Microsecond):
		}
	}
}

func (n *Network) setUpHostSide(h *netlink.Handle, l netlink.Link, mac net.HardwareAddr, v4, v6 netip.Addr) error {
	const none = 1 // IN6_ADDR_GEN_MODE_NONE: the only link-local address is fe80::1
	if err := h.LinkSetIP6AddrGenMode(l, none); err != nil {
		return err
	}
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+l.Attrs().Name+"/disable_ipv6", []byte("0"), 0); err != nil { // a host may have it off by default
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return err
	}
	if err := letLoopbackPass(l); err != nil {
		return err
	}
	index := l.Attrs().Index
	for _, a := range []*netlink.Addr{
		{IPNet: ipNet(nextHop4), Scope: unix.RT_SCOPE_LINK},
		{IPNet: &net.IPNet{IP: nextHop6.AsSlice(), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD},
	} {
		if err := h.AddrAdd(l, a); err != nil {
			return fmt.Errorf("add address %s: %w", a.IPNet, err)
		}
	}
	for _, a := range []netip.Addr{v4, v6} {
		// Known neighbours: the first packet needs no ARP or neighbour discovery.
		err := h.NeighSet(&netlink.Neigh{LinkIndex: index, Family: familyOf(a).netlink, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
		if err != nil {
			return fmt.Errorf("add neighbour %s: %w", a, err)
		}
		err = h.RouteReplace(&netlink.Route{LinkIndex: index, Dst: ipNet(a), Scope: unix.RT_SCOPE_LINK, Src: n.gateway(a).AsSlice()})
		if err != nil {
			return fmt.Errorf("add route to %s: %w", a, err)
		}
	}
	return nil
}

func setUpInside(h *netlink.Handle, v4, v6 netip.Addr) error {
	for _, name := range []string{"lo", "eth0"} {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "lo" {
			if err := h.LinkSetUp(l); err != nil {
				return err
			}
			continue
		}
		for _, a := range []netip.Addr{v4, v6} {
			if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(a), Flags: nodad(a)}); err != nil {
				return fmt.Errorf("add address %s: %w", a, err)
			}
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		if err := setNextHops(h, l.Attrs().Index); err != nil {
			return err
		}
	}
	return nil
}

func setNextHops(h *netlink.Handle, index int) error {
	for _, a := range []netip.Addr{nextHop4, nextHop6} {
		err := h.NeighSet(&netlink.Neigh{LinkIndex: index, Family: familyOf(a).netlink, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: nextHopMAC})
		if err != nil {
			return fmt.Errorf("add neighbour %s: %w", a, err)
		}
	}
	for _, r := range []*netlink.Route{
		{LinkIndex: index, Dst: ipNet(nextHop4), Scope: unix.RT_SCOPE_LINK},
		{LinkIndex: index, Gw: nextHop4.AsSlice()},
		{LinkIndex: index, Gw: nextHop6.AsSlice()},
	} {
		if err := h.RouteAdd(r); err != nil {
			return fmt.Errorf("add route %s: %w", r, err)
		}
	}
	return nil
}

func (n *Network) gateway(of netip.Addr) netip.Addr {
	if of.Is4() {
		return n.gateway4
	}
	return n.gateway6
}

func ipNet(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func nodad(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return unix.IFA_F_NODAD
}

// letLoopbackPass lets programs of the host reach public ports at 127.0.0.1. What a Machine itself sends there is refused as all that goes
// to the host.
func letLoopbackPass(l netlink.Link) error {
	return os.WriteFile("/proc/sys/net/ipv4/conf/"+l.Attrs().Name+"/route_localnet", []byte("1"), 0)
}
