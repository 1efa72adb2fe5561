package spd

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// Table is the SPD: an ordered list of policies of which the first that matches
// a packet decides (RFC 4301, Section 4.4.1). Lookup takes no lock and may run
// in any number of workers while Apply replaces the snapshot that they read.
//
// A snapshot is an index of the remote prefixes; each of them has the policies
// that may match there, sorted, and those that are many are split by local
// prefixes once more. The indexes find candidates, and the selectors of a
// candidate decide. The first match is exact, whatever the nesting of prefixes.
//
// What a look-up costs in a large table is places in memory that no cache holds.
// So an index has the one policy of a prefix next to the prefix, with its order
// and, where the policy is about addresses only, all that is needed to decide. A
// look-up searches every prefix length that occurs, at most 33 or 129, except
// those that have nothing before what was found.
type Table struct {
	snap atomic.Pointer[snapshot]

	mu     sync.Mutex // of the fields below and of writers
	byID   map[uint64]*entry
	nextNo uint64
	txn    uint64
}

// entry is a policy with its place in the order. The common case of a single
// selector on each side lies in the entry itself: one place in memory to fetch.
type entry struct {
	pol *Policy // in box
	box *box    // what slots have
	no  uint64  // age
	ts  [2]TS
}

func newEntry(p *Policy) *entry {
	b := &box{pol: *p}
	e := &entry{pol: &b.pol, box: b}
	b.e = e
	e.pol.Remote = append(e.ts[:0:1], p.Remote...)
	e.pol.Local = append(e.ts[1:1:2], p.Local...)
	return e
}

// before is the order of the SPD: priority, then age.
func (e *entry) before(o *entry) bool {
	if e.pol.Priority != o.pol.Priority {
		return e.pol.Priority < o.pol.Priority
	}
	return e.no < o.no
}

func compare(a, b *entry) int {
	switch {
	case a == b:
		return 0
	case a.before(b):
		return -1
	}
	return 1
}

type snapshot struct {
	generation uint64
	remote     *index
	fallback   *Policy
}

// NewTable makes an SPD whose final entry does fallback with packets that match
// nothing. RFC 4301, Section 4.4.1 wants Discard.
func NewTable(fallback Action) *Table {
	t := &Table{byID: make(map[uint64]*entry)}
	t.snap.Store(&snapshot{remote: newIndex(0), fallback: &Policy{Name: "default", Action: fallback, Priority: ^uint32(0)}})
	return t
}

// Generation changes with every Apply that changes something. A cache keyed by
// flow must read it before Lookup and forget what was stored under another one.
func (t *Table) Generation() uint64 { return t.snap.Load().generation }

// Len is the number of policies.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// Policies are all policies in their order.
func (t *Table) Policies() []Policy {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*entry, 0, len(t.byID))
	for _, e := range t.byID {
		all = append(all, e)
	}
	slices.SortFunc(all, compare)
	out := make([]Policy, len(all))
	for i, e := range all {
		out[i] = *e.pol
	}
	return out
}

// Lookup is the first policy, by priority and then age, that matches f and is for
// its direction: of SPD-S and SPD-O for an outbound flow, of SPD-S and SPD-I for
// an inbound one (RFC 4301, Section 4.4.1). It is
// never nil: the last one is the default entry, with ID 0. The policy must not
// be changed. Lookup does not allocate.
func (t *Table) Lookup(f *Flow) *Policy {
	s := t.snap.Load()
	var best match
	s.remote.lookup(f, f.Remote, f.Local, &best)
	if best.pol == nil {
		return s.fallback
	}
	return best.pol
}

// Apply removes and adds policies in one step: a Lookup sees the table before
// or after it. Removed IDs that do not exist are ignored. An added ID that
// exists is replaced and keeps its age. With an error nothing is changed.
func (t *Table) Apply(remove []uint64, add []Policy) error {
	for i := range add {
		if err := add[i].check(); err != nil {
			return err
		}
	}
	if len(remove) == 0 && len(add) == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.txn++
	old := t.snap.Load()
	x := tx{id: t.txn, remote: old.remote.own(t.txn)}
	for _, id := range remove {
		if e := t.byID[id]; e != nil {
			x.remove(e)
			delete(t.byID, id)
		}
	}
	for i := range add {
		e := newEntry(&add[i])
		if o := t.byID[e.pol.ID]; o != nil {
			x.remove(o)
			e.no = o.no
		} else {
			t.nextNo++
			e.no = t.nextNo
		}
		t.byID[e.pol.ID] = e
		x.insert(e)
	}
	t.snap.Store(&snapshot{generation: old.generation + 1, remote: x.remote, fallback: old.fallback})
	return nil
}

func (p *Policy) check() error {
	if p.ID == 0 {
		return fmt.Errorf("policy %q: ID 0 is the default entry's", p.Name)
	}
	if len(p.Local) == 0 || len(p.Remote) == 0 {
		return fmt.Errorf("policy %q (ID %d): has %d local and %d remote selectors, expected at least one of each", p.Name, p.ID, len(p.Local), len(p.Remote))
	}
	if p.Dirs > Outbound|Inbound || p.Dirs != Both && p.Action == Protect {
		// RFC 4301, Section 4.4.1: SPD-S is for both directions.
		return fmt.Errorf("policy %q (ID %d): directions %d, expected in or out or both, and both for an entry that protects", p.Name, p.ID, p.Dirs)
	}
	for _, list := range [...][]TS{p.Local, p.Remote} {
		for _, ts := range list {
			if err := ts.Check(); err != nil {
				return fmt.Errorf("policy %q (ID %d): %w", p.Name, p.ID, err)
			}
		}
	}
	return nil
}

// appendKeys appends the prefixes under which a range is filed: the common one
// or, when that is wider than the range, the common ones of its two halves.
// They may have more than the range, never less.
func appendKeys(dst []netip.Prefix, t *TS) []netip.Prefix {
	p := commonPrefix(t.From, t.To)
	if p.Bits() == t.From.BitLen() || p.Addr() == t.From && lastAddr(p) == t.To {
		return appendKey(dst, p)
	}
	// The lower half of p ends before the first address that has the next bit set.
	low := netip.PrefixFrom(t.From, p.Bits()+1).Masked()
	high := netip.PrefixFrom(t.To, p.Bits()+1).Masked()
	dst = appendKey(dst, commonPrefix(t.From, lastAddr(low)))
	return appendKey(dst, commonPrefix(high.Addr(), t.To))
}

func appendKey(dst []netip.Prefix, p netip.Prefix) []netip.Prefix {
	if slices.Contains(dst, p) {
		return dst
	}
	return append(dst, p)
}

// keys are the prefixes of a list of selectors of one family.
func keys(list []TS, is4 bool) []netip.Prefix {
	var out []netip.Prefix
	for i := range list {
		if list[i].Is4() == is4 {
			out = appendKeys(out, &list[i])
		}
	}
	return out
}
