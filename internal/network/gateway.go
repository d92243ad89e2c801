package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// Gateway is a network that stands for a node: a namespace of its own with these addresses, which is a member of a network as a Machine is
// (docs/rfd/0008-node-gateway.md). Machines can be in it (Machine.HostNetwork) or have ports of it (Machine.Ports).
type Gateway struct {
	Network   string       // whose it is
	Name      string       // within the network
	Addresses []netip.Addr // one of each family
	Taken     []uint16     // TCP ports that no Machine gets: somebody listens there by ListenIn
}

// nodeGateway is a Gateway that is there.
type nodeGateway struct {
	Gateway
	path  string                       // of its namespace
	ports map[hostPort]hostPortBackend // in its table
	nodes map[nodePort]bool            // in its table
}

// gatewayPrefix begins the ids under which gateways are members: no Machine's id has a dot.
const gatewayPrefix = "gateway."

func (g Gateway) id() gondola.MachineID {
	return gondola.MachineID(gatewayPrefix + g.Network + "." + g.Name)
}

// gateway says whether the member is none of the Machines.
func (m member) gateway() bool { return strings.HasPrefix(string(m.id), gatewayPrefix) }

func (g Gateway) validate() (v4, v6 netip.Addr, err error) {
	if g.Network == "" || g.Name == "" || strings.ContainsAny(g.Network+g.Name, "/ \x00") {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "gateway %q of network %q: both need a name without blanks and slashes", g.Name, g.Network)
	}
	for _, a := range g.Addresses {
		if a.Is4() {
			v4 = a
		} else {
			v6 = a
		}
	}
	if len(g.Addresses) != 2 || !v4.IsValid() || !v6.IsValid() {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "gateway %s of network %s: want one IPv4 and one IPv6 address", g.Name, g.Network)
	}
	return v4, v6, nil
}

func gatewayKey(network, name string) string { return network + "/" + name }

// EnsureGateways makes these all gateways of the host. One that is there stays as it is, with all that runs in it; those that are not listed
// go. Call it before Machines are attached.
func (n *Network) EnsureGateways(ctx context.Context, list []Gateway) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	defer h.Close()
	wanted, made := map[gondola.MachineID]bool{}, map[string]*nodeGateway{}
	for _, g := range list {
		ng, err := n.ensureGatewayOf(ctx, h, g)
		if err != nil {
			return fmt.Errorf("gateway %s of network %s: %w", g.Name, g.Network, err)
		}
		wanted[g.id()], made[gatewayKey(g.Network, g.Name)] = true, ng
	}
	there, err := n.attached()
	if err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	for _, id := range there {
		if strings.HasPrefix(string(id), gatewayPrefix) && !wanted[id] {
			if err := n.removeGateway(h, id); err != nil {
				return fmt.Errorf("remove %s: %w", id, err)
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.nodes = made
	if err := n.transact(n.writeGateways); err != nil {
		return fmt.Errorf("gateways: %w", err)
	}
	for _, g := range made {
		if err := n.openGatewayTable(g); err != nil {
			return fmt.Errorf("gateway %s of network %s: %w", g.Name, g.Network, err)
		}
	}
	return nil
}

func (n *Network) removeGateway(h *netlink.Handle, id gondola.MachineID) error {
	defer n.attaching.lock(id)()
	return n.remove(h, id)
}

// ensureGatewayOf finds a gateway or makes it.
func (n *Network) ensureGatewayOf(ctx context.Context, h *netlink.Handle, g Gateway) (*nodeGateway, error) {
	v4, v6, err := g.validate()
	if err != nil {
		return nil, err
	}
	if err := n.leaveHost(g.Addresses); err != nil {
		return nil, err
	}
	id := g.id()
	defer n.attaching.lock(id)()
	ng := &nodeGateway{Gateway: g, path: filepath.Join(netnsDir, n.netnsName(id)), ports: map[hostPort]hostPortBackend{}, nodes: map[nodePort]bool{}}
	want := member{id: id, network: networkKeyOf(g.Network), v4: v4, v6: v6}
	if isNetNS(ng.path) {
		if index, ok := n.routed(h, id, v4, v6); ok {
			return ng, n.admit(index, want)
		}
	}
	if err := n.remove(h, id); err != nil {
		return nil, err
	}
	last := v4.As4()
	// Worker 0 is none, so no Machine has this hardware address.
	index, err := n.build(ctx, h, Machine{ID: id, Number: uint16(last[2])<<8 | uint16(last[3])}, ng.path, v4, v6)
	if err == nil {
		err = n.admit(index, want)
	}
	if err != nil {
		return nil, errors.Join(err, n.remove(h, id))
	}
	return ng, nil
}

// leaveHost takes addresses off lo where a version before gateways put them.
func (n *Network) leaveHost(addrs []netip.Addr) error {
	state, err := n.state.read()
	if err != nil {
		return err
	}
	old := HostPlan{}
	for _, a := range addrs {
		if slices.Contains(state.Addresses, a) {
			old.Addresses = append(old.Addresses, a)
		}
	}
	if len(old.Addresses) == 0 {
		return nil
	}
	return n.ReleaseHost(context.Background(), old)
}

// writeGateways tells the host's table which addresses are gateways'.
func (n *Network) writeGateways(c *nftables.Conn) error {
	for _, f := range families() {
		s := n.set(setGateways, f)
		c.FlushSet(s)
		var all []netip.Addr
		for _, g := range n.nodes {
			all = append(all, g.Addresses...)
		}
		if err := addElements(c, s, addressElements(all, f)); err != nil {
			return err
		}
	}
	return nil
}

// GatewayAddresses returns the addresses of a gateway of a network, IPv4 first; nil if it is not on this host.
func (n *Network) GatewayAddresses(network, name string) []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.nodes[gatewayKey(network, name)]; g != nil {
		return slices.Clone(g.Addresses)
	}
	return nil
}

// ListenIn listens for TCP connections in a gateway's network. The listener is this process's and ends with it.
func (n *Network) ListenIn(network, name, address string) (net.Listener, error) {
	g, err := n.nodeGateway(network, name)
	if err != nil {
		return nil, err
	}
	var l net.Listener
	err = inNetNS(g.path, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	return l, err
}

func (n *Network) nodeGateway(network, name string) (*nodeGateway, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if g := n.nodes[gatewayKey(network, name)]; g != nil {
		return g, nil
	}
	return nil, gondola.Errorf(gondola.ErrUnsupported, "gateway %q of network %s is not on this host", name, network)
}

// inNetNS calls f on a thread in the namespace. What f opens stays there; goroutines that it starts are not in it.
func inNetNS(path string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := os.Open(ownNetNS)
		if err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		defer home.Close()
		ns, err := os.Open(path)
		if err == nil {
			defer ns.Close()
			if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
				err = f()
			}
		}
		// A thread that cannot go home stays locked and ends with this goroutine.
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
