package network

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// Public ports are virtual ports of the network "world", which is everybody. Those of the unspecified address are of every address of the
// host. Who has one is written in the comment of its element: the kernel is the only record of claims too.

// world is the network that everybody looks up virtual ports in, after the own one.
var world = networkKey{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// claim says whose a public port is.
type claim struct {
	owner   networkKey // a network, or appServices
	service string
}

func (c claim) comment() string {
	return hex.EncodeToString(c.owner[:]) + " " + c.service[:min(len(c.service), 200)]
}

func claimOf(comment string) (c claim) {
	owner, service, _ := strings.Cut(comment, " ")
	_, _ = hex.Decode(c.owner[:], []byte(owner))
	c.service = service
	return c
}

// opening is a set of public ports of a service that are opened together or not at all.
type opening struct {
	claim
	ports    map[vipKey]target
	nodePort bool
}

// keys are the opening's ports in a steady order.
func (o opening) keys() []vipKey {
	return slices.SortedFunc(maps.Keys(o.ports), func(a, b vipKey) int {
		return cmp.Or(cmp.Compare(a.port, b.port), cmp.Compare(a.proto, b.proto), a.addr.Compare(b.addr))
	})
}

// openings is the pure half: which public ports the services of a network ask for.
func openings(owner, network networkKey, services []gondola.VirtualService) ([]opening, error) {
	var all []opening
	for _, s := range services {
		mine := claim{owner, s.Name}
		public := gondola.Public{}
		if s.Public != nil {
			public = *s.Public
		}
		m := manner{affinity: s.Affinity, public: true, network: network, keepSource: public.KeepSource}
		for _, p := range s.Ports {
			if p.NodePort == 0 {
				continue
			}
			o := opening{mine, map[vipKey]target{}, true}
			if err := o.add(anyAddress(), p, p.NodePort, m); err != nil {
				return nil, err
			}
			all = append(all, o)
		}
		m.restricted, m.sources = len(public.Sources) > 0, public.Sources
		places := [][]netip.Addr{}
		if public.Host {
			places = append(places, anyAddress())
		}
		for _, a := range public.Addresses {
			places = append(places, []netip.Addr{a.Unmap()})
		}
		for _, addrs := range places {
			o := opening{mine, map[vipKey]target{}, false}
			for _, p := range s.Ports {
				if err := o.add(addrs, p, p.Port, m); err != nil {
					return nil, err
				}
			}
			all = append(all, o)
		}
	}
	return all, nil
}

func anyAddress() []netip.Addr { return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} }

func (o opening) add(addrs []netip.Addr, p gondola.VirtualPort, port uint16, m manner) error {
	proto, err := protocolOf(o.service, p)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		k := vipKey{world, a, proto, port}
		if _, twice := o.ports[k]; twice {
			return gondola.Errorf(gondola.ErrInvalid, "%s: %s port %d is given twice", o.service, p.Protocol, port)
		}
		o.ports[k] = newTarget(k, p.Backends, m)
	}
	return nil
}

// settle decides who gets which of the public ports that others do not have: those that had them keep them, then first come, first served.
// It returns what is open now, all claims there are then, and what is not open.
func (n *Network) settle(others map[vipKey]claim, asked []opening) (map[vipKey]target, map[vipKey]claim, []gondola.PortRefusal, error) {
	open, claims := map[vipKey]target{}, maps.Clone(others)
	holds := func(o opening) bool {
		for k := range o.ports {
			if n.claims[k] == o.claim {
				return true
			}
		}
		return false
	}
	asked = slices.Clone(asked)
	slices.SortStableFunc(asked, func(a, b opening) int { return order(holds(b)) - order(holds(a)) })
	var refusals []gondola.PortRefusal
	var place *place
	for _, o := range asked {
		var no *gondola.PortRefusal
		for _, k := range o.keys() {
			reason, held := "", n.claims[k] == o.claim
			if c, taken := claims[k]; taken {
				reason = n.holder(c)
			} else if !held {
				if place == nil {
					var err error
					if place, err = n.survey(); err != nil {
						return nil, nil, nil, err
					}
				}
				reason = place.objection(k)
			}
			if reason != "" {
				no = &gondola.PortRefusal{Network: n.networkName(o.owner), Service: o.service, Protocol: protocolName(k.proto), Port: k.port,
					NodePort: o.nodePort, Reason: reason}
				if !k.addr.IsUnspecified() {
					no.Address = k.addr
				}
				break
			}
		}
		if no != nil {
			refusals = append(refusals, *no)
			continue
		}
		for k, t := range o.ports {
			open[k], claims[k] = t, o.claim
		}
	}
	return open, claims, refusals, nil
}

// holder says who has a port.
func (n *Network) holder(c claim) string {
	if c.owner == networkKeyOf(appServices) {
		return "it belongs to app " + c.service
	}
	return fmt.Sprintf("it belongs to Service %s of network %s", c.service, n.networkName(c.owner))
}

func order(first bool) int {
	if first {
		return 1
	}
	return 0
}

// owner says whose a virtual port is.
func (n *Network) owner(k vipKey) networkKey {
	if k.network == world {
		return n.claims[k].owner
	}
	if id, ok := n.hostPorts[k]; ok {
		return portOwner(id)
	}
	return n.owners[k.addr]
}

// Entrance tells where the world can come in to this host.
func (n *Network) Entrance() (gondola.Entrance, error) {
	addrs, err := n.hostAddresses()
	if err != nil {
		return gondola.Entrance{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	e := gondola.Entrance{Addresses: addrs, Pools: n.pools}
	for _, r := range n.refusals {
		e.Refusals = append(e.Refusals, r...)
	}
	slices.SortFunc(e.Refusals, func(a, b gondola.PortRefusal) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
	})
	return e, nil
}

// appServices owns the public ports of Machines of Apps; no network has such a name.
const appServices = "Machine services"

// SetAppServices replaces all public services of Apps, by the network of their Machines. Beside SetServices, which is the networks' own.
func (n *Network) SetAppServices(ctx context.Context, services map[string][]gondola.VirtualService) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	owner := networkKeyOf(appServices)
	var asked []opening
	for _, network := range slices.Sorted(maps.Keys(services)) {
		o, err := openings(owner, networkKeyOf(network), services[network])
		if err != nil {
			return err
		}
		asked = append(asked, o...)
	}
	if err := n.apply(appServices, owner, nil, nil, asked); err != nil {
		return fmt.Errorf("public services of apps: %w", err)
	}
	return nil
}

// CheckAppService says whether an App could open the ports of the service on this host now: an ErrConflict names the first that it could
// not, and who has it.
func (n *Network) CheckAppService(network string, s gondola.VirtualService) error {
	owner := networkKeyOf(appServices)
	asked, err := openings(owner, networkKeyOf(network), []gondola.VirtualService{s})
	if err != nil || len(asked) == 0 {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	others := maps.Clone(n.claims)
	maps.DeleteFunc(others, func(_ vipKey, c claim) bool { return c == asked[0].claim })
	_, _, refusals, err := n.settle(others, asked)
	if err != nil || len(refusals) == 0 {
		return err
	}
	r := refusals[0]
	return gondola.Errorf(gondola.ErrConflict, "services: port %d/%s cannot be opened on the host for %s: %s; use another port", r.Port, r.Protocol, s.Name, r.Reason)
}

// poolChanges compares the addresses of pools that are in use with those that are needed.
func (n *Network) poolChanges(claims map[vipKey]claim) (add, remove []netip.Addr, err error) {
	want := map[netip.Addr]bool{}
	for k := range claims {
		if n.inPool(k.addr) {
			want[k.addr] = true
		}
	}
	foreign := []netip.Addr{}
	if len(want) > 0 {
		if foreign, err = n.foreignAddresses(); err != nil {
			return nil, nil, err
		}
	}
	for a := range want {
		// One that the host has by itself stays as it is: taking it for ours would close its other ports.
		if !n.pooled[a] && !slices.Contains(foreign, a) {
			add = append(add, a)
		}
	}
	for a := range n.pooled {
		if !want[a] {
			remove = append(remove, a)
		}
	}
	return add, remove, nil
}

// dropStrayPooled takes addresses of pools off lo that are not in the table: a crash came between, or somebody removed the table. The host's own
// programs would answer at them.
func (n *Network) dropStrayPooled() error {
	state, err := n.state.read()
	if err != nil {
		return err
	}
	for _, a := range state.Addresses {
		if n.inPool(a) && !n.pooled[a] {
			if err := n.removeAddress(a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Network) inPool(a netip.Addr) bool {
	return slices.ContainsFunc(n.pools, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (n *Network) writePool(c *nftables.Conn, add, remove []netip.Addr) error {
	for _, f := range families() {
		if err := deleteElements(c, n.set(setPooled, f), addressElements(remove, f)); err != nil {
			return err
		}
		if err := addElements(c, n.set(setPooled, f), addressElements(add, f)); err != nil {
			return err
		}
	}
	return nil
}

func addressElements(addrs []netip.Addr, f family) (e []nftables.SetElement) {
	for _, a := range addrs {
		if familyOf(a) == f {
			e = append(e, nftables.SetElement{Key: a.AsSlice()})
		}
	}
	return e
}

// foreignAddresses are the host's own: all but those that this instance put on lo and loopback.
func (n *Network) foreignAddresses() ([]netip.Addr, error) {
	links, err := n.foreignLinkAddresses()
	var all []netip.Addr
	for _, l := range links {
		all = append(all, l.addr)
	}
	return all, err
}

type linkAddress struct {
	addr  netip.Addr
	index int
}

func (n *Network) foreignLinkAddresses() ([]linkAddress, error) {
	state, err := n.state.read()
	if err != nil {
		return nil, err
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
	list, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var all []linkAddress
	for _, a := range list {
		addr, ok := netip.AddrFromSlice(a.IP)
		addr = addr.Unmap()
		ours := slices.ContainsFunc(links, func(l netlink.Link) bool { return l.Attrs().Index == a.LinkIndex })
		if ok && !ours && !addr.IsLoopback() && !slices.Contains(state.Addresses, addr) && a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DEPRECATED) == 0 {
			all = append(all, linkAddress{addr, a.LinkIndex})
		}
	}
	return all, nil
}

// hostAddresses are those by which others reach the host: of the links with a default route, or of all where there is none.
func (n *Network) hostAddresses() ([]netip.Addr, error) {
	list, err := n.foreignLinkAddresses()
	if err != nil {
		return nil, err
	}
	out := []netip.Addr{}
	for _, f := range families() {
		routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, f.netlink) })
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		uplinks := map[int]bool{}
		for _, r := range routes {
			if p, ok := prefixOf(r.Dst); r.Dst == nil || ok && p.Bits() == 0 {
				uplinks[r.LinkIndex] = true
			}
		}
		for _, l := range list {
			if familyOf(l.addr) == f && l.addr.IsGlobalUnicast() && (len(uplinks) == 0 || uplinks[l.index]) && !slices.Contains(out, l.addr) {
				out = append(out, l.addr)
			}
		}
	}
	return out, nil
}
