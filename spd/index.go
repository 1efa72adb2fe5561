package spd

import (
	"encoding/binary"
	"hash/maphash"
	"math/bits"
	"net/netip"
)

// index finds the slot of a prefix. For each family and prefix length it has a
// hash table of flat pages, so that a look-up touches one line of memory per
// length that occurs. It is immutable for readers: the transaction that made a
// part may change it, every other one copies that part first.
type index struct {
	seed [2]uint64
	txn  uint64
	n    int
	v4   []hashed[uint32]
	v6   []hashed[wide]
}

// wide is an IPv6 address.
type wide struct{ hi, lo uint64 }

// newIndex makes an empty index. Peers may choose addresses, so that the hash
// depends on a seed that they do not know.
func newIndex(txn uint64) *index {
	s := maphash.MakeSeed()
	return &index{txn: txn, seed: [2]uint64{maphash.String(s, "a"), maphash.String(s, "b") | 1}}
}

// own is the index, or a copy of it that transaction txn may change.
func (x *index) own(txn uint64) *index {
	if x.txn == txn {
		return x
	}
	c := *x
	c.txn, c.v4, c.v6 = txn, append([]hashed[uint32](nil), x.v4...), append([]hashed[wide](nil), x.v6...)
	return &c
}

func mix(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func (x *index) hash4(k uint32) uint64 { return mix(uint64(k)^x.seed[0], x.seed[1]) }

func (x *index) hash6(k wide) uint64 {
	return mix(mix(k.hi^x.seed[0], x.seed[1])^k.lo, x.seed[1])
}

func mask4(bits uint8) uint32 { return ^uint32(0) << (32 - bits) }

func mask6(bits uint8) wide {
	if bits <= 64 {
		return wide{hi: ^uint64(0) << (64 - bits)}
	}
	return wide{^uint64(0), ^uint64(0) << (128 - bits)}
}

func word4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func words(a netip.Addr) wide {
	b := a.As16()
	return wide{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// get is the slot of exactly p.
func (x *index) get(p netip.Prefix) (slot, bool) {
	if p.Addr().Is4() {
		if c := get(x.v4, uint8(p.Bits()), word4(p.Addr()), x.hash4); c != nil {
			return slot{meta: c.meta, local: wide{lo: uint64(c.local)}}, true
		}
	} else if c := get(x.v6, uint8(p.Bits()), words(p.Addr()), x.hash6); c != nil {
		return slot{meta: c.meta, local: c.local}, true
	}
	return slot{}, false
}

// set stores the slot of p. The index must be the caller's own.
func (x *index) set(p netip.Prefix, s slot) {
	var added bool
	if p.Addr().Is4() {
		added = set(&x.v4, uint8(p.Bits()), x.txn, cell[uint32]{word4(p.Addr()), uint32(s.local.lo), s.meta}, x.hash4)
	} else {
		added = set(&x.v6, uint8(p.Bits()), x.txn, cell[wide]{words(p.Addr()), s.local, s.meta}, x.hash6)
	}
	if added {
		x.n++
	}
}

// unset forgets p. The index must be the caller's own.
func (x *index) unset(p netip.Prefix) {
	var gone bool
	if p.Addr().Is4() {
		gone = unset(&x.v4, uint8(p.Bits()), x.txn, word4(p.Addr()), x.hash4)
	} else {
		gone = unset(&x.v6, uint8(p.Bits()), x.txn, words(p.Addr()), x.hash6)
	}
	if gone {
		x.n--
	}
}
