package sad

import (
	"net/netip"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// RFC 4301, Section 4.1: the SA with SPI, destination and source comes before that
// with SPI and destination; neither is found for another group or SPI. Any order
// of additions and removals agrees with a list.
func TestGroupsAgreeWithList(t *testing.T) {
	groups := []netip.Addr{netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("239.1.2.4"), netip.MustParseAddr("ff15::1")}
	sources := []netip.Addr{{}, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::1")}
	rapid.Check(t, func(t *rapid.T) {
		var g Groups[int]
		var list []GroupKey
		values := map[GroupKey]*int{}
		for range rapid.IntRange(0, 30).Draw(t, "steps") {
			k := GroupKey{SPI: rapid.Uint32Range(300, 303).Draw(t, "spi"), Dst: rapid.SampledFrom(groups).Draw(t, "group"), Src: rapid.SampledFrom(sources).Draw(t, "source")}
			at := -1
			for i := range list {
				if list[i] == k {
					at = i
				}
			}
			if rapid.Bool().Draw(t, "put") {
				v := new(int)
				if err := g.Put(k, v); (err == nil) != (at < 0) {
					t.Fatalf("put %v: %v", k, err)
				} else if err == nil {
					list, values[k] = append(list, k), v
				}
			} else {
				got := g.Delete(k)
				if (got != nil) != (at >= 0) || got != values[k] {
					t.Fatalf("delete %v: %v", k, got)
				}
				if at >= 0 {
					list = append(list[:at:at], list[at+1:]...)
					delete(values, k)
				}
			}
			for spi := uint32(299); spi < 305; spi++ {
				for _, dst := range groups {
					for _, src := range sources[1:] {
						var want *int
						for _, k := range list {
							if k.SPI == spi && k.Dst == dst && (k.Src == src || !k.Src.IsValid() && want == nil) {
								want = values[k]
							}
						}
						for _, k := range list { // the longest match
							if k.SPI == spi && k.Dst == dst && k.Src == src {
								want = values[k]
							}
						}
						if got := g.Get(spi, dst, src); got != want {
							t.Fatalf("SPI %d to %v from %v: another SA than the list has", spi, dst, src)
						}
					}
				}
			}
		}
	})
}

// A destination that is no group is refused, zones do not count, and readers need
// no lock.
func TestGroups(t *testing.T) {
	var g Groups[int]
	if err := g.Put(GroupKey{SPI: 300, Dst: netip.MustParseAddr("192.0.2.1")}, new(int)); err == nil {
		t.Error("a unicast address was taken for a group")
	}
	v := new(int)
	dst := netip.MustParseAddr("ff02::1234%eth0")
	if err := g.Put(GroupKey{SPI: 300, Dst: dst}, v); err != nil {
		t.Fatal(err)
	}
	src := netip.MustParseAddr("fe80::1%eth1")
	if g.Get(300, dst.WithZone(""), src) != v || g.Get(300, dst.WithZone("eth2"), src) != v {
		t.Error("the zone counted")
	}
	if n := testing.AllocsPerRun(100, func() { g.Get(300, netip.MustParseAddr("ff02::1234"), netip.IPv6LinkLocalAllNodes()) }); n != 0 {
		t.Errorf("%v allocations for a look-up", n)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for spi := range uint32(200) {
			k := GroupKey{SPI: 1000 + spi, Dst: dst}
			if err := g.Put(k, new(int)); err != nil {
				t.Error(err)
			}
			g.Delete(k)
		}
	})
	for range 1000 {
		if g.Get(300, dst, src) != v {
			t.Error("an SA was gone while others changed")
			break
		}
	}
	wg.Wait()
}
