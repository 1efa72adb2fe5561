package spd

import (
	"cmp"
	"net/netip"
	"slices"
)

// Minimize removes selectors that another one of the list covers, and keeps the
// order. The input stays as it is.
func Minimize(list []TS) []TS {
	out := make([]TS, 0, len(list))
	for i, t := range list {
		covered := false
		for j, u := range list {
			// Of two equal ones the first stays.
			if i != j && u.Covers(t) && (u != t || j < i) {
				covered = true
				break
			}
		}
		if !covered {
			out = append(out, t)
		}
	}
	return out
}

// IntersectLists is the traffic that both lists have, minimized, in the order
// of b. Nil: none.
func IntersectLists(a, b []TS) []TS {
	var all []TS
	for _, u := range b {
		for _, t := range a {
			if r, ok := Intersect(t, u); ok {
				all = append(all, r)
			}
		}
	}
	if all == nil {
		return nil
	}
	return Minimize(all)
}

// Narrow is the responder's choice for one side (RFC 7296, Section 2.9): all
// traffic that the policy allows of what was offered. The part that has the
// initiator's first choice, which may be the values of its packet, comes first
// when the policy allows it. Nil: TS_UNACCEPTABLE.
func Narrow(policy, offered []TS) []TS {
	out := IntersectLists(policy, offered)
	if len(out) < 2 {
		return out
	}
	first := IntersectLists(policy, offered[:1])
	if first == nil {
		return out
	}
	if i := slices.IndexFunc(out, func(t TS) bool { return t.Covers(first[0]) }); i > 0 {
		f := out[i]
		out = slices.Insert(slices.Delete(out, i, i+1), 0, f)
	}
	return out
}

// Subset tells whether all traffic of sub is traffic of the list super, which
// an initiator checks of the responder's answer (RFC 7296, Section 2.9). Ranges
// of super may join to cover one of sub. An empty sub is no subset: an answer
// selects something.
func Subset(sub, super []TS) bool {
	for _, t := range sub {
		if !coveredBy(t, super) {
			return false
		}
	}
	return len(sub) > 0
}

// coveredBy sweeps the address range of t through the selectors that have its
// protocol and ports whole.
func coveredBy(t TS, super []TS) bool {
	parts := make([]TS, 0, len(super))
	for _, s := range super {
		if r, ok := Intersect(s, t); ok && r.Proto == t.Proto && r.PortFrom == t.PortFrom && r.PortTo == t.PortTo {
			parts = append(parts, r)
		}
	}
	slices.SortFunc(parts, func(a, b TS) int { return a.From.Compare(b.From) })
	next := t.From
	for _, p := range parts {
		if next.Less(p.From) {
			return false
		}
		if !p.To.Less(t.To) {
			return true
		}
		if !p.To.Less(next) {
			next = p.To.Next()
		}
	}
	return false
}

// Resolve replaces the dynamic selectors of a list by one for each address,
// with their protocol and ports, and minimizes. The input stays as it is.
func Resolve(list []TS, addrs ...netip.Addr) []TS {
	out := make([]TS, 0, len(list))
	for _, t := range list {
		if !t.Dynamic() {
			out = append(out, t)
			continue
		}
		for _, a := range addrs {
			h := Host(a)
			h.Proto, h.PortFrom, h.PortTo = t.Proto, t.PortFrom, t.PortTo
			out = append(out, h)
		}
	}
	return Minimize(out)
}

// AllHosts tells whether every selector is a single address, as transport mode
// needs (RFC 4301, Section 4.1).
func AllHosts(list []TS) bool {
	for _, t := range list {
		if !t.IsHost() {
			return false
		}
	}
	return len(list) > 0
}

// AppendPrefixes appends the fewest prefixes that make up the address range of
// t, in rising order; protocol and ports do not count. A dynamic selector has
// none.
func (t TS) AppendPrefixes(dst []netip.Prefix) []netip.Prefix {
	if t.Dynamic() || t.To.Less(t.From) {
		return dst
	}
	for from := t.From; ; {
		// The widest prefix that starts here and does not pass the end.
		p := netip.PrefixFrom(from, from.BitLen())
		for p.Bits() > 0 {
			w := netip.PrefixFrom(from, p.Bits()-1)
			if w.Masked().Addr() != from || t.To.Less(lastAddr(w)) {
				break
			}
			p = w
		}
		dst = append(dst, p)
		last := lastAddr(p)
		if last == t.To {
			return dst
		}
		from = last.Next()
	}
}

// Prefixes is the union of the ranges of a list as prefixes, without doubles,
// sorted; routes are made of it.
func Prefixes(list []TS) []netip.Prefix {
	var out []netip.Prefix
	for _, t := range list {
		out = t.AppendPrefixes(out)
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	kept := out[:0]
	for _, p := range out {
		if n := len(kept); n > 0 && kept[n-1].Contains(p.Addr()) {
			continue
		}
		kept = append(kept, p)
	}
	return kept
}

// lastAddr is the highest address of p.
func lastAddr(p netip.Prefix) netip.Addr {
	if p.Addr().Is4() {
		b := p.Addr().As4()
		setHostBits(b[:], p.Bits())
		return netip.AddrFrom4(b)
	}
	b := p.Addr().As16()
	setHostBits(b[:], p.Bits())
	return netip.AddrFrom16(b)
}

func setHostBits(b []byte, bits int) {
	for i := range b {
		switch n := bits - 8*i; {
		case n <= 0:
			b[i] = 0xff
		case n < 8:
			b[i] |= 0xff >> n
		}
	}
}

// commonPrefix is the narrowest prefix that has both addresses.
func commonPrefix(a, b netip.Addr) netip.Prefix {
	x, y := a.As16(), b.As16()
	n := 0
	for n < 128 && (x[n/8]^y[n/8])&(0x80>>(n%8)) == 0 {
		n++
	}
	if a.Is4() {
		n -= 96
	}
	return netip.PrefixFrom(a, n).Masked()
}
