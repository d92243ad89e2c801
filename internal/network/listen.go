package network

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// place is what a public port could be in the way of.
type place struct {
	n        *Network
	sockets  []socket
	foreign  []netip.Addr // the host's own addresses
	reserved map[uint16]string
	others   map[vipKey]string // public ports of other instances → their tables
}

// socket is a TCP socket that listens or a UDP socket that takes packets of anybody.
type socket struct {
	proto byte
	at    netip.AddrPort
	inode string
}

// survey looks at the host as it is now; n.mu must be held.
func (n *Network) survey() (*place, error) {
	p := &place{n: n, reserved: n.reserved}
	var err error
	if p.foreign, err = n.foreignAddresses(); err != nil {
		return nil, err
	}
	for _, file := range []struct {
		name  string
		proto byte
	}{{"tcp", unix.IPPROTO_TCP}, {"tcp6", unix.IPPROTO_TCP}, {"udp", unix.IPPROTO_UDP}, {"udp6", unix.IPPROTO_UDP}} {
		// Of the thread: another one may be in the namespace of a Machine.
		sockets, err := readSockets("/proc/thread-self/net/"+file.name, file.proto)
		if err != nil {
			return nil, fmt.Errorf("look for processes that listen: %w", err)
		}
		p.sockets = append(p.sockets, sockets...)
	}
	p.others, err = n.portsOfOthers()
	return p, err
}

// portsOfOthers reads which public ports the other instances on the host have.
func (n *Network) portsOfOthers() (map[vipKey]string, error) {
	names, err := n.otherInstances()
	if err != nil {
		return nil, err
	}
	all := map[vipKey]string{}
	for _, name := range names {
		for _, f := range families() {
			s := n.set(setVIPs, f)
			s.Table = &nftables.Table{Name: name, Family: n.table.Family}
			elements, err := reading().GetSetElements(s)
			if err != nil && !errors.Is(err, unix.ENOENT) { // it has just been removed
				return nil, fmt.Errorf("read nftables table %s: %w", name, err)
			}
			for _, e := range elements {
				if k, ok := vipKeyOf(e.Key); ok && k.network == world {
					all[k] = name
				}
			}
		}
	}
	return all, nil
}

// objection says why a public port cannot be opened; empty: it can.
func (p *place) objection(k vipKey) string {
	everywhere, pooled := k.addr.IsUnspecified(), p.n.inPool(k.addr)
	if everywhere {
		if why, ok := p.reserved[k.port]; ok {
			return why
		}
	} else if owner, ok := p.n.owners[k.addr]; ok {
		return "its address belongs to a service of network " + p.n.networkName(owner)
	} else if !pooled && !slices.Contains(p.foreign, k.addr) {
		return "its address is neither one of the host nor of a pool (gondola up --lb-pool)"
	}
	for o, table := range p.others {
		same := o.addr == k.addr || o.addr.Is4() == k.addr.Is4() && (everywhere || o.addr.IsUnspecified())
		if same && o.proto == k.proto && o.port == k.port {
			return "another gondola on this host has it (" + table + ")"
		}
	}
	own := pooled && !slices.Contains(p.foreign, k.addr) // nobody who listens on all addresses means this one
	for _, s := range p.sockets {
		if s.proto != k.proto || s.at.Port() != k.port {
			continue
		}
		if everywhere || s.at.Addr() == k.addr || s.at.Addr().IsUnspecified() && !own {
			return s.owner() + " listens on it"
		}
	}
	return ""
}

// readSockets reads a file such as /proc/net/tcp: "sl local_address rem_address st … inode …".
func readSockets(path string, proto byte) ([]socket, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const tcpListen, udpUnconnected = "0A", "07"
	var out []socket
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || (proto == unix.IPPROTO_TCP && fields[3] != tcpListen) || (proto == unix.IPPROTO_UDP && fields[3] != udpUnconnected) {
			continue
		}
		if at, ok := parseSocketAddress(fields[1]); ok {
			out = append(out, socket{proto, at, fields[9]})
		}
	}
	return out, nil
}

// parseSocketAddress reads "0100007F:1F90": words of the address as this machine has them in memory, then the port.
func parseSocketAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	p, err2 := strconv.ParseUint(port, 16, 16)
	if err != nil || err2 != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	if native32(1)[0] == 1 { // little endian
		for i := 0; i < len(b); i += 4 {
			slices.Reverse(b[i : i+4])
		}
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), ok
}

// owner names the process that has the socket.
func (s socket) owner() string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, l := range links {
		if to, err := os.Readlink(l); err != nil || to != "socket:["+s.inode+"]" {
			continue
		}
		pid := strings.Split(l, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		return fmt.Sprintf("process %s (%s)", strings.TrimSpace(string(name)), pid)
	}
	return "a process"
}
