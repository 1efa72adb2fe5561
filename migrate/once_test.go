package migrate

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"iked/spd"
)

// The same move made twice within a moment, with one back between, is three moves,
// and each of them has a copy by PF_KEY.
func TestOnceCountsMoves(t *testing.T) {
	var once Once
	now := time.Unix(0, 0)
	there, back := move(1, place(1), place(2), true)[0], move(1, place(2), place(1), true)[0]
	for i, e := range []Event{there, back, there} {
		if !once.Hear(now, &e) {
			t.Errorf("event %d does not count", i)
		}
	}
	there.Source = PFKey
	for i, waits := range []bool{false, false, true} {
		if once.Hear(now, &there) || once.Due().IsZero() == waits {
			t.Errorf("copy %d by PF_KEY waits: %t", i, !once.Due().IsZero())
		}
	}
	there.Source = Netlink
	if !once.Hear(now, &there) || !once.Due().IsZero() {
		t.Error("the copy waits for more than its twin")
	}
	if !once.Hear(now.Add(time.Hour), &there) {
		t.Error("an event of an hour ago is still remembered")
	}
	for i := range 10 * onceMax {
		e := move(1, place(i%200), place(300), false)[i%2]
		e.Entries[0].ReqID = uint32(1000 + i)
		once.Hear(now.Add(2*time.Hour), &e)
	}
	if len(once.heard) > onceMax || len(once.waiting) > onceMax {
		t.Errorf("%d events are remembered, %d wait", len(once.heard), len(once.waiting))
	}
}

// What netlink lost counts by PF_KEY after a moment, once; a twin that is late after all
// does not count again.
func TestOnceWithoutNetlink(t *testing.T) {
	var once Once
	now := time.Unix(0, 0)
	e := move(1, place(1), place(2), true)[1]
	if e.Source != PFKey || once.Hear(now, &e) || len(once.Overdue(now)) != 0 {
		t.Fatal("an event of PF_KEY does not wait for its twin")
	}
	now = once.Due()
	if list := once.Overdue(now); len(list) != 1 || !once.Due().IsZero() || len(once.Overdue(now.Add(time.Second))) != 0 {
		t.Errorf("events %+v, expected one, once", list)
	}
	e.Source = Netlink
	if once.Hear(now.Add(time.Second), &e) {
		t.Error("the late twin counts")
	}
}

// bothWays is an event as netlink and as PF_KEY tell it.
func bothWays(e Event) [2]Event {
	e.Source = Netlink
	k := e
	k.Source, k.Sub, k.IfID, k.Encap = PFKey, false, 0, nil
	k.Selector.SrcPort, k.Selector.SrcMask, k.Selector.DstPort, k.Selector.DstMask = 0, 0, 0, 0
	return [2]Event{e, k}
}

// However the two ways of the kernel deliver the events of a move, each of them in its
// order and neither long behind the other, the state is that of netlink alone: for a
// policy of the mobility header and one of the second SPD as well, which PF_KEY tells
// as any other. When netlink loses some, PF_KEY makes up for those of the first SPD.
func TestEitherWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		km := rapid.Bool().Draw(t, "kmaddress")
		s := world(2, place(1))
		want := s.clone()
		var once Once
		now := time.Unix(1000, 0)
		act := func(s *State, e Event) {
			p := Make(&e, s)
			s.Apply(&p)
		}
		for at := range rapid.IntRange(1, 4).Draw(t, "moves") {
			var events []Event
			for _, e := range move(2, place(at+1), place(at+2), km) {
				if e.Source == Netlink {
					events = append(events, e)
				}
			}
			// One for the sender of Binding Updates, and one that is nobody's: it tells of
			// the tunnel as if it had moved on.
			mh, sub := events[0], events[0]
			mh.Selector.Proto, mh.Selector.SrcPort, mh.Selector.SrcMask = 135, 5, 0xffff
			mh.Entries = []Entry{{Proto: 50, Mode: spd.Transport, ReqID: 10, New: events[0].Entries[0].New}}
			sub.Sub, sub.Entries = true, slices.Clone(sub.Entries)
			sub.Entries[0].New = Pair{place(50 + at), agent(place(50 + at))}
			sub.KM = Ends{}
			events = append([]Event{sub}, append(events, mh)...)
			lost := make([]bool, len(events))
			var ways [2][]Event
			for i, e := range events {
				both := bothWays(e)
				if lost[i] = !e.Sub && rapid.Bool().Draw(t, "lost by netlink"); !lost[i] {
					ways[0] = append(ways[0], both[0])
				}
				ways[1] = append(ways[1], both[1])
				act(&want, e)
			}
			// The manager asks for some of it again.
			for _, e := range rapid.SliceOfN(rapid.SampledFrom(events), 0, 5).Draw(t, "again") {
				both := bothWays(e)
				ways[0], ways[1] = append(ways[0], both[0]), append(ways[1], both[1])
				lost = append(lost, false)
			}
			for len(ways[0])+len(ways[1]) > 0 {
				i := 0
				if len(ways[0]) == 0 || len(ways[1]) > 0 && rapid.Bool().Draw(t, "PF_KEY next") {
					i = 1
				}
				e := ways[i][0]
				ways[i] = ways[i][1:]
				if once.Hear(now, &e) {
					act(&s, e)
				}
				now = now.Add(time.Millisecond)
			}
			if due := once.Due(); due.IsZero() == slices.Contains(lost, true) {
				t.Fatalf("lost by netlink: %v, and the next is due at %v", lost, due)
			}
			now = now.Add(twinTime)
			for _, e := range once.Overdue(now) {
				act(&s, e)
			}
			if d := cmp.Diff(want, s, sameAddrs); d != "" {
				t.Fatal(d)
			}
		}
	})
}
