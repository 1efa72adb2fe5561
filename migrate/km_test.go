package migrate

import (
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"iked/spd"
)

// kmChild is a child that is configured for a node with some home address.
func kmChild(t *rapid.T) Child {
	homes := []string{"2001:db8:aaaa::1/128", "2001:db8:aaaa::2/128", "2001:db8:aaaa::/64"}
	ts := func(s string) []spd.TS { return []spd.TS{spd.FromPrefix(netip.MustParsePrefix(s))} }
	return Child{
		Proto: rapid.SampledFrom([]uint8{50, 51}).Draw(t, "child proto"), Mode: rapid.SampledFrom([]spd.Mode{spd.Tunnel, spd.Transport}).Draw(t, "child mode"),
		ReqID: uint32(rapid.IntRange(0, 2).Draw(t, "child reqid")), ReqIDIn: uint32(rapid.IntRange(0, 2).Draw(t, "child reqid in")), AnyReqID: rapid.Bool().Draw(t, "any reqid"),
		Local: ts(rapid.SampledFrom(homes).Draw(t, "child local")), Remote: ts(rapid.SampledFrom([]string{"2001:db8:bbbb::1/128", "::/0"}).Draw(t, "child remote")),
	}
}

// kmEvent is one that tells of a care-of address.
func kmEvent(t *rapid.T) Event {
	e := Event{Dir: Dir(rapid.IntRange(0, 2).Draw(t, "dir")), Sub: rapid.IntRange(0, 9).Draw(t, "sub") == 0,
		KM: Ends{place(rapid.IntRange(1, 9).Draw(t, "care-of")), agent(place(2))}}
	here := rapid.SampledFrom([]string{"2001:db8:aaaa::1/128", "2001:db8:aaaa::2/128", "2001:db8:cccc::/64"}).Draw(t, "here")
	there := rapid.SampledFrom([]string{"2001:db8:bbbb::1/128", "::/0", "2001:db8:dddd::/64"}).Draw(t, "there")
	if e.KM.Local.Is4() != e.KM.Remote.Is4() {
		e.KM.Remote = agent(e.KM.Local)
	}
	e.Selector = spd.KernelSelector{Src: netip.MustParsePrefix(here), Dst: netip.MustParsePrefix(there)}
	if e.Dir != Out {
		e.Selector.Src, e.Selector.Dst = e.Selector.Dst, e.Selector.Src
	}
	for range rapid.IntRange(0, 2).Draw(t, "entries") {
		e.Entries = append(e.Entries, Entry{Proto: rapid.SampledFrom([]uint8{50, 51}).Draw(t, "proto"), Mode: rapid.SampledFrom([]spd.Mode{spd.Tunnel, spd.Transport}).Draw(t, "mode"),
			ReqID: uint32(rapid.IntRange(0, 2).Draw(t, "reqid")), New: Pair{e.KM.Local, e.KM.Remote}})
	}
	if rapid.IntRange(0, 9).Draw(t, "without") == 0 {
		e.KM = Ends{}
	}
	return e
}

// kmSaid is one entry of one event, in the log that the table is held against.
type kmSaid struct {
	e Event
	x Entry
}

// about is the slow truth of what an entry is about.
func (s *kmSaid) about(list []Child) bool {
	return slices.ContainsFunc(list, func(c Child) bool {
		id, src, dst := c.ReqID, c.Local, c.Remote
		if s.e.Dir != Out {
			src, dst = dst, src
			if c.ReqIDIn != 0 {
				id = c.ReqIDIn
			}
		}
		some := func(list []spd.TS, p netip.Prefix) bool {
			return len(spd.IntersectLists(list, []spd.TS{spd.FromPrefix(p)})) > 0
		}
		return s.x.Proto == c.Proto && s.x.Mode == c.Mode && (c.AnyReqID || s.x.ReqID == 0 || s.x.ReqID == id) && some(src, s.e.Selector.Src) && some(dst, s.e.Selector.Dst)
	})
}

// The table says what the last event about some child said, whatever came in whatever
// order; what was said of others, of the second SPD or without KMADDRESS is not in it,
// and what the configuration has no more is gone.
func TestKMTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table KMTable
		var log []kmSaid
		config := rapid.SliceOfN(rapid.Custom(kmChild), 0, 4).Draw(t, "configuration")
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				config = rapid.SliceOfN(rapid.Custom(kmChild), 0, 4).Draw(t, "next configuration")
				table.Keep(config)
				log = slices.DeleteFunc(log, func(s kmSaid) bool { return !s.about(config) })
			default:
				e := kmEvent(t)
				learned := false
				if e.KM.Local.IsValid() && !e.Sub && e.Check() == nil {
					for _, x := range e.Entries {
						if s := (kmSaid{e, x}); s.about(config) {
							log, learned = append(log, s), true
						}
					}
				}
				if got := table.Learn(&e, config); got != learned {
					t.Fatalf("%+v: learned: %t, expected %t", e, got, learned)
				}
			}
			var flow *spd.Flow
			if rapid.Bool().Draw(t, "for a packet") {
				flow = &spd.Flow{Local: netip.MustParseAddr(rapid.SampledFrom([]string{"2001:db8:aaaa::1", "2001:db8:aaaa::2"}).Draw(t, "source")), Remote: netip.MustParseAddr("2001:db8:bbbb::1")}
			}
			who := config
			if len(who) > 0 {
				i := rapid.IntRange(0, len(who)-1).Draw(t, "child")
				who = who[i : i+1]
			}
			var want Ends
			found := false
			for _, s := range log {
				src, dst := s.e.Selector.Src, s.e.Selector.Dst
				if s.e.Dir != Out {
					src, dst = dst, src
				}
				if s.about(who) && (flow == nil || src.Contains(flow.Local) && dst.Contains(flow.Remote)) {
					want, found = s.e.KM, true
				}
			}
			if got, ok := table.Find(flow, who); ok != found || got != want {
				t.Fatalf("found %v, %t; expected %v, %t", got, ok, want, found)
			}
		}
	})
}

// The table has a bound, and what was told of longest ago goes.
func TestKMTableIsBounded(t *testing.T) {
	var table KMTable
	child := []Child{{Proto: 50, Mode: spd.Transport, AnyReqID: true, Local: []spd.TS{spd.FromPrefix(netip.MustParsePrefix("::/0"))}, Remote: []spd.TS{spd.FromPrefix(netip.MustParsePrefix("::/0"))}}}
	event := func(i int) (Event, *spd.Flow) {
		a := netip.MustParseAddr("2001:db8:aaaa::").As16()
		a[14], a[15] = byte(i>>8), byte(i)
		node, agent := netip.AddrFrom16(a), netip.MustParseAddr("2001:db8:bbbb::1")
		return Event{Dir: Out, KM: Ends{node, agent}, Selector: spd.KernelSelector{Src: netip.PrefixFrom(node, 128), Dst: netip.PrefixFrom(agent, 128)},
			Entries: []Entry{{Proto: 50, Mode: spd.Transport, New: Pair{node, agent}}}}, &spd.Flow{Local: node, Remote: agent}
	}
	const more = 10
	for i := range MaxKM + more {
		e, _ := event(i)
		table.Learn(&e, child)
		if i == MaxKM-1 { // the first is told of again
			e, _ = event(0)
			table.Learn(&e, child)
		}
	}
	if n := table.Len(); n != MaxKM {
		t.Errorf("%d entries, expected %d", n, MaxKM)
	}
	for i, want := range map[int]bool{0: true, 1: false, more: false, more + 1: true, MaxKM: true, MaxKM + more - 1: true} {
		e, flow := event(i)
		if got, ok := table.Find(flow, child); ok != want || ok && got != e.KM {
			t.Errorf("event %d: %v, %t, expected it to be there: %t", i, got, ok, want)
		}
	}
}
