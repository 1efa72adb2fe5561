package spd

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// tableCache is a table with a cache, used as a worker of the datapath does.
type tableCache struct {
	tab   *Table
	cache *Cache[uint64]
	hits  int
}

func (c *tableCache) lookup(f *Flow, gen uint64) *Policy {
	if p, v, ok := c.cache.Get(f, gen); ok {
		if *v != p.ID {
			panic("the value of another policy")
		}
		c.hits++
		return p
	}
	p := c.tab.Lookup(f)
	id := p.ID
	c.cache.Put(f, gen, p, &id)
	return p
}

// Through any sequence of changes the cache says what the table says, whatever
// was pushed out, the answers of the default entry included.
func TestCacheAgreesWithTable(t *testing.T) {
	hits := 0
	rapid.Check(t, func(t *rapid.T) {
		c := &tableCache{tab: NewTable(Discard), cache: NewCache[uint64](8)}
		flows := make([]Flow, 40)
		for i := range flows {
			flows[i] = genFlow(t)
		}
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			p := Policy{ID: rapid.Uint64Range(1, 6).Draw(t, "id"), Priority: rapid.Uint32Range(0, 3).Draw(t, "prio"),
				Local: []TS{genTS(t, fmt.Sprint("l", step))}, Remote: []TS{genTS(t, fmt.Sprint("r", step))}}
			if err := c.tab.Apply([]uint64{rapid.Uint64Range(1, 6).Draw(t, "removed")}, []Policy{p}); err != nil {
				t.Fatal(err)
			}
			for range 60 {
				f := flows[rapid.IntRange(0, len(flows)-1).Draw(t, "flow")]
				if got, want := c.lookup(&f, c.tab.Generation()), c.tab.Lookup(&f); got != want {
					t.Fatalf("flow %+v: policy %d from the cache, %d from the table", f, got.ID, want.ID)
				}
			}
		}
		hits += c.hits
	})
	if hits == 0 {
		t.Error("nothing was ever found in the cache")
	}
}

// While the table changes, an answer is one that the table gave at some time
// between the reading of the generation and the answer: here every change adds
// the policy of the next number for all traffic, so that numbers never fall and
// are never older than the last change that was complete before.
func TestCacheUnderConcurrentApply(t *testing.T) {
	tab := NewTable(Discard)
	all := list("0.0.0.0/0")
	change := func(i uint64) {
		if err := tab.Apply([]uint64{i - 1}, []Policy{{ID: i, Local: all, Remote: all}}); err != nil {
			t.Error(err)
		}
	}
	change(1)
	var done atomic.Uint64 // the last complete change
	done.Store(1)
	var wg sync.WaitGroup
	var ready sync.WaitGroup
	stop := make(chan struct{})
	for w := range 3 {
		ready.Add(1)
		wg.Go(func() {
			c := &tableCache{tab: tab, cache: NewCache[uint64](64)}
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for n := 0; ; n++ {
				if n == 1000 {
					ready.Done()
				}
				select {
				case <-stop:
					if n >= 1000 {
						return
					}
				default:
				}
				f := Flow{Local: netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(40))}), Remote: netip.AddrFrom4([4]byte{10, 1}), Proto: 6}
				before := done.Load()
				got := c.lookup(&f, tab.Generation()).ID
				if after := tab.Lookup(&f).ID; got < before || got > after {
					t.Errorf("policy %d from the cache, expected one of %d to %d", got, before, after)
					return
				}
			}
		})
	}
	ready.Wait()
	for i := uint64(2); i < 3000; i++ {
		change(i)
		done.Store(i)
	}
	close(stop)
	wg.Wait()
}

// Flows that are written with the same octets, or differ in one field only, are
// different flows; an address with a zone is never stored.
func TestCacheKeys(t *testing.T) {
	a4, a6 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	base := Flow{Local: a4, Remote: a4, Proto: 6, LocalPort: 1, RemotePort: 2, HasPorts: true}
	with := func(change func(f *Flow)) Flow {
		f := base
		change(&f)
		return f
	}
	flows := []Flow{base,
		with(func(f *Flow) { f.Local = netip.AddrFrom16(a4.As16()) }),
		with(func(f *Flow) { f.Remote = netip.AddrFrom16(a4.As16()) }),
		with(func(f *Flow) { f.Local = a4.Next() }),
		with(func(f *Flow) { f.Remote = a4.Next() }),
		with(func(f *Flow) { f.Proto = 17 }),
		with(func(f *Flow) { f.Inbound = true }),
		with(func(f *Flow) { f.LocalPort, f.RemotePort = 2, 1 }),
		with(func(f *Flow) { f.LocalPort, f.RemotePort = 0, 0 }),
		with(func(f *Flow) { f.LocalPort, f.RemotePort, f.HasPorts = 0, 0, false }),
		with(func(f *Flow) { f.Local, f.Remote = a6, a6 }),
		with(func(f *Flow) { f.Local, f.Remote = a6, a6.Next() }),
		with(func(f *Flow) { f.Local, f.Remote = netip.Addr{}, netip.Addr{} }),
		with(func(f *Flow) { f.Local, f.Remote = netip.IPv6Unspecified(), netip.IPv6Unspecified() }),
	}
	c := NewCache[int](1024)
	for i := range flows {
		if _, _, ok := c.Get(&flows[i], 1); ok {
			t.Errorf("flow %d was found before it was stored", i)
		}
		c.Put(&flows[i], 1, &Policy{}, &i)
	}
	for i := range flows {
		if _, v, ok := c.Get(&flows[i], 1); !ok || *v != i {
			t.Errorf("flow %d: found %v, expected its own value", i, ok)
		}
		if _, _, ok := c.Get(&flows[i], 2); ok {
			t.Errorf("flow %d was found under another generation", i)
		}
	}
	zone := Flow{Local: a6.WithZone("eth0"), Remote: a6}
	c.Put(&zone, 1, &Policy{}, nil)
	if _, _, ok := c.Get(&zone, 1); ok {
		t.Error("a flow whose address has a zone was stored")
	}
	c.Put(&base, 0, &Policy{}, nil)
	if _, _, ok := c.Get(&base, 0); ok {
		t.Error("generation 0, which free slots have, was found")
	}
}

// A quarter full, the cache finds nearly all flows again; however many flows
// there are, its size and its work stay.
func TestCacheKeepsBusyFlows(t *testing.T) {
	_, flows := bigTable(5000)
	c := NewCache[int](4096)
	pol := &Policy{}
	for _, set := range []struct {
		flows []Flow
		least int
	}{{flows[:1000], 970}, {flows, 0}} {
		for i := range set.flows {
			c.Put(&set.flows[i], 7, pol, nil)
		}
		hits := 0
		for i := range set.flows {
			if p, _, ok := c.Get(&set.flows[i], 7); ok {
				hits++
				if p != pol {
					t.Fatal("another policy")
				}
			}
		}
		if hits < set.least || hits > 4096 {
			t.Errorf("%d of %d flows found in a cache for 4096, expected at least %d", hits, len(set.flows), set.least)
		}
	}
}

// The cache makes no garbage, hit or miss.
func TestCacheAllocs(t *testing.T) {
	tab, flows := bigTable(1000)
	c := NewCache[int](256)
	i := 0
	if n := testing.AllocsPerRun(2000, func() {
		f := &flows[i%len(flows)]
		if _, _, ok := c.Get(f, 1); !ok {
			c.Put(f, 1, tab.Lookup(f), nil)
		}
		i++
	}); n != 0 {
		t.Errorf("%v allocations per look-up, expected none", n)
	}
}

// The look-up as workers of the datapath do it: the cache first, the table for
// what it does not have, and the action of the policy that was found.
func BenchmarkCachedLookup(b *testing.B) {
	for _, kind := range benchTables {
		for _, n := range []int{10, 1000, 100_000} {
			tab, flows := kind.make(n)
			for _, set := range benchFlows(flows) {
				b.Run(fmt.Sprintf("%s/policies=%d/flows=%s", kind.name, n, set.name), func(b *testing.B) {
					c := NewCache[int](4096)
					b.ReportAllocs()
					runtime.LockOSThread()
					defer runtime.UnlockOSThread()
					i, n, before := 0, 0, threadTime(b)
					for b.Loop() {
						n++
						f, gen := &set.flows[i], tab.Generation()
						p, _, ok := c.Get(f, gen)
						if !ok {
							p = tab.Lookup(f)
							c.Put(f, gen, p, nil)
						}
						if p.Action != Protect {
							b.Fatal("no policy")
						}
						if i++; i == len(set.flows) {
							i = 0
						}
					}
					b.ReportMetric(float64(threadTime(b)-before)/float64(n), "cpu-ns/op")
				})
			}
		}
	}
}
