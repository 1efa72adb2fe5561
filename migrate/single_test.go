package migrate

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"iked/spd"
)

// singles is a world whose children have SPIs, with AH around the first.
func singles(at netip.Addr) State {
	s := world(2, at)
	for i := range s.Children {
		n := uint32(0x1000 * (i + 1))
		s.Children[i].SAs = []SAs{{50, n, n + 1}}
	}
	s.Children[0].SAs = append(s.Children[0].SAs, SAs{51, 0x9000, 0x9001})
	return s
}

// One SA moves its direction of its own child, from where it is; said again it moves
// nothing. In any order all SAs of the node lead to where all of it moved, IKE with the
// outbound one of its tunnel.
func TestSingle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := place(1), place(3)
		s := singles(from)
		var events []Single
		for _, c := range s.Children[:2] {
			for _, x := range c.SAs {
				events = append(events, Single{x.Proto, x.In, c.In.Dst, Pair{agent(to), to}}, Single{x.Proto, x.Out, c.Out.Dst, Pair{to, agent(to)}})
			}
		}
		list := rapid.Permutation(events).Draw(t, "order")
		list = append(list, rapid.SliceOfN(rapid.SampledFrom(events), 0, 5).Draw(t, "again")...)
		for i := range list {
			p := MakeSingle(&list[i], &s)
			if len(p.Children) > 1 || len(p.Children) == 1 && p.Children[0].In == p.Children[0].Out {
				t.Fatalf("one SA moves %+v", p.Children)
			}
			s.Apply(&p)
			if p := MakeSingle(&list[i], &s); !p.Empty() {
				t.Fatalf("again: %+v", p)
			}
		}
		want := world(2, to)
		for i, c := range s.Children[:2] {
			if c.In != want.Children[i].In || c.Out != want.Children[i].Out {
				t.Fatalf("child %d is at %v and %v", i, c.In, c.Out)
			}
		}
		if s.IKE[0].Ends != want.IKE[0].Ends || s.IKE[1].Ends != singles(from).IKE[1].Ends || s.Children[2].Out != singles(from).Children[2].Out {
			t.Fatalf("IKE is at %v, the stranger at %v", s.IKE[0], s.Children[2])
		}
	})
}

// What one SA is: by protocol, SPI and where it was. In transport mode, and where IKE was
// not between the ends of the tunnel, IKE stays.
func TestSingleConcerns(t *testing.T) {
	base := Single{50, 0x1001, agent(place(1)), Pair{place(3), agent(place(3))}}
	for name, c := range map[string]struct {
		change     func(*Single, *State)
		moves, ike bool
	}{
		"as it is":         {func(*Single, *State) {}, true, true},
		"another SPI":      {func(e *Single, _ *State) { e.SPI = 0x7777 }, false, false},
		"another protocol": {func(e *Single, _ *State) { e.Proto = 51 }, false, false},
		"from elsewhere":   {func(e *Single, _ *State) { e.Dst = place(9) }, false, false},
		"a reserved SPI":   {func(e *Single, s *State) { e.SPI, s.Children[0].SAs[0].Out = 5, 5 }, false, false},
		"compression":      {func(e *Single, _ *State) { e.Proto = 108 }, false, false},
		"to nowhere":       {func(e *Single, _ *State) { e.New.Dst = netip.Addr{} }, false, false},
		"to a group":       {func(e *Single, _ *State) { e.New.Dst = netip.MustParseAddr("ff02::1") }, false, false},
		"its own ends":     {func(_ *Single, s *State) { s.Children[0].Own = true }, false, false},
		"inbound":          {func(e *Single, _ *State) { e.SPI, e.Dst, e.New = 0x1000, place(1), Pair{e.New.Dst, e.New.Src} }, true, false},
		"transport":        {func(_ *Single, s *State) { s.Children[0].Mode = spd.Transport }, true, false},
		"IKE elsewhere":    {func(_ *Single, s *State) { s.IKE[0].Local = place(7) }, true, false},
	} {
		s := singles(place(1))
		e := base
		c.change(&e, &s)
		if p := MakeSingle(&e, &s); len(p.Children) == 1 != c.moves || len(p.IKE) == 1 != c.ike || len(p.Children) > 1 {
			t.Errorf("%s: %+v", name, p)
		}
	}
}
