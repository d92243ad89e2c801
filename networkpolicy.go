package gondola

import (
	"context"
	"maps"
	"slices"
)

// NetworkPolicies keeps the network policies of Apps, in the form of Fly.io's API. They are carried out as Policies of the App's network, at once
// and without a restart, and add up with those of other owners.
type NetworkPolicies interface {
	// PutNetworkPolicy makes a policy where p.ID is empty, and else replaces the App's policy of that id, ErrNotFound if there is none.
	PutNetworkPolicy(ctx context.Context, app AppName, p NetworkPolicy) (NetworkPolicy, error)
	// ListNetworkPolicies returns the App's policies, oldest first.
	ListNetworkPolicies(ctx context.Context, app AppName) ([]NetworkPolicy, error)
	// DeleteNetworkPolicy removes a policy. After any error but ErrNotFound it may be in force still, though no list has it; doing it again, which is
	// ErrNotFound, carries that out.
	DeleteNetworkPolicy(ctx context.Context, app AppName, id string) error
}

// NetworkPolicy says what some Machines of an App may receive and send. Once it has a rule for a direction, everything else in that
// direction is refused to the Machines that it selects; that goes for their host's DNS too.
type NetworkPolicy struct {
	ID       string          `json:"id"`
	Name     string          `json:"name"`
	Selector NetworkSelector `json:"selector"`
	Rules    []NetworkRule   `json:"rules"`
}

// NetworkSelector selects Machines of an App: those for which every field that is set holds.
type NetworkSelector struct {
	All      bool              `json:"all,omitempty"`
	Machines []NetworkMachine  `json:"machines,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

// NetworkMachine names one.
type NetworkMachine struct {
	ID MachineID `json:"id"`
}

// NetworkRule allows some ports in one direction.
type NetworkRule struct {
	Action    string        `json:"action"`    // "allow"
	Direction string        `json:"direction"` // "ingress" or "egress"
	Ports     []NetworkPort `json:"ports"`     // of the receiving side. If empty, all.
}

// NetworkPort is a port, or all of a protocol.
type NetworkPort struct {
	Protocol string `json:"protocol"` // tcp or udp
	Port     uint16 `json:"port"`     // If zero, every port of the protocol.
}

// Validate returns an ErrInvalid that names the field, or nil.
func (p NetworkPolicy) Validate() error {
	if p.Name == "" || len(p.Name) > 253 {
		return Errorf(ErrInvalid, "name %q: give the policy a name of 1 to 253 characters", p.Name)
	}
	if s := p.Selector; !s.All && len(s.Machines) == 0 && len(s.Metadata) == 0 {
		return Errorf(ErrInvalid, `selector is empty: use {"all":true}, machines or metadata`)
	}
	for _, m := range p.Selector.Machines {
		if m.ID == "" {
			return Errorf(ErrInvalid, "selector.machines: an id is empty")
		}
	}
	for k := range p.Selector.Metadata {
		if k == "" {
			return Errorf(ErrInvalid, "selector.metadata: a key is empty")
		}
	}
	for i, r := range p.Rules {
		if r.Action != "allow" {
			return Errorf(ErrInvalid, `rules[%d].action %q: use "allow"; what no rule allows is refused`, i, r.Action)
		}
		if r.Direction != "ingress" && r.Direction != "egress" {
			return Errorf(ErrInvalid, `rules[%d].direction %q: use "ingress" or "egress"`, i, r.Direction)
		}
		for _, port := range r.Ports {
			if port.Protocol != "tcp" && port.Protocol != "udp" {
				return Errorf(ErrInvalid, "rules[%d].ports: protocol %q: use tcp or udp", i, port.Protocol)
			}
		}
	}
	return nil
}

// Policy returns what the policy means for the Machines of an App.
func (p NetworkPolicy) Policy(app AppName) Policy {
	out := Policy{Name: string(app) + "/" + p.Name, Selector: MachineSelector{App: app}}
	for _, m := range p.Selector.Machines {
		out.Selector.Machines = append(out.Selector.Machines, m.ID)
	}
	for _, k := range slices.Sorted(maps.Keys(p.Selector.Metadata)) {
		out.Selector.Metadata = append(out.Selector.Metadata, MetadataMatch{Key: k, Op: "in", Values: []string{p.Selector.Metadata[k]}})
	}
	for _, r := range p.Rules {
		direction := &out.Ingress
		if r.Direction == "egress" {
			direction = &out.Egress
		}
		if *direction == nil {
			*direction = &PolicyRules{}
		}
		var rule PolicyRule
		for _, port := range r.Ports {
			rule.Ports = append(rule.Ports, PolicyPort{Protocol: port.Protocol, Port: port.Port})
		}
		(*direction).Allow = append((*direction).Allow, rule)
	}
	return out
}
