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
	backends []netip.AddrPort // sorted; at least one, or it is public
	affinity time.Duration    // If zero, none.

	public     bool
	network    networkKey // public: the one whose Machines may be reached
	keepSource bool
	restricted bool // only sources may come in
	sources    []netip.Prefix
}

// manner is how a service leads to its backends.
type manner struct {
	affinity   int // seconds
	public     bool
	network    networkKey
	keepSource bool
	restricted bool
	sources    []netip.Prefix
}

// virtualPorts is the pure half: which virtual ports there are and where they lead, for the network and for the host.
func virtualPorts(network networkKey, services []gondola.VirtualService) (map[vipKey]target, map[netip.Addr]struct{}, error) {
	ports, addrs := map[vipKey]target{}, map[netip.Addr]struct{}{}
	for _, s := range services {
		for _, addr := range s.Addresses {
			addr = addr.Unmap()
			addrs[addr] = struct{}{}
			for _, p := range s.Ports {
				proto, err := protocolOf(s.Name, p)
				if err != nil {
					return nil, nil, err
				}
				k := vipKey{network, addr, proto, p.Port}
				if _, twice := ports[k]; twice {
					return nil, nil, gondola.Errorf(gondola.ErrInvalid, "%s: %s port %d of %s is given twice", s.Name, p.Protocol, p.Port, addr)
				}
				t := newTarget(k, p.Backends, manner{affinity: s.Affinity})
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

func protocolOf(service string, p gondola.VirtualPort) (byte, error) {
	switch strings.ToLower(p.Protocol) {
	case "tcp":
		return unix.IPPROTO_TCP, nil
	case "udp":
		return unix.IPPROTO_UDP, nil
	default:
		return 0, gondola.Errorf(gondola.ErrInvalid, "%s, port %d: protocol %q is not supported; use tcp or udp", service, p.Port, p.Protocol)
	}
}

func protocolName(proto byte) string {
	if proto == unix.IPPROTO_UDP {
		return "udp"
	}
	return "tcp"
}

func newTarget(k vipKey, backends []netip.AddrPort, m manner) target {
	affinity := time.Duration(m.affinity) * time.Second
	t := target{family: familyOf(k.addr), affinity: affinity, public: m.public, network: m.network, keepSource: m.keepSource, restricted: m.restricted}
	for _, p := range m.sources {
		if p = p.Masked(); p.IsValid() && p.Addr().Is4() == k.addr.Is4() {
			t.sources = append(t.sources, p)
		}
	}
	slices.SortFunc(t.sources, netip.Prefix.Compare)
	t.sources = slices.Compact(t.sources)
	for _, b := range backends {
		if a := b.Addr().Unmap(); a.Is4() == k.addr.Is4() {
			t.backends = append(t.backends, netip.AddrPortFrom(a, b.Port()))
		}
	}
	slices.SortFunc(t.backends, netip.AddrPort.Compare)
	t.backends = slices.Compact(t.backends)
	if len(t.backends) == 0 { // there is nobody to remember
		affinity, t.affinity = 0, 0
	}
	h := sha256.New()
	fmt.Fprintln(h, "2") // the number of the rules' form: a chain whose name stays is not written anew
	if affinity > 0 {    // remembers clients, so it is one virtual port's own
		fmt.Fprintln(h, k.network, k.addr, k.proto, k.port, affinity)
	}
	fmt.Fprintln(h, t.family.suffix, t.backends)
	if t.public {
		fmt.Fprintln(h, t.network, t.keepSource, t.restricted, t.sources)
	}
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
