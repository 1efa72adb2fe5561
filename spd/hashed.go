package spd

import "slices"

// pageCells is the number of cells of a page, and fullPage how many of them may
// be in use: a search ends at a free one.
const (
	pageCells = 128 // a power of two
	fullPage  = 120
)

// cell is a prefix in a hash table with its slot. It is small on purpose: two
// of IPv4 share a cache line.
type cell[K comparable] struct {
	key   K
	local K
	meta
}

// page is a part of a hash table that is copied when it changes. Its cells start
// at a cache line, behind the header of the allocation of eight octets.
type page[K comparable] struct {
	txn  uint64 // the transaction that made it
	used int
	_    [40]byte
	cell [pageCells]cell[K]
}

// group is some pages. It keeps the list small that every change copies.
type group[K comparable] struct {
	txn  uint64 // the transaction that made it
	page [32]*page[K]
}

// hashed has all prefixes of one family and length.
type hashed[K comparable] struct {
	at    order  // a bound: nothing here is before it
	txn   uint64 // the transaction that made list
	n     int
	pages uint64
	list  []*group[K]
	bits  uint8
}

func newHashed[K comparable](bits uint8, txn uint64, pages int) hashed[K] {
	t := hashed[K]{at: last, txn: txn, bits: bits, pages: uint64(pages)}
	for i := range pages {
		if i%32 == 0 {
			t.list = append(t.list, &group[K]{txn: txn})
		}
		t.list[i/32].page[i%32] = &page[K]{txn: txn}
	}
	return t
}

func (t *hashed[K]) cells() int { return int(t.pages) * pageCells }

// find is the cell of a key, nil when there is none.
func (t *hashed[K]) find(h uint64, key K) *cell[K] {
	n := (h >> 32) * t.pages >> 32
	pg := t.list[n/32].page[n%32]
	for i := h; ; i++ {
		c := &pg.cell[i%pageCells]
		if c.key == key && c.box != nil {
			return c
		}
		if c.box == nil {
			return nil
		}
	}
}

// writable is the page of a hash, the transaction's own.
func (t *hashed[K]) writable(h, txn uint64) *page[K] {
	if t.txn != txn {
		t.list, t.txn = slices.Clone(t.list), txn
	}
	n := (h >> 32) * t.pages >> 32
	g := t.list[n/32]
	if g.txn != txn {
		c := *g
		c.txn = txn
		g, t.list[n/32] = &c, &c
	}
	pg := g.page[n%32]
	if pg.txn != txn {
		c := *pg
		c.txn = txn
		pg, g.page[n%32] = &c, &c
	}
	return pg
}

// add stores a cell; false when its page is full.
func (t *hashed[K]) add(c cell[K], h, txn uint64) bool {
	pg := t.writable(h, txn)
	i := h % pageCells
	for pg.cell[i].box != nil && pg.cell[i].key != c.key {
		i = (i + 1) % pageCells
	}
	if pg.cell[i].box == nil {
		if pg.used >= fullPage {
			return false
		}
		pg.used++
		t.n++
	}
	pg.cell[i] = c
	if c.at.before(t.at) {
		t.at = c.at
	}
	return true
}

// remove frees the cell of a key that is there.
func (t *hashed[K]) remove(key K, h, txn uint64, hash func(K) uint64) {
	pg := t.writable(h, txn)
	i := h % pageCells
	for pg.cell[i].key != key || pg.cell[i].box == nil {
		i = (i + 1) % pageCells
	}
	// What was pushed on by this cell moves up, so that no search ends too early.
	for j := (i + 1) % pageCells; pg.cell[j].box != nil; j = (j + 1) % pageCells {
		if home := hash(pg.cell[j].key); (j-home)%pageCells >= (j-i)%pageCells {
			pg.cell[i] = pg.cell[j]
			i = j
		}
	}
	pg.cell[i] = cell[K]{}
	pg.used--
	t.n--
}

// resized is a table of the same cells in new pages, half of them free, and at
// least so many pages.
func (t *hashed[K]) resized(pages int, txn uint64, hash func(K) uint64) hashed[K] {
	for pages = max(pages, t.n*2/pageCells+1); ; pages += pages/4 + 1 {
		n := newHashed[K](t.bits, txn, pages)
		if n.addAll(t, txn, hash) {
			return n
		}
	}
}

func (t *hashed[K]) addAll(o *hashed[K], txn uint64, hash func(K) uint64) bool {
	for n := range o.pages {
		pg := o.list[n/32].page[n%32]
		for i := range pg.cell {
			if c := &pg.cell[i]; c.box != nil && !t.add(*c, hash(c.key), txn) {
				return false
			}
		}
	}
	return true
}

// search is the place of a length: the longest is first.
func search[K comparable](list []hashed[K], bits uint8) (int, bool) {
	return slices.BinarySearchFunc(list, bits, func(t hashed[K], b uint8) int { return int(b) - int(t.bits) })
}

func get[K comparable](list []hashed[K], bits uint8, key K, hash func(K) uint64) *cell[K] {
	i, ok := search(list, bits)
	if !ok {
		return nil
	}
	return list[i].find(hash(key), key)
}

// set stores a cell in a list of the caller's own and tells whether its key is new.
func set[K comparable](list *[]hashed[K], bits uint8, txn uint64, c cell[K], hash func(K) uint64) bool {
	i, ok := search(*list, bits)
	if !ok {
		*list = slices.Insert(*list, i, newHashed[K](bits, txn, 1))
	}
	t := &(*list)[i]
	// Rather many free cells than long searches.
	if t.n > t.cells()*5/8 {
		*t = t.resized(1, txn, hash)
	}
	n, h := t.n, hash(c.key)
	for !t.add(c, h, txn) {
		*t = t.resized(int(t.pages)*5/4+1, txn, hash)
	}
	return t.n > n
}

// unset frees a cell in a list of the caller's own and tells whether it was there.
func unset[K comparable](list *[]hashed[K], bits uint8, txn uint64, key K, hash func(K) uint64) bool {
	i, ok := search(*list, bits)
	if !ok {
		return false
	}
	t, h := &(*list)[i], hash(key)
	if t.find(h, key) == nil {
		return false
	}
	t.remove(key, h, txn, hash)
	if t.n == 0 {
		*list = slices.Delete(*list, i, i+1)
	} else if t.pages > 1 && t.n < t.cells()/8 {
		*t = t.resized(1, txn, hash)
	}
	return true
}
