package spd

import (
	"net/netip"
	"slices"
)

// tx is one Apply: it makes new nodes next to those that readers still use, and
// changes in place only what it made itself.
type tx struct {
	id     uint64
	remote *index // its own
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
	c.txn, c.list = x.id, slices.Clone(b.list)
	if c.local != nil {
		c.local = c.local.own(x.id)
	}
	return &c
}

func (x *tx) put(p netip.Prefix, local []netip.Prefix, e *entry) {
	s, ok := x.remote.get(p)
	if !ok {
		x.remote.set(p, single(e, p))
		return
	}
	b := s.box.more
	if b == nil {
		b = &bucket{txn: x.id, list: []*entry{s.box.e}, n: 1}
	}
	b = x.own(b)
	b.n++
	if at := e.order(); at.before(s.at) {
		s.at = at
	}
	if b.local != nil {
		x.putLocal(b, p, local, e)
	} else if b.list = insertSorted(b.list, e); len(b.list) > splitAt {
		x.split(b, p)
	}
	x.remote.set(p, several(s.at, b))
}

// split files the list of the bucket of a remote prefix by local prefixes.
func (x *tx) split(b *bucket, remote netip.Prefix) {
	list := b.list
	b.list, b.local = nil, newIndex(x.id)
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
		s, ok := b.local.get(p)
		if !ok {
			b.local.set(p, pair(e, remote, p))
			continue
		}
		l := s.box.more
		if l == nil {
			l = &bucket{txn: x.id, list: []*entry{s.box.e}, n: 1}
		}
		l = x.own(l)
		l.list = insertSorted(l.list, e)
		l.n++
		b.local.set(p, several(l.list[0].order(), l))
	}
}

func (x *tx) take(p netip.Prefix, local []netip.Prefix, e *entry) {
	s, ok := x.remote.get(p)
	if !ok {
		return
	}
	if s.box.more == nil || s.box.more.n == 1 {
		x.remote.unset(p)
		return
	}
	b := x.own(s.box.more)
	b.n--
	if b.local == nil {
		b.list = removeSorted(b.list, e)
		if b.n == 1 {
			x.remote.set(p, single(b.list[0], p))
		} else {
			x.remote.set(p, several(b.list[0].order(), b))
		}
		return
	}
	for _, lp := range local {
		s, ok := b.local.get(lp)
		switch {
		case !ok:
		case s.box.more == nil:
			b.local.unset(lp)
		default:
			l := x.own(s.box.more)
			l.list = removeSorted(l.list, e)
			if l.n--; l.n == 1 {
				b.local.set(lp, pair(l.list[0], p, lp))
			} else {
				b.local.set(lp, several(l.list[0].order(), l))
			}
		}
	}
	// The order stays: it is a bound, and looking for the new one would visit all.
	x.remote.set(p, several(s.at, b))
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
