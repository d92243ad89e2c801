package worker

import (
	"gondola"
)

// checkServices refuses services that make no sense, and ports of the host that somebody else has. Whose a port is in the end the host
// decides: this tells the one who comes too late at once.
func (w *Worker) checkServices(app gondola.AppName, network string, c *gondola.Config) error {
	for _, s := range c.Services {
		open, _, err := s.PlainPorts()
		if err != nil {
			return err
		}
		protocol := s.Protocol
		if protocol == "" {
			protocol = "tcp"
		}
		for _, port := range open {
			err := w.cfg.Host.CheckAppService(network, gondola.VirtualService{Name: string(app), Public: &gondola.Public{Host: true},
				Ports: []gondola.VirtualPort{{Protocol: protocol, Port: port}}})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// noteServices tells which ports of the Config are not opened.
func (m *machine) noteServices(c *gondola.Config) {
	for _, s := range c.Services {
		_, others, _ := s.PlainPorts()
		for _, o := range others {
			m.note(gondola.Note{Warning: true, Reason: "PortNotOpened", Message: "services: " + o})
		}
	}
}
