package gondola

import "net/netip"

// Public lets the world in to the ports of a VirtualService: whoever reaches the host, the host itself and Machines of all networks. Only
// Machines of the service's own network are reached that way, whatever its backends are.
//
// A port belongs to the service that had it first. One that another service has, on which a process of the host listens, or that the host
// needs itself (22) is never taken: the service gets none of its ports there, and an Entrance has a Refusal that says why. Setting the
// services again tries again.
type Public struct {
	Host       bool           `json:"host,omitempty"`        // the ports answer on every address of the host
	Addresses  []netip.Addr   `json:"addresses,omitempty"`   // the ports answer there: addresses of the host, or of its pools, which it then has
	Sources    []netip.Prefix `json:"sources,omitempty"`     // who may come in by Host and Addresses; if empty, everybody
	KeepSource bool           `json:"keep_source,omitempty"` // Machines see the client's address; else the host's
}

// Entrance is where the world can come in to a host.
type Entrance struct {
	Worker    WorkerName     `json:"worker,omitempty"`
	Addresses []netip.Addr   `json:"addresses"`          // of the host, by which others reach it, IPv4 first
	Pools     []netip.Prefix `json:"pools,omitempty"`    // addresses that services may be given
	Refusals  []PortRefusal  `json:"refusals,omitempty"` // what is not open
}

// PortRefusal says why a public port of a service is not open.
type PortRefusal struct {
	Network  string     `json:"network"`
	Service  string     `json:"service"`          // its VirtualService.Name
	Address  netip.Addr `json:"address,omitzero"` // If zero, every address of the host.
	Protocol string     `json:"protocol"`
	Port     uint16     `json:"port"`
	NodePort bool       `json:"node_port,omitempty"`
	Reason   string     `json:"reason"` // "process nginx (812) listens on it"
}
