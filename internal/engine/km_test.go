package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/backend"
	"iked/migrate"
	"iked/spd"
)

// ownRoutes are routes that know the addresses of their host.
type ownRoutes struct {
	*gateway
	own func() []netip.Prefix
}

func (r ownRoutes) Own() ([]netip.Prefix, error) { return r.own(), nil }

// toldFirst is the event by which a mobility manager tells where moon is, before there
// is an SA: the policy is of request id 7.
func toldFirst(moon bool, local, remote string) backend.Migrate {
	ev := told(moon, moonAddr, movedAddr, migrate.Out)[0]
	ev.Entries[0].ReqID = 7
	ev.KM = migrate.Ends{Local: addr(local), Remote: addr(remote)}
	ev.Source = migrate.Control
	return backend.Migrate{Event: ev}
}

// reach sets at which addresses packets reach a gateway; the routes give the first.
func (w *world) reach(g *gateway, at ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a, o := range w.gates {
		if o == g {
			delete(w.gates, a)
		}
	}
	for _, a := range at {
		w.gates[addr(a)] = g
	}
}

// versions runs a test with the key exchanges that IKE has; text turns a configuration
// of IKEv2 into one of the version.
func versions(t *testing.T, f func(w *world, text func(string) string)) {
	for name, text := range map[string]func(string) string{
		"IKEv2": func(s string) string { return strings.ReplaceAll(s, "VERSION", "mobike: no") },
		"IKEv1": strings.NewReplacer("VERSION", "version: 1", "aes128gcm16-prfsha256-x25519", "aes128-sha256-modp2048", "esp_proposals: [aes128gcm16-x25519]", "esp_proposals: [aes128-sha256]",
			"{id: sun, auth: psk}", "{auth: psk}", "{id: moon, auth: psk}", "{auth: psk}").Replace,
	} {
		t.Run(name, func(t *testing.T) { simulate(t, func(w *world) { kernelLike(w); f(w, text) }) })
	}
}

// A mobility manager tells of the care-of address before there is an IKE SA, and the
// negotiation that a packet then asks for goes from there, though the routes and the
// policy would have another address. After a return home, and after the peer was away,
// what was told last counts.
func TestKMAddressBeforeTheFirstSA(t *testing.T) {
	versions(t, func(w *world, text func(string) string) {
		sun := w.gateway("sun", sunAddr, text(site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    VERSION\n", ", start: passive")))
		moon := w.gateway("moon", moonAddr, text(moonConf("    VERSION\n    dpd_delay: 10s\n", ", start: on-demand, policies: no, reqid: 7")))
		w.reach(moon, movedAddr) // at home nothing reaches it
		moon.back.Emit(toldFirst(true, movedAddr, sunAddr))
		w.after(time.Second)
		moon.back.Emit(otherAsks(nil))
		w.after(5 * time.Second)
		moon.tunnelBetween(movedAddr, sunAddr, "abroad")
		sun.tunnelBetween(sunAddr, movedAddr, "abroad")
		w.mu.Lock()
		for _, d := range w.sent {
			if d.Remote.Addr() == addr(moonAddr) { // as the receiver has it
				t.Errorf("a message went from the home address to %v", d.Local)
			}
		}
		w.mu.Unlock()
		if list, err := moon.e.ListConns(context.Background(), "office"); err != nil || list[0].KM == nil || list[0].KM.Local != addr(movedAddr) || list[0].KM.Unused != "" {
			t.Errorf("the connection is shown as %+v, %v", list[0].KM, err)
		}
		sun.crash()
		w.after(30 * time.Minute)
		moon.want(0, 0, "after the peer was away")
		if f := moon.e.Explain("office"); len(f) == 0 || !strings.Contains(strings.Join(f[0].Evidence, "\n"), "KMADDRESS or its policy: "+movedAddr) {
			t.Errorf("explain has no word of KMADDRESS: %+v", f)
		}
		sun.start()
		moon.back.Emit(otherAsks(nil))
		w.after(2 * time.Minute)
		moon.back.Emit(otherAsks(nil))
		w.after(5 * time.Second)
		moon.tunnelBetween(movedAddr, sunAddr, "when the peer is back")
		// Home: the SA moves, and the next begins there.
		w.reach(moon, moonAddr)
		ev := toldFirst(true, moonAddr, sunAddr)
		moon.back.Emit(ev)
		back := told(false, movedAddr, moonAddr, migrate.In, migrate.Out)
		for _, e := range back {
			sun.back.Emit(backend.Migrate{Event: e})
		}
		w.after(5 * time.Second)
		if s := moon.sas()[0]; s.Local.Addr() != addr(moonAddr) {
			t.Errorf("the IKE SA is at %v after the return home", s.Local)
		}
		if _, err := moon.e.Terminate(context.Background(), TerminateRequest{Selector: Selector{IKE: "office"}}); err != nil {
			t.Fatal(err)
		}
		w.after(time.Minute)
		moon.want(0, 0, "after the end")
		if err := moon.e.Initiate(context.Background(), InitiateRequest{Child: "net"}); err != nil {
			t.Fatal(err)
		}
		w.after(5 * time.Second)
		moon.tunnelBetween(moonAddr, sunAddr, "at home")
	})
}

// What is being negotiated from an address that is gone begins anew from the one that a
// mobility manager tells, at once; so does what failed and waits. The peer has one SA,
// and the same event again changes nothing.
func TestKMAddressDuringNegotiation(t *testing.T) {
	for name, wait := range map[string]time.Duration{"under way": time.Second, "between two attempts": 4 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			versions(t, func(w *world, text func(string) string) {
				sun := w.gateway("sun", sunAddr, text(site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    VERSION\n", ", start: passive")))
				moon := w.gateway("moon", moonAddr, text(moonConf("    VERSION\n    keyingtries: 0\n", ", start: always, policies: no, reqid: 7")))
				w.reach(moon, movedAddr)
				w.after(wait)
				for {
					list, err := moon.e.ListConns(context.Background(), "office")
					if err != nil {
						t.Fatal(err)
					}
					if list[0].Trying == (name == "under way") {
						break
					}
					w.after(100 * time.Millisecond)
				}
				for range 6 { // for each policy one
					moon.back.Emit(toldFirst(true, movedAddr, sunAddr))
				}
				w.after(500 * time.Millisecond)
				moon.tunnelBetween(movedAddr, sunAddr, "half a second later")
				w.after(5 * time.Minute)
				moon.want(1, 1, "later")
				sun.want(1, 1, "later")
				w.mu.Lock()
				defer w.mu.Unlock()
				from := map[string]bool{}
				for _, d := range w.sent {
					if d.Remote.Addr() == addr(movedAddr) {
						from[string(d.Data[:8])] = true
					}
				}
				if len(from) != 1 {
					t.Errorf("%d IKE SAs were begun from the new address", len(from))
				}
			})
		})
	}
}

// What a mobility manager told is not used, and said not to be, when the address is not
// this host's, or when the configuration does not let the connection be there. It leaves
// with the configuration of the child.
func TestKMAddressNotUsed(t *testing.T) {
	for name, c := range map[string]struct{ conf, local, remote, want string }{
		"not own":      {"", "192.0.2.78", sunAddr, "192.0.2.78 is no address of this host now"},
		"local_addrs":  {"    local_addrs: [" + moonAddr + "]\n", movedAddr, sunAddr, "local_addrs does not have " + movedAddr},
		"remote_addrs": {"", movedAddr, "192.0.2.9", "remote_addrs does not have 192.0.2.9"},
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				kernelLike(w)
				base := w.setup
				w.setup = func(g *gateway, o *Options) {
					base(g, o)
					o.Routes = ownRoutes{g, func() []netip.Prefix {
						return []netip.Prefix{netip.PrefixFrom(addr(moonAddr), 24), netip.PrefixFrom(addr(movedAddr), 24)}
					}}
				}
				conf := moonConf(c.conf, ", start: on-demand, policies: no, reqid: 7")
				moon := w.gateway("moon", moonAddr, conf)
				moon.back.Emit(toldFirst(true, c.local, c.remote))
				w.after(time.Second)
				moon.back.Emit(otherAsks(nil))
				w.after(10 * time.Minute)
				if !moon.logged("which is not used: " + c.want) {
					t.Errorf("nobody says why\n%s", moon.dump())
				}
				for _, d := range w.sent {
					if d.Remote.Addr() != addr(moonAddr) || d.Local.Addr() != addr(sunAddr) {
						t.Errorf("a message went from %v to %v", d.Remote, d.Local)
					}
				}
				if list, _ := moon.e.ListConns(context.Background(), "office"); list[0].KM == nil || list[0].KM.Unused != c.want {
					t.Errorf("the connection is shown as %+v", list[0].KM)
				}
				if f := moon.e.Explain("office"); len(f) == 0 || !strings.Contains(strings.Join(f[0].Evidence, "\n"), c.want) {
					t.Errorf("explain has no word of it: %+v", f)
				}
				for _, text := range []string{strings.Replace(conf, "reqid: 7", "reqid: 9", 1), conf} {
					moon.conf = text
					if _, err := moon.e.Reload(context.Background(), false); err != nil {
						t.Fatal(err)
					}
				}
				if list, _ := moon.e.ListConns(context.Background(), "office"); list[0].KM != nil {
					t.Errorf("what was told is still there after the child was not: %+v", list[0].KM)
				}
			})
		})
	}
}

// When nobody told where IKE is, as after a restart of the daemon abroad, the ends of the
// tunnel in the policy of somebody else's say so: no other SA would serve it. What a
// manager told before counts more, and transport mode has no such ends.
func TestEndsOfTheManagersPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		told, want string
		ends       bool
	}{"nothing told": {"", movedAddr, true}, "told": {movedAddr, movedAddr, true}, "no ends": {"", moonAddr, false}} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(w *world) {
				kernelLike(w)
				sun := w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: passive"))
				moon := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: on-demand, policies: no, reqid: 7"))
				w.reach(moon, c.want)
				if c.told != "" {
					moon.back.Emit(toldFirst(true, c.told, sunAddr))
				}
				w.after(time.Second)
				moon.back.Emit(otherAsks(func(a *backend.Acquire) {
					if !c.ends {
						return
					}
					a.OuterLocal, a.OuterRemote = addr(movedAddr), addr(sunAddr)
					if c.told != "" {
						a.OuterLocal = addr(moonAddr)
					}
				}))
				w.after(2 * time.Second)
				moon.tunnelBetween(c.want, sunAddr, name)
				sun.tunnelBetween(sunAddr, c.want, name)
			})
		})
	}
}

// A home agent with one connection for all nodes begins with the node that the packet is
// for, at the care-of address that its manager told, and not with the home address.
func TestKMAddressOfOneOfManyPeers(t *testing.T) {
	simulate(t, func(w *world) {
		kernelLike(w)
		agent := w.gateway("sun", sunAddr, site("sun", "moon", "'%any'", "10.2.0.0/16", "10.1.0.0/16", "    mobike: no\n", ", start: on-demand, policies: no, reqid: 7, pfp: [local_addr, remote_addr]"))
		node := w.gateway("moon", moonAddr, moonConf("    mobike: no\n", ", start: passive"))
		w.reach(node, movedAddr)
		ask := otherAsks(func(a *backend.Acquire) { a.Flow.Local, a.Flow.Remote = a.Flow.Remote, a.Flow.Local })
		// Another node was told of later.
		one, other := toldFirst(false, sunAddr, movedAddr), toldFirst(false, sunAddr, "192.0.2.99")
		one.Event.Selector.Dst, other.Event.Selector.Dst = netip.MustParsePrefix("10.1.0.5/32"), netip.MustParsePrefix("10.1.0.6/32")
		agent.back.Emit(one)
		agent.back.Emit(other)
		w.after(time.Second)
		agent.back.Emit(ask)
		w.after(2 * time.Second)
		agent.tunnelBetween(sunAddr, movedAddr, "for a packet to the node")
		if got := agent.back.SAs()[0].Remote; len(got) != 1 || got[0] != (spd.Host(addr("10.1.0.5"))) {
			t.Errorf("the SA is for %v", got)
		}
		// A second packet goes with the SA that is there; one to the other node does not.
		again := ask
		again.Flow.Local = addr("10.2.0.7")
		agent.back.Emit(again)
		w.after(2 * time.Second)
		agent.want(1, 2, "for another packet to the node")
		// While the other node is being asked it moves.
		ask.Flow.Remote = addr("10.1.0.6")
		agent.back.Emit(ask)
		w.after(time.Second)
		agent.want(1, 2, "while the other node is not there")
		other.Event.KM.Remote = addr(movedAddr)
		agent.back.Emit(other)
		w.after(time.Second)
		agent.want(1, 3, "when the other node is where the first one is")
	})
}

// KINK begins where a mobility manager told, too, and anew when it is told meanwhile.
func TestKMAddressWithKINK(t *testing.T) {
	for _, start := range []string{"on-demand", "always"} {
		simulate(t, func(w *world) {
			r := newRealm(w, "moon", "sun")
			base := w.setup
			kernelLike(w)
			info := w.setup
			w.setup = func(g *gateway, o *Options) { base(g, o); info(g, o) }
			w.gateway("sun", sunAddr, r.sun("", ", start: passive"))
			moon := w.gateway("moon", moonAddr, r.moon("", ", start: "+start+", policies: no, reqid: 7"))
			w.reach(moon, movedAddr)
			w.after(time.Second)
			moon.back.Emit(toldFirst(true, movedAddr, sunAddr))
			w.after(time.Second)
			if start == "on-demand" {
				moon.back.Emit(otherAsks(nil))
				w.after(5 * time.Second)
			}
			moon.tunnelBetween(movedAddr, sunAddr, "abroad")
			w.after(10 * time.Minute)
			moon.want(1, 1, "later")
		})
	}
}
