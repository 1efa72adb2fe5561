package spd

import (
	"net/netip"
)

// splitAt is the number of candidates from which a bucket is split by local
// addresses.
const splitAt = 8

// maxLocalKeys bounds the local prefixes under which one policy is filed; one
// with more is filed under the whole family.
const maxLocalKeys = 16

// place is about a slot, and lies in the order's padding. Plain: the policy is
// the only one and matches every packet to the prefix whose other address has
// the first bits of the slot's local.
type place struct {
	plain bool
	bits  uint8
}

// order is the place of an entry in the SPD: priority, then age.
type order struct {
	no       uint64
	priority uint32
	place
}

func (a order) before(b order) bool {
	return a.priority < b.priority || a.priority == b.priority && a.no < b.no
}

// last is behind every place.
var last = order{priority: ^uint32(0), no: ^uint64(0)}

// match is the first policy that was found so far, none while pol is nil.
type match struct {
	pol *Policy
	at  order
}

// improves tells whether an entry at that place would be before the match.
func (m *match) improves(at order) bool { return m.pol == nil || at.before(m.at) }

// meta is what the slot of a prefix has beside addresses.
type meta struct {
	at  order // of the earliest of all: nothing here is before it
	box *box
}

// slot is the value of a prefix: one policy, or a bucket of several.
type slot struct {
	meta
	local wide // for IPv4 the low 32 bits
}

// box is what a slot leads to. A policy lies in it: look-ups touch that and not
// the rest of an entry.
type box struct {
	pol  Policy
	e    *entry  // whose policy it is
	more *bucket // in place of a policy: several
}

// bucket holds the policies of one prefix. It is immutable for readers; the
// transaction txn that made it may still change it.
type bucket struct {
	txn   uint64
	list  []*entry
	local *index // by local prefixes, instead of list when there are many
	n     int
}

func (e *entry) order() order { return order{priority: e.pol.Priority, no: e.no} }

// several is the slot of a bucket.
func several(at order, b *bucket) slot {
	at.plain, at.bits = false, 0
	return slot{meta: meta{at: at, box: &box{more: b}}}
}

// single is the slot of one policy under a remote prefix.
func single(e *entry, key netip.Prefix) slot {
	s := slot{meta: meta{at: e.order(), box: e.box}}
	if e.plain() && key == commonPrefix(e.pol.Remote[0].From, e.pol.Remote[0].To) {
		l := commonPrefix(e.pol.Local[0].From, e.pol.Local[0].To)
		s.at.plain, s.at.bits = true, uint8(l.Bits())
		if l.Addr().Is4() {
			s.local.lo = uint64(word4(l.Addr()))
		} else {
			s.local = words(l.Addr())
		}
	}
	return s
}

// pair is the slot of one policy under a pair of prefixes, in the index of the
// local ones.
func pair(e *entry, remote, local netip.Prefix) slot {
	s := slot{meta: meta{at: e.order(), box: e.box}}
	s.at.plain = e.plain() &&
		remote == commonPrefix(e.pol.Remote[0].From, e.pol.Remote[0].To) &&
		local == commonPrefix(e.pol.Local[0].From, e.pol.Local[0].To)
	return s
}

// plain tells whether the policy is about one prefix on each side, both of one
// family, in both directions, and nothing else.
func (e *entry) plain() bool {
	return e.pol.Dirs == Both && len(e.pol.Remote) == 1 && len(e.pol.Local) == 1 && e.pol.Remote[0].whole() && e.pol.Local[0].whole() &&
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

// lookup sets best to the first entry that matches f, if it is before best: of
// the entries under prefixes of key, an address of f; other is f's other one.
func (x *index) lookup(f *Flow, key, other netip.Addr, best *match) {
	switch {
	case key.Is4():
		x.lookup4(f, word4(key), other, best)
	case key.IsValid():
		x.lookup6(f, words(key), other, best)
	}
}

func (x *index) lookup4(f *Flow, key uint32, other netip.Addr, best *match) {
	if !other.Is4() {
		return // no selector is of two families
	}
	o := word4(other)
	for i := range x.v4 {
		t := &x.v4[i]
		if !best.improves(t.at) {
			continue
		}
		k := key & mask4(t.bits)
		c := t.find(x.hash4(k), k)
		switch {
		case c == nil || !best.improves(c.at):
		case !c.at.plain:
			c.box.lookup(f, c.at, best)
		case (o^c.local)>>(32-c.at.bits) == 0:
			best.pol, best.at = &c.box.pol, c.at
		}
	}
}

func (x *index) lookup6(f *Flow, key wide, other netip.Addr, best *match) {
	if !other.IsValid() || other.Is4() {
		return
	}
	o := words(other)
	for i := range x.v6 {
		t := &x.v6[i]
		if !best.improves(t.at) {
			continue
		}
		m := mask6(t.bits)
		k := wide{key.hi & m.hi, key.lo & m.lo}
		c := t.find(x.hash6(k), k)
		if c == nil || !best.improves(c.at) {
			continue
		}
		if !c.at.plain {
			c.box.lookup(f, c.at, best)
			continue
		}
		if m = mask6(c.at.bits); (o.hi^c.local.hi)&m.hi == 0 && (o.lo^c.local.lo)&m.lo == 0 {
			best.pol, best.at = &c.box.pol, c.at
		}
	}
}

// lookup is the look-up in what is not plain.
func (b *box) lookup(f *Flow, at order, best *match) {
	switch {
	case b.more == nil:
		if b.e.matches(f) {
			best.pol, best.at = &b.pol, at
		}
	case b.more.local == nil:
		best.first(b.more.list, f)
	default:
		b.more.local.lookup(f, f.Local, f.Remote, best)
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
	if !e.pol.Dirs.has(f) {
		return false
	}
	if len(e.pol.Remote) == 1 && len(e.pol.Local) == 1 {
		local, remote := f.sides()
		return e.ts[0].match(f.Remote, f.Proto, f.RemotePort, remote) &&
			e.ts[1].match(f.Local, f.Proto, f.LocalPort, local) || e.ts[1].Proto != 0 && f.matchApart(&e.ts[1], &e.ts[0])
	}
	return f.Match(e.pol.Local, e.pol.Remote)
}

// has tells whether packets of that direction are looked up here.
func (d Dirs) has(f *Flow) bool {
	return d == Both || f.Inbound && d&Inbound != 0 || !f.Inbound && d&Outbound != 0
}
