package engine

import (
	"net/netip"
	"sync"

	"iked/ikev2"
)

const tableParts = 64

// spiTable finds an IKE SA by the SPI that this system chose for it. The gate
// reads it for every datagram, the shards write.
type spiTable struct {
	parts [tableParts]struct {
		sync.RWMutex
		m map[ikev2.SPI]*ikeSA
	}
}

func (t *spiTable) init() {
	for i := range t.parts {
		t.parts[i].m = make(map[ikev2.SPI]*ikeSA)
	}
}

func (t *spiTable) get(spi ikev2.SPI) *ikeSA {
	p := &t.parts[spi%tableParts]
	p.RLock()
	defer p.RUnlock()
	return p.m[spi]
}

func (t *spiTable) put(spi ikev2.SPI, x *ikeSA) {
	p := &t.parts[spi%tableParts]
	p.Lock()
	defer p.Unlock()
	p.m[spi] = x
}

// remove forgets spi if it still belongs to x.
func (t *spiTable) remove(spi ikev2.SPI, x *ikeSA) {
	p := &t.parts[spi%tableParts]
	p.Lock()
	defer p.Unlock()
	if p.m[spi] == x {
		delete(p.m, spi)
	}
}

// childTable finds a CHILD_SA by the number that the backend hands back.
type childTable struct {
	parts [tableParts]struct {
		sync.RWMutex
		m map[uint64]*childSA
	}
}

func (t *childTable) init() {
	for i := range t.parts {
		t.parts[i].m = make(map[uint64]*childSA)
	}
}

func (t *childTable) get(owner uint64) *childSA {
	p := &t.parts[owner%tableParts]
	p.RLock()
	defer p.RUnlock()
	return p.m[owner]
}

func (t *childTable) put(owner uint64, c *childSA) {
	p := &t.parts[owner%tableParts]
	p.Lock()
	defer p.Unlock()
	p.m[owner] = c
}

func (t *childTable) remove(owner uint64) {
	p := &t.parts[owner%tableParts]
	p.Lock()
	defer p.Unlock()
	delete(p.m, owner)
}

// halfOpenKey finds the SA of an IKE_SA_INIT request that is sent again.
type halfOpenKey struct {
	remote netip.AddrPort
	spii   ikev2.SPI
}

// source is what counts as one stranger: an IPv4 address or an IPv6 /64, since
// a host has all of the latter to choose from.
func source(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is4() {
		return a
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return a
	}
	return p.Addr()
}

// halfOpen counts responder SAs whose peer is not authenticated yet.
type halfOpen struct {
	mu     sync.Mutex
	byInit map[halfOpenKey]*ikeSA
	bySrc  map[netip.Addr]int
	total  int
}

func newHalfOpen() *halfOpen {
	return &halfOpen{byInit: make(map[halfOpenKey]*ikeSA), bySrc: make(map[netip.Addr]int)}
}

func (h *halfOpen) find(k halfOpenKey) *ikeSA {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.byInit[k]
}

// counts are the totals, in all and of one source.
func (h *halfOpen) counts(src netip.Addr) (total, ofSource int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total, h.bySrc[src]
}

// enter counts x in unless a limit (0: none) is reached; the name of that limit
// comes back. An SA that is already there for the key is returned.
func (h *halfOpen) enter(k halfOpenKey, x *ikeSA, limit, perSource int) (old *ikeSA, full string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.byInit[k]; old != nil {
		return old, ""
	}
	src := source(k.remote.Addr())
	if limit > 0 && h.total >= limit {
		return nil, "half-open-limit"
	}
	if perSource > 0 && h.bySrc[src] >= perSource {
		return nil, "half-open-per-source"
	}
	h.byInit[k] = x
	h.bySrc[src]++
	h.total++
	return nil, ""
}

func (h *halfOpen) leave(k halfOpenKey, x *ikeSA) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.byInit[k] != x {
		return
	}
	delete(h.byInit, k)
	src := source(k.remote.Addr())
	if h.bySrc[src]--; h.bySrc[src] <= 0 {
		delete(h.bySrc, src)
	}
	h.total--
}

func (h *halfOpen) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.total
}
