package network

import (
	"encoding/binary"
	"net"
	"net/netip"

	"gondola"
)

// Plan computes every address of a fleet from small numbers, so that two workers never have to ask each other. It is pure.
//
// IPv4 addresses come from Range: worker n owns its n-th /20 (the first one, number 0, stays unused) and Machine m of it the m-th address
// in there. The last /20 is for addresses on hosts: the gateway, one address per cluster and one per virtual node, the same on every host
// that has them.
//
// IPv6 addresses follow 6PN: fdaa (16 bits), network id (32), worker (32), Machine (32), 2 (16), so a /112 is free for each Machine. The
// upper half of the worker's field is zero for the default Range and the beginning of Range otherwise, which keeps two instances on one
// machine apart. Network ids from 0xfffe0000 on are not given to networks: host addresses are in fdaa:ffff:0:<tag>::/64, Service ranges in
// fdaa:fffe:0:<tag>::/64.
type Plan struct {
	Range netip.Prefix // IPv4, /8 to /16. If zero, 10.64.0.0/10.
}

// DefaultRange is where Machines get their IPv4 addresses. It is not 100.64.0.0/10, which Tailscale drops.
func DefaultRange() netip.Prefix { return netip.MustParsePrefix("10.64.0.0/10") }

// SixPN is the range of all 6PN addresses.
func SixPN() netip.Prefix { return netip.MustParsePrefix("fdaa::/16") }

const (
	workerBits      = 20                     // prefix length of a worker's block
	blockSize       = 1 << (32 - workerBits) // addresses in it
	clusterSize     = 64                     // host addresses of a cluster: its own, then its nodes'
	reservedNetwork = 0xfffe0000             // the first network id that no network gets
)

// Limits of a Plan.
const (
	MaxMachines = blockSize - 2             // of a worker
	MaxClusters = blockSize/clusterSize - 1 // of a fleet
	MaxNodes    = clusterSize - 1           // of a cluster
)

// Validate returns an ErrInvalid that says what is wrong with the Range, or nil.
func (p Plan) Validate() error {
	r := p.prefix()
	if !r.Addr().Is4() || r.Bits() < 8 || r.Bits() > 16 {
		return gondola.Errorf(gondola.ErrInvalid, "address range %s: want an IPv4 range of /8 to /16, such as %s", r, DefaultRange())
	}
	if r.Masked() != r {
		return gondola.Errorf(gondola.ErrInvalid, "address range %s has host bits set; %s is meant?", r, r.Masked())
	}
	return nil
}

// MaxWorkers is how many workers the Range has room for.
func (p Plan) MaxWorkers() int { return 1<<(workerBits-p.prefix().Bits()) - 2 }

// Machine returns the addresses of Machine number (from 1) of a worker (from 1) in a network.
func (p Plan) Machine(worker, number uint16, networkID uint32) (v4, v6 netip.Addr, err error) {
	if err := p.Validate(); err != nil {
		return v4, v6, err
	}
	if worker == 0 || int(worker) > p.MaxWorkers() {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "worker number %d: range %s has room for workers 1 to %d", worker, p.prefix(), p.MaxWorkers())
	}
	if number == 0 || number > MaxMachines {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "Machine number %d: a worker has room for Machines 1 to %d", number, MaxMachines)
	}
	if networkID >= reservedNetwork {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "network id %#x is reserved; use one below %#x", networkID, reservedNetwork)
	}
	b := sixPN(networkID)
	binary.BigEndian.PutUint16(b[6:], p.tag())
	binary.BigEndian.PutUint16(b[8:], worker)
	binary.BigEndian.PutUint16(b[12:], number)
	b[15] = 2
	return p.v4(int(worker)*blockSize + int(number)), netip.AddrFrom16(b), nil
}

// Gateway returns the addresses under which Machines see their host: the source of its probes and of what it masquerades to them.
func (p Plan) Gateway() (v4, v6 netip.Addr) { return p.host(0, 1) }

// ClusterAddress returns the addresses of cluster k (from 1): its API server and DNS.
func (p Plan) ClusterAddress(k int) (v4, v6 netip.Addr, err error) {
	if k < 1 || k > MaxClusters {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "cluster number %d: there is room for clusters 1 to %d", k, MaxClusters)
	}
	v4, v6 = p.host(k, 0)
	return v4, v6, nil
}

// NodeAddress returns the addresses of virtual node i (from 1) of cluster k (from 1): its InternalIP and kubelet API.
func (p Plan) NodeAddress(k, i int) (v4, v6 netip.Addr, err error) {
	if _, _, err = p.ClusterAddress(k); err != nil {
		return v4, v6, err
	}
	if i < 1 || i > MaxNodes {
		return v4, v6, gondola.Errorf(gondola.ErrInvalid, "node number %d: a cluster has room for nodes 1 to %d", i, MaxNodes)
	}
	v4, v6 = p.host(k, i)
	return v4, v6, nil
}

// ServiceRange returns the Kubernetes Service ranges of cluster k (from 1): 10.43.0.0/16, 10.44.0.0/16 and so on, without those that
// overlap the Range, and a /112 each.
func (p Plan) ServiceRange(k int) (v4, v6 netip.Prefix, err error) {
	n := k
	for second := 43; second < 256 && n > 0; second++ {
		v4 = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(second)}), 16)
		if !v4.Overlaps(p.prefix()) {
			n--
		}
	}
	if k < 1 || n > 0 || k > MaxClusters {
		return netip.Prefix{}, v6, gondola.Errorf(gondola.ErrInvalid, "cluster number %d: no Service range is left for it", k)
	}
	b := sixPN(0xfffe0000)
	binary.BigEndian.PutUint16(b[6:], p.tag())
	binary.BigEndian.PutUint16(b[12:], uint16(k))
	return v4, netip.PrefixFrom(netip.AddrFrom16(b), 112), nil
}

// HostRanges are the ranges that host addresses (gateway, clusters, nodes) come from.
func (p Plan) HostRanges() (v4, v6 netip.Prefix) {
	b := sixPN(0xffff0000)
	binary.BigEndian.PutUint16(b[6:], p.tag())
	return netip.PrefixFrom(p.v4((p.MaxWorkers()+1)*blockSize), workerBits), netip.PrefixFrom(netip.AddrFrom16(b), 64)
}

// MAC returns the hardware address of a Machine's interface: a locally administered one that its numbers determine, so that a network made
// anew looks the same to whoever remembers the old one.
func MAC(worker, number uint16) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0x60, byte(worker >> 8), byte(worker), byte(number >> 8), byte(number)}
}

func (p Plan) prefix() netip.Prefix {
	if p.Range == (netip.Prefix{}) {
		return DefaultRange()
	}
	return p.Range
}

// tag tells instances with different Ranges apart in IPv6 addresses.
func (p Plan) tag() uint16 {
	if p.prefix() == DefaultRange() {
		return 0
	}
	b := p.prefix().Addr().As4()
	return binary.BigEndian.Uint16(b[:])
}

func (p Plan) v4(offset int) netip.Addr {
	b := p.prefix().Addr().As4()
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+uint32(offset))
	return netip.AddrFrom4(b)
}

func (p Plan) host(k, i int) (v4, v6 netip.Addr) {
	_, six := p.HostRanges()
	b := six.Addr().As16()
	binary.BigEndian.PutUint16(b[12:], uint16(k))
	binary.BigEndian.PutUint16(b[14:], uint16(i+1)) // never ::0, the subnet-router anycast address
	return p.v4((p.MaxWorkers()+1)*blockSize + k*clusterSize + i), netip.AddrFrom16(b)
}

func sixPN(networkID uint32) (b [16]byte) {
	b[0], b[1] = 0xfd, 0xaa
	binary.BigEndian.PutUint32(b[2:], networkID)
	return b
}
