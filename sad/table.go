package sad

import (
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
)

// Table finds inbound SAs by SPI (RFC 4301, Section 4.1). Get takes no lock;
// writers exclude each other. The cost of Get and Put does not depend on the
// number of SAs. The zero value is ready.
type Table[V any] struct {
	buckets atomic.Pointer[[]bucket[V]]
	mu      sync.Mutex
	n       int
}

type bucket[V any] = atomic.Pointer[node[V]]

// node is one SA in a chain; it is never changed after readers may see it.
type node[V any] struct {
	spi  uint32
	next *node[V]
	v    *V
}

const minBuckets = 64

// slot spreads SPIs that are not random, as manual keys have; the constant is
// 2^32 divided by the golden ratio.
func slot(spi uint32, n int) uint32 { return (spi * 0x9e3779b1) >> 8 & uint32(n-1) }

// Get is the SA of an SPI, nil if there is none. It does not allocate.
func (t *Table[V]) Get(spi uint32) *V {
	b := t.buckets.Load()
	if b == nil {
		return nil
	}
	for n := (*b)[slot(spi, len(*b))].Load(); n != nil; n = n.next {
		if n.spi == spi {
			return n.v
		}
	}
	return nil
}

// Put adds an SA; an SPI that is taken is an error.
func (t *Table[V]) Put(spi uint32, v *V) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.Get(spi) != nil {
		return fmt.Errorf("SA with SPI %08x exists, expected a free SPI", spi)
	}
	t.grow()
	b := *t.buckets.Load()
	head := &b[slot(spi, len(b))]
	head.Store(&node[V]{spi: spi, next: head.Load(), v: v})
	t.n++
	return nil
}

// Delete removes an SA and gives it back, nil if there was none.
func (t *Table[V]) Delete(spi uint32) *V {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.Get(spi)
	if v == nil {
		return nil
	}
	b := *t.buckets.Load()
	head := &b[slot(spi, len(b))]
	var kept *node[V]
	for n := head.Load(); n != nil; n = n.next {
		if n.spi != spi {
			kept = &node[V]{spi: n.spi, next: kept, v: n.v}
		}
	}
	head.Store(kept)
	t.n--
	return v
}

// grow makes room for one more. Readers go on with the old chains.
func (t *Table[V]) grow() {
	p := t.buckets.Load()
	if p != nil && t.n < len(*p) {
		return
	}
	size := minBuckets
	if p != nil {
		size = 2 * len(*p)
	}
	b := make([]bucket[V], size)
	if p != nil {
		for i := range *p {
			for n := (*p)[i].Load(); n != nil; n = n.next {
				head := &b[slot(n.spi, size)]
				head.Store(&node[V]{spi: n.spi, next: head.Load(), v: n.v})
			}
		}
	}
	t.buckets.Store(&b)
}

// Len is the number of SAs.
func (t *Table[V]) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// All is every SA, in no order. What is added or removed meanwhile may be seen
// or not.
func (t *Table[V]) All() iter.Seq2[uint32, *V] {
	return func(yield func(uint32, *V) bool) {
		p := t.buckets.Load()
		if p == nil {
			return
		}
		for i := range *p {
			for n := (*p)[i].Load(); n != nil; n = n.next {
				if !yield(n.spi, n.v) {
					return
				}
			}
		}
	}
}
