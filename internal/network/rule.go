package network

import (
	"bytes"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6 in rules.
type family struct {
	suffix       string // of the names of sets
	netlink      int    // AF_INET or AF_INET6
	nfproto      byte
	words        uint32 // of 32 bits in an address
	saddr, daddr uint32 // where the addresses are in the header
	addr         nftables.SetDatatype
}

func families() [2]family {
	return [2]family{
		{suffix: "4", netlink: unix.AF_INET, nfproto: unix.NFPROTO_IPV4, words: 1, saddr: 12, daddr: 16, addr: nftables.TypeIPAddr},
		{suffix: "6", netlink: unix.AF_INET6, nfproto: unix.NFPROTO_IPV6, words: 4, saddr: 8, daddr: 24, addr: nftables.TypeIP6Addr},
	}
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families()[0]
	}
	return families()[1]
}

// reg is the n-th register of 32 bits.
func reg(n uint32) uint32 { return unix.NFT_REG32_00 + n }

// match joins parts of a rule.
func match(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func isFamily(f family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg(0)}, equal(0, []byte{f.nfproto})}
}

func equal(r uint32, data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg(r), Data: data}
}

func isProto(proto byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg(0)}, equal(0, []byte{proto})}
}

// isICMPType implies the protocol, so it must follow isProto.
func isICMPType(t byte) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: reg(0), Base: expr.PayloadBaseTransportHeader, Len: 1}, equal(0, []byte{t})}
}

// link matches packets whose incoming or outgoing (key) link's name begins so, or does not.
func link(key expr.MetaKey, prefix string, op expr.CmpOp) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: reg(0)}, &expr.Cmp{Op: op, Register: reg(0), Data: []byte(prefix)}}
}

func iif(r uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyIIF, Register: reg(r)} }

func header(r, offset, bytes uint32) expr.Any {
	return &expr.Payload{DestRegister: reg(r), Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: bytes}
}

func saddr(r uint32, f family) expr.Any { return header(r, f.saddr, 4*f.words) }
func daddr(r uint32, f family) expr.Any { return header(r, f.daddr, 4*f.words) }

// in looks up the key that begins in register 0.
func in(set string) expr.Any { return inAt(0, set) }

// inAt looks up the key that begins in register at.
func inAt(at uint32, set string) expr.Any { return &expr.Lookup{SourceRegister: reg(at), SetName: set} }

// key begins a key, or the data of an element, of so many registers, in register at, of which a map is to give a part. Whoever lists rules with the program nft or its library, as
// keepers of firewalls do, would find it ended by an assertion otherwise, in all versions up to now: it asks what wrote a key's registers for their
// lengths, and what a map gave has none for it (netlink_delinearize.c). Here these constants answer, which are overwritten from their second
// register on, and in the first by a map that began one register before.
func key(at, registers uint32, begin ...byte) (constants []expr.Any) {
	const most = 16 // bytes of a constant
	for data := append(begin, make([]byte, int(4*registers)-len(begin))...); len(data) > 0; at += most / 4 {
		n := min(len(data), most)
		constants = append(constants, &expr.Immediate{Register: reg(at), Data: data[:n]})
		data = data[n:]
	}
	return constants
}

// moved copies so many registers from register from on to those from to on, as a whole, so that what was a constant for nft is one there.
func moved(from, to, registers uint32) (all []expr.Any) {
	const most = 4 // registers at once
	for ; registers > 0; from, to = from+most, to+most {
		n := min(registers, most)
		all = append(all, &expr.Bitwise{SourceRegister: reg(from), DestRegister: reg(to), Len: 4 * n, Mask: bytes.Repeat([]byte{0xff}, int(4*n)), Xor: make([]byte, 4*n)})
		registers -= n
	}
	return all
}

// networkOfLink begins a key in register 1 with the network of the incoming link. It is to have more registers behind those two.
func (n *Network) networkOfLink(more uint32) []expr.Any {
	return append(key(1, 2+more), iif(0), lookup(n.set(setLinks, family{}), 0, 0))
}

// lookup puts what a map has for the key in register from into registers from to on.
func lookup(m *nftables.Set, from, to uint32) expr.Any {
	return &expr.Lookup{SourceRegister: reg(from), DestRegister: reg(to), IsDestRegSet: true, SetName: m.Name, SetID: m.ID}
}

// vmap goes where a verdict map has it for the key that begins in register at.
func vmap(at uint32, name string) expr.Any {
	return &expr.Lookup{SourceRegister: reg(at), DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: name}
}

// within matches an address that begins at offset and is, or is not, in the prefix.
func within(offset uint32, p netip.Prefix, op expr.CmpOp) []expr.Any {
	b := p.Masked().Addr().AsSlice()
	size := uint32(len(b))
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		header(0, offset, size),
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: reg(0), Data: b},
	}
}

// ctHas matches when a conntrack key has any of the bits.
func ctHas(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: make([]byte, 4)},
	}
}

func known() []expr.Any {
	return ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// Bits of linux/netfilter/nf_conntrack_common.h.
const (
	ipsSrcNAT = 1 << 4
	ipsDstNAT = 1 << 5
)

func translated() []expr.Any {
	return ctHas(expr.CtKeySTATUS, ipsDstNAT)
}

func untranslated() []expr.Any {
	is := translated()
	is[len(is)-1].(*expr.Cmp).Op = expr.CmpOpEq
	return is
}

// marked matches packets whose mark has the bit.
func marked(bit uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg(0)},
		&expr.Bitwise{SourceRegister: reg(0), DestRegister: reg(0), Len: 4, Mask: native32(bit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: make([]byte, 4)},
	}
}

func loopback(f family) netip.Prefix {
	if f.words == 1 {
		return netip.MustParsePrefix("127.0.0.0/8")
	}
	return netip.MustParsePrefix("::1/128")
}

// local matches destinations that are addresses of the host.
func local() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true}, equal(0, native32(unix.RTN_LOCAL))}
}

// notLocal matches destinations that are not addresses of the host.
func notLocal() []expr.Any {
	return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg(0), Data: native32(unix.RTN_LOCAL)}}
}

// toNobody matches destinations that the host's routes lead to lo, which the kernel makes a refusal for IPv6. It can be asked only before the
// decision (prerouting).
func toNobody(f family) []expr.Any {
	if f.words == 4 {
		return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, FlagPRESENT: true, ResultOIF: true}, equal(0, []byte{0})}
	}
	return []expr.Any{&expr.Fib{Register: reg(0), FlagDADDR: true, ResultOIFNAME: true}, equal(0, []byte("lo\x00"))}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }
func goTo(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}
