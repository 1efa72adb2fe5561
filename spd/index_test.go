package spd

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// An index holds what a map of the same prefixes holds while it grows over many
// pages and shrinks again, and a snapshot that a reader has never changes.
func TestIndexAgreesWithMap(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	prefix := func() netip.Prefix {
		if r.IntN(3) == 0 {
			a := netip.AddrFrom16([16]byte{0x20, 1, 6: byte(r.IntN(8)), 7: byte(r.Uint32()), 15: byte(r.Uint32())})
			p, _ := a.Prefix([]int{0, 56, 64, 128}[r.IntN(4)])
			return p
		}
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(16)), byte(r.Uint32()), byte(r.Uint32())})
		p, _ := a.Prefix([]int{0, 8, 24, 32}[r.IntN(4)])
		return p
	}
	check := func(x *index, want map[netip.Prefix]*box) {
		t.Helper()
		if x.n != len(want) {
			t.Fatalf("%d prefixes, expected %d", x.n, len(want))
		}
		for p, b := range want {
			if s, ok := x.get(p); !ok || s.box != b || s.local != (wide{lo: 7}) {
				t.Fatalf("prefix %s: slot %+v, found %v, expected box %p", p, s, ok, b)
			}
		}
	}
	x, ref := newIndex(0), map[netip.Prefix]*box{}
	for txn := uint64(1); txn < 60; txn++ {
		old, oldRef := x, maps.Clone(ref)
		x = x.own(txn)
		for range r.IntN(1500) {
			if p := prefix(); txn < 30 || r.IntN(4) == 0 {
				ref[p] = new(box)
				x.set(p, slot{meta: meta{box: ref[p]}, local: wide{lo: 7}})
			} else {
				delete(ref, p)
				x.unset(p)
				for p := range ref { // one that is there
					delete(ref, p)
					x.unset(p)
					break
				}
			}
		}
		check(x, ref)
		check(old, oldRef)
	}
	x = x.own(1000)
	for p := range ref {
		x.unset(p)
		if _, ok := x.get(p); ok {
			t.Fatalf("prefix %s is still there after its removal", p)
		}
	}
	if x.n != 0 || len(x.v4) != 0 || len(x.v6) != 0 {
		t.Errorf("an emptied index has %d prefixes and tables of %d and %d lengths", x.n, len(x.v4), len(x.v6))
	}
}

// In a table of many pages every look-up finds the policy of the longest prefix
// among equals in priority that are older the longer they are, in both families.
func TestLargeTable(t *testing.T) {
	tab := NewTable(Discard)
	local := list("0.0.0.0/0", "::/0")
	var add []Policy
	for i := range 3000 {
		a4 := netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0})
		a6 := netip.AddrFrom16([16]byte{0x20, 1, 4: byte(i >> 8), 5: byte(i)})
		add = append(add,
			Policy{ID: uint64(4*i + 1), Local: local[:1], Remote: []TS{FromPrefix(netip.PrefixFrom(a4, 24))}},
			Policy{ID: uint64(4*i + 2), Local: local[1:], Remote: []TS{FromPrefix(netip.PrefixFrom(a6, 48))}})
	}
	add = append(add, Policy{ID: 1 << 30, Local: local, Remote: local})
	if err := tab.Apply(nil, add); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		for i := range 3500 {
			want4, want6 := uint64(4*i+1), uint64(4*i+2)
			if i >= 3000 || round == 1 && i%2 == 0 {
				want4, want6 = 1<<30, 1<<30
			}
			f := Flow{Local: netip.MustParseAddr("10.0.0.1"), Remote: netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 9}), Proto: 6}
			if got := tab.Lookup(&f).ID; got != want4 {
				t.Fatalf("round %d, remote %s: policy %d, expected %d", round, f.Remote, got, want4)
			}
			f = Flow{Local: netip.MustParseAddr("fd00::1"), Remote: netip.AddrFrom16([16]byte{0x20, 1, 4: byte(i >> 8), 5: byte(i), 15: 1}), Proto: 6}
			if got := tab.Lookup(&f).ID; got != want6 {
				t.Fatalf("round %d, remote %s: policy %d, expected %d", round, f.Remote, got, want6)
			}
		}
		for i := 0; i < 3000 && round == 0; i += 2 { // one by one, as connections go
			if err := tab.Apply([]uint64{uint64(4*i + 1), uint64(4*i + 2)}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A page that is full before its table is makes the table larger, whatever the
// hash does; only a hash of no use at all is beyond it.
func TestHashedFullPage(t *testing.T) {
	// A bad hash: half of all keys in the last sixteenth of the pages.
	hash := func(k uint32) uint64 {
		h := uint64(k) * 0x9e3779b97f4a7c15
		if k%2 == 0 {
			h = h>>4 | 0xf<<60
		}
		return h
	}
	var list []hashed[uint32]
	for k := range uint32(800) {
		if !set(&list, 32, 1, cell[uint32]{key: k, meta: meta{box: &box{}}}, hash) {
			t.Fatalf("key %d is not new", k)
		}
	}
	for k := range uint32(1000) {
		if c := get(list, 32, k, hash); (c != nil) != (k < 800) {
			t.Fatalf("key %d: found %v", k, c != nil)
		}
	}
}
