package network

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"gondola"
)

// SetServices replaces all virtual services of a network, in one transaction that touches only what differs from before. Machines of the
// network and the host can use them. A connection gets a random backend, or with affinity the one that the same client had last. Ports
// without a backend of the address's family are refused, like all other ports of the address. Flows of UDP ports to backends that are gone
// are forgotten, so that their next packet gets another.
//
// An address that another network has is an ErrConflict; an unknown protocol an ErrInvalid. A network that nobody has set since Open, as one whose
// cluster has another name now, gives way: all that it has goes.
func (n *Network) SetServices(ctx context.Context, network string, services []gondola.VirtualService) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key := networkKeyOf(network)
	want, addrs, err := virtualPorts(key, services)
	if err != nil {
		return fmt.Errorf("services of network %s: %w", network, err)
	}
	asked, err := openings(key, key, services)
	if err != nil {
		return fmt.Errorf("services of network %s: %w", network, err)
	}
	if err := n.apply(network, key, want, addrs, asked); err != nil {
		return fmt.Errorf("services of network %s: %w", network, err)
	}
	return nil
}

// apply makes these all that the owner has: virtual ports with their addresses, and public ports.
func (n *Network) apply(name string, owner networkKey, want map[vipKey]target, addrs map[netip.Addr]struct{}, asked []opening) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.networks[owner] = name
	replaced := map[networkKey]bool{owner: true} // those whose all goes unless it is wanted
	for a := range addrs {
		other, ok := n.owners[a]
		if _, known := n.networks[other]; ok && known && other != owner {
			return gondola.Errorf(gondola.ErrConflict, "address %s belongs to a service of network %s", a, n.networkName(other))
		} else if ok {
			replaced[other] = true
		}
	}
	others := maps.Clone(n.claims)
	maps.DeleteFunc(others, func(_ vipKey, c claim) bool { return replaced[c.owner] })
	open, claims, refusals, err := n.settle(others, asked)
	if err != nil {
		return err
	}
	all := maps.Clone(open)
	maps.Copy(all, want)
	d, err := n.planServices(owner, replaced, all, addrs, claims)
	if err != nil {
		return err
	}
	pool, unused, err := n.poolChanges(claims)
	if err != nil {
		return err
	}
	for _, a := range pool {
		if err := n.ensureAddress(a); err != nil {
			return err
		}
	}
	err = n.transact(func(c *nftables.Conn) error {
		return errors.Join(n.writeServices(c, d), n.writeAddresses(c, d), n.writePool(c, pool, unused))
	})
	if err != nil {
		return err
	}
	n.applied(d, pool, unused)
	n.refusals[owner] = refusals
	n.forgetFlows(d)
	for _, g := range n.nodes {
		if err := n.mirrorNodePorts(g); err != nil {
			return err
		}
	}
	for _, a := range unused {
		if err := n.removeAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// applied takes into the picture what a transaction has done.
func (n *Network) applied(d serviceDiff, pool, unused []netip.Addr) {
	for k := range d.remove {
		delete(n.vips, k)
	}
	for k, t := range d.put {
		n.vips[k] = t.chain
	}
	for _, a := range d.removeAddrs {
		delete(n.owners, a)
	}
	for _, a := range d.addAddrs {
		n.owners[a] = d.network
	}
	for _, a := range pool {
		n.pooled[a] = true
	}
	for _, a := range unused {
		delete(n.pooled, a)
	}
	n.claims = d.claims
}

func (n *Network) networkName(key networkKey) string {
	if name, ok := n.networks[key]; ok {
		return name
	}
	return hex.EncodeToString(key[:])
}

// serviceDiff is what one SetServices changes.
type serviceDiff struct {
	put     map[vipKey]target                // new ones, and those that lead elsewhere now
	remove  map[vipKey]struct{}              // those that are no longer there
	replace map[vipKey]string                // of put: the chain that they led to
	chains  map[string]target                // to make
	unused  []string                         // to delete
	clients map[string][]nftables.SetElement // sticky chain to make → clients that keep their backend

	network               networkKey
	addAddrs, removeAddrs []netip.Addr
	claims                map[vipKey]claim // all there are then, of public ports
	comment               string           // of what is put, where it is a Machine's
}

// planServices compares what there is with what the owner wants in the place of all that those have who are replaced, itself among them.
func (n *Network) planServices(owner networkKey, replaced map[networkKey]bool, want map[vipKey]target, addrs map[netip.Addr]struct{},
	claims map[vipKey]claim) (serviceDiff, error) {
	d := serviceDiff{network: owner, claims: claims, put: map[vipKey]target{}, remove: map[vipKey]struct{}{}, replace: map[vipKey]string{},
		chains: map[string]target{}, clients: map[string][]nftables.SetElement{}}
	for a := range addrs {
		if had, ok := n.owners[a]; !ok || had != owner {
			d.addAddrs = append(d.addAddrs, a)
		}
	}
	for a, had := range n.owners {
		if _, ok := addrs[a]; replaced[had] && (!ok || had != owner) {
			d.removeAddrs = append(d.removeAddrs, a)
		}
	}
	before, after := map[string]bool{}, map[string]bool{}
	for k, chain := range n.vips {
		before[chain] = true
		if _, still := want[k]; !still && replaced[n.owner(k)] {
			d.remove[k] = struct{}{}
		} else if !still {
			after[chain] = true
		}
	}
	for k, t := range want {
		after[t.chain] = true
		old, had := n.vips[k]
		if had && old == t.chain && n.claims[k] == claims[k] {
			continue
		}
		d.put[k] = t
		if had {
			d.replace[k] = old
		}
		if !before[t.chain] {
			d.chains[t.chain] = t
		}
		if had && t.affinity > 0 && strings.HasPrefix(old, stickyPrefix) && d.clients[t.chain] == nil {
			clients, err := n.clientsOf(old, t)
			if err != nil {
				return d, err
			}
			d.clients[t.chain] = clients
		}
	}
	for chain := range before {
		if !after[chain] {
			d.unused = append(d.unused, chain)
		}
	}
	return d, nil
}

// clientsOf reads which clients of a sticky chain have a backend that the target has too.
func (n *Network) clientsOf(chain string, t target) ([]nftables.SetElement, error) {
	elements, err := reading().GetSetElements(n.stickySet(chain, t.family, t.affinity))
	if errors.Is(err, unix.ENOENT) { // of a release that gave chains without backends such a name
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read clients of %s: %w", chain, err)
	}
	keep := map[string]bool{}
	for _, b := range t.backends {
		keep[string(backendData(b))] = true
	}
	var clients []nftables.SetElement
	for _, e := range elements {
		if keep[string(e.Val)] {
			clients = append(clients, nftables.SetElement{Key: e.Key, Val: e.Val, Timeout: t.affinity})
		}
	}
	return clients, nil
}

func (n *Network) writeServices(c *nftables.Conn, d serviceDiff) error {
	for _, t := range d.chains {
		if err := n.writeTarget(c, t, d.clients[t.chain]); err != nil {
			return err
		}
	}
	for _, f := range families() {
		var gone, put []nftables.SetElement
		for k := range d.remove {
			if familyOf(k.addr) == f {
				gone = append(gone, nftables.SetElement{Key: k.bytes()})
			}
		}
		for k := range d.replace {
			if familyOf(k.addr) == f {
				gone = append(gone, nftables.SetElement{Key: k.bytes()})
			}
		}
		for k, t := range d.put {
			if familyOf(k.addr) == f {
				e := nftables.SetElement{Key: k.bytes(), VerdictData: &expr.Verdict{Kind: expr.VerdictGoto, Chain: t.chain}}
				if e.Comment = d.comment; k.network == world {
					e.Comment = d.claims[k].comment()
				}
				put = append(put, e)
			}
		}
		if err := deleteElements(c, n.set(setVIPs, f), gone); err != nil {
			return err
		}
		if err := addElements(c, n.set(setVIPs, f), put); err != nil {
			return err
		}
	}
	for _, chain := range d.unused {
		c.FlushChain(&nftables.Chain{Table: n.table, Name: chain})
		c.DelChain(&nftables.Chain{Table: n.table, Name: chain})
		if strings.HasPrefix(chain, stickyPrefix) && n.hasSet(chain) {
			c.DelSet(&nftables.Set{Table: n.table, Name: chain})
		}
	}
	return nil
}

func (n *Network) hasSet(name string) bool {
	_, err := reading().GetSetByName(n.table, name)
	return !errors.Is(err, unix.ENOENT)
}

// writeTarget makes the chain of a target, and with affinity its map of clients.
func (n *Network) writeTarget(c *nftables.Conn, t target, clients []nftables.SetElement) error {
	chain := c.AddChain(&nftables.Chain{Table: n.table, Name: t.chain})
	add := func(parts ...[]expr.Any) {
		c.AddRule(&nftables.Rule{Table: n.table, Chain: chain, Exprs: match(parts...)})
	}
	if t.restricted {
		deny, err := n.notFrom(c, t)
		if err != nil {
			return err
		}
		add(deny, drop())
	}
	if len(t.backends) == 0 {
		return nil
	}
	// Registers: a client's address from 0 on, the backend's address and port from backendAt on, what comes before those for nft's sake (key)
	// in the one before; what is looked up in between from spareAt on.
	begin := append(key(backendAt, t.family.words), key(backendAt+t.family.words, 1)...)
	any, err := n.anyBackend(c, t)
	if err != nil {
		return err
	}
	translate := []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(t.family.nfproto), RegAddrMin: reg(backendAt), RegProtoMin: reg(backendAt + t.family.words)}}
	if t.public {
		translate = match(n.comeIn(t), translate)
	}
	if t.affinity > 0 {
		sticky := n.stickySet(t.chain, t.family, t.affinity)
		if err := c.AddSet(sticky, nil); err != nil {
			return err
		}
		if err := addElements(c, sticky, clients); err != nil {
			return err
		}
		const update = unix.NFT_DYNSET_OP_UPDATE
		remember := &expr.Dynset{SrcRegKey: reg(0), SrcRegData: reg(backendAt), SetName: sticky.Name, SetID: sticky.ID, Operation: update, Timeout: t.affinity}
		client := saddr(0, t.family)
		known := append(key(spareAt, t.family.words+2), client, lookup(sticky, 0, spareAt+1))
		add(begin, known, moved(spareAt, backendAt-1, t.family.words+2), []expr.Any{remember}, translate)
		add(begin, []expr.Any{client}, any, []expr.Any{remember}, translate)
		// Only when the map is full:
		if any, err = n.anyBackend(c, t); err != nil {
			return err
		}
	}
	add(begin, any, translate)
	return nil
}

// Registers of writeTarget.
const (
	backendAt = 5
	spareAt   = 10
)

// comeIn lets a packet in to the backend in registers backendAt and on, if that is a Machine of the network whose port it is.
func (n *Network) comeIn(t target) []expr.Any {
	bits := markPublic
	if !t.keepSource {
		bits |= markMasquerade
	}
	member := match(key(spareAt, 2+t.family.words, t.network[:]...), moved(backendAt, spareAt+2, t.family.words))
	return append(member,
		inAt(spareAt, n.set(setMembers, t.family).Name),
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: native32(^bits), Xor: native32(bits)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0), SourceRegister: true})
}

// notFrom matches clients that are not among the sources of the target.
func (n *Network) notFrom(c *nftables.Conn, t target) ([]expr.Any, error) {
	if len(t.sources) == 0 {
		return nil, nil
	}
	s := &nftables.Set{Table: n.table, Interval: true, KeyType: t.family.addr}
	if err := addAnonymous(c, s, intervals(t.sources)); err != nil {
		return nil, err
	}
	return []expr.Any{saddr(0, t.family), &expr.Lookup{SourceRegister: reg(0), SetName: s.Name, SetID: s.ID, Invert: true}}, nil
}

// intervals are the elements of a set of prefixes of one family, which are sorted. What overlaps or touches becomes one.
func intervals(prefixes []netip.Prefix) (e []nftables.SetElement) {
	var end netip.Addr // behind the last one; zero: it reaches to the end of all addresses
	for i, p := range prefixes {
		if i > 0 && !end.IsValid() {
			break
		}
		next := behind(p)
		switch {
		case i == 0 || end.Less(p.Addr()):
			if i > 0 {
				e = append(e, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
			}
			e, end = append(e, nftables.SetElement{Key: p.Addr().AsSlice()}), next
		case !next.IsValid() || end.Less(next):
			end = next
		}
	}
	if end.IsValid() {
		e = append(e, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
	}
	return e
}

// anyBackend puts a random backend of the target into registers backendAt and on.
func (n *Network) anyBackend(c *nftables.Conn, t target) ([]expr.Any, error) {
	if len(t.backends) == 1 {
		b := t.backends[0]
		return []expr.Any{&expr.Immediate{Register: reg(backendAt), Data: b.Addr().AsSlice()},
			&expr.Immediate{Register: reg(backendAt + t.family.words), Data: binary.BigEndian.AppendUint16(nil, b.Port())}}, nil
	}
	m := &nftables.Set{Table: n.table, IsMap: true, KeyType: nftables.TypeInteger,
		DataType: nftables.MustConcatSetType(nftables.TypeMark, t.family.addr, nftables.TypeInetService)}
	elements := make([]nftables.SetElement, len(t.backends))
	for i, b := range t.backends {
		elements[i] = nftables.SetElement{Key: native32(uint32(i)), Val: append(make([]byte, 4), backendData(b)...)}
	}
	if err := addAnonymous(c, m, elements); err != nil {
		return nil, err
	}
	random := &expr.Numgen{Register: reg(backendAt - 1), Modulus: uint32(len(t.backends)), Type: unix.NFT_NG_RANDOM}
	return []expr.Any{random, lookup(m, backendAt-1, backendAt-1)}, nil
}

func (n *Network) writeAddresses(c *nftables.Conn, d serviceDiff) error {
	for _, f := range families() {
		elements := func(addrs []netip.Addr) (e []nftables.SetElement) {
			for _, a := range addrs {
				if familyOf(a) == f {
					e = append(e, nftables.SetElement{Key: a.AsSlice(), Comment: hex.EncodeToString(d.network[:])})
				}
			}
			return e
		}
		if err := deleteElements(c, n.set(setVIPAddrs, f), elements(d.removeAddrs)); err != nil {
			return err
		}
		if err := addElements(c, n.set(setVIPAddrs, f), elements(d.addAddrs)); err != nil {
			return err
		}
	}
	return nil
}

// loadServicesLocked reads the virtual services that an earlier process set.
func (n *Network) loadServicesLocked() error {
	for _, f := range families() {
		elements, err := reading().GetSetElements(n.set(setVIPAddrs, f))
		if err != nil {
			return err
		}
		for _, e := range elements {
			a, _ := netip.AddrFromSlice(e.Key)
			var owner networkKey
			hex.Decode(owner[:], []byte(e.Comment))
			n.owners[a] = owner
		}
		if elements, err = reading().GetSetElements(n.set(setPooled, f)); err != nil {
			return err
		}
		for _, e := range elements {
			a, _ := netip.AddrFromSlice(e.Key)
			n.pooled[a] = true
		}
		if elements, err = reading().GetSetElements(n.set(setVIPs, f)); err != nil {
			return err
		}
		for _, e := range elements {
			if k, ok := vipKeyOf(e.Key); ok {
				n.vips[k] = verdictChain(e.Val)
				if k.network == world {
					n.claims[k] = claimOf(e.Comment)
				} else if id, ok := machineOf(e.Comment); ok {
					n.hostPorts[k] = id
				}
			}
		}
	}
	return nil
}

// verdictChain finds the chain in the attributes of a verdict, as the library returns them.
func verdictChain(b []byte) string {
	for len(b) >= 4 {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			break
		}
		if kind&^uint16(unix.NLA_F_NESTED) == unix.NFTA_VERDICT_CHAIN {
			return strings.TrimRight(string(b[4:size]), "\x00")
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return ""
}

func (n *Network) stickySet(name string, f family, timeout time.Duration) *nftables.Set {
	const clients = 1 << 16
	return &nftables.Set{Table: n.table, Name: name, IsMap: true, Dynamic: true, HasTimeout: true, Timeout: timeout, Size: clients,
		KeyType: f.addr, DataType: f.endpoint()}
}
