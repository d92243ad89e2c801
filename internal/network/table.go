package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	mdlayher "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// Sets and maps of the table; those with %s are there for each family, with its suffix.
const (
	setLinks    = "links"          // link → zero . network
	setNetworks = "networks"       // link → network; of a release before, read and removed
	setSources  = "sources%s"      // link . address: what a Machine may send from
	setMembers  = "members%s"      // network . address: what a Machine of the network may reach
	setSelf     = "self%s"         // address . the same address: a Machine that reached itself through a virtual service
	setHosts    = "hosts%s"        // addresses on the host that Machines may reach
	setRanges   = "ranges%s"       // Service ranges: what is not translated there is refused
	setVIPs     = "vips%s"         // network . address . protocol . port → chain; network zero is the host, all ones the world
	setIngress  = "ingress%s"      // address of an isolated Machine → chain that says what may reach it
	setEgress   = "egress%s"       // address of an isolated Machine → chain that says what it may reach
	setVIPAddrs = "vipaddresses%s" // virtual addresses: what is not translated there is refused, as in ranges
	setPooled   = "pooled%s"       // addresses of pools on lo: only what is published there is open
	setGateways = "gateways%s"     // addresses of gateways
)

// Bits of the mark of a connection's first packet, between its translation and its way out to a Machine.
const (
	markPublic     uint32 = 0x1000 // came by a public port
	markMasquerade uint32 = 0x2000 // its source becomes the host's
)

// Chains that others go to.
const (
	chainGuard   = "guard"
	chainMachine = "from-machine"
	chainHost    = "machine-to-host"
	chainRefuse  = "refuse"
)

func (n *Network) set(name string, f family) *nftables.Set {
	s := &nftables.Set{Table: n.table, Name: strings.Replace(name, "%s", f.suffix, 1)}
	mark := nftables.TypeMark
	switch name {
	case setLinks:
		s.KeyType, s.IsMap, s.DataType = nftables.TypeIFIndex, true, nftables.MustConcatSetType(mark, mark, mark)
	case setNetworks:
		s.KeyType, s.IsMap, s.DataType = nftables.TypeIFIndex, true, nftables.MustConcatSetType(mark, mark)
	case setSources:
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(nftables.TypeIFIndex, f.addr), true
	case setMembers:
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(mark, mark, f.addr), true
	case setSelf:
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(f.addr, f.addr), true
	case setHosts, setVIPAddrs, setPooled, setGateways:
		s.KeyType = f.addr
	case setRanges:
		s.KeyType, s.Interval = f.addr, true
	case setIngress, setEgress:
		s.KeyType, s.IsMap, s.DataType = f.addr, true, nftables.TypeVerdict
	case setVIPs:
		s.KeyType = nftables.MustConcatSetType(mark, mark, f.addr, nftables.TypeInetProto, nftables.TypeInetService)
		s.Concatenation, s.IsMap, s.DataType = true, true, nftables.TypeVerdict
	}
	return s
}

func (n *Network) sets() []*nftables.Set {
	sets := []*nftables.Set{n.set(setLinks, family{})}
	for _, f := range families() {
		for _, name := range []string{setSources, setMembers, setSelf, setHosts, setRanges, setVIPs, setVIPAddrs, setIngress, setEgress, setPooled, setGateways} {
			sets = append(sets, n.set(name, f))
		}
	}
	return sets
}

// openTable makes the table, or takes over the one that is there: its rules are written anew in one transaction, its elements kept.
func (n *Network) openTable() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.readPolicyFile(); err != nil {
		return err
	}
	found, err := n.tableExists()
	if err != nil {
		return err
	}
	var before []nftables.SetElement
	if found {
		if before, err = n.networksBefore(); err != nil {
			return err
		}
	}
	err = n.transact(func(c *nftables.Conn) error { return errors.Join(n.writeTable(c), n.writeLinks(c, before)) })
	if err != nil && found {
		n.log.Warn("firewall table does not fit this version, making it anew", "table", n.table.Name, "error", err)
		if err := n.deleteTable(); err != nil {
			return err
		}
		err, found = n.transact(n.writeTable), false
	}
	if err != nil {
		return fmt.Errorf("make nftables table %s: %w", n.table.Name, err)
	}
	if !found {
		return nil
	}
	if err := n.loadMembersLocked(); err != nil {
		return fmt.Errorf("read nftables table %s: %w", n.table.Name, err)
	}
	if err := n.loadServicesLocked(); err != nil {
		return fmt.Errorf("read nftables table %s: %w", n.table.Name, err)
	}
	if err := n.loadPoliciesLocked(); err != nil {
		return fmt.Errorf("read nftables table %s: %w", n.table.Name, err)
	}
	return n.dropStalePortsLocked()
}

// networksBefore reads the map of a release that had no links yet: nil if there is none.
func (n *Network) networksBefore() ([]nftables.SetElement, error) {
	if !n.hasSet(setNetworks) {
		return nil, nil
	}
	elements, err := reading().GetSetElements(n.set(setNetworks, family{}))
	if err != nil {
		return nil, fmt.Errorf("read nftables table %s: %w", n.table.Name, err)
	}
	return append([]nftables.SetElement{}, elements...), nil
}

// writeLinks puts links in the place of the map of a release before, unless there is none.
func (n *Network) writeLinks(c *nftables.Conn, before []nftables.SetElement) error {
	if before == nil {
		return nil
	}
	var links []nftables.SetElement
	for _, e := range before {
		links = append(links, nftables.SetElement{Key: e.Key, Val: linkValue(networkKey(e.Val))})
	}
	c.DelSet(n.set(setNetworks, family{}))
	return addElements(c, n.set(setLinks, family{}), links)
}

func (n *Network) deleteTable() error {
	err := n.transact(func(c *nftables.Conn) error {
		c.DelTable(n.table)
		return nil
	})
	if err != nil {
		return fmt.Errorf("delete nftables table %s: %w", n.table.Name, err)
	}
	return nil
}

func (n *Network) tableExists() (bool, error) {
	tables, err := reading().ListTablesOfFamily(n.table.Family)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return false, gondola.Errorf(gondola.ErrUnsupported, "this kernel has no nftables: load the module nf_tables or boot a kernel of 5.10 or later with it")
	}
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == n.table.Name {
			return true, nil
		}
	}
	return false, nil
}

// transact changes the table in one transaction; n.mu must be held. The connection is kept: closing one waits until what its transactions
// deleted is gone, some 10 ms. It is given up after an error, when it may still have messages or answers waiting.
func (n *Network) transact(build func(c *nftables.Conn) error) error {
	if n.changes == nil {
		c, err := newConn(nftables.AsLasting())
		if err != nil {
			return fmt.Errorf("connect to nftables: %w", err)
		}
		n.changes = c
	}
	err := build(n.changes)
	if err == nil {
		err = n.changes.Flush()
	}
	if err != nil {
		n.changes.CloseLasting()
		n.changes = nil
	}
	return err
}

// reading returns a connection for questions.
func reading() *nftables.Conn {
	c, _ := newConn() // fails only for lasting connections
	return c
}

func newConn(opts ...nftables.ConnOption) (*nftables.Conn, error) {
	const buffer = 64 << 20 // a transaction of thousands of messages, and as many answers, must fit
	return nftables.New(append(opts, nftables.WithSockOptions(func(c *mdlayher.Conn) error {
		if err := c.SetReadBuffer(buffer); err != nil {
			return err
		}
		return c.SetWriteBuffer(buffer)
	}))...)
}

func (n *Network) writeTable(c *nftables.Conn) error {
	c.AddTable(n.table)
	for _, s := range n.sets() {
		if err := c.AddSet(s, nil); err != nil {
			return err
		}
	}
	type rules struct {
		chain *nftables.Chain
		rules [][]expr.Any
	}
	plain := func(name string) *nftables.Chain { return &nftables.Chain{Table: n.table, Name: name} }
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Table: n.table, Name: name, Type: kind, Hooknum: hook, Priority: priority}
	}
	filter, nat := nftables.ChainTypeFilter, nftables.ChainTypeNAT
	all := []rules{
		{plain(chainRefuse), refuseRules()},
		{plain(chainGuard), guardRules()},
		{plain(chainMachine), n.machineRules()},
		{plain(chainHost), n.hostRules()},
		{base("prerouting-guard", filter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw), n.fromMachines(goTo(chainGuard))},
		{base("prerouting", nat, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), append(n.serviceRules(true), n.publicRules()...)},
		// Here and not in forward: IPv6 has no routes to lo for what is forwarded. After translation, which makes priority -90.
		{base("prerouting-refuse", filter, nftables.ChainHookPrerouting, nftables.ChainPriorityRef(-90)), append(refuseServices(), n.refuseNobody(false)...)},
		{base("output-nat", nat, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), append(n.serviceRules(false), n.publicRules()...)},
		{base("forward", filter, nftables.ChainHookForward, nftables.ChainPriorityFilter), n.forwardRules()},
		{base("input", filter, nftables.ChainHookInput, nftables.ChainPriorityFilter), append(refusePooled(), n.fromMachines(goTo(chainHost))...)},
		{base("output", filter, nftables.ChainHookOutput, nftables.ChainPriorityFilter), append(refuseServices(), n.refuseNobody(true)...)},
		// After the rules of the house, which decide what is possible at all.
		{base("policy-forward", filter, nftables.ChainHookForward, nftables.ChainPriorityRef(10)), policyRules(false)},
		{base("policy-input", filter, nftables.ChainHookInput, nftables.ChainPriorityRef(10)), policyRules(true)},
		{base("postrouting", nat, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), n.postroutingRules()},
	}
	for _, r := range all {
		c.AddChain(r.chain)
		c.FlushChain(r.chain)
	}
	for _, r := range all {
		for _, e := range r.rules {
			c.AddRule(&nftables.Rule{Table: n.table, Chain: r.chain, Exprs: e})
		}
	}
	return nil
}

// refuseRules say no so that the other side knows at once.
func refuseRules() [][]expr.Any {
	return [][]expr.Any{
		match(isProto(unix.IPPROTO_TCP), []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}}),
		{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}},
	}
}

func (n *Network) fromMachines(then []expr.Any) [][]expr.Any {
	return [][]expr.Any{match(link(expr.MetaKeyIIFNAME, linkPrefix(n.instance), expr.CmpOpEq), then)}
}

// guardRules let through what a Machine sends from its own addresses, and neighbour discovery from link-local ones.
func guardRules() (rules [][]expr.Any) {
	for _, f := range families() {
		source := []expr.Any{iif(0), saddr(1, f), in("sources" + f.suffix)}
		rules = append(rules, match(isFamily(f), source, accept()))
	}
	six := families()[1]
	icmp := match(isFamily(six), isProto(unix.IPPROTO_ICMPV6))
	linkLocal := []expr.Any{header(0, six.saddr, 2),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 2, Mask: []byte{0xff, 0xc0}, Xor: []byte{0, 0}}, equal(0, []byte{0xfe, 0x80})}
	unspecified := []expr.Any{saddr(0, six), equal(0, make([]byte, 16))}
	return append(rules, match(icmp, linkLocal, accept()), match(icmp, unspecified, accept()), drop())
}

// machineRules decide about what a Machine sends beyond its host.
func (n *Network) machineRules() [][]expr.Any {
	// What is established gets no shortcut: the address may have been another Machine's, of another network, when it was. What is invalid
	// would leave without being translated back or masqueraded.
	rules := [][]expr.Any{match(ctHas(expr.CtKeySTATE, expr.CtStateBitINVALID), drop())}
	for _, f := range families() {
		rules = append(rules, match(isFamily(f), n.networkOfLink(f.words), []expr.Any{daddr(3, f), inAt(1, "members"+f.suffix)}, accept()))
	}
	// Those who came by a public port are Machines of other networks here; they have their host's address where they come out.
	rules = append(rules, match(marked(markPublic), accept()), match(translated(), ctHas(expr.CtKeySTATUS, ipsSrcNAT), accept()))
	for i, f := range families() {
		for _, p := range n.closed(f) {
			rules = append(rules, match(isFamily(families()[i]), within(f.daddr, p, expr.CmpOpEq), goTo(chainRefuse)))
		}
	}
	return append(rules, accept())
}

// hostRules decide about what a Machine sends to its host.
func (n *Network) hostRules() [][]expr.Any {
	rules := [][]expr.Any{match(known(), accept()), match(translated(), accept())}
	for _, f := range families() {
		rules = append(rules, match(isFamily(f), []expr.Any{daddr(0, f), in("hosts" + f.suffix)}, accept()))
	}
	const (
		echo4, echo6                           = 8, 128
		neighbourSolicitation, neighbourAdvert = 135, 136 // not router advertisements: the host must not route by a Machine's word
	)
	rules = append(rules, match(isProto(unix.IPPROTO_ICMP), isICMPType(echo4), accept()))
	for _, t := range []byte{echo6, neighbourSolicitation, neighbourAdvert} {
		rules = append(rules, match(isProto(unix.IPPROTO_ICMPV6), isICMPType(t), accept()))
	}
	return append(rules, goTo(chainRefuse))
}

func (n *Network) forwardRules() [][]expr.Any {
	prefix := linkPrefix(n.instance)
	to := func(then []expr.Any, more ...[]expr.Any) []expr.Any {
		return match(link(expr.MetaKeyOIFNAME, prefix, expr.CmpOpEq), match(more...), then)
	}
	return append(n.fromMachines(goTo(chainMachine)), to(accept(), known()), to(accept(), marked(markPublic)), to(goTo(chainRefuse)))
}

// refuseServices refuses what is still on its way to a virtual address after translation: nothing is there. A virtual service on an address
// of the host leaves its other ports alone.
func refuseServices() (rules [][]expr.Any) {
	for _, f := range families() {
		for _, set := range []string{"ranges", "vipaddresses"} {
			rules = append(rules, match(isFamily(f), []expr.Any{daddr(0, f), in(set + f.suffix)}, notLocal(), goTo(chainRefuse)))
		}
	}
	return rules
}

// refuseNobody refuses what is for a Machine's address that leads to lo (ensureNobody): nobody is there. Of what the host sends itself, which comes
// by lo, what was translated is told by its route only there.
func (n *Network) refuseNobody(sent bool) (rules [][]expr.Any) {
	for _, f := range families() {
		nowhere := toNobody(f)
		if sent {
			nowhere = match(link(expr.MetaKeyOIFNAME, "lo\x00", expr.CmpOpEq), untranslated())
		}
		rules = append(rules, match(isFamily(f), within(f.daddr, n.own(f), expr.CmpOpEq), notLocal(), nowhere, goTo(chainRefuse)))
	}
	return rules
}

// own is the range that the addresses of Machines of this instance come from.
func (n *Network) own(f family) netip.Prefix {
	if f.words == 1 {
		return n.plan.prefix()
	}
	return SixPN()
}

// serviceRules find the chain of a virtual port, for what comes from a Machine or from the host itself.
func (n *Network) serviceRules(machines bool) (rules [][]expr.Any) {
	for _, f := range families() {
		network := []expr.Any{&expr.Immediate{Register: reg(1), Data: make([]byte, 8)}}
		if machines {
			network = match(link(expr.MetaKeyIIFNAME, linkPrefix(n.instance), expr.CmpOpEq), n.networkOfLink(f.words+2))
		}
		port := []expr.Any{
			daddr(3, f),
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(3 + f.words)},
			&expr.Payload{DestRegister: reg(4 + f.words), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			vmap(1, "vips"+f.suffix),
		}
		rules = append(rules, match(isFamily(f), network, port))
	}
	return rules
}

// publicRules find the chain of a public port, for everybody who comes to an address of the host or of a gateway: the port of that very
// address first.
func (n *Network) publicRules() (rules [][]expr.Any) {
	for _, f := range families() {
		for _, where := range [][]expr.Any{local(), {daddr(0, f), in("gateways" + f.suffix)}} {
			for _, addr := range []expr.Any{daddr(2, f), &expr.Immediate{Register: reg(2), Data: make([]byte, 4*f.words)}} {
				rules = append(rules, match(isFamily(f), where, []expr.Any{
					&expr.Immediate{Register: reg(0), Data: world[:]},
					addr,
					&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(2 + f.words)},
					&expr.Payload{DestRegister: reg(3 + f.words), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
					vmap(0, "vips"+f.suffix),
				}))
			}
		}
	}
	return rules
}

// refusePooled refuses what is not published at addresses of pools: the host's own programs do not answer there.
func refusePooled() (rules [][]expr.Any) {
	for _, f := range families() {
		for _, proto := range []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP} {
			rules = append(rules, match(isFamily(f), ctHas(expr.CtKeySTATE, expr.CtStateBitNEW), isProto(proto),
				[]expr.Any{daddr(0, f), in("pooled" + f.suffix)}, goTo(chainRefuse)))
		}
	}
	return rules
}

// postroutingRules choose the source. The gateway: for a Machine that reached itself, or it would answer itself directly; for what comes by
// a public port that does not keep it, from loopback, where no answer could go, or from a Machine of another network. The host's own towards
// the outside world.
func (n *Network) postroutingRules() (rules [][]expr.Any) {
	prefix := linkPrefix(n.instance)
	for _, f := range families() {
		gateway, own := n.gateway4, n.own(f)
		if f.words == 4 {
			gateway = n.gateway6
		}
		byGateway := []expr.Any{&expr.Immediate{Register: reg(0), Data: gateway.AsSlice()},
			&expr.NAT{Type: expr.NATTypeSourceNAT, Family: uint32(f.nfproto), RegAddrMin: reg(0)}}
		toMachine := match(isFamily(f), link(expr.MetaKeyOIFNAME, prefix, expr.CmpOpEq))
		self := []expr.Any{saddr(0, f), daddr(f.words, f), in("self" + f.suffix)}
		foreign := match(n.networkOfLink(f.words), []expr.Any{daddr(3, f), &expr.Lookup{SourceRegister: reg(1), SetName: n.set(setMembers, f).Name, Invert: true}})
		outside := match(within(f.saddr, own, expr.CmpOpEq), within(f.daddr, own, expr.CmpOpNeq))
		rules = append(rules,
			match(toMachine, translated(), self, byGateway),
			match(toMachine, marked(markMasquerade), byGateway),
			match(toMachine, marked(markPublic), within(f.saddr, loopback(f), expr.CmpOpEq), byGateway),
			match(toMachine, marked(markPublic), link(expr.MetaKeyIIFNAME, prefix, expr.CmpOpEq), foreign, byGateway),
			match(isFamily(f), link(expr.MetaKeyOIFNAME, prefix, expr.CmpOpNeq), link(expr.MetaKeyOIFNAME, "lo\x00", expr.CmpOpNeq), outside,
				[]expr.Any{&expr.Masq{}}))
	}
	return rules
}

// addElements adds elements in pieces that fit a netlink attribute of 64 KiB.
func addElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inPieces(elements, func(e []nftables.SetElement) error { return c.SetAddElements(s, e) })
}

func deleteElements(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	return inPieces(elements, func(e []nftables.SetElement) error { return c.SetDeleteElements(s, e) })
}

// addAnonymous makes a set without a name, of any size, for a rule that follows in the same transaction. The library writes the number of elements
// that it makes a set with as the most that it ever takes, and adds more only to sets with names: so it is told all there will be (its last word
// counts), and that there is a name.
func addAnonymous(c *nftables.Conn, s *nftables.Set, elements []nftables.SetElement) error {
	s.Anonymous, s.Constant, s.Size = true, true, uint32(len(elements))
	if err := c.AddSet(s, nil); err != nil {
		return err
	}
	named := *s
	named.Anonymous = false
	return addElements(c, &named, elements)
}

func inPieces(elements []nftables.SetElement, do func([]nftables.SetElement) error) error {
	const piece = 300
	for len(elements) > 0 {
		k := min(piece, len(elements))
		if err := do(elements[:k]); err != nil {
			return err
		}
		elements = elements[k:]
	}
	return nil
}

func native32(v uint32) []byte { return binaryutil.NativeEndian.PutUint32(v) }
