package engine

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

const movedAddr = "192.0.2.77"

// told are the events by which a mobility manager moves moon's end of the tunnel, as
// one of the two sides hears them.
func told(moon bool, from, to string, dirs ...migrate.Dir) (list []migrate.Event) {
	here, there := netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("10.2.0.0/16")
	old, next, km := migrate.Pair{Src: addr(from), Dst: addr(sunAddr)}, migrate.Pair{Src: addr(to), Dst: addr(sunAddr)}, migrate.Ends{Local: addr(to), Remote: addr(sunAddr)}
	back := func(p migrate.Pair) migrate.Pair { return migrate.Pair{Src: p.Dst, Dst: p.Src} }
	if !moon {
		here, there, old, next, km = there, here, back(old), back(next), migrate.Ends{Local: km.Remote, Remote: km.Local}
	}
	for _, d := range dirs {
		e := migrate.Event{Dir: d, KM: km, Selector: spd.KernelSelector{Src: here, Dst: there}, Entries: []migrate.Entry{{Proto: 50, Mode: spd.Tunnel, Old: old, New: next}}}
		if d != migrate.Out {
			e.Selector.Src, e.Selector.Dst = there, here
			e.Entries[0].Old, e.Entries[0].New = back(old), back(next)
		}
		list = append(list, e)
	}
	return list
}

// tunnelBetween checks where a gateway has the SAs and the policy of its tunnel.
func (g *gateway) tunnelBetween(local, remote, when string) {
	g.w.t.Helper()
	g.want(1, 1, when)
	l, r := addr(local), addr(remote)
	for _, s := range g.back.SAs() {
		if s.Dir == sad.Out && (s.Src != l || s.Dst != r) || s.Dir == sad.In && (s.Src != r || s.Dst != l) {
			g.w.t.Errorf("%s, %s: an SA goes from %v to %v, the tunnel is between %v here and %v", g.name, when, s.Src, s.Dst, l, r)
		}
	}
	for _, p := range g.back.Policies() {
		if p.Action == spd.Protect && (p.OuterLocal != l || p.OuterRemote != r) {
			g.w.t.Errorf("%s, %s: the policy is between %v and %v", g.name, when, p.OuterLocal, p.OuterRemote)
		}
	}
	if s := g.sas()[0]; s.Local.Addr() != l || s.Remote.Addr() != r {
		g.w.t.Errorf("%s, %s: the IKE SA is between %v and %v", g.name, when, s.Local, s.Remote)
	}
}

// A node moves and both sides hear of it from their mobility managers: SAs, policies
// and the IKE SA are at the new address, no message of IKE was needed (the K bit of RFC
// 6275, Section 6.1.7), and what comes after is done there. So with the events of the
// return, and with both ways of the kernel.
func TestMigrate(t *testing.T) {
	migrates := func(t *testing.T, conf func(string) string) {
		simulate(t, func(w *world) { migratesThereAndBack(t, w, conf) })
	}
	t.Run("IKEv2", func(t *testing.T) {
		migrates(t, func(s string) string { return strings.ReplaceAll(s, "VERSION", "mobike: no") })
	})
	t.Run("IKEv1", func(t *testing.T) {
		migrates(t, func(s string) string {
			return strings.NewReplacer("VERSION", "version: 1", "aes128gcm16-prfsha256-x25519", "aes128-sha256-modp2048", "esp_proposals: [aes128gcm16-x25519]", "esp_proposals: [aes128-sha256]",
				"{id: sun, auth: psk}", "{auth: psk}", "{id: moon, auth: psk}", "{auth: psk}").Replace(s)
		})
	})
}

func migratesThereAndBack(t *testing.T, w *world, conf func(string) string) {
	sun := w.gateway("sun", sunAddr, conf(site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    VERSION\n", ", start: passive")))
	moon := w.gateway("moon", moonAddr, conf(moonConf("    VERSION\n", ", start: always")))
	w.after(2 * time.Second)
	moon.tunnelBetween(moonAddr, sunAddr, "before")
	w.mu.Lock()
	w.gates[addr(movedAddr)] = moon
	messages := len(w.sent)
	w.mu.Unlock()
	all := []migrate.Dir{migrate.Out, migrate.In, migrate.Fwd}
	hear := func(from, to string) {
		for _, src := range []migrate.Source{migrate.Netlink, migrate.PFKey} {
			for _, ev := range told(true, from, to, all...) {
				ev.Source = src
				moon.back.Emit(backend.Migrate{Event: ev})
			}
			for _, ev := range slices.Backward(told(false, from, to, all...)) {
				ev.Source = src
				sun.back.Emit(backend.Migrate{Event: ev})
			}
		}
		w.after(2 * restTime)
	}
	hear(moonAddr, movedAddr)
	moon.tunnelBetween(movedAddr, sunAddr, "after the move")
	sun.tunnelBetween(sunAddr, movedAddr, "after the move")
	w.mu.Lock()
	if n := len(w.sent) - messages; n != 0 {
		t.Errorf("%d messages of IKE were exchanged", n)
	}
	w.mu.Unlock()
	for _, g := range []*gateway{moon, sun} {
		if _, err := g.e.Rekey(context.Background(), Selector{Child: "net"}, false); err != nil {
			t.Fatal(err)
		}
		w.after(2 * time.Minute) // IKEv1 keeps what is replaced for a while
		moon.tunnelBetween(movedAddr, sunAddr, "after a rekeying by "+g.name)
		sun.tunnelBetween(sunAddr, movedAddr, "after a rekeying by "+g.name)
	}
	hear(movedAddr, moonAddr)
	moon.tunnelBetween(moonAddr, sunAddr, "back")
	sun.tunnelBetween(sunAddr, moonAddr, "back")
	delete(w.gates, addr(movedAddr))
}

// When only one direction is told of, the other one follows it after a moment. Nothing
// is put into the kernel before that: events about other policies of the same move may
// be on the way, and must find these as they were.
func TestMigrateOneDirection(t *testing.T) {
	for _, dir := range []migrate.Dir{migrate.Out, migrate.In} {
		simulate(t, func(w *world) {
			w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: passive"))
			moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: always"))
			w.after(2 * time.Second)
			for _, ev := range told(true, moonAddr, movedAddr, dir) {
				moon.e.Migrate(context.Background(), ev)
			}
			w.after(restTime / 2)
			for _, s := range moon.back.SAs() {
				if s.Src == addr(movedAddr) || s.Dst == addr(movedAddr) {
					t.Errorf("direction %v: an SA was moved at once: from %v to %v", dir, s.Src, s.Dst)
				}
			}
			w.after(restTime)
			moon.tunnelBetween(movedAddr, sunAddr, "after one direction")
		})
	}
}

// A mobility manager that tells this daemon alone, for SAs in userspace, has them moved
// at once, both directions by either.
func TestMigrateByControl(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: always"))
		w.after(2 * time.Second)
		ev := told(true, moonAddr, movedAddr, migrate.In)[0]
		ev.Source = migrate.Control
		moon.e.Migrate(context.Background(), ev)
		w.after(time.Millisecond)
		moon.tunnelBetween(movedAddr, sunAddr, "after the event")
	})
}

// An event about other SAs, of the second SPD, or one that contradicts itself, changes
// nothing.
func TestMigrateOfOthers(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, sunConf("    mobike: no\n", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: always"))
		w.after(2 * time.Second)
		for _, spoil := range []func(*migrate.Event){
			func(e *migrate.Event) { e.Entries[0].ReqID = 4711 }, func(e *migrate.Event) { e.Sub = true },
			func(e *migrate.Event) { e.Entries[0].Old.Src = addr("192.0.2.50") }, func(e *migrate.Event) { e.Entries[0].New.Src = addr("2001:db8::1") },
		} {
			ev := told(true, moonAddr, movedAddr, migrate.Out)[0]
			spoil(&ev)
			moon.e.Migrate(context.Background(), ev)
		}
		w.after(2 * restTime)
		moon.tunnelBetween(moonAddr, sunAddr, "after events about others")
	})
}

// Where MOBIKE was agreed the peer is told by it, and needs no mobility manager.
func TestMigrateTellsByMOBIKE(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		w.mu.Lock()
		w.gates[addr(movedAddr)] = moon
		w.mu.Unlock()
		for _, ev := range told(true, moonAddr, movedAddr, migrate.Out, migrate.In) {
			moon.e.Migrate(context.Background(), ev)
		}
		w.after(time.Second)
		moon.tunnelBetween(movedAddr, sunAddr, "after the move")
		sun.tunnelBetween(sunAddr, movedAddr, "after the move")
		delete(w.gates, addr(movedAddr))
	})
}

// mobility says how the peer hears of a move: by its own manager alone, though MOBIKE
// was agreed, or by a new IKE SA from the new address.
func TestMobilityKey(t *testing.T) {
	for _, how := range []string{"kbit", "reauth"} {
		simulate(t, func(w *world) {
			sun := w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "", ", start: passive"))
			moon := w.gateway("moon", moonAddr, moonConf("    mobility: "+how+"\n", ", start: always"))
			w.after(2 * time.Second)
			first := moon.sas()[0].SPIi
			w.mu.Lock()
			w.gates[addr(movedAddr)] = moon
			delete(w.gates, addr(moonAddr))
			moon.addr = addr(movedAddr)
			messages := len(w.sent)
			w.mu.Unlock()
			for _, ev := range told(true, moonAddr, movedAddr, migrate.Out, migrate.In) {
				moon.e.Migrate(context.Background(), ev)
			}
			w.after(20 * time.Second)
			moon.tunnelBetween(movedAddr, sunAddr, how)
			w.mu.Lock()
			messages = len(w.sent) - messages
			w.mu.Unlock()
			same := moon.sas()[0].SPIi == first
			switch {
			case how == "kbit" && (messages != 0 || !same):
				t.Errorf("kbit: %d messages, the same IKE SA: %t", messages, same)
			case how == "reauth" && same:
				t.Error("reauth: the IKE SA is the old one")
			case how == "reauth":
				sun.tunnelBetween(sunAddr, movedAddr, how)
			}
		})
	}
}

// What stands for the address of this host itself stands for the new one when it
// changes, and for the old one no more: nothing leaves in clear from there (RFC 4301,
// Section 4.4.1).
func TestStandingEntriesFollowTheHost(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, site("moon", "sun", sunAddr, "dynamic", "10.2.0.0/16", "", ", start: on-demand"))
		w.after(time.Second)
		only := func(a string) {
			t.Helper()
			list := moon.back.Policies()
			if len(list) != 1 || list[0].Action != spd.Protect || !slices.Equal(list[0].Local, []spd.TS{spd.Host(addr(a))}) {
				t.Errorf("policies %+v, expected one for %s", list, a)
			}
		}
		only(moonAddr)
		w.mu.Lock()
		w.gates[addr(movedAddr)] = moon
		delete(w.gates, addr(moonAddr))
		moon.addr = addr(movedAddr)
		w.mu.Unlock()
		for range 3 {
			moon.e.NetworkChanged()
		}
		w.after(time.Second)
		only(movedAddr)
	})
}

// What netlink loses is followed by what PF_KEY tells, after a moment in which netlink
// may still tell it; and what PF_KEY tells before netlink does is done once, as netlink
// has it: a policy of the second SPD is nobody's here.
func TestMigrateByPFKeyAlone(t *testing.T) {
	simulate(t, func(w *world) {
		w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: always"))
		w.after(2 * time.Second)
		for _, ev := range told(true, moonAddr, movedAddr, migrate.Out, migrate.In) {
			ev.Source = migrate.PFKey
			moon.back.Emit(backend.Migrate{Event: ev})
			ev.Source, ev.Sub = migrate.Netlink, true
			moon.back.Emit(backend.Migrate{Event: ev})
		}
		w.after(4 * restTime)
		moon.tunnelBetween(moonAddr, sunAddr, "after events of the second SPD")
		for _, ev := range told(true, moonAddr, movedAddr, migrate.Out, migrate.In) {
			ev.Source = migrate.PFKey
			moon.back.Emit(backend.Migrate{Event: ev})
		}
		w.after(4 * restTime)
		moon.tunnelBetween(movedAddr, sunAddr, "after PF_KEY alone")
	})
}

// One SA that somebody moved, whatever the policies, moves its direction; the other one
// and the policy follow after a moment, and IKE with the outbound one.
func TestMigrateOneSA(t *testing.T) {
	for _, dir := range []sad.Direction{sad.Out, sad.In} {
		simulate(t, func(w *world) {
			w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: passive"))
			moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: always"))
			w.after(2 * time.Second)
			for _, sa := range moon.back.SAs() {
				ev := migrate.Single{Proto: 50, SPI: sa.SPI, Dst: sa.Dst, New: migrate.Pair{Src: addr(movedAddr), Dst: addr(sunAddr)}}
				if sa.Dir != dir {
					ev.SPI++ // of nobody
				} else if dir == sad.In {
					ev.New = migrate.Pair{Src: addr(sunAddr), Dst: addr(movedAddr)}
				}
				moon.back.Emit(backend.MigrateSA{Event: ev})
			}
			w.after(2 * restTime)
			for _, s := range moon.back.SAs() {
				if s.Src != addr(movedAddr) && s.Dst != addr(movedAddr) {
					t.Errorf("direction %v: an SA is from %v to %v", dir, s.Src, s.Dst)
				}
			}
			if p := moon.back.Policies(); len(p) != 1 || p[0].OuterLocal != addr(movedAddr) {
				t.Errorf("direction %v: policies %+v", dir, p)
			}
			ike, want := moon.sas()[0].Local.Addr(), addr(movedAddr)
			if dir == sad.In {
				want = addr(moonAddr)
			}
			if ike != want {
				t.Errorf("direction %v: IKE is at %v", dir, ike)
			}
		})
	}
}

// A move in the middle of a rekeying of the IKE SA, by either side: the IKE SA that is
// left is at the new address on both sides, and is of use there.
func TestMigrateWhileIKEIsRekeyed(t *testing.T) {
	for _, version := range []string{"mobike: no", "version: 1\n    aggressive: yes\n    aggressive_psk: yes"} {
		for _, bySun := range []bool{false, true} {
			for at := time.Duration(0); at <= 200*time.Millisecond; at += 10 * time.Millisecond {
				simulate(t, func(w *world) {
					conf := func(s string) string {
						if version != "mobike: no" {
							s = strings.NewReplacer("aes128gcm16-prfsha256-x25519", "aes128-sha256-modp2048", "esp_proposals: [aes128gcm16-x25519]", "esp_proposals: [aes128-sha256]").Replace(s)
						}
						return strings.ReplaceAll(s, "VERSION", version+"\n    dpd_delay: 1h")
					}
					sun := w.gateway("sun", sunAddr, conf(site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    VERSION\n", ", start: passive")))
					moon := w.gateway("moon", moonAddr, conf(moonConf("    VERSION\n", ", start: always")))
					w.after(2 * time.Second)
					w.delay = 25 * time.Millisecond
					g := moon
					if bySun {
						g = sun
					}
					if _, err := g.e.Rekey(context.Background(), Selector{IKE: "office"}, false); err != nil {
						t.Fatal(err)
					}
					w.after(at)
					w.mu.Lock()
					w.gates[addr(movedAddr)] = moon
					delete(w.gates, addr(moonAddr))
					moon.addr = addr(movedAddr)
					w.mu.Unlock()
					for _, g := range []*gateway{moon, sun} {
						for _, ev := range told(g == moon, moonAddr, movedAddr, migrate.Out, migrate.In) {
							if _, err := g.e.Migrate(context.Background(), ev); err != nil {
								t.Fatal(err)
							}
						}
					}
					w.after(5 * time.Minute)
					when := version + ", " + at.String() + " after " + g.name + " began to rekey"
					moon.tunnelBetween(movedAddr, sunAddr, when)
					sun.tunnelBetween(sunAddr, movedAddr, when)
				})
				if t.Failed() {
					return
				}
			}
		}
	}
}
