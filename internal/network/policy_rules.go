package network

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"gondola/internal/policy"
)

// flowChain judges packets of one family from or to isolated Machines: it returns for what is allowed and refuses the rest.
type flowChain struct {
	name    string
	ingress bool
	family  family
	rules   []flowRule
}

// flowRule lets packets return that fit all that is set.
type flowRule struct {
	peerSet  string         // the other side's address is in this set
	ranges   []policy.Range // or in one of these
	portSet  string         // receiver's address . protocol . port is in this set
	protocol byte
	ports    policy.Span // of the receiver; zero: all
}

const (
	ingressPrefix = "ingress" // of the names of chains; the verdict maps are called so
	egressPrefix  = "egress"
)

func newFlowChain(network networkKey, ingress bool, f family, side policy.Side) flowChain {
	c := flowChain{ingress: ingress, family: f}
	for _, r := range side.Rules {
		var one flowRule
		if r.Peer.Group != "" {
			one.peerSet = newGroupSet(network, r.Peer.Group, false, f).name
		}
		for _, addrs := range r.Peer.Ranges {
			if familyOf(addrs.First) == f {
				one.ranges = append(one.ranges, addrs)
			}
		}
		if len(r.Peer.Ranges) > 0 && len(one.ranges) == 0 {
			continue // of the other family
		}
		if r.Port.Group != "" {
			one.portSet = newGroupSet(network, r.Port.Group, true, f).name
		}
		if r.Port.Protocol != "" {
			one.protocol = protocolNumber(r.Port.Protocol)
		}
		for _, span := range r.Port.Ports {
			with := one
			with.ports = span
			c.rules = append(c.rules, with)
		}
		if len(r.Port.Ports) == 0 {
			c.rules = append(c.rules, one)
		}
	}
	const form = 1 // of what a chain does with its rules: another one, another name
	h := sha256.New()
	fmt.Fprintln(h, form, ingress, f.suffix, c.rules)
	c.name = verdictMap(ingress, f) + "-" + hex.EncodeToString(h.Sum(nil)[:12])
	return c
}

func verdictMap(ingress bool, f family) string {
	if ingress {
		return ingressPrefix + f.suffix
	}
	return egressPrefix + f.suffix
}

// sets are those that the chain looks into.
func (c flowChain) sets() (names []string) {
	for _, r := range c.rules {
		for _, s := range []string{r.peerSet, r.portSet} {
			if s != "" && !slices.Contains(names, s) {
				names = append(names, s)
			}
		}
	}
	return names
}

// policyRules judge what is forwarded, both ends of it, or what comes in from Machines, its sender. Every packet in a connection's own
// direction is judged, so that a policy ends what it forbids and a Machine's address gives nothing to the next one that has it.
func policyRules(input bool) [][]expr.Any {
	const reply = 1 // IP_CT_DIR_REPLY
	answers := []expr.Any{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: reg(0)}, equal(0, []byte{reply})}
	rules := [][]expr.Any{match(answers, accept()), match(ctHas(expr.CtKeySTATE, expr.CtStateBitRELATED), accept())}
	if input {
		const neighbourSolicitation, neighbourAdvert = 135, 136
		for _, t := range []byte{neighbourSolicitation, neighbourAdvert} {
			rules = append(rules, match(isProto(unix.IPPROTO_ICMPV6), isICMPType(t), accept()))
		}
	}
	for _, f := range families() {
		if !input {
			rules = append(rules, match(isFamily(f), []expr.Any{saddr(0, f), daddr(f.words, f), in("self" + f.suffix)}, accept()))
			rules = append(rules, match(isFamily(f), []expr.Any{saddr(0, f), in("gateways" + f.suffix)}, accept())) // as what the host itself sends
		}
		rules = append(rules, match(isFamily(f), []expr.Any{saddr(0, f), vmap(0, verdictMap(false, f))}))
		if !input {
			rules = append(rules, match(isFamily(f), []expr.Any{daddr(0, f), vmap(0, verdictMap(true, f))}))
		}
	}
	return rules
}

func (n *Network) writePolicies(c *nftables.Conn, d policyDiff) error {
	for _, s := range d.makeSets {
		if err := c.AddSet(n.groupSet(s.name), nil); err != nil {
			return err
		}
	}
	for s, e := range d.elements {
		if err := deleteElements(c, n.groupSet(s.name), keysOf(e.remove)); err != nil {
			return err
		}
		if err := addElements(c, n.groupSet(s.name), keysOf(e.add)); err != nil {
			return err
		}
	}
	for _, chain := range d.makeChains {
		if err := n.writeFlowChain(c, chain); err != nil {
			return err
		}
	}
	if err := n.writeVerdicts(c, d); err != nil {
		return err
	}
	for _, name := range d.unusedChains {
		chain := &nftables.Chain{Table: n.table, Name: name}
		c.FlushChain(chain)
		c.DelChain(chain)
	}
	for _, name := range d.unusedSets {
		c.DelSet(&nftables.Set{Table: n.table, Name: name})
	}
	return nil
}

func (n *Network) writeVerdicts(c *nftables.Conn, d policyDiff) error {
	for _, f := range families() {
		for _, ingress := range []bool{true, false} {
			fits := func(e flowEnd) bool { return e.ingress == ingress && familyOf(e.addr) == f }
			var gone, put []nftables.SetElement
			for _, e := range d.remove {
				if fits(e) {
					gone = append(gone, nftables.SetElement{Key: e.addr.AsSlice()})
				}
			}
			for e := range d.replaced {
				if fits(e) {
					gone = append(gone, nftables.SetElement{Key: e.addr.AsSlice()})
				}
			}
			for e, chain := range d.put {
				if fits(e) {
					put = append(put, nftables.SetElement{Key: e.addr.AsSlice(), VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: chain}})
				}
			}
			set := n.set(verdictMap(ingress, family{})+"%s", f)
			if err := deleteElements(c, set, gone); err != nil {
				return err
			}
			if err := addElements(c, set, put); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Network) writeFlowChain(c *nftables.Conn, f flowChain) error {
	chain := c.AddChain(&nftables.Chain{Table: n.table, Name: f.name})
	for _, r := range f.rules {
		exprs, err := n.flowExprs(c, f, r)
		if err != nil {
			return err
		}
		c.AddRule(&nftables.Rule{Table: n.table, Chain: chain, Exprs: append(exprs, &expr.Verdict{Kind: expr.VerdictReturn})})
	}
	c.AddRule(&nftables.Rule{Table: n.table, Chain: chain, Exprs: goTo(chainRefuse)})
	return nil
}

func (n *Network) flowExprs(c *nftables.Conn, f flowChain, r flowRule) (e []expr.Any, err error) {
	peer := f.family.daddr
	if f.ingress {
		peer = f.family.saddr
	}
	if r.peerSet != "" {
		e = append(e, header(0, peer, 4*f.family.words), in(r.peerSet))
	}
	if len(r.ranges) > 0 {
		among, err := n.among(c, f.family, r.ranges)
		if err != nil {
			return nil, err
		}
		e = match(e, []expr.Any{header(0, peer, 4*f.family.words)}, among)
	}
	if r.portSet != "" {
		w := f.family.words
		e = append(e, daddr(0, f.family), &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(w)}, port(w+1), in(r.portSet))
	}
	if r.protocol != 0 {
		e = match(e, isProto(r.protocol))
	}
	if r.ports != (policy.Span{}) {
		first, last := binary.BigEndian.AppendUint16(nil, r.ports.First), binary.BigEndian.AppendUint16(nil, r.ports.Last)
		e = match(e, []expr.Any{port(0)}, between(first, last))
	}
	return e, nil
}

// between matches what is in register 0 when it is neither before the first nor behind the last.
func between(first, last []byte) []expr.Any {
	if bytes.Equal(first, last) {
		return []expr.Any{equal(0, first)}
	}
	return []expr.Any{&expr.Cmp{Op: expr.CmpOpGte, Register: reg(0), Data: first}, &expr.Cmp{Op: expr.CmpOpLte, Register: reg(0), Data: last}}
}

// port loads the receiver's port.
func port(r uint32) expr.Any {
	return &expr.Payload{DestRegister: reg(r), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// among matches an address in register 0 that is in one of the ranges.
func (n *Network) among(c *nftables.Conn, f family, ranges []policy.Range) ([]expr.Any, error) {
	if len(ranges) == 1 {
		return between(ranges[0].First.AsSlice(), ranges[0].Last.AsSlice()), nil
	}
	var elements []nftables.SetElement
	for _, r := range ranges {
		elements = append(elements, nftables.SetElement{Key: r.First.AsSlice()})
		if end := r.Last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	s := &nftables.Set{Table: n.table, Interval: true, KeyType: f.addr}
	if err := addAnonymous(c, s, elements); err != nil {
		return nil, err
	}
	return []expr.Any{&expr.Lookup{SourceRegister: reg(0), SetName: s.Name, SetID: s.ID}}, nil
}

func keysOf(keys []string) (e []nftables.SetElement) {
	for _, k := range keys {
		e = append(e, nftables.SetElement{Key: []byte(k)})
	}
	return e
}

// groupSet is the set of that name.
func (n *Network) groupSet(name string) *nftables.Set {
	s := &nftables.Set{Table: n.table, Name: name}
	for _, f := range families() {
		switch {
		case strings.HasPrefix(name, "group"+f.suffix):
			s.KeyType = f.addr
		case strings.HasPrefix(name, "ends"+f.suffix):
			s.KeyType, s.Concatenation = nftables.MustConcatSetType(f.addr, nftables.TypeInetProto, nftables.TypeInetService), true
		}
	}
	return s
}

func protocolNumber(name string) byte {
	switch name {
	case "udp":
		return unix.IPPROTO_UDP
	case "sctp":
		return unix.IPPROTO_SCTP
	default:
		return unix.IPPROTO_TCP
	}
}
