package network

import (
	"errors"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"gondola"
)

// A hostPort of a Machine is a virtual port of its gateway's address, for Machines of the network and for the host, whose element has the
// Machine as its comment; and an element of the table inside the gateway. No Service has a virtual port there, so they never meet.

const machineComment = "machine "

// hostPorts is the pure half: what the ports of a Machine with these addresses are outside and inside of the gateway.
func hostPorts(m Machine, g Gateway, addrs ...netip.Addr) (outside map[vipKey]target, inside map[hostPort]hostPortBackend, err error) {
	outside, inside = map[vipKey]target{}, map[hostPort]hostPortBackend{}
	for _, p := range m.Ports {
		if p.Protocol == "" {
			p.Protocol = "tcp"
		}
		proto, err := protocolOf("Machine "+string(m.ID), gondola.VirtualPort{Protocol: p.Protocol, Port: p.HostPort})
		if err != nil {
			return nil, nil, err
		}
		if proto == unix.IPPROTO_TCP && slices.Contains(g.Taken, p.HostPort) {
			return nil, nil, gondola.Errorf(gondola.ErrConflict, "port %d/tcp of gateway %s is the platform's own: use another one", p.HostPort, g.Name)
		}
		want := p.HostIP.Unmap()
		for _, a := range addrs {
			if want.IsValid() && want.Is4() != a.Is4() {
				continue
			}
			all := !want.IsValid() || want.IsUnspecified()
			at := want
			if all {
				at = unspecified(a)
			}
			to := netip.AddrPortFrom(a, p.Port)
			inside[hostPort{at, proto, p.HostPort}] = hostPortBackend{to, m.ID}
			for _, own := range g.Addresses {
				if own.Is4() != a.Is4() || !all && own != want {
					continue
				}
				for _, network := range []networkKey{networkKeyOf(m.Network), {}} {
					k := vipKey{network, own, proto, p.HostPort}
					outside[k] = newTarget(k, []netip.AddrPort{to}, manner{})
				}
			}
		}
	}
	return outside, inside, nil
}

func unspecified(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// openPorts gives an attached Machine exactly its ports. One that another Machine has is an ErrConflict.
func (n *Network) openPorts(m Machine, addrs ...netip.Addr) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	var g *nodeGateway
	var outside map[vipKey]target
	var inside map[hostPort]hostPortBackend
	if m.Gateway != "" && len(m.Ports) > 0 {
		if g = n.nodes[gatewayKey(m.Network, m.Gateway)]; g == nil {
			return gondola.Errorf(gondola.ErrUnsupported, "gateway %q of network %s is not on this host", m.Gateway, m.Network)
		}
		var err error
		if outside, inside, err = hostPorts(m, g.Gateway, addrs...); err != nil {
			return err
		}
		for k := range outside {
			if other, taken := n.hostPorts[k]; taken && other != m.ID {
				return portTaken(k.port, k.proto, k.addr, other)
			}
		}
		for p := range inside {
			if b, taken := g.ports[p]; taken && b.machine != m.ID {
				return portTaken(p.port, p.proto, p.addr, b.machine)
			}
		}
	}
	return n.setPortsLocked(m.ID, outside, g, inside)
}

func portTaken(port uint16, proto byte, addr netip.Addr, by gondola.MachineID) error {
	return gondola.Errorf(gondola.ErrConflict, "host port %d/%s at %s belongs to machine %s: use another one or wait until it is gone", port, protocolName(proto), addr, by)
}

// closePorts undoes openPorts.
func (n *Network) closePorts(id gondola.MachineID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.setPortsLocked(id, nil, nil, nil)
}

// setPortsLocked makes these all ports of a Machine: outside in the host's table, inside in that of g.
func (n *Network) setPortsLocked(id gondola.MachineID, outside map[vipKey]target, g *nodeGateway, inside map[hostPort]hostPortBackend) error {
	if !n.hasPorts(id) && len(outside)+len(inside) == 0 {
		return nil
	}
	owner := portOwner(id)
	d, err := n.planServices(owner, map[networkKey]bool{owner: true}, outside, nil, n.claims)
	if err != nil {
		return err
	}
	if d.comment = machineComment + string(id); len(d.put)+len(d.remove) > 0 {
		if err := n.transact(func(c *nftables.Conn) error { return n.writeServices(c, d) }); err != nil {
			return err
		}
		n.applied(d, nil, nil)
		for k := range d.remove {
			delete(n.hostPorts, k)
		}
		for k := range d.put {
			n.hostPorts[k] = id
		}
		n.forgetFlows(d)
	}
	var errs []error
	for _, other := range n.nodes {
		var gone []hostPort
		for p, b := range other.ports {
			if _, stays := inside[p]; b.machine == id && (other != g || !stays) {
				gone = append(gone, p)
			}
		}
		var put map[hostPort]hostPortBackend
		if other == g {
			put = inside
		}
		errs = append(errs, n.changePorts(other, put, gone))
	}
	return errors.Join(errs...)
}

func (n *Network) hasPorts(id gondola.MachineID) bool {
	for _, owner := range n.hostPorts {
		if owner == id {
			return true
		}
	}
	for _, g := range n.nodes {
		for _, b := range g.ports {
			if b.machine == id {
				return true
			}
		}
	}
	return false
}

// portOwner stands for a Machine among the owners of virtual ports.
func portOwner(id gondola.MachineID) networkKey { return networkKeyOf(machineComment + string(id)) }

// machineOf reads whose hostPort an element is.
func machineOf(comment string) (gondola.MachineID, bool) {
	id, ok := strings.CutPrefix(comment, machineComment)
	return gondola.MachineID(id), ok
}

// dropStalePortsLocked closes the ports of Machines that have no network any more: a crash came between.
func (n *Network) dropStalePortsLocked() error {
	here, gone := map[gondola.MachineID]bool{}, map[gondola.MachineID]bool{}
	for _, m := range n.members {
		here[m.id] = true
	}
	for _, id := range n.hostPorts {
		gone[id] = !here[id]
	}
	for id := range gone {
		if gone[id] {
			if err := n.setPortsLocked(id, nil, nil, nil); err != nil {
				return err
			}
		}
	}
	return nil
}
