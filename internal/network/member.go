package network

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"gondola"
)

// networkKey stands for a network in the table: 64 bits of a hash of its name, so that it needs no record. Zero is the host.
type networkKey [8]byte

func networkKeyOf(name string) networkKey {
	sum := sha256.Sum256([]byte(name))
	return networkKey(sum[:8])
}

// member is a Machine as the table knows it, by the index of its link.
type member struct {
	id      gondola.MachineID
	network networkKey
	v4, v6  netip.Addr
}

// change is an addition to or removal from a set.
type change struct {
	set      *nftables.Set
	elements []nftables.SetElement
}

func (n *Network) memberChanges(index uint32, m member) []change {
	link := native32(index)
	one := func(name string, f family, key ...[]byte) change {
		return change{n.set(name, f), []nftables.SetElement{{Key: slices.Concat(key...)}}}
	}
	changes := []change{{n.set(setLinks, family{}), []nftables.SetElement{{Key: link, Val: linkValue(m.network)}}}}
	for _, a := range []netip.Addr{m.v4, m.v6} {
		if !a.IsValid() {
			continue
		}
		f, b := familyOf(a), a.AsSlice()
		changes = append(changes, one(setSources, f, link, b), one(setMembers, f, m.network[:], b), one(setSelf, f, b, b))
	}
	return changes
}

// linkValue is what setLinks has for a link of the network.
func linkValue(k networkKey) []byte { return append(make([]byte, 4), k[:]...) }

// admit lets a Machine's packets through.
func (n *Network) admit(link int, m member) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	index := uint32(link)
	if n.members[index] == m {
		return nil
	}
	var gone []netip.Addr
	for i, old := range n.members {
		if i == index || old.v4 == m.v4 || old.v6 == m.v6 {
			gone = append(gone, old.v4, old.v6)
		}
	}
	d := n.planPolicies([]member{m}, gone) // in the same transaction: it is isolated before its first packet
	var stale []uint32                     // what is known of this link, or of another that had the addresses
	err := n.transact(func(c *nftables.Conn) error {
		for i, old := range n.members {
			if i != index && old.v4 != m.v4 && old.v6 != m.v6 {
				continue
			}
			stale = append(stale, i)
			if err := n.deleteMember(c, i, old); err != nil {
				return err
			}
		}
		for _, ch := range n.memberChanges(index, m) {
			if err := c.SetAddElements(ch.set, ch.elements); err != nil {
				return err
			}
		}
		return n.writePolicies(c, d)
	})
	if err != nil {
		return fmt.Errorf("admit %s to the firewall: %w", m.id, err)
	}
	for _, i := range stale {
		delete(n.members, i)
	}
	n.members[index] = m
	n.policies.take(d)
	return nil
}

// dismiss undoes admit and returns the addresses that are free then.
func (n *Network) dismiss(id gondola.MachineID) (free []netip.Addr, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for index, m := range n.members {
		if m.id != id {
			continue
		}
		d := n.planPolicies(nil, []netip.Addr{m.v4, m.v6})
		err := n.transact(func(c *nftables.Conn) error { return errors.Join(n.deleteMember(c, index, m), n.writePolicies(c, d)) })
		if err != nil {
			return nil, fmt.Errorf("take %s out of the firewall: %w", id, err)
		}
		n.policies.take(d)
		delete(n.members, index)
		free = append(free, m.v4, m.v6)
	}
	return free, nil
}

func (n *Network) deleteMember(c *nftables.Conn, index uint32, m member) error {
	for _, ch := range n.memberChanges(index, m) {
		if err := c.SetDeleteElements(ch.set, ch.elements); err != nil {
			return err
		}
	}
	return nil
}

// loadMembersLocked reads what an earlier process admitted, and dismisses the links that are gone.
func (n *Network) loadMembersLocked() error {
	members := map[uint32]member{}
	elements, err := reading().GetSetElements(n.set(setLinks, family{}))
	if err != nil {
		return err
	}
	for _, e := range elements {
		members[binary.NativeEndian.Uint32(e.Key)] = member{network: networkKey(e.Val[4:])}
	}
	for _, f := range families() {
		elements, err := reading().GetSetElements(n.set(setSources, f))
		if err != nil {
			return err
		}
		for _, e := range elements {
			index := binary.NativeEndian.Uint32(e.Key)
			m := members[index]
			if a, _ := netip.AddrFromSlice(e.Key[4:]); a.Is4() {
				m.v4 = a
			} else {
				m.v6 = a
			}
			members[index] = m
		}
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	links, err := n.links(h)
	if err != nil {
		return err
	}
	for _, l := range links {
		index := uint32(l.Attrs().Index)
		if m, ok := members[index]; ok {
			m.id = gondola.MachineID(strings.TrimPrefix(l.Attrs().Alias, netnsPrefix(n.instance)))
			n.members[index] = m
			delete(members, index)
		}
	}
	err = n.transact(func(c *nftables.Conn) error {
		for index, m := range members {
			if err := n.deleteMember(c, index, m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range members {
		n.endFlows(m.v4, m.v6)
	}
	return nil
}

// closed are the destinations beyond the host that a Machine may not reach unless a rule before says so: Machines of other networks, and
// what is link-local, such as the metadata services of clouds.
func (n *Network) closed(f family) []netip.Prefix {
	linkLocal := netip.MustParsePrefix("169.254.0.0/16")
	if f.words == 4 {
		linkLocal = netip.MustParsePrefix("fe80::/10")
	}
	return []netip.Prefix{n.own(f), linkLocal}
}
