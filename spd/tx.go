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
	remote *bart.Table[*bucket]
	owned  bool // remote is a copy of its own
}

func (x *tx) set(p netip.Prefix, b *bucket) {
	if x.owned {
		x.remote.Insert(p, b)
	} else {
		x.remote = x.remote.InsertPersist(p, b)
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
	b, ok := x.remote.Get(p)
	if !ok {
		b = &bucket{txn: x.id}
		x.set(p, b)
	} else if o := x.own(b); o != b {
		b = o
		x.set(p, b)
	}
	b.n++
	if b.first == nil || e.before(b.first) {
		b.first = e
	}
	if b.local != nil {
		x.putLocal(b, local, e)
		return
	}
	b.list = insertSorted(b.list, e)
	if len(b.list) > splitAt {
		x.split(b, p.Addr().Is4())
	}
}

// split files the list of a bucket by local prefixes.
func (x *tx) split(b *bucket, is4 bool) {
	list := b.list
	b.list, b.local, b.ownLocal = nil, new(bart.Table[*leaf]), true
	for _, e := range list {
		local := keys(e.pol.Local, is4)
		if len(local) > maxLocalKeys {
			p, _ := local[0].Addr().Prefix(0)
			local = append(local[:0], p)
		}
		x.putLocal(b, local, e)
	}
}

func (x *tx) putLocal(b *bucket, local []netip.Prefix, e *entry) {
	for _, p := range local {
		l, ok := b.local.Get(p)
		if ok && l.txn == x.id {
			l.list = insertSorted(l.list, e)
			continue
		}
		n := &leaf{txn: x.id}
		if ok {
			n.list = slices.Clone(l.list)
		}
		n.list = insertSorted(n.list, e)
		if b.ownLocal {
			b.local.Insert(p, n)
		} else {
			b.local = b.local.InsertPersist(p, n)
		}
	}
}

func (x *tx) take(p netip.Prefix, local []netip.Prefix, e *entry) {
	b, ok := x.remote.Get(p)
	if !ok {
		return
	}
	if b.n == 1 {
		x.unset(p)
		return
	}
	if o := x.own(b); o != b {
		b = o
		x.set(p, b)
	}
	b.n--
	if b.local == nil {
		b.list = removeSorted(b.list, e)
		b.first = b.list[0]
		return
	}
	for _, lp := range local {
		l, ok := b.local.Get(lp)
		switch {
		case !ok:
		case len(l.list) == 1:
			// Persistent even in an own table: rare within one transaction.
			b.local = b.local.DeletePersist(lp)
		case l.txn == x.id:
			l.list = removeSorted(l.list, e)
		default:
			b.local = b.local.InsertPersist(lp, &leaf{txn: x.id, list: removeSorted(slices.Clone(l.list), e)})
		}
	}
	// first stays: it is a bound, and looking for the new one would visit all.
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
