package network

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A sandbox that is killed closes no connection, where the kernel closes those of a process: whoever has one to it, a pool or a client of HTTP/2 say,
// would find out by its own timeout. So where a Machine goes its flows are forgotten, and their peers are sent a segment that fits nothing. They
// answer with what they expect (RFC 9293, 3.10.7.4), towards an address that is nobody's now, and are refused with a reset that does fit.

// goneFlows matches the flows that Machines have had which are gone, and collects the peers of their connections.
type goneFlows struct {
	addrs map[netip.Addr]bool
	peers *[]peer
}

// peer is the other side of a TCP connection, and who it believes to speak with.
type peer struct{ at, with netip.AddrPort }

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (g goneFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	client, server := addrPort(f.Forward.SrcIP, f.Forward.SrcPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)
	if !g.addrs[client.Addr()] && !g.addrs[server.Addr()] {
		return false
	}
	if tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP); !ok || !isOpen(tcp.State) {
		return true
	}
	if !g.addrs[client.Addr()] {
		*g.peers = append(*g.peers, peer{client, addrPort(f.Forward.DstIP, f.Forward.DstPort)})
	}
	if !g.addrs[server.Addr()] {
		*g.peers = append(*g.peers, peer{server, addrPort(f.Reverse.DstIP, f.Reverse.DstPort)})
	}
	return true
}

// isOpen says whether a peer still waits for something in a state of linux/netfilter/nf_conntrack_tcp.h.
func isOpen(state uint8) bool {
	const established, finWait, closeWait = 3, 4, 5
	return state == established || state == finWait || state == closeWait
}

// endFlows ends the flows of addresses whose Machine has gone from them. What goes wrong changes nothing: flows end by their own timeouts.
func (n *Network) endFlows(gone ...netip.Addr) {
	for _, f := range families() {
		flows := goneFlows{addrs: map[netip.Addr]bool{}, peers: new([]peer)}
		for _, a := range gone {
			if a.IsValid() && familyOf(a) == f {
				flows.addrs[a] = true
			}
		}
		if len(flows.addrs) == 0 {
			continue
		}
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f.netlink), flows)
		if err = errors.Join(err, disturb(f, *flows.peers)); err != nil {
			n.log.Warn("cannot end connections to machines that are gone", "error", err)
		}
	}
}

// disturb sends each peer the segment. It need not reach all.
func disturb(f family, peers []peer) error {
	if len(peers) == 0 {
		return nil
	}
	s, err := unix.Socket(f.netlink, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_RAW) // with the header in what is sent
	if err != nil {
		return err
	}
	defer unix.Close(s)
	var errs []error
	for _, p := range peers {
		var to unix.Sockaddr = &unix.SockaddrInet6{Addr: p.at.Addr().As16()}
		if p.at.Addr().Is4() {
			to = &unix.SockaddrInet4{Addr: p.at.Addr().As4()}
		}
		errs = append(errs, unix.Sendto(s, bareSegment(p.with, p.at), 0, to))
	}
	return errors.Join(errs...)
}

// bareSegment is an IP packet with a TCP segment that acknowledges nothing in particular and has no data.
func bareSegment(from, to netip.AddrPort) []byte {
	const (
		size   = 20
		offset = size / 4 << 4
		ack    = 1 << 4
		ttl    = 64
	)
	tcp := binary.BigEndian.AppendUint16(nil, from.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, to.Port())
	tcp = append(tcp, make([]byte, 8)...) // sequence and acknowledgement numbers
	tcp = append(tcp, offset, ack, 0, 0, 0, 0, 0, 0)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append(append([]byte{}, src...), dst...), 0, unix.IPPROTO_TCP, 0, size)
	binary.BigEndian.PutUint16(tcp[16:], ^sum16(append(pseudo, tcp...)))
	if from.Addr().Is4() { // the kernel adds length, identification and checksum
		ip := append([]byte{4<<4 | 5, 0, 0, 0, 0, 0, 0, 0, ttl, unix.IPPROTO_TCP, 0, 0}, src...)
		return append(append(ip, dst...), tcp...)
	}
	ip := append([]byte{6 << 4, 0, 0, 0, 0, size, unix.IPPROTO_TCP, ttl}, src...)
	return append(append(ip, dst...), tcp...)
}

// sum16 is the one's complement sum of RFC 1071 over an even number of bytes.
func sum16(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 0; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum>>16 > 0 {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
