package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/migrate"
)

// placeFor is an address abroad whose messages go to the shard of another address, or to
// another shard.
func (g *gateway) placeFor(other string, same bool, not ...string) string {
	for i := 1; ; i++ {
		a := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		if (g.e.hashedShard(a) == g.e.hashedShard(addr(other))) == same && !slices.Contains(not, a.String()) {
			return a.String()
		}
	}
}

// goes has moon go elsewhere; both sides hear of it from their mobility managers.
func (w *world) goes(moon, sun *gateway, from, to string) {
	w.mu.Lock()
	delete(w.gates, addr(from))
	w.gates[addr(to)] = moon
	moon.addr = addr(to)
	w.mu.Unlock()
	for _, src := range []migrate.Source{migrate.Netlink, migrate.PFKey} {
		for _, ev := range told(true, from, to, migrate.Out, migrate.In, migrate.Fwd) {
			ev.Source = src
			moon.back.Emit(backend.Migrate{Event: ev})
		}
		for _, ev := range told(false, from, to, migrate.In, migrate.Fwd, migrate.Out) {
			ev.Source = src
			sun.back.Emit(backend.Migrate{Event: ev})
		}
	}
	w.after(3 * restTime)
}

// SAs of KINK move with a node, by the word of the mobility managers on both sides and
// without a message: KINK itself has none for that. What comes after is done between the
// new addresses, whichever shard messages from there go to.
func TestMigrateKINK(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("", ""))
		moon := w.gateway("moon", moonAddr, r.moon("", ", start: always"))
		w.after(time.Second)
		moon.tunnelBetween(moonAddr, sunAddr, "before")
		another := sun.placeFor(moonAddr, false)
		third := sun.placeFor(moonAddr, false, another)
		at := moonAddr
		for _, to := range []string{another, third, sun.placeFor(moonAddr, true), moonAddr} {
			messages := len(w.sent)
			w.goes(moon, sun, at, to)
			if at = to; len(w.sent) != messages {
				t.Errorf("%s: %d messages", to, len(w.sent)-messages)
			}
			moon.tunnelBetween(to, sunAddr, "at "+to)
			sun.tunnelBetween(sunAddr, to, "at "+to)
			for _, g := range []*gateway{moon, sun} {
				before := moon.back.SAs()[0].SPI
				if _, err := g.e.Rekey(context.Background(), Selector{Child: "net"}, false); err != nil {
					t.Fatal(err)
				}
				w.after(3 * time.Minute)
				moon.tunnelBetween(to, sunAddr, "at "+to+", after a rekeying by "+g.name)
				sun.tunnelBetween(sunAddr, to, "at "+to+", after a rekeying by "+g.name)
				if moon.back.SAs()[0].SPI == before {
					t.Errorf("at %s: %s has rekeyed nothing\n%s", to, g.name, g.dump())
				}
			}
		}
		if n := len(sun.e.kink.away.at); n != 0 {
			t.Errorf("at home, %d addresses are in other shards", n)
		}
		w.goes(moon, sun, at, another)
		moon.stop()
		w.after(15 * time.Second)
		if n := len(sun.back.SAs()); n != 0 {
			t.Errorf("%d SAs are left when the peer ended abroad", n)
		}
		w.after(6 * time.Minute) // what nothing hangs on is forgotten
		if n := len(sun.back.SAs()); n != 0 || len(sun.e.kink.away.at) != 0 {
			t.Errorf("%d SAs are left when the peer ended abroad, %d addresses", n, len(sun.e.kink.away.at))
		}
	})
}

// A node abroad makes a tunnel of another connection there, which another shard has: each
// message finds its SA, and all of them end when the node was started again, whose first
// message comes to one.
func TestMigrateKINKBesideAnother(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		second := func(conf string) string {
			more := conf[strings.Index(conf, "  - name: office"):]
			more = strings.NewReplacer("name: office", "name: branch", "name: net", "name: far", "10.1.0.0/16", "10.3.0.0/16", ", start: always", "").Replace(more)
			return conf + more
		}
		sun := w.gateway("sun", sunAddr, second(r.sun("", "")))
		moon := w.gateway("moon", moonAddr, second(r.moon("", ", start: always")))
		w.after(time.Second)
		moon.want(1, 1, "before")
		to := sun.placeFor(moonAddr, false)
		w.goes(moon, sun, moonAddr, to)
		if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "far"}); err != nil {
			t.Fatal(err)
		}
		w.after(5 * time.Second)
		moon.want(2, 2, "with a second connection")
		sun.want(2, 2, "with a second connection")
		for _, g := range []*gateway{moon, sun} {
			for _, child := range []string{"net", "far"} {
				if _, err := g.e.Rekey(context.Background(), Selector{Child: child}, false); err != nil {
					t.Fatal(err)
				}
				w.after(3 * time.Minute)
				moon.want(2, 2, fmt.Sprintf("after a rekeying of %s by %s", child, g.name))
				sun.want(2, 2, fmt.Sprintf("after a rekeying of %s by %s", child, g.name))
			}
		}
		for _, sa := range sun.back.SAs() {
			if sa.Src != addr(to) && sa.Dst != addr(to) {
				t.Errorf("an SA is from %v to %v", sa.Src, sa.Dst)
			}
		}
		moon.crash()
		moon.start()
		w.after(6 * time.Minute) // what nothing hangs on is forgotten
		moon.want(1, 1, "after a restart")
		sun.want(1, 1, "after a restart")
	})
}

// A peer that cannot follow is reached from the new address by new SAs.
func TestMigrateKINKReauth(t *testing.T) {
	simulate(t, func(w *world) {
		r := newRealm(w, "moon", "sun")
		sun := w.gateway("sun", sunAddr, r.sun("    dpd_delay: 10s", ""))
		moon := w.gateway("moon", moonAddr, r.moon("    mobility: reauth\n    dpd_delay: 10s", ", start: always"))
		w.after(time.Second)
		first := moon.back.SAs()[0].SPI
		w.mu.Lock()
		delete(w.gates, addr(moonAddr))
		w.gates[addr(movedAddr)] = moon
		moon.addr = addr(movedAddr)
		w.mu.Unlock()
		for _, ev := range told(true, moonAddr, movedAddr, migrate.Out, migrate.In) {
			moon.back.Emit(backend.Migrate{Event: ev})
		}
		w.after(5 * time.Minute)
		moon.tunnelBetween(movedAddr, sunAddr, "after the move")
		sun.tunnelBetween(sunAddr, movedAddr, "after the move")
		if moon.back.SAs()[0].SPI == first {
			t.Error("the SAs are the old ones")
		}
	})
}
