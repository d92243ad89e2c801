package network

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"gondola"
)

// vipKey is a virtual port as a network (zero: the host) sees it.
type vipKey struct {
	network networkKey
	addr    netip.Addr
	proto   byte
	port    uint16
}

// target is what a virtual port leads to. Its chain's name is a hash of it, so equal targets share a chain, and a chain never changes.
type target struct {
	chain    string
	family   family
	backends []netip.AddrPort // sorted, at least one
	affinity time.Duration    // If zero, none.
}

// virtualPorts is the pure half: which virtual ports there are and where they lead, for the network and for the host.
func virtualPorts(network networkKey, services []gondola.VirtualService) (map[vipKey]target, map[netip.Addr]struct{}, error) {
	ports, addrs := map[vipKey]target{}, map[netip.Addr]struct{}{}
	for _, s := range services {
		for _, addr := range s.Addresses {
			addr = addr.Unmap()
			addrs[addr] = struct{}{}
			for _, p := range s.Ports {
				k := vipKey{network, addr, 0, p.Port}
				switch strings.ToLower(p.Protocol) {
				case "tcp":
					k.proto = unix.IPPROTO_TCP
				case "udp":
					k.proto = unix.IPPROTO_UDP
				default:
					return nil, nil, gondola.Errorf(gondola.ErrInvalid, "%s, port %d: protocol %q is not supported; use tcp or udp", s.Name, p.Port, p.Protocol)
				}
				if _, twice := ports[k]; twice {
					return nil, nil, gondola.Errorf(gondola.ErrInvalid, "%s: %s port %d of %s is given twice", s.Name, p.Protocol, p.Port, addr)
				}
				t := newTarget(k, p.Backends, time.Duration(s.Affinity)*time.Second)
				if len(t.backends) == 0 {
					continue
				}
				ports[k] = t
				k.network = networkKey{}
				ports[k] = t
			}
		}
	}
	return ports, addrs, nil
}

func newTarget(k vipKey, backends []netip.AddrPort, affinity time.Duration) target {
	t := target{family: familyOf(k.addr), affinity: affinity}
	for _, b := range backends {
		if a := b.Addr().Unmap(); a.Is4() == k.addr.Is4() {
			t.backends = append(t.backends, netip.AddrPortFrom(a, b.Port()))
		}
	}
	slices.SortFunc(t.backends, netip.AddrPort.Compare)
	t.backends = slices.Compact(t.backends)
	h := sha256.New()
	if affinity > 0 { // remembers clients, so it is one virtual port's own
		fmt.Fprintln(h, k.network, k.addr, k.proto, k.port, affinity)
	}
	fmt.Fprintln(h, t.family.suffix, t.backends)
	t.chain = chainPrefix + hex.EncodeToString(h.Sum(nil)[:12])
	if affinity > 0 {
		t.chain = stickyPrefix + t.chain[len(chainPrefix):]
	}
	return t
}

const (
	chainPrefix  = "service-"
	stickyPrefix = "sticky-" // with affinity: the map of clients has the chain's name
)

func (f family) endpoint() nftables.SetDatatype {
	return nftables.MustConcatSetType(f.addr, nftables.TypeInetService)
}

func backendData(b netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(b.Addr().AsSlice(), b.Port()), 0, 0)
}

// bytes is the key as the kernel has it: fields padded to 32 bits.
func (k vipKey) bytes() []byte {
	b := append(slices.Clone(k.network[:]), k.addr.AsSlice()...)
	b = append(b, k.proto, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, k.port), 0, 0)
}

func vipKeyOf(b []byte) (k vipKey, ok bool) {
	if len(b) < 8+4+8 {
		return k, false
	}
	k.network = networkKey(b[:8])
	k.addr, ok = netip.AddrFromSlice(b[8 : len(b)-8])
	rest := b[len(b)-8:]
	k.proto, k.port = rest[0], binary.BigEndian.Uint16(rest[4:])
	return k, ok
}
