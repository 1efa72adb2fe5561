package spd

import (
	"encoding/binary"
	"net/netip"

	"github.com/gaissmai/bart"
)

// splitAt is the number of candidates from which a bucket is split by local
// addresses.
const splitAt = 8

// maxLocalKeys bounds the local prefixes under which one policy is filed; one
// with more is filed under the whole family.
const maxLocalKeys = 16

// order is the place of an entry in the SPD: priority, then age.
type order struct {
	priority uint32
	no       uint64
}

func (a order) before(b order) bool {
	return a.priority < b.priority || a.priority == b.priority && a.no < b.no
}

// match is the first policy that was found so far, none while pol is nil.
type match struct {
	pol *Policy
	at  order
}

// improves tells whether an entry at that place would be before the match.
func (m *match) improves(at order) bool { return m.pol == nil || at.before(m.at) }

// slot is the value of the trie of remote prefixes: one policy, or a bucket of
// several.
type slot struct {
	first *entry  // the earliest of all: nothing here is before it
	pol   *Policy // of first, when it is the only one
	at    order   // of first
	// plain: first is the only one and matches every packet to this prefix whose
	// local address lies in the prefix of hi, lo and bits.
	plain  bool
	bits   uint8 // of 128, for IPv4 too
	hi, lo uint64
	more   *bucket // nil: first is the only one
}

// bucket holds the policies of one remote prefix. It is immutable for readers;
// the transaction txn that made it may still change it.
type bucket struct {
	txn   uint64
	list  []*entry
	local *bart.Table[leaf] // instead of list when there are many
	n     int
	// ownLocal: local was made by transaction txn, no reader has it.
	ownLocal bool
}

// leaf is the value of a trie of local prefixes: the policies of one pair of
// remote and local prefix.
type leaf struct {
	first *entry
	pol   *Policy // of first
	at    order
	plain bool     // first is the only one and matches all packets of the pair
	list  []*entry // nil: first is the only one
	txn   uint64   // that made list
}

func (e *entry) order() order { return order{e.pol.Priority, e.no} }

// single is the slot of one policy under a remote prefix.
func single(e *entry, key netip.Prefix) slot {
	s := slot{first: e, pol: e.pol, at: e.order()}
	if e.plain() && key == commonPrefix(e.pol.Remote[0].From, e.pol.Remote[0].To) {
		l := commonPrefix(e.pol.Local[0].From, e.pol.Local[0].To)
		s.plain, s.bits = true, uint8(l.Bits())
		if l.Addr().Is4() {
			s.bits += 96
		}
		s.hi, s.lo = words(l.Addr())
	}
	return s
}

// pair is the leaf of one policy under a pair of prefixes.
func pair(e *entry, remote, local netip.Prefix) leaf {
	return leaf{first: e, pol: e.pol, at: e.order(), plain: e.plain() &&
		remote == commonPrefix(e.pol.Remote[0].From, e.pol.Remote[0].To) &&
		local == commonPrefix(e.pol.Local[0].From, e.pol.Local[0].To)}
}

// plain tells whether the policy is about one prefix on each side, both of one
// family, and nothing else.
func (e *entry) plain() bool {
	return len(e.pol.Remote) == 1 && len(e.pol.Local) == 1 && e.pol.Remote[0].whole() && e.pol.Local[0].whole() &&
		e.pol.Remote[0].Is4() == e.pol.Local[0].Is4()
}

// whole tells whether a selector is a prefix with all protocols and ports.
func (t *TS) whole() bool {
	if t.Proto != 0 || !t.AnyPort() {
		return false
	}
	p := commonPrefix(t.From, t.To)
	return p.Addr() == t.From && lastAddr(p) == t.To
}

// words are the 128 bits of an address, IPv4 as IPv4-mapped.
func words(a netip.Addr) (hi, lo uint64) {
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// local tells whether an address lies in the local prefix of a plain slot.
func (s *slot) local(hi, lo uint64) bool {
	if s.bits <= 64 {
		return (hi^s.hi)>>(64-s.bits) == 0
	}
	return hi == s.hi && (lo^s.lo)>>(128-s.bits) == 0
}

// lookup sets best to the first entry that matches f, if it is before best. hi
// and lo are the local address.
func (s *slot) lookup(f *Flow, hi, lo uint64, best *match) {
	if !best.improves(s.at) {
		return
	}
	switch {
	case s.more == nil:
		if s.plain && f.Local.BitLen() == f.Remote.BitLen() && s.local(hi, lo) || !s.plain && s.first.matches(f) {
			best.pol, best.at = s.pol, s.at
		}
	case s.more.local == nil:
		best.first(s.more.list, f)
	default:
		s.more.lookup(f, best)
	}
}

func (b *bucket) lookup(f *Flow, best *match) {
	p, err := f.Local.Prefix(f.Local.BitLen())
	for err == nil {
		lpm, l, ok := b.local.LookupPrefixLPM(p)
		if !ok {
			return
		}
		switch {
		case !best.improves(l.at):
		case l.list != nil:
			best.first(l.list, f)
		case l.plain || l.first.matches(f):
			best.pol, best.at = l.pol, l.at
		}
		if lpm.Bits() == 0 {
			return
		}
		p, err = f.Local.Prefix(lpm.Bits() - 1)
	}
}

// first takes the first entry of a sorted list that matches, if it is before m.
func (m *match) first(list []*entry, f *Flow) {
	for _, e := range list {
		if !m.improves(e.order()) {
			return
		}
		if e.matches(f) {
			m.pol, m.at = e.pol, e.order()
			return
		}
	}
}

func (e *entry) matches(f *Flow) bool {
	if len(e.pol.Remote) == 1 && len(e.pol.Local) == 1 {
		return e.ts[0].match(f.Remote, f.Proto, f.RemotePort, f.HasPorts) &&
			e.ts[1].match(f.Local, f.Proto, f.LocalPort, f.HasPorts)
	}
	return f.Match(e.pol.Local, e.pol.Remote)
}
