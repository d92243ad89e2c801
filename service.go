package gondola

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ServicePort is one of a Service's ports: where the world comes in.
type ServicePort struct {
	Port      int      `json:"port,omitempty"`
	StartPort int      `json:"start_port,omitempty"` // with EndPort instead of Port
	EndPort   int      `json:"end_port,omitempty"`
	Handlers  []string `json:"handlers,omitempty"` // If empty, what comes is handed on as it is.
}

// PlainPorts returns the ports that are handed on as they are, and why each of the others is not opened: they need a proxy at the edge. An
// ErrInvalid names what makes no sense.
func (s *Service) PlainPorts() (open []uint16, others []string, err error) {
	if s.Protocol != "" && s.Protocol != "tcp" && s.Protocol != "udp" {
		return nil, nil, Errorf(ErrInvalid, "config.services: protocol %q: use tcp or udp", s.Protocol)
	}
	for _, raw := range s.Ports {
		var p ServicePort
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, nil, Errorf(ErrInvalid, "config.services: ports: %v", err)
		}
		switch {
		case p.StartPort != 0 || p.EndPort != 0:
			others = append(others, fmt.Sprintf("ports %d to %d: ranges are not opened; list the ports", p.StartPort, p.EndPort))
		case p.Port < 1 || p.Port > 65535:
			return nil, nil, Errorf(ErrInvalid, "config.services: port %d: use 1 to 65535", p.Port)
		case len(p.Handlers) > 0:
			others = append(others, fmt.Sprintf("port %d: handlers %s need the edge proxy, which this platform does not have; leave them out for plain TCP",
				p.Port, strings.Join(p.Handlers, ", ")))
		default:
			open = append(open, uint16(p.Port))
		}
	}
	if len(open) > 0 && (s.InternalPort < 1 || s.InternalPort > 65535) {
		return nil, nil, Errorf(ErrInvalid, "config.services: internal_port %d: use 1 to 65535", s.InternalPort)
	}
	return open, others, nil
}
