package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

// byHand is a gateway with two pairs of SAs keyed by hand, the first with a policy whose
// traffic also goes through AH in transport mode, and a group's SA.
func byHand(w *world) (g *gateway, ids [2]uint32) {
	w.t.Helper()
	g = w.gateway("moon", moonAddr, moonConf("", ", start: passive"))
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	var err error
	for i := range ids {
		out := manual(sad.Out, 0x1000+uint32(i))
		ids[i], err = g.e.AddStaticSA(out)
		must(err)
		in := manual(sad.In, 0x2000+uint32(i))
		in.ReqID, in.Src, in.Dst = ids[i], addr(sunAddr), addr(moonAddr)
		_, err = g.e.AddStaticSA(in)
		must(err)
	}
	group := manual(sad.Out, 0x3000)
	group.ReqID, group.Dst = ids[0], addr("239.1.1.1")
	_, err = g.e.AddStaticSA(group)
	must(err)
	p := manualPolicy("p", ids[0])
	p.Bundle = []spd.Template{{Proto: 51, Mode: spd.Transport, ReqID: ids[0] + 100}, {Proto: 50, Mode: spd.Tunnel, ReqID: ids[0], Local: addr(moonAddr), Remote: addr("203.0.113.5")}}
	must(g.e.AddStaticPolicy(p))
	must(g.e.AddStaticPolicy(manualPolicy("q", ids[1])))
	return g, ids
}

// handAt checks where a pair of SAs and its policies are, in the lists and in the backend.
func (g *gateway) handAt(when string, reqid uint32, policy string, local string) {
	g.w.t.Helper()
	ends := migrate.Ends{Local: addr(local), Remote: addr(sunAddr)}
	n := 0
	for _, sa := range g.e.StaticSAs(false) {
		if sa.ReqID != reqid || sa.Dst.IsMulticast() {
			continue
		}
		n++
		if kept, ok := g.back.SA(sa.ID); endsOfSA(&sa.SA) != ends || !ok || kept.Src != sa.Src {
			g.w.t.Errorf("%s: SA %08x is between %v, in the backend: %t", when, sa.SPI, endsOfSA(&sa.SA), ok)
		}
	}
	if n != 2 {
		g.w.t.Errorf("%s: %d SAs with reqid %x", when, n, reqid)
	}
	for _, list := range [][]spd.Policy{g.e.StaticPolicies(), g.back.Policies()} {
		for _, p := range list {
			if p.Name == policy && (p.OuterLocal != ends.Local || p.OuterRemote != ends.Remote || len(p.Bundle) > 0 && p.Bundle[1].Local != addr(moonAddr)) {
				g.w.t.Errorf("%s: policy %s is between %v and %v, bundle %+v", when, p.Name, p.OuterLocal, p.OuterRemote, p.Bundle)
			}
		}
	}
}

// SAs keyed by hand and their policies follow the events that name them, in any order and
// any number of times: half a second after the last one, so that no policy is another one
// before its own event was told. What one direction says holds for both, for an SA and
// its policies. Others, and groups, stay.
func TestMigrateStatic(t *testing.T) {
	for name, dirs := range map[string][]migrate.Dir{"all": {migrate.Fwd, migrate.In, migrate.Out, migrate.In}, "out": {migrate.Out}, "in": {migrate.In}} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				moon, ids := byHand(w)
				hear := func(from, to string) {
					for _, ev := range told(true, from, to, dirs...) {
						ev.Entries[0].ReqID = ids[0]
						for _, ev.Source = range []migrate.Source{migrate.Netlink, migrate.PFKey} {
							moon.back.Emit(backend.Migrate{Event: ev})
						}
					}
				}
				hear(moonAddr, movedAddr)
				w.after(restTime / 2)
				moon.handAt("before the move is complete", ids[0], "p", moonAddr)
				w.after(2 * restTime)
				moon.handAt("abroad", ids[0], "p", movedAddr)
				moon.handAt("abroad", ids[1], "q", moonAddr)
				for _, sa := range moon.e.StaticSAs(false) {
					if sa.Dst.IsMulticast() && sa.Src != addr(moonAddr) {
						t.Errorf("the group's SA comes from %v", sa.Src)
					}
				}
				// There and back within a moment is no move.
				hear(movedAddr, moonAddr)
				hear(moonAddr, movedAddr)
				w.after(3 * restTime)
				moon.handAt("still abroad", ids[0], "p", movedAddr)
				hear(movedAddr, moonAddr)
				w.after(3 * restTime)
				moon.handAt("home", ids[0], "p", moonAddr)
				if err := moon.e.DeleteStaticSA(StaticSelector{SPI: 0x1000}); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// An event without request id is about all SAs between the addresses; one SA that moved
// alone, without a policy, takes its own along; the control protocol moves at once.
func TestMigrateStaticOtherwise(t *testing.T) {
	simulate(t, func(w *world) {
		moon, ids := byHand(w)
		ev := told(true, moonAddr, movedAddr, migrate.In)[0]
		ev.Source = migrate.Control
		if r, err := moon.e.Migrate(context.Background(), ev); r.Static != 4 || r.Children+r.IKEs != 0 || err != nil {
			t.Errorf("%+v, %v", r, err)
		}
		for i, p := range []string{"p", "q"} {
			moon.handAt("by the control protocol", ids[i], p, movedAddr)
		}
		if r, err := moon.e.Migrate(context.Background(), ev); r.Static+r.Children+r.IKEs != 0 || err != nil {
			t.Errorf("again: %+v, %v", r, err)
		}
		moon.back.Emit(backend.MigrateSA{Event: migrate.Single{Proto: 50, SPI: 0x1001, Dst: addr(sunAddr), New: migrate.Pair{Src: addr(moonAddr), Dst: addr(sunAddr)}}})
		w.after(2 * restTime)
		moon.handAt("one SA alone", ids[1], "q", moonAddr)
		moon.handAt("one SA alone", ids[0], "p", movedAddr)
	})
}

// What the backend refuses to move is said, and the rest moves; a move that is not
// complete when the daemon ends does nothing after it.
func TestMigrateStaticRefused(t *testing.T) {
	simulate(t, func(w *world) {
		moon, ids := byHand(w)
		taken := manual(sad.Out, 0x1000)
		taken.Dst, taken.ReqID = netip.MustParseAddr("198.51.100.77"), ids[1]
		if _, err := moon.e.AddStaticSA(taken); err != nil {
			t.Fatal(err)
		}
		ev := told(true, moonAddr, movedAddr, migrate.Out)[0]
		ev.Source, ev.Entries[0].ReqID, ev.Entries[0].New.Dst = migrate.Control, ids[0], taken.Dst
		ev.KM = migrate.Ends{}
		moon.e.Migrate(context.Background(), ev)
		out, in := moon.e.StaticSAs(false)[0], moon.e.StaticSAs(false)[1]
		if out.Dst != addr(sunAddr) || in.Src != taken.Dst || !moon.logged("is not moved to 198.51.100.77") {
			t.Errorf("SAs %v and %v\n%s", out.Dst, in.Src, moon.dump())
		}
		for _, ev := range told(true, moonAddr, movedAddr, migrate.Out) {
			ev.Entries[0].ReqID = ids[1]
			moon.back.Emit(backend.Migrate{Event: ev})
		}
		w.after(time.Millisecond)
		moon.stop()
		w.after(2 * restTime)
		if strings.Contains(moon.dump(), "policy q follows") {
			t.Error("something moved after the end")
		}
	})
}
