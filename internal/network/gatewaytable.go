package network

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"gondola"
)

// Inside a gateway there is a table for what begins there: hostPorts, at 127.0.0.1 too, and node ports, which lead to the host's gateway
// address, where the host's table knows them. It is the only record of both.

// hostPort is a port as the inside of a gateway has it.
type hostPort struct {
	addr  netip.Addr // unspecified: every local one of the family
	proto byte
	port  uint16
}

type hostPortBackend struct {
	to      netip.AddrPort
	machine gondola.MachineID
}

// Node ports are in Kubernetes' range; other public ports must not hide what programs in a gateway listen on.
const firstNodePort, lastNodePort = 30000, 32767

type nodePort struct {
	proto byte
	port  uint16
}

const (
	setHostPorts = "hostports" // and the family's suffix: address . protocol . port → backend
	setNodePorts = "nodeports" // protocol . port
)

func gatewayTable() *nftables.Table {
	return &nftables.Table{Name: "gondola", Family: nftables.TableFamilyINet}
}

func hostPortSet(f family) *nftables.Set {
	return &nftables.Set{Table: gatewayTable(), Name: setHostPorts + f.suffix, IsMap: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService), DataType: f.endpoint()}
}

func nodePortSet() *nftables.Set {
	return &nftables.Set{Table: gatewayTable(), Name: setNodePorts, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)}
}

func (p hostPort) bytes() []byte {
	b := append(p.addr.AsSlice(), p.proto, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, p.port), 0, 0)
}

func hostPortOf(b []byte) (p hostPort, ok bool) {
	if len(b) < 4+8 {
		return p, false
	}
	p.addr, ok = netip.AddrFromSlice(b[:len(b)-8])
	rest := b[len(b)-8:]
	p.proto, p.port = rest[0], binary.BigEndian.Uint16(rest[4:])
	return p, ok
}

func (p nodePort) bytes() []byte {
	return append(binary.BigEndian.AppendUint16([]byte{p.proto, 0, 0, 0}, p.port), 0, 0)
}

// with changes or reads the table of a gateway; n.mu must be held.
func (g *nodeGateway) with(do func(c *nftables.Conn) error) error {
	ns, err := os.Open(g.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := newConn(nftables.WithNetNSFd(int(ns.Fd())))
	if err != nil {
		return err
	}
	return do(c)
}

// openGatewayTable writes the rules of a gateway's table anew and reads its elements; those of Machines that are gone are removed.
func (n *Network) openGatewayTable(g *nodeGateway) error {
	err := inNetNS(g.path, func() error { // for what goes from 127.0.0.1 to a Machine
		return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0)
	})
	if err != nil {
		return err
	}
	err = g.with(func(c *nftables.Conn) error {
		if err := n.writeGatewayTable(c); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("make its nftables table: %w", err)
	}
	if err := g.with(g.load); err != nil {
		return fmt.Errorf("read its nftables table: %w", err)
	}
	here := map[gondola.MachineID]bool{}
	for _, m := range n.members {
		here[m.id] = true
	}
	var gone []hostPort
	for p, b := range g.ports {
		if !here[b.machine] {
			gone = append(gone, p)
		}
	}
	if err := n.changePorts(g, nil, gone); err != nil {
		return err
	}
	return n.mirrorNodePorts(g)
}

func (g *nodeGateway) load(c *nftables.Conn) error {
	for _, f := range families() {
		elements, err := c.GetSetElements(hostPortSet(f))
		if err != nil {
			return err
		}
		for _, e := range elements {
			p, ok := hostPortOf(e.Key)
			a, fits := netip.AddrFromSlice(e.Val[:min(len(e.Val), int(4*f.words))])
			if ok && fits && len(e.Val) >= int(4*f.words)+2 {
				g.ports[p] = hostPortBackend{netip.AddrPortFrom(a, binary.BigEndian.Uint16(e.Val[4*f.words:])), gondola.MachineID(e.Comment)}
			}
		}
	}
	elements, err := c.GetSetElements(nodePortSet())
	for _, e := range elements {
		g.nodes[nodePort{e.Key[0], binary.BigEndian.Uint16(e.Key[4:])}] = true
	}
	return err
}

func (n *Network) writeGatewayTable(c *nftables.Conn) error {
	table := c.AddTable(gatewayTable())
	for _, s := range []*nftables.Set{hostPortSet(families()[0]), hostPortSet(families()[1]), nodePortSet()} {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules [][]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
		c.FlushChain(ch)
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: r})
		}
	}
	chain("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest, n.gatewayOutput())
	four := families()[0]
	chain("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, [][]expr.Any{
		match(isFamily(four), link(expr.MetaKeyOIFNAME, "lo\x00", expr.CmpOpNeq), within(four.saddr, loopback(four), expr.CmpOpEq), []expr.Any{&expr.Masq{}}),
	})
	return nil
}

// gatewayOutput leads what goes to a local address of the gateway to a hostPort of that very address, of every address, or to a node port.
func (n *Network) gatewayOutput() (rules [][]expr.Any) {
	const at = 8 // the register where the backend is put, behind the longest key
	for _, f := range families() {
		w := f.words
		for _, addr := range []expr.Any{daddr(0, f), &expr.Immediate{Register: reg(0), Data: make([]byte, 4*w)}} {
			rules = append(rules, match(isFamily(f), local(), []expr.Any{
				addr, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(w)}, port(w + 1), lookup(hostPortSet(f), 0, at),
				&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: reg(at), RegProtoMin: reg(at + w)},
			}))
		}
		host := n.gateway4
		if w == 4 {
			host = n.gateway6
		}
		rules = append(rules, match(isFamily(f), local(), []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)}, port(1), in(setNodePorts),
			&expr.Immediate{Register: reg(at), Data: host.AsSlice()},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.nfproto), RegAddrMin: reg(at)},
		}))
	}
	return rules
}

// changePorts puts and removes hostPorts of a gateway, and forgets UDP flows that lead elsewhere.
func (n *Network) changePorts(g *nodeGateway, put map[hostPort]hostPortBackend, remove []hostPort) error {
	remove = slices.Clone(remove)
	fresh := map[hostPort]hostPortBackend{}
	for p, b := range put {
		old, had := g.ports[p]
		if had && old == b {
			continue
		}
		if fresh[p] = b; had {
			remove = append(remove, p)
		}
	}
	if len(fresh)+len(remove) == 0 {
		return nil
	}
	err := g.with(func(c *nftables.Conn) error {
		for _, f := range families() {
			var add, gone []nftables.SetElement
			for _, p := range remove {
				if familyOf(p.addr) == f {
					gone = append(gone, nftables.SetElement{Key: p.bytes()})
				}
			}
			for p, b := range fresh {
				if familyOf(p.addr) == f {
					add = append(add, nftables.SetElement{Key: p.bytes(), Val: backendData(b.to), Comment: string(b.machine)})
				}
			}
			if err := deleteElements(c, hostPortSet(f), gone); err != nil {
				return err
			}
			if err := addElements(c, hostPortSet(f), add); err != nil {
				return err
			}
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("host ports of gateway %s: %w", g.Name, err)
	}
	for _, p := range remove {
		delete(g.ports, p)
	}
	for p, b := range fresh {
		g.ports[p] = b
	}
	return n.forgetFlowsIn(g)
}

// forgetFlowsIn ends UDP flows inside the gateway that lead elsewhere than its ports do by now, because they began when those led there or nowhere.
func (n *Network) forgetFlowsIn(g *nodeGateway) error {
	ns, err := os.Open(g.path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.Fd()), unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, f := range families() {
		if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.netlink), strayFlows{n, g}); err != nil {
			return fmt.Errorf("forget UDP flows of gateway %s: %w", g.Name, err)
		}
	}
	return nil
}

// strayFlows matches UDP flows to local addresses of a gateway that are not where they would be led if they began now.
type strayFlows struct {
	n *Network
	g *nodeGateway
}

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s strayFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	to := addrPort(f.Forward.DstIP, f.Forward.DstPort)
	local := to.Addr().IsLoopback() || slices.Contains(s.g.Addresses, to.Addr())
	return f.Forward.Protocol == unix.IPPROTO_UDP && local && addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort) != s.leads(to)
}

// leads says where the rules of gatewayOutput lead what goes to a local address by UDP.
func (s strayFlows) leads(to netip.AddrPort) netip.AddrPort {
	for _, a := range []netip.Addr{to.Addr(), unspecified(to.Addr())} {
		if b, ok := s.g.ports[hostPort{a, unix.IPPROTO_UDP, to.Port()}]; ok {
			return b.to
		}
	}
	if s.g.nodes[nodePort{unix.IPPROTO_UDP, to.Port()}] {
		return netip.AddrPortFrom(s.n.gateway(to.Addr()), to.Port())
	}
	return to
}

// mirrorNodePorts makes the node ports of the gateway those that are open on every address of the host.
func (n *Network) mirrorNodePorts(g *nodeGateway) error {
	want := map[nodePort]bool{}
	for k := range n.vips {
		if k.network == world && k.addr.IsUnspecified() && k.port >= firstNodePort && k.port <= lastNodePort {
			want[nodePort{k.proto, k.port}] = true
		}
	}
	var add, gone []nftables.SetElement
	for p := range want {
		if !g.nodes[p] {
			add = append(add, nftables.SetElement{Key: p.bytes()})
		}
	}
	for p := range g.nodes {
		if !want[p] {
			gone = append(gone, nftables.SetElement{Key: p.bytes()})
		}
	}
	if len(add)+len(gone) == 0 {
		return nil
	}
	err := g.with(func(c *nftables.Conn) error {
		if err := deleteElements(c, nodePortSet(), gone); err != nil {
			return err
		}
		if err := addElements(c, nodePortSet(), add); err != nil {
			return err
		}
		return c.Flush()
	})
	if err != nil {
		return fmt.Errorf("node ports of gateway %s: %w", g.Name, err)
	}
	g.nodes = want
	return n.forgetFlowsIn(g)
}
