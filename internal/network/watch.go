package network

import (
	"context"
	"time"

	"gondola"
)

// Run looks after the table until ctx ends. Others remove it with all rules of the host (nft flush ruleset, a restart of nftables.service), and
// Machines are cut off then: the error is an ErrPrecondition, and Open and all that follows it put everything back.
func (n *Network) Run(ctx context.Context) error {
	const every = 2 * time.Second
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		found, err := n.tableExists()
		if err != nil {
			n.log.Warn("cannot look after the firewall table", "table", n.table.Name, "error", err)
		} else if !found {
			return gondola.Errorf(gondola.ErrPrecondition, "somebody has removed the nftables table inet %s, as nft flush ruleset and a restart of nftables.service do: "+
				"Machines run on and reach nothing until gondola up makes it anew", n.table.Name)
		}
	}
}

// Ready is closed: Open has made everything.
func (n *Network) Ready() <-chan struct{} {
	ready := make(chan struct{})
	close(ready)
	return ready
}

// String returns the network's name, for logs.
func (n *Network) String() string { return "network" }
