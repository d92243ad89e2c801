package policy

import (
	"net/netip"
	"slices"
)

// rangeOf returns the ends of a prefix.
func rangeOf(p netip.Prefix) Range {
	if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
	}
	p = p.Masked()
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return Range{p.Addr(), last}
}

// without returns what is left of a prefix.
func without(p netip.Prefix, except []netip.Prefix) []Range {
	var holes []Range
	for _, e := range except {
		holes = append(holes, rangeOf(e))
	}
	left, whole := []Range{}, rangeOf(p)
	at := whole.First
	for _, h := range merge(holes) {
		if at.Less(h.First) {
			left = append(left, Range{at, h.First.Prev()})
		}
		if at = h.Last.Next(); !at.IsValid() {
			return left // the hole goes to the end of all addresses
		}
	}
	if at.Compare(whole.Last) <= 0 {
		left = append(left, Range{at, whole.Last})
	}
	return left
}

// merge sorts ranges and joins those that overlap or touch.
func merge(ranges []Range) (out []Range) {
	slices.SortFunc(ranges, compareRanges)
	for _, r := range ranges {
		if n := len(out); n > 0 && out[n-1].First.BitLen() == r.First.BitLen() {
			if last := &out[n-1].Last; r.First.Compare(*last) <= 0 || r.First == last.Next() {
				if last.Less(r.Last) {
					*last = r.Last
				}
				continue
			}
		}
		out = append(out, r)
	}
	return out
}

func mergeSpans(spans []Span) (out []Span) {
	slices.SortFunc(spans, compareSpans)
	for _, s := range spans {
		if n := len(out); n > 0 && int(s.First) <= int(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, s.Last)
			continue
		}
		out = append(out, s)
	}
	return out
}
