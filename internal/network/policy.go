package network

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"gondola"
	"gondola/internal/policy"
)

// policies is what the table does for policies, and why. For each isolated Machine the verdict maps have a chain for each of its addresses and
// directions; a packet costs one lookup for its source and one for its destination, and only the rules of their chains. Machines with equal
// rules share a chain, whose name is a hash of them, so a chain never changes; the sets that stand for groups do.
type policies struct {
	names    map[networkKey]string
	sets     map[networkKey]map[string]gondola.PolicySet // by owner
	compiled map[networkKey]*policy.Policies
	subjects map[gondola.MachineID]gondola.PolicySubject

	verdicts map[flowEnd]string             // in the table: isolated end → its chain
	chains   map[string][]string            // in the table: chain → the sets that it looks into
	groups   map[string]map[string]struct{} // in the table: set → keys of its elements
}

// flowEnd is an address as the receiver (ingress) or sender (egress) of connections.
type flowEnd struct {
	ingress bool
	addr    netip.Addr
}

func newPolicies() policies {
	return policies{
		names: map[networkKey]string{}, sets: map[networkKey]map[string]gondola.PolicySet{}, compiled: map[networkKey]*policy.Policies{},
		subjects: map[gondola.MachineID]gondola.PolicySubject{},
		verdicts: map[flowEnd]string{}, chains: map[string][]string{}, groups: map[string]map[string]struct{}{},
	}
}

// SetPolicies replaces an owner's policies of a network, in one transaction that touches only what differs from before. Every packet on its
// way to where a connection leads is judged, so what is forbidden now ends now; answers are not judged. Machines that are attached later are
// isolated from their first packet on, after a reboot too: the policies are written down before they are carried out.
func (n *Network) SetPolicies(ctx context.Context, network, owner string, set gondola.PolicySet) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := networkKeyOf(network)
	n.mu.Lock()
	defer n.mu.Unlock()
	p := &n.policies
	sets := maps.Clone(p.sets[key])
	if sets == nil {
		sets = map[string]gondola.PolicySet{}
	}
	if sets[owner] = set; len(set.Policies) == 0 {
		delete(sets, owner)
	}
	compiled, err := policy.Compile(sets)
	if err != nil {
		return fmt.Errorf("policies of network %s: %w", network, err)
	}
	before, known := p.sets[key], p.compiled[key]
	p.names[key], p.sets[key], p.compiled[key] = network, sets, compiled
	err = n.writePolicyFile()
	if err == nil {
		err = n.enforce(n.membersOf(key), nil)
	}
	if err != nil {
		if p.sets[key], p.compiled[key] = before, known; before == nil {
			delete(p.sets, key)
			delete(p.compiled, key)
		}
		// What cannot be carried out would otherwise be tried again by every later process.
		return fmt.Errorf("policies of network %s: %w", network, errors.Join(err, n.writePolicyFile()))
	}
	return nil
}

// Describe says by what policies select a Machine, attached or not, until Forget. What that changes for one that is attached is done when it
// returns. A Machine that was attached by an earlier process stays as isolated as it is until it is described.
func (n *Network) Describe(ctx context.Context, m gondola.PolicySubject) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	m.Metadata = maps.Clone(m.Metadata)
	n.policies.subjects[m.ID] = m
	var attached []member
	for _, a := range n.members {
		if a.id == m.ID {
			attached = append(attached, a)
		}
	}
	if err := n.enforce(attached, nil); err != nil {
		return fmt.Errorf("policies of machine %s: %w", m.ID, err)
	}
	return nil
}

// Forget drops what Describe said of a Machine.
func (n *Network) Forget(id gondola.MachineID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.policies.subjects, id)
}

func (n *Network) membersOf(key networkKey) (out []member) {
	for _, m := range n.members {
		if m.network == key {
			out = append(out, m)
		}
	}
	return out
}

// enforce brings the table in line with the policies for these Machines, and for addresses that no Machine has any more.
func (n *Network) enforce(members []member, gone []netip.Addr) error {
	d := n.planPolicies(members, gone)
	if d.empty() {
		return nil
	}
	if err := n.transact(func(c *nftables.Conn) error { return n.writePolicies(c, d) }); err != nil {
		return err
	}
	n.policies.take(d)
	return nil
}

// policyDiff is what changes in the table.
type policyDiff struct {
	put          map[flowEnd]string   // new verdicts, and those that lead elsewhere now
	replaced     map[flowEnd]struct{} // of put
	remove       []flowEnd
	makeChains   map[string]flowChain
	unusedChains []string
	makeSets     []groupSet
	unusedSets   []string
	elements     map[groupSet]elementDiff
}

type elementDiff struct{ add, remove []string }

func (d policyDiff) empty() bool {
	return len(d.put)+len(d.remove)+len(d.makeChains)+len(d.unusedChains)+len(d.makeSets)+len(d.unusedSets)+len(d.elements) == 0
}

// planPolicies is the pure half: what to change so that these Machines are isolated as their policies say.
func (n *Network) planPolicies(members []member, gone []netip.Addr) policyDiff {
	p := &n.policies
	d := policyDiff{put: map[flowEnd]string{}, replaced: map[flowEnd]struct{}{}, makeChains: map[string]flowChain{}, elements: map[groupSet]elementDiff{}}
	want, about := map[flowEnd]string{}, map[flowEnd]bool{}
	for _, a := range gone {
		about[flowEnd{true, a}], about[flowEnd{false, a}] = true, true
	}
	chains, networks := map[string]flowChain{}, map[networkKey]bool{}
	for _, m := range members {
		networks[m.network] = true
		for _, c := range p.chainsOf(m) {
			want[c.end] = c.chain.name
			chains[c.chain.name] = c.chain
		}
		if _, described := p.subjects[m.id]; described || !p.isolated(m) {
			for _, a := range []netip.Addr{m.v4, m.v6} {
				about[flowEnd{true, a}], about[flowEnd{false, a}] = true, true
			}
		}
	}
	used := map[string]bool{}
	for end, chain := range p.verdicts {
		if _, still := want[end]; !about[end] {
			used[chain] = true
		} else if !still {
			d.remove = append(d.remove, end)
		}
	}
	for end, chain := range want {
		if old, had := p.verdicts[end]; !about[end] {
			continue
		} else if old != chain {
			d.put[end] = chain
			if had {
				d.replaced[end] = struct{}{}
			}
		}
		used[chain] = true
	}
	p.planChains(&d, used, chains, networks)
	return d
}

// planChains makes the chains and sets that are used and not there, and removes those that are there and not used.
func (p *policies) planChains(d *policyDiff, used map[string]bool, chains map[string]flowChain, networks map[networkKey]bool) {
	sets := map[string]bool{}
	for name := range used {
		looks, there := p.chains[name]
		if !there {
			d.makeChains[name] = chains[name]
			looks = chains[name].sets()
		}
		for _, s := range looks {
			sets[s] = true
		}
	}
	for name := range p.chains {
		if !used[name] {
			d.unusedChains = append(d.unusedChains, name)
		}
	}
	for key := range networks {
		for _, s := range p.groupSets(key) {
			if !sets[s.name] {
				continue
			}
			have, there := p.groups[s.name]
			if !there {
				d.makeSets = append(d.makeSets, s)
			}
			if e := differ(have, p.elementsOf(s)); len(e.add)+len(e.remove) > 0 {
				d.elements[s] = e
			}
		}
	}
	for name := range p.groups {
		if !sets[name] {
			d.unusedSets = append(d.unusedSets, name)
		}
	}
}

// isolated says whether the table isolates a Machine.
func (p *policies) isolated(m member) bool {
	for _, a := range []netip.Addr{m.v4, m.v6} {
		if p.verdicts[flowEnd{true, a}] != "" || p.verdicts[flowEnd{false, a}] != "" {
			return true
		}
	}
	return false
}

// endChain is where packets from or to an address are judged.
type endChain struct {
	end   flowEnd
	chain flowChain
}

// chainsOf says what the policies mean for a Machine. One of which nothing was told has an id only.
func (p *policies) chainsOf(m member) (out []endChain) {
	if m.gateway() {
		return nil // what is in it counts as the node's own
	}
	compiled := p.compiled[m.network]
	if compiled == nil {
		return nil
	}
	subject, ok := p.subjects[m.id]
	if !ok {
		subject.ID = m.id
	}
	ingress, egress := compiled.For(subject)
	for _, a := range []netip.Addr{m.v4, m.v6} {
		for in, side := range map[bool]*policy.Side{true: ingress, false: egress} {
			if a.IsValid() && side != nil {
				out = append(out, endChain{flowEnd{in, a}, newFlowChain(m.network, in, familyOf(a), *side)})
			}
		}
	}
	return out
}

func differ(have, want map[string]struct{}) (d elementDiff) {
	for e := range want {
		if _, ok := have[e]; !ok {
			d.add = append(d.add, e)
		}
	}
	for e := range have {
		if _, ok := want[e]; !ok {
			d.remove = append(d.remove, e)
		}
	}
	slices.Sort(d.add)
	slices.Sort(d.remove)
	return d
}

// take notes what was done.
func (p *policies) take(d policyDiff) {
	for _, end := range d.remove {
		delete(p.verdicts, end)
	}
	maps.Copy(p.verdicts, d.put)
	for name, c := range d.makeChains {
		p.chains[name] = c.sets()
	}
	for _, name := range d.unusedChains {
		delete(p.chains, name)
	}
	for _, s := range d.makeSets {
		p.groups[s.name] = map[string]struct{}{}
	}
	for s, e := range d.elements {
		for _, k := range e.add {
			p.groups[s.name][k] = struct{}{}
		}
		for _, k := range e.remove {
			delete(p.groups[s.name], k)
		}
	}
	for _, name := range d.unusedSets {
		delete(p.groups, name)
	}
}

// groupSet is a group of a network as a set of one family: its addresses, or its ends.
type groupSet struct {
	name    string
	network networkKey
	key     string // of the group
	ends    bool
	suffix  string // of the family
}

func newGroupSet(network networkKey, key string, ends bool, f family) groupSet {
	kind := "group"
	if ends {
		kind = "ends"
	}
	return groupSet{kind + f.suffix + "-" + shortHash(hex.EncodeToString(network[:])+" "+key, 20), network, key, ends, f.suffix}
}

// groupSets are all sets that a network's groups could have.
func (p *policies) groupSets(network networkKey) (out []groupSet) {
	compiled := p.compiled[network]
	if compiled == nil {
		return nil
	}
	for key := range compiled.Groups() {
		for _, f := range families() {
			out = append(out, newGroupSet(network, key, false, f), newGroupSet(network, key, true, f))
		}
	}
	return out
}

func (p *policies) elementsOf(s groupSet) map[string]struct{} {
	g, out := p.compiled[s.network].Groups()[s.key], map[string]struct{}{}
	add := func(a netip.Addr, tail ...byte) {
		if a = a.Unmap(); familyOf(a).suffix == s.suffix {
			out[string(append(a.AsSlice(), tail...))] = struct{}{}
		}
	}
	if !s.ends {
		for _, a := range g.Addresses {
			add(a)
		}
		return out
	}
	for _, e := range g.Ends {
		add(e.Address, protocolNumber(e.Protocol), 0, 0, 0, byte(e.Port>>8), byte(e.Port), 0, 0)
	}
	return out
}
