package sad

import (
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
)

// GroupKey names an inbound SA of a multicast group (RFC 4301, Section 4.1): who
// assigns its SPI does not know what the receivers have given out, so that the
// SPI alone does not name it.
type GroupKey struct {
	SPI uint32
	Dst netip.Addr
	// Src is the only sender; invalid: there may be any.
	Src netip.Addr
}

// Groups finds inbound SAs of multicast groups of one protocol. Get takes no lock
// and does not allocate; Put and Delete copy, since groups are few and change
// rarely. The zero value is ready.
type Groups[V any] struct {
	m  atomic.Pointer[map[GroupKey]*V]
	mu sync.Mutex
}

// Get is the SA for a packet to dst from src, nil if there is none. The longest
// match counts: an SA for this sender comes before one for any (RFC 4301, Section
// 4.1, steps 1 and 2). A packet to a group never belongs to an SA without one.
func (g *Groups[V]) Get(spi uint32, dst, src netip.Addr) *V {
	p := g.m.Load()
	if p == nil {
		return nil
	}
	k := GroupKey{SPI: spi, Dst: dst.WithZone(""), Src: src.WithZone("")}
	if v := (*p)[k]; v != nil {
		return v
	}
	k.Src = netip.Addr{}
	return (*p)[k]
}

// Put adds an SA; a key that is taken is an error, as is a destination that is no
// group.
func (g *Groups[V]) Put(k GroupKey, v *V) error {
	k.Dst, k.Src = k.Dst.WithZone(""), k.Src.WithZone("")
	if !k.Dst.IsMulticast() {
		return fmt.Errorf("SA with SPI %08x: %v is no multicast group", k.SPI, k.Dst)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.copy()
	if m[k] != nil {
		return fmt.Errorf("SA with SPI %08x of group %v exists, expected a free SPI", k.SPI, k.Dst)
	}
	m[k] = v
	g.m.Store(&m)
	return nil
}

// Delete removes an SA and gives it back, nil if there was none.
func (g *Groups[V]) Delete(k GroupKey) *V {
	k.Dst, k.Src = k.Dst.WithZone(""), k.Src.WithZone("")
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.copy()
	v := m[k]
	if v != nil {
		delete(m, k)
		g.m.Store(&m)
	}
	return v
}

func (g *Groups[V]) copy() map[GroupKey]*V {
	m := map[GroupKey]*V{}
	if p := g.m.Load(); p != nil {
		for k, v := range *p {
			m[k] = v
		}
	}
	return m
}
