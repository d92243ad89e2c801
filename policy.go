package gondola

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
)

// Policies says which Machines of a network may talk to which.
//
// Whom a policy isolates is decided by the worker that runs the Machine, from what it knows of it (id, App, metadata), before the Machine can
// send or receive anything: no Machine runs for a moment without the policies that select it. Whom an isolated Machine may talk to are
// addresses, which come with the policies and may lag behind.
type Policies interface {
	// SetPolicies replaces all policies that an owner ("kubernetes") has for a network (an App's Network name), at once; those of several
	// owners add up. An empty set removes them. Doing it again is harmless. ErrInvalid names what is wrong; nothing has changed then.
	SetPolicies(ctx context.Context, network, owner string, set PolicySet) error
}

// PolicySet is all policies of a network by one owner.
//
// A Machine that no policy selects for a direction may talk to everybody in its network and the outside. One that is selected is isolated in
// that direction: it may talk only as one of the policies that select it allows. Replies to what was allowed are always allowed, and so is
// whatever the host itself begins, and a Machine's traffic with itself. Services are judged by the Machine that they lead to.
type PolicySet struct {
	Policies []Policy      `json:"policies"`
	Groups   []PolicyGroup `json:"groups,omitempty"` // that rules name
}

// Policy isolates Machines and says what they may do all the same.
type Policy struct {
	Name     string          `json:"name"` // for people: "default/deny-all"
	Selector MachineSelector `json:"selector"`
	Ingress  *PolicyRules    `json:"ingress,omitempty"` // connections to the Machines. If nil, this policy does not isolate them so.
	Egress   *PolicyRules    `json:"egress,omitempty"`  // connections from the Machines, also to their host. If nil, likewise.
}

// PolicyRules are what is allowed in one direction: what any of them allows. None: nothing.
type PolicyRules struct {
	Allow []PolicyRule `json:"allow"`
}

// PolicyRule allows some peers some ports.
type PolicyRule struct {
	Peers []PolicyPeer `json:"peers,omitempty"` // any of them. If empty, everybody.
	Ports []PolicyPort `json:"ports,omitempty"` // of the receiving side, any of them. If empty, every port of every protocol.
}

// PolicyPeer is a group, or a range of addresses without some parts.
type PolicyPeer struct {
	Group  string         `json:"group,omitempty"` // name of a PolicyGroup
	Range  *netip.Prefix  `json:"range,omitempty"`
	Except []netip.Prefix `json:"except,omitempty"` // within Range
}

// PolicyPort is a range of ports, or what a group says.
type PolicyPort struct {
	Protocol string `json:"protocol,omitempty"` // tcp, udp or sctp; if empty, tcp
	Port     uint16 `json:"port,omitempty"`     // If zero, every port of the protocol.
	EndPort  uint16 `json:"end_port,omitempty"` // the last of a range; if zero, Port
	Group    string `json:"group,omitempty"`    // the ends of this PolicyGroup instead: ports that differ from Machine to Machine
}

// PolicyGroup is a set of addresses, or of ports of addresses, under a name.
type PolicyGroup struct {
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses,omitempty"`
	Ends      []PolicyEnd  `json:"ends,omitempty"`
}

// PolicyEnd is a port of an address.
type PolicyEnd struct {
	Address  netip.Addr `json:"address"`
	Protocol string     `json:"protocol"` // tcp, udp or sctp
	Port     uint16     `json:"port"`
}

// MachineSelector selects Machines: those for which every field that is set holds. An empty one selects all.
type MachineSelector struct {
	App      AppName         `json:"app,omitempty"`
	Machines []MachineID     `json:"machines,omitempty"` // one of these
	Metadata []MetadataMatch `json:"metadata,omitempty"` // each of these
}

// MetadataMatch is a claim about one key of a Machine's metadata.
type MetadataMatch struct {
	Key    string   `json:"key"`
	Op     string   `json:"op"` // "in", "not_in" (holds without the key too), "exists" or "not_exists"
	Values []string `json:"values,omitempty"`
}

// PolicySubject is what a MachineSelector can know of a Machine.
type PolicySubject struct {
	ID       MachineID
	App      AppName
	Metadata map[string]string
}

// Selects says whether the selector selects a Machine. An unknown Op selects nothing.
func (s MachineSelector) Selects(m PolicySubject) bool {
	if s.App != "" && s.App != m.App || len(s.Machines) > 0 && !slices.Contains(s.Machines, m.ID) {
		return false
	}
	for _, match := range s.Metadata {
		if !match.holds(m.Metadata) {
			return false
		}
	}
	return true
}

func (m MetadataMatch) holds(metadata map[string]string) bool {
	v, ok := metadata[m.Key]
	switch m.Op {
	case "in":
		return ok && slices.Contains(m.Values, v)
	case "not_in":
		return !ok || !slices.Contains(m.Values, v)
	case "exists":
		return ok
	case "not_exists":
		return !ok
	default:
		return false
	}
}

// Validate returns an ErrInvalid that names the policy and what is wrong with it, or nil.
func (s PolicySet) Validate() error {
	groups := map[string]bool{}
	for _, g := range s.Groups {
		if g.Name == "" || groups[g.Name] {
			return Errorf(ErrInvalid, "policy group %q: give every group a name of its own", g.Name)
		}
		groups[g.Name] = true
		for _, a := range g.Addresses {
			if !a.IsValid() {
				return Errorf(ErrInvalid, "policy group %q has an empty address", g.Name)
			}
		}
		for _, e := range g.Ends {
			if !e.Address.IsValid() || !isPolicyProtocol(e.Protocol) || e.Port == 0 {
				return Errorf(ErrInvalid, "policy group %q: end %s %s port %d: want an address, tcp, udp or sctp, and a port from 1", g.Name, e.Address, e.Protocol, e.Port)
			}
		}
	}
	for _, p := range s.Policies {
		if err := p.validate(groups); err != nil {
			return Errorf(ErrInvalid, "policy %q: %w", p.Name, err)
		}
	}
	return nil
}

func (p Policy) validate(groups map[string]bool) error {
	for _, m := range p.Selector.Metadata {
		if m.Key == "" || !slices.Contains([]string{"in", "not_in", "exists", "not_exists"}, m.Op) {
			return Errorf(ErrInvalid, "selector: key %q, op %q: want a key and one of in, not_in, exists, not_exists", m.Key, m.Op)
		}
	}
	for _, rules := range []*PolicyRules{p.Ingress, p.Egress} {
		if rules == nil {
			continue
		}
		for _, r := range rules.Allow {
			for _, peer := range r.Peers {
				if err := peer.validate(groups); err != nil {
					return err
				}
			}
			for _, port := range r.Ports {
				if err := port.validate(groups); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (p PolicyPeer) validate(groups map[string]bool) error {
	switch {
	case (p.Group != "") == (p.Range != nil):
		return Errorf(ErrInvalid, "a peer is either a group or a range")
	case p.Group != "" && !groups[p.Group]:
		return Errorf(ErrInvalid, "there is no group %q", p.Group)
	case p.Range != nil && !p.Range.IsValid():
		return Errorf(ErrInvalid, "a range is empty")
	}
	for _, e := range p.Except {
		if p.Range == nil || !e.IsValid() || e.Bits() < p.Range.Bits() || !p.Range.Contains(e.Addr()) {
			return Errorf(ErrInvalid, "except %s is not within its range", e)
		}
	}
	return nil
}

func (p PolicyPort) validate(groups map[string]bool) error {
	switch {
	case p.Group != "" && (p.Protocol != "" || p.Port != 0 || p.EndPort != 0):
		return Errorf(ErrInvalid, "port group %q: a port is either a group or a protocol with ports", p.Group)
	case p.Group != "" && !groups[p.Group]:
		return Errorf(ErrInvalid, "there is no group %q", p.Group)
	case !isPolicyProtocol(cmp.Or(p.Protocol, "tcp")):
		return Errorf(ErrInvalid, "protocol %q: use tcp, udp or sctp", p.Protocol)
	case p.EndPort != 0 && (p.Port == 0 || p.EndPort < p.Port):
		return Errorf(ErrInvalid, "ports %d to %d: the first must be set and not above the last", p.Port, p.EndPort)
	}
	return nil
}

func isPolicyProtocol(s string) bool { return s == "tcp" || s == "udp" || s == "sctp" }
