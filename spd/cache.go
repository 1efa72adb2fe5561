package spd

import (
	"hash/maphash"
	"net/netip"
)

// Cache remembers what the ordered look-up said about a flow, so that the next
// packet of the flow costs one place in memory whatever the size of the SPD (RFC
// 4301, Section 4.4.1). The key is the whole flow and not a prefix: an answer is
// the answer of the ordered list for exactly that flow, which needs no
// decorrelated entries. Answers of the default entry are remembered as well.
//
// Each answer belongs to one generation of the tables it was made from. The
// caller reads the generation before it looks up, and raises it after every
// change; what was stored under another one is never given back. Generations
// must not return to an earlier value.
//
// A Cache belongs to one worker and is not safe for concurrent use. It has a
// fixed size and does not allocate; what is pushed out is looked up again. Its
// pointers keep what they point to in memory until they are overwritten.
type Cache[V any] struct {
	seed [6]uint64
	sets uint64 // a power of two
	tags [][cacheWays]uint32
	slot []cached[V]
	hand uint64 // picks what is pushed out
}

// cached is an answer: one line of a processor cache.
type cached[V any] struct {
	key flowKey
	gen uint64 // 0: free
	pol *Policy
	v   *V
}

// flowKey is a flow without the pointers of its addresses. tail has the
// protocol, the ports, the direction and the families.
type flowKey struct {
	local, remote wide
	tail          uint64
}

// cacheWays is the number of slots in which a flow may be. Their tags lie side
// by side: a flow that is not there costs one place in memory, too.
const cacheWays = 4

// NewCache makes a cache for the answers about size flows, rounded up to a power
// of two. With as many flows as a quarter of it nearly all are found.
func NewCache[V any](size int) *Cache[V] {
	n := 1
	for n*cacheWays < size {
		n *= 2
	}
	c := &Cache[V]{sets: uint64(n), tags: make([][cacheWays]uint32, n), slot: make([]cached[V], n*cacheWays)}
	// Strangers choose addresses and ports, so that the hash depends on a seed
	// that they do not know.
	s := maphash.MakeSeed()
	for i := range c.seed {
		c.seed[i] = maphash.Comparable(s, i)
	}
	return c
}

// Get is what Put stored for the flow under the same generation: the policy, and
// what its user stored beside it. Generation 0 has nothing.
func (c *Cache[V]) Get(f *Flow, gen uint64) (p *Policy, v *V, ok bool) {
	var k flowKey
	if !k.set(f) || gen == 0 {
		return nil, nil, false
	}
	h := c.hash(&k)
	set, want := h&(c.sets-1), tagOf(h, gen)
	for i, t := range &c.tags[set] {
		if t != want {
			continue
		}
		if s := &c.slot[set*cacheWays+uint64(i)]; s.gen == gen && s.key.equal(&k) {
			return s.pol, s.v, true
		}
	}
	return nil, nil, false
}

// tagOf has bits of the hash that do not choose the set, and of the generation.
func tagOf(h, gen uint64) uint32 { return uint32(h>>40)<<8 | uint32(uint8(gen)) }

// Put stores an answer that was looked up after gen was read, for a flow that
// Get did not find.
func (c *Cache[V]) Put(f *Flow, gen uint64, p *Policy, v *V) {
	var k flowKey
	if !k.set(f) || gen == 0 {
		return
	}
	h := c.hash(&k)
	set, tag := h&(c.sets-1), tagOf(h, gen)
	tags := &c.tags[set]
	c.hand++
	way := c.hand % cacheWays
	for i, t := range tags {
		if t == 0 || uint8(t) != uint8(gen) {
			way = uint64(i)
			break
		}
	}
	tags[way] = tag
	c.slot[set*cacheWays+way] = cached[V]{key: k, gen: gen, pol: p, v: v}
}

// set makes k the key of a flow. False: an address has a zone, which no packet
// has.
func (k *flowKey) set(f *Flow) bool {
	k.tail = uint64(f.LocalPort)<<32 | uint64(f.RemotePort)<<16 | uint64(f.Proto)<<8
	if f.HasPorts {
		k.tail |= 1
	}
	if f.Inbound {
		k.tail |= 1 << 6
	}
	if f.Local.Is4() && f.Remote.Is4() {
		// Four octets are taken out of an address much faster than sixteen.
		k.tail |= 2
		k.local, k.remote = wide{lo: uint64(word4(f.Local))}, wide{lo: uint64(word4(f.Remote))}
		return true
	}
	k.tail |= family(f.Local)<<2 | family(f.Remote)<<4
	k.local, k.remote = words(f.Local), words(f.Remote)
	return f.Local.Zone() == "" && f.Remote.Zone() == ""
}

func (k *flowKey) equal(o *flowKey) bool {
	return k.remote.lo == o.remote.lo && k.tail == o.tail && k.local.lo == o.local.lo && k.local.hi == o.local.hi && k.remote.hi == o.remote.hi
}

// family tells addresses apart that are written with the same octets.
func family(a netip.Addr) uint64 {
	switch {
	case a.Is4():
		return 1
	case a.IsValid():
		return 2
	}
	return 0
}

func (c *Cache[V]) hash(k *flowKey) uint64 {
	l := mix(k.local.hi^c.seed[0], k.local.lo^c.seed[1])
	r := mix(k.remote.hi^c.seed[2], k.remote.lo^c.seed[3])
	return mix(l^k.tail^c.seed[4], r^c.seed[5])
}
