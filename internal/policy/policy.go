// Package policy works out what the policies of a network mean for one Machine. It is pure: policies and what is known of a Machine in, rules
// out, which internal/network carries out packet by packet. Equal rules are equal values, so Machines that the same policies select share them.
package policy

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"gondola"
)

// Policies are the policies of one network, by all owners, ready to be asked.
type Policies struct {
	policies []compiled
	groups   map[string]gondola.PolicyGroup // key → group
}

type compiled struct {
	selector        gondola.MachineSelector
	ingress, egress *[]Rule
}

// Side is what an isolated Machine may do in one direction: what any of its Rules allows. They are sorted, without duplicates.
type Side struct{ Rules []Rule }

// Rule allows packets whose peer and port it matches.
type Rule struct {
	Peer Peer
	Port Port
}

// Peer matches the other side's address: any, where nothing is set.
type Peer struct {
	Group  string  // key of the group that has it
	Ranges []Range // sorted, disjoint, not adjacent
	None   bool    // no address at all: of a range all of which is excepted
}

// Port matches the receiving side's port: any of any protocol, where nothing is set.
type Port struct {
	Group    string // key of the group whose Ends have address, protocol and port
	Protocol string // tcp, udp or sctp
	Ports    []Span // sorted, disjoint, not adjacent; none: all
}

// Range is addresses of one family, both ends included.
type Range struct{ First, Last netip.Addr }

// Span is ports, both ends included.
type Span struct{ First, Last uint16 }

// Compile prepares the sets of a network's owners. ErrInvalid names a policy that makes no sense.
func Compile(sets map[string]gondola.PolicySet) (*Policies, error) {
	p := &Policies{groups: map[string]gondola.PolicyGroup{}}
	for owner, set := range sets {
		if err := set.Validate(); err != nil {
			return nil, err
		}
		for _, g := range set.Groups {
			p.groups[key(owner, g.Name)] = g
		}
		for _, pol := range set.Policies {
			p.policies = append(p.policies, compiled{pol.Selector, rules(owner, pol.Ingress), rules(owner, pol.Egress)})
		}
	}
	return p, nil
}

// key tells groups of different owners apart.
func key(owner, group string) string { return owner + "/" + group }

// Groups returns the groups by their keys.
func (p *Policies) Groups() map[string]gondola.PolicyGroup { return p.groups }

// For says what a Machine may do; nil is not isolated in that direction.
func (p *Policies) For(m gondola.PolicySubject) (ingress, egress *Side) {
	for _, c := range p.policies {
		if !c.selector.Selects(m) {
			continue
		}
		ingress, egress = union(ingress, c.ingress), union(egress, c.egress)
	}
	for _, s := range []*Side{ingress, egress} {
		if s != nil {
			slices.SortFunc(s.Rules, compareRules)
			s.Rules = slices.CompactFunc(s.Rules, func(a, b Rule) bool { return compareRules(a, b) == 0 })
		}
	}
	return ingress, egress
}

func union(s *Side, more *[]Rule) *Side {
	if more == nil {
		return s
	}
	if s == nil {
		s = &Side{}
	}
	s.Rules = append(s.Rules, *more...)
	return s
}

// rules multiplies peers by ports.
func rules(owner string, r *gondola.PolicyRules) *[]Rule {
	if r == nil {
		return nil
	}
	out := []Rule{}
	for _, a := range r.Allow {
		for _, peer := range peers(owner, a.Peers) {
			for _, port := range ports(owner, a.Ports) {
				if !peer.None {
					out = append(out, Rule{peer, port})
				}
			}
		}
	}
	return &out
}

// peers are the groups, and all ranges as one.
func peers(owner string, list []gondola.PolicyPeer) (out []Peer) {
	if len(list) == 0 {
		return []Peer{{}}
	}
	var ranges []Range
	for _, p := range list {
		if p.Range == nil {
			out = append(out, Peer{Group: key(owner, p.Group)})
			continue
		}
		ranges = append(ranges, without(*p.Range, p.Except)...)
	}
	if ranges = merge(ranges); len(ranges) > 0 {
		return append(out, Peer{Ranges: ranges})
	}
	return append(out, Peer{None: true})
}

// ports are the groups, and one Port for each protocol.
func ports(owner string, list []gondola.PolicyPort) (out []Port) {
	if len(list) == 0 {
		return []Port{{}}
	}
	spans := map[string][]Span{}
	for _, p := range list {
		if p.Group != "" {
			out = append(out, Port{Group: key(owner, p.Group)})
			continue
		}
		s := Span{p.Port, cmp.Or(p.EndPort, p.Port)}
		if p.Port == 0 {
			s = Span{0, 65535}
		}
		protocol := cmp.Or(p.Protocol, "tcp")
		spans[protocol] = append(spans[protocol], s)
	}
	for protocol, list := range spans {
		list = mergeSpans(list)
		if list[0] == (Span{0, 65535}) {
			list = nil
		}
		out = append(out, Port{Protocol: protocol, Ports: list})
	}
	return out
}

func compareRules(a, b Rule) int {
	return cmp.Or(
		cmp.Compare(a.Peer.Group, b.Peer.Group), slices.CompareFunc(a.Peer.Ranges, b.Peer.Ranges, compareRanges),
		cmp.Compare(a.Port.Group, b.Port.Group), strings.Compare(a.Port.Protocol, b.Port.Protocol),
		slices.CompareFunc(a.Port.Ports, b.Port.Ports, compareSpans))
}

func compareRanges(a, b Range) int { return cmp.Or(a.First.Compare(b.First), a.Last.Compare(b.Last)) }
func compareSpans(a, b Span) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}
