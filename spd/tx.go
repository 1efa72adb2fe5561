package spd

import (
	"net/netip"
	"slices"

	"github.com/gaissmai/bart"
)

// tx is one Apply: it makes new nodes next to those that readers still use, and
// changes in place only what it made itself.
type tx struct {
	id     uint64
	remote *bart.Table[slot]
	owned  bool // remote is a copy of its own
}

func (x *tx) set(p netip.Prefix, s slot) {
	if x.owned {
		x.remote.Insert(p, s)
	} else {
		x.remote = x.remote.InsertPersist(p, s)
	}
}

func (x *tx) unset(p netip.Prefix) {
	if x.owned {
		x.remote.Delete(p)
	} else {
		x.remote = x.remote.DeletePersist(p)
	}
}

func (x *tx) insert(e *entry) { x.each(e, x.put) }
func (x *tx) remove(e *entry) { x.each(e, x.take) }

// each calls f for every remote prefix of the policy, families apart: a packet
// is of one family on both sides.
func (x *tx) each(e *entry, f func(p netip.Prefix, local []netip.Prefix, e *entry)) {
	for _, is4 := range [...]bool{true, false} {
		local := keys(e.pol.Local, is4)
		if len(local) == 0 {
			continue
		}
		if len(local) > maxLocalKeys {
			p, _ := local[0].Addr().Prefix(0)
			local = append(local[:0], p)
		}
		for _, p := range keys(e.pol.Remote, is4) {
			f(p, local, e)
		}
	}
}

// own is b, or a copy of it that this transaction may change.
func (x *tx) own(b *bucket) *bucket {
	if b.txn == x.id {
		return b
	}
	c := *b
	// The local table is shared with b and changed persistently only.
	c.txn, c.list, c.ownLocal = x.id, slices.Clone(b.list), false
	return &c
}

func (x *tx) put(p netip.Prefix, local []netip.Prefix, e *entry) {
	s, ok := x.remote.Get(p)
	if !ok {
		x.set(p, single(e, p))
		return
	}
	b := s.more
	if b == nil {
		b = &bucket{txn: x.id, list: []*entry{s.first}, n: 1}
	}
	b = x.own(b)
	b.n++
	if at := e.order(); at.before(s.at) {
		s.first, s.at = e, at
	}
	if b.local != nil {
		x.putLocal(b, p, local, e)
	} else if b.list = insertSorted(b.list, e); len(b.list) > splitAt {
		x.split(b, p)
	}
	x.set(p, slot{first: s.first, at: s.at, more: b})
}

// split files the list of the bucket of a remote prefix by local prefixes.
func (x *tx) split(b *bucket, remote netip.Prefix) {
	list := b.list
	b.list, b.local, b.ownLocal = nil, new(bart.Table[leaf]), true
	for _, e := range list {
		local := keys(e.pol.Local, remote.Addr().Is4())
		if len(local) > maxLocalKeys {
			p, _ := local[0].Addr().Prefix(0)
			local = append(local[:0], p)
		}
		x.putLocal(b, remote, local, e)
	}
}

func (x *tx) putLocal(b *bucket, remote netip.Prefix, local []netip.Prefix, e *entry) {
	for _, p := range local {
		l, ok := b.local.Get(p)
		switch {
		case !ok:
			l = pair(e, remote, p)
		case l.list != nil && l.txn == x.id:
			l.list = insertSorted(l.list, e)
		case l.list != nil:
			l.list = insertSorted(slices.Clone(l.list), e)
		default:
			l.list = insertSorted([]*entry{l.first}, e)
		}
		if l.list != nil {
			l = leaf{first: l.list[0], at: l.list[0].order(), list: l.list, txn: x.id}
		}
		x.setLocal(b, p, l)
	}
}

func (x *tx) setLocal(b *bucket, p netip.Prefix, l leaf) {
	if b.ownLocal {
		b.local.Insert(p, l)
	} else {
		b.local = b.local.InsertPersist(p, l)
	}
}

func (x *tx) take(p netip.Prefix, local []netip.Prefix, e *entry) {
	s, ok := x.remote.Get(p)
	if !ok {
		return
	}
	if s.more == nil || s.more.n == 1 {
		x.unset(p)
		return
	}
	b := x.own(s.more)
	b.n--
	if b.local == nil {
		b.list = removeSorted(b.list, e)
		if b.n == 1 {
			x.set(p, single(b.list[0], p))
		} else {
			x.set(p, slot{first: b.list[0], at: b.list[0].order(), more: b})
		}
		return
	}
	for _, lp := range local {
		l, ok := b.local.Get(lp)
		switch {
		case !ok:
		case len(l.list) <= 1:
			// Persistent even in an own table: rare within one transaction.
			b.local = b.local.DeletePersist(lp)
		default:
			if l.txn != x.id {
				l.list = slices.Clone(l.list)
			}
			l.list = removeSorted(l.list, e)
			if len(l.list) == 1 {
				l = pair(l.list[0], p, lp)
			} else {
				l = leaf{first: l.list[0], at: l.list[0].order(), list: l.list, txn: x.id}
			}
			x.setLocal(b, lp, l)
		}
	}
	// first stays: it is a bound, and looking for the new one would visit all.
	x.set(p, slot{first: s.first, at: s.at, more: b})
}

func insertSorted(list []*entry, e *entry) []*entry {
	i, _ := slices.BinarySearchFunc(list, e, compare)
	return slices.Insert(list, i, e)
}

func removeSorted(list []*entry, e *entry) []*entry {
	if i, ok := slices.BinarySearchFunc(list, e, compare); ok {
		return slices.Delete(list, i, i+1)
	}
	return list
}
