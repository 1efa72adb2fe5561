package migrate

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"iked/spd"
)

var sameAddrs = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

// place is the n-th address where a node may be, of IPv4 or IPv6.
func place(n int) netip.Addr {
	if n%2 == 0 {
		return netip.AddrFrom4([4]byte{198, 51, 100, byte(n)})
	}
	return netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::1", n))
}

// agent is the other end, which has an address of both families.
func agent(of netip.Addr) netip.Addr {
	if of.Is4() {
		return netip.MustParseAddr("192.0.2.1")
	}
	return netip.MustParseAddr("2001:db8::1")
}

var home = netip.MustParseAddr("2001:db8:aaaa::100")

// world is a mobile node with tunnels, each with a request id of its own, and a
// stranger's SA that no event is about.
func world(tunnels int, at netip.Addr) State {
	ends := Ends{at, agent(at)}
	s := State{IKE: []IKE{{1, ends}, {2, Ends{at, netip.MustParseAddr("203.0.113.9")}}}}
	ts := func(p string) []spd.TS { return []spd.TS{spd.FromPrefix(netip.MustParsePrefix(p))} }
	for i := range tunnels {
		s.Children = append(s.Children, Child{
			ID: uint64(i), IKE: 1, Proto: 50, Mode: spd.Tunnel, ReqID: uint32(10 + i), In: Pair{ends.Remote, ends.Local}, Out: Pair{ends.Local, ends.Remote},
			Local: ts(home.String() + "/128"), Remote: ts("::/0"),
		})
	}
	s.Children = append(s.Children, Child{ID: 99, IKE: 2, Proto: 50, Mode: spd.Tunnel, ReqID: 99,
		In: Pair{netip.MustParseAddr("203.0.113.9"), at}, Out: Pair{at, netip.MustParseAddr("203.0.113.9")}, Local: ts("::/0"), Remote: ts("::/0")})
	return s
}

// move are the events of one move, as mip6d and the kernel tell them: for each
// direction, by both ways.
func move(tunnels int, from, to netip.Addr, km bool) (list []Event) {
	for i := range tunnels {
		for _, d := range []Dir{Out, In, Fwd} {
			for _, src := range []Source{Netlink, PFKey} {
				old, next := Pair{from, agent(from)}, Pair{to, agent(to)}
				sel := spd.KernelSelector{Src: netip.PrefixFrom(home, 128), Dst: netip.MustParsePrefix("::/0")}
				if d != Out {
					old, next = Pair{old.Dst, old.Src}, Pair{next.Dst, next.Src}
					sel.Src, sel.Dst = sel.Dst, sel.Src
				}
				e := Event{Source: src, Dir: d, Selector: sel, Entries: []Entry{{Proto: 50, Mode: spd.Tunnel, ReqID: uint32(10 + i), Old: old, New: next}}}
				if km {
					e.KM = Ends{to, agent(to)}
				}
				list = append(list, e)
			}
		}
	}
	return list
}

func (s *State) clone() State {
	return State{IKE: slices.Clone(s.IKE), Children: slices.Clone(s.Children)}
}

// The events of a move, in any order, any of them any number of times and by either
// way, lead to the same state: that in which everything moved and the stranger did
// not. After that each of them is an empty plan.
func TestAnyOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tunnels := rapid.IntRange(1, 4).Draw(t, "tunnels")
		km := rapid.Bool().Draw(t, "kmaddress")
		at := rapid.IntRange(0, 20).Draw(t, "first place")
		s := world(tunnels, place(at))
		for step := range rapid.IntRange(1, 5).Draw(t, "moves") {
			to := (at + rapid.IntRange(1, 19).Draw(t, "next place")) % 21
			events := move(tunnels, place(at), place(to), km)
			list := rapid.Permutation(events).Draw(t, "order")
			list = append(list, rapid.SliceOfN(rapid.SampledFrom(events), 0, 10).Draw(t, "again")...)
			for i := range list {
				p := Make(&list[i], &s)
				s.Apply(&p)
			}
			want := world(tunnels, place(to))
			stranger := world(0, place(at))
			if step > 0 {
				stranger.Children[0], stranger.IKE[1] = s.Children[tunnels], s.IKE[1]
			}
			want.Children[tunnels], want.IKE[1] = stranger.Children[0], stranger.IKE[1]
			if d := cmp.Diff(want, s, sameAddrs); d != "" {
				t.Fatal(d)
			}
			for i := range events {
				if p := Make(&events[i], &s); !p.Empty() {
					t.Fatalf("after it, %+v plans %+v", events[i], p)
				}
			}
			at = to
		}
	})
}

// An event about a place where the SAs are no more, heard late, moves no SA; and by
// Once the copy of the other way of a move before the last does not move IKE back.
func TestLate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := world(2, place(1))
		var once Once
		now := time.Unix(0, 0)
		hear := func(list []Event, from Source) {
			for i := range list {
				if list[i].Source != from || !once.Hear(now, &list[i]) {
					continue
				}
				p := Make(&list[i], &s)
				s.Apply(&p)
			}
		}
		first, second := move(2, place(1), place(2), true), move(2, place(2), place(3), true)
		hear(first, Netlink)
		hear(second, Netlink)
		want := s.clone()
		if want.IKE[0].Local != place(3) {
			t.Fatalf("IKE is at %v", want.IKE[0])
		}
		late := rapid.Permutation(append(first, second...)).Draw(t, "order")
		hear(late, PFKey)
		if d := cmp.Diff(want, s, sameAddrs); d != "" {
			t.Fatal(d)
		}
	})
}

// An event moves its own direction alone, and only SAs that stand where it says, of
// its protocol, mode and request id.
func TestConcerns(t *testing.T) {
	base := move(1, place(1), place(3), true)[0]
	for name, c := range map[string]struct {
		change func(*Event)
		moves  bool
	}{
		"as it is":          {func(*Event) {}, true},
		"any request id":    {func(e *Event) { e.Entries[0].ReqID = 0 }, true},
		"another id":        {func(e *Event) { e.Entries[0].ReqID = 77 }, false},
		"AH":                {func(e *Event) { e.Entries[0].Proto = 51 }, false},
		"BEET":              {func(e *Event) { e.Entries[0].Mode = spd.BEET }, false},
		"from elsewhere":    {func(e *Event) { e.Entries[0].Old.Src = place(5) }, false},
		"the second SPD":    {func(e *Event) { e.Sub = true }, false},
		"other end changed": {func(e *Event) { e.Entries[0].Old.Dst = place(5) }, false},
		"contradiction":     {func(e *Event) { e.Entries[0].New.Dst = place(2) }, false},
	} {
		e := base
		e.Entries = slices.Clone(base.Entries)
		c.change(&e)
		s := world(1, place(1))
		p := Make(&e, &s)
		if moved := len(p.Children) == 1; moved != c.moves {
			t.Errorf("%s: %+v", name, p)
		} else if moved && (p.Children[0].In || !p.Children[0].Out || p.Children[0].ToIn != s.Children[0].In || p.Children[0].ToOut != e.Entries[0].New) {
			t.Errorf("%s: an event of direction out moves %+v", name, p.Children[0])
		}
	}
}

// Without KMADDRESS an IKE SA follows the tunnel of direction out, if it was between
// the tunnel's ends; one that was not, as with a home address, stays.
func TestWithoutKMAddress(t *testing.T) {
	for _, c := range []struct {
		dir  Dir
		at   netip.Addr
		want bool
	}{{Out, place(1), true}, {In, place(1), false}, {Fwd, place(1), false}, {Out, place(7), false}} {
		s := world(1, place(1))
		s.IKE[0].Local = c.at
		for _, e := range move(1, place(1), place(3), false) {
			if e.Dir != c.dir {
				continue
			}
			p := Make(&e, &s)
			if moved := len(p.IKE) == 1 && p.IKE[0].To == (Ends{place(3), agent(place(3))}); moved != c.want || len(p.IKE) > 1 {
				t.Errorf("direction %v, IKE from %v: %+v", c.dir, c.at, p.IKE)
			}
			break
		}
	}
}

// Transport mode says where the node is and moves no SA: it is between the home
// address and the home agent (RFC 4877, Section 4.1). The selector tells whose it is: a
// home agent has one request id for many nodes.
func TestTransportStays(t *testing.T) {
	for _, reqid := range []uint32{0, 10} {
		s := world(1, place(1))
		s.Children[0].Mode = spd.Transport
		before := s.Children[0]
		e := move(1, place(1), place(3), true)[0]
		e.Entries[0].Mode, e.Entries[0].ReqID, e.Entries[0].Old = spd.Transport, reqid, Pair{netip.IPv6Unspecified(), netip.IPv6Unspecified()}
		p := Make(&e, &s)
		s.Apply(&p)
		if len(p.IKE) != 1 || s.IKE[0].Local != place(3) || s.Children[0].Out != before.Out {
			t.Errorf("request id %d: %+v", reqid, p)
		}
		e.Selector.Src = netip.MustParsePrefix("2001:db8:bbbb::/48")
		s = world(1, place(1))
		s.Children[0].Mode = spd.Transport
		if p := Make(&e, &s); len(p.IKE) != 0 {
			t.Errorf("request id %d, the policy of others: %+v", reqid, p)
		}
	}
}

// Six entries in one event move six SAs.
func TestSixEntries(t *testing.T) {
	s := world(6, place(1))
	e := move(1, place(1), place(2), true)[0]
	for i := 1; i < 6; i++ {
		x := e.Entries[0]
		x.ReqID += uint32(i)
		e.Entries = append(e.Entries, x)
	}
	p := Make(&e, &s)
	if len(p.Children) != 6 || len(p.IKE) != 1 {
		t.Errorf("%+v", p)
	}
}

// What moves with an IKE SA: tunnels and BEET always, transport mode not, because
// the addresses are what it is about, unless they are others (RFC 4555, Section 1.3;
// RFC 4877).
func TestFollow(t *testing.T) {
	hostOf := func(a netip.Addr) []spd.TS { return []spd.TS{spd.Host(a)} }
	a, b := place(1), agent(place(1))
	before, after := Ends{a, b}, Ends{place(3), b}
	for name, c := range map[string]struct {
		mode          spd.Mode
		own           bool
		local, remote []spd.TS
		after         Ends
		want          Fate
	}{
		"tunnel":                  {spd.Tunnel, false, hostOf(home), hostOf(b), after, FateMoves},
		"BEET":                    {spd.BEET, false, hostOf(home), hostOf(b), after, FateMoves},
		"transport":               {spd.Transport, false, hostOf(a), hostOf(b), after, FateEnds},
		"transport, other ports":  {spd.Transport, false, hostOf(a), hostOf(b), before, FateMoves},
		"transport, home address": {spd.Transport, false, hostOf(home), hostOf(b), after, FateStays},
		// At home, the address of IKE is the home address.
		"own ends":              {spd.Transport, true, hostOf(a), hostOf(b), after, FateStays},
		"own ends, other ports": {spd.Transport, true, hostOf(a), hostOf(b), before, FateStays},
	} {
		if got := Follow(c.mode, c.own, c.local, c.remote, before, c.after); got != c.want {
			t.Errorf("%s: fate %d, expected %d", name, got, c.want)
		}
	}
}

// RFC 4877, Section 4.3: SAs between the home address and the home agent stay there,
// also when the node leaves home and the entry says that they were at the home address;
// IKE goes on where KMADDRESS says.
func TestOwnEndsStay(t *testing.T) {
	s := world(1, place(1))
	c := &s.Children[0]
	c.Mode, c.Own = spd.Transport, true
	for _, e := range move(1, place(1), place(2), true) {
		for i := range e.Entries {
			e.Entries[i].Mode = spd.Transport
		}
		if p := Make(&e, &s); len(p.Children) != 0 || len(p.IKE) != 1 || p.IKE[0].To != e.KM {
			t.Errorf("direction %v: %+v", e.Dir, p)
		}
		c.Own = false
		if p := Make(&e, &s); e.Dir != Fwd && len(p.Children) != 1 {
			t.Errorf("direction %v: an SA of transport mode at the address of IKE: %+v", e.Dir, p)
		}
		c.Own = true
	}
}
