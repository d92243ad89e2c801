package worker

import (
	"errors"
	"fmt"
	"strings"

	"gondola"
)

// gatewayLacks says why a Machine cannot be here that has part in a gateway; empty if it can. Like a Volume, a gateway is on one host.
func (w *Worker) gatewayLacks(network string, c *gondola.Config) string {
	name := c.UsesGateway()
	if name == "" || len(w.cfg.Host.Gateway(network, name)) > 0 {
		return ""
	}
	return fmt.Sprintf("gateway %s of network %s is not on its host", name, network)
}

// checkGateway refuses it as a Bid would, so that another worker is tried.
func (w *Worker) checkGateway(network string, c *gondola.Config) error {
	lacks := w.gatewayLacks(network, c)
	if lacks == "" {
		return nil
	}
	o := w.offered()
	return refused(gondola.Refusal{Worker: o.worker, Region: o.region, Reason: lacks, Free: o.free, Capacity: o.capacity})
}

// preconditionOf returns the message of what was not as it has to be, without what was being done.
func preconditionOf(err error) string {
	var e *gondola.Error
	if errors.As(err, &e) {
		return e.Message
	}
	return err.Error()
}

// hostAliases writes the further lines of /etc/hosts.
func hostAliases(b *strings.Builder, c *gondola.Config) {
	if c.Gondola == nil || len(c.Gondola.Hosts) == 0 {
		return
	}
	b.WriteString("\n# Entries added by HostAliases.\n")
	for _, h := range c.Gondola.Hosts {
		fmt.Fprintf(b, "%s\t%s\n", h.IP, strings.Join(h.Names, "\t"))
	}
}
