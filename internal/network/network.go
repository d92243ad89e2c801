// Package network gives Machines their network on one host: the address plan of the fleet (pure), a network namespace with a veth pair per
// Machine, isolation between networks, masquerading towards the outside world and virtual services.
//
// It is routed, not bridged: every Machine has a /32 and a /128 on its own link, the host routes to each and is the next hop of all
// (169.254.1.1 and fe80::1). All packets so pass the host's netfilter hooks, where one nftables table, inet gondola-<instance>, decides:
// a Machine may send only from its own addresses; it reaches the Machines and virtual services of its network, the host addresses that
// EnsureHost was told of, and the outside world (masqueraded), but neither Machines of other networks nor anything else of the host nor
// link-local destinations beyond it (metadata services of clouds). Whatever is refused is refused at once and not just dropped, apart from
// packets with a source that is not the Machine's. From outside only public ports (gondola.Public) open connections to a Machine.
//
// Of what these rules let pass, the policies of a network (SetPolicies) forbid more: they judge what isolated Machines send, to their host too,
// and what others send to them, from the first packet of a Machine on (docs/rfd/0005-network-policy.md).
//
// The kernel is the record: a Network that is opened again finds the Machines and services that are there and interrupts none of them. Policies
// are in a file beside Config.StateFile as well, for Machines that come back before anybody sets policies again. What was changed on the host beside (sysctls, addresses, routes) is recorded in Config.StateFile before it is done, and Purge undoes it.
// The package never touches tables, links or namespaces of others, and runs no programs.
package network

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"gondola"
)

// Config says which instance's network to open.
type Config struct {
	Instance  string            // of the platform: goes into the names of all that is made. Required.
	Range     netip.Prefix      // IPv4 addresses of Machines, see Plan. If zero, 10.64.0.0/10.
	Pools     []netip.Prefix    // addresses that services may have for the world; this host takes those that are in use
	Reserved  map[uint16]string // ports of the host that no service gets on all its addresses → why; 22 is always one
	StateFile string            // what was changed on the host, for Purge. If empty, only Purge of the same Network undoes it.
	Left      func(what string) // is told what Purge leaves on the host, and why. If nil, nobody is.
	Log       *slog.Logger      // If nil, slog.Default().
}

// Network is an instance's network on this host. All methods may be called at once from several goroutines.
type Network struct {
	instance string
	plan     Plan
	log      *slog.Logger
	left     func(what string)
	pools    []netip.Prefix
	reserved map[uint16]string
	state    *hostState
	table    *nftables.Table
	gateway4 netip.Addr
	gateway6 netip.Addr

	attaching keyed // one Attach or Detach at a time per Machine

	mu       sync.Mutex     // guards what follows and every change of the nftables table
	changes  *nftables.Conn // If nil, not connected.
	members  map[uint32]member
	vips     map[vipKey]string                    // virtual port → its chain
	owners   map[netip.Addr]networkKey            // virtual address → whose it is
	claims   map[vipKey]claim                     // public port → whose it is
	pooled   map[netip.Addr]bool                  // addresses of pools that are on lo
	refusals map[networkKey][]gondola.PortRefusal // owner → what it could not have
	networks map[networkKey]string                // names of the networks with services that were set since Open, for messages
	policies policies

	nodes     map[string]*nodeGateway      // gateways of this host, by network/name
	hostPorts map[vipKey]gondola.MachineID // virtual ports of gateways → whose
}

// Open prepares the instance's network: the nftables table, the gateway addresses on lo and forwarding. What an earlier process of the
// instance left is kept and taken over. It needs root; without it, or on a kernel that lacks nftables or IPv6, the error is an
// ErrUnsupported.
func Open(cfg Config) (*Network, error) {
	n, err := newNetwork(cfg)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, gondola.Errorf(gondola.ErrUnsupported, "networks of Machines need root: run gondola with sudo")
	}
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		return nil, gondola.Errorf(gondola.ErrUnsupported, "this kernel has no IPv6, which 6PN needs: boot without ipv6.disable=1")
	}
	if err := n.ensureGateway(); err != nil {
		return nil, err
	}
	if err := n.ensureNobody(); err != nil {
		return nil, err
	}
	if err := n.openTable(); err != nil {
		return nil, err
	}
	return n, errors.Join(n.dropStrayPooled(), n.deleteRetired())
}

func newNetwork(cfg Config) (*Network, error) {
	if cfg.Instance == "" {
		return nil, gondola.Errorf(gondola.ErrInvalid, "network: Config.Instance is missing")
	}
	n := &Network{
		instance: cfg.Instance,
		plan:     Plan{Range: cfg.Range},
		log:      cmp.Or(cfg.Log, slog.Default()),
		left:     cfg.Left,
		state:    &hostState{file: cfg.StateFile},
		table:    &nftables.Table{Name: tableName(cfg.Instance), Family: nftables.TableFamilyINet},
		members:  map[uint32]member{},
		vips:     map[vipKey]string{},
		owners:   map[netip.Addr]networkKey{},
		claims:   map[vipKey]claim{},
		pooled:   map[netip.Addr]bool{},
		refusals: map[networkKey][]gondola.PortRefusal{},
		networks: map[networkKey]string{},
		policies: newPolicies(),
		nodes:    map[string]*nodeGateway{}, hostPorts: map[vipKey]gondola.MachineID{},
		pools:    cfg.Pools,
		reserved: map[uint16]string{22: "the host needs it for SSH"},
	}
	maps.Copy(n.reserved, cfg.Reserved)
	if err := n.plan.Validate(); err != nil {
		return nil, err
	}
	n.gateway4, n.gateway6 = n.plan.Gateway()
	return n, nil
}

// Plan returns the address plan in force.
func (n *Network) Plan() Plan { return n.plan }

func tableName(instance string) string { return "gondola-" + instance }

// linkName is the host-side name of a Machine's link: at most 15 characters, with a beginning that only this instance has.
func (n *Network) linkName(id gondola.MachineID) string {
	return linkPrefix(n.instance) + shortHash(string(id), 10)
}

func linkPrefix(instance string) string { return "g" + shortHash(instance, 4) }

// netnsName is the name of a Machine's network namespace and, as alias, of its link on the host.
func (n *Network) netnsName(id gondola.MachineID) string { return netnsPrefix(n.instance) + string(id) }

func netnsPrefix(instance string) string { return "gondola-" + instance + "-" }

func shortHash(s string, chars int) string {
	sum := sha256.Sum256([]byte(s))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:]))[:chars]
}

// links lists this instance's links on the host. One that has no alias yet counts, its name being a hash that nobody else has.
func (n *Network) links(h *netlink.Handle) ([]netlink.Link, error) {
	all, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ours []netlink.Link
	for _, l := range all {
		name, alias := l.Attrs().Name, l.Attrs().Alias
		if strings.HasPrefix(name, linkPrefix(n.instance)) && l.Type() == "veth" && (alias == "" || strings.HasPrefix(alias, netnsPrefix(n.instance))) {
			ours = append(ours, l)
		}
	}
	return ours, nil
}

// keyed is a lock per Machine.
type keyed struct {
	mu   sync.Mutex
	held map[gondola.MachineID]*heldLock // those that somebody holds or waits for
}

type heldLock struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(id gondola.MachineID) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[gondola.MachineID]*heldLock{}
	}
	l := k.held[id]
	if l == nil {
		l = &heldLock{}
		k.held[id] = l
	}
	l.users++
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.held, id)
		}
	}
}
