package engine

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/ident"
)

// Reauthentication makes the new IKE SA with its children before the old one
// goes: there is no moment without a CHILD_SA.
func TestReauthMakesBeforeItBreaks(t *testing.T) {
	simulate(t, func(w *world) {
		sun := w.gateway("sun", sunAddr, sunConf("", ", start: passive"))
		moon := w.gateway("moon", moonAddr, moonConf("", ", start: always"))
		w.after(2 * time.Second)
		before := moon.sas()[0]
		if _, err := moon.e.Rekey(context.Background(), Selector{IKE: "office"}, true); err != nil {
			t.Fatal(err)
		}
		for range 200 {
			w.after(time.Millisecond)
			if _, c := moon.up(); c == 0 {
				t.Fatal("there is a moment without a CHILD_SA")
			}
		}
		w.after(10 * time.Second)
		moon.want(1, 1, "after reauthentication")
		sun.want(1, 1, "after reauthentication")
		if moon.sas()[0].SPIi == before.SPIi {
			t.Error("the IKE SA is still the old one")
		}
	})
}

// A peer gets its virtual address again after both ends were started anew, and
// another peer gets another one.
func TestStableLeases(t *testing.T) {
	simulate(t, func(w *world) {
		server := strings.Replace(anyPeer, "    local:", "    pools: [p]\n    local:", 1)
		server = strings.Replace(server, "remote_ts: [10.1.0.0/16]", "remote_ts: [dynamic]", 1) +
			"pools:\n  - {name: p, addrs: 10.9.0.0/28, dns: [10.9.0.1]}\n"
		sun := w.gateway("sun", sunAddr, server)
		client := strings.Replace(moonConf("    vips: [0.0.0.0]", ", start: always"), "local_ts: [10.1.0.0/16]", "local_ts: [dynamic]", 1)
		moon := w.gateway("moon", moonAddr, client)
		w.after(3 * time.Second)
		moon.want(1, 1, "with a virtual address")
		got := moon.back.Addresses()
		if len(got) != 1 || got[0].String() != "10.9.0.1/32" {
			t.Fatalf("virtual addresses %v, expected the first of the pool", got)
		}
		if p := sun.e.Pools("p", true); len(p) != 1 || p[0].Online != 1 || p[0].Size != 14 {
			t.Errorf("pools %+v, expected one of 14 with one lease online", p)
		}
		moon.stop()
		w.after(3 * time.Second)
		if p := sun.e.Pools("p", true); p[0].Online != 0 || p[0].Offline != 1 {
			t.Errorf("pools %+v after the peer left, expected its lease offline", p)
		}
		if n := len(moon.back.Addresses()); n != 0 {
			t.Errorf("%d virtual addresses are left at the client", n)
		}
		sun.stop()
		sun.start()
		other := sun.e.pools.assign(99, ikev2.AssignAddress{Config: &ikev2.Config{Pools: []string{"p"}},
			Peer: ident.ID{Type: ident.FQDN, Data: "other"}, Wanted: anyV4})
		if other.Err != nil || other.Addrs[0] == got[0] {
			t.Errorf("another peer got %v, %v, expected an address of its own", other.Addrs, other.Err)
		}
		moon.start()
		w.after(3 * time.Second)
		if again := moon.back.Addresses(); len(again) != 1 || again[0] != got[0] {
			t.Errorf("virtual addresses %v after both restarted, expected %v again", again, got)
		}
	})
}

// A pool gives every address once, then takes back the one that was left longest
// ago, and refuses when all are in use.
func TestPoolRunsOut(t *testing.T) {
	p := newPools(nil, nil)
	p.set([]*conf.Pool{{Name: "p", Base: addr("10.9.0.1"), Size: 2}})
	cfg := &ikev2.Config{Pools: []string{"p"}}
	ask := func(owner uint64, who string) ikev2.AddressReply {
		return p.assign(owner, ikev2.AssignAddress{Config: cfg, Peer: ident.ID{Type: ident.FQDN, Data: who}, Wanted: anyV4})
	}
	a, b := ask(1, "a"), ask(2, "b")
	if a.Addrs[0].Addr() != addr("10.9.0.1") || b.Addrs[0].Addr() != addr("10.9.0.2") {
		t.Fatalf("first leases %v and %v", a.Addrs, b.Addrs)
	}
	if c := ask(3, "c"); c.Err == nil || !strings.Contains(c.Err.Error(), "used up") {
		t.Errorf("a full pool gave %v, %v", c.Addrs, c.Err)
	}
	p.releaseAll(1)
	if c := ask(3, "c"); c.Err != nil || c.Addrs[0] != a.Addrs[0] {
		t.Errorf("the free address was not given again: %v, %v", c.Addrs, c.Err)
	}
	p.transfer(3, 4)
	p.releaseAll(3)
	if p.online("p") != 2 {
		t.Errorf("%d leases online after a rekeying handed one over, expected 2", p.online("p"))
	}
}

// Loading connections one by one, as the control protocol does, costs what is
// loaded and not what is there: connections that did not change are the same
// object after.
func TestLoadLeavesOthersAlone(t *testing.T) {
	simulate(t, func(w *world) {
		moon := w.gateway("moon", moonAddr, moonConf("", ""))
		before := moon.e.config.Load().conns["office"].ike
		for i := range 200 {
			c := &conf.Connection{Name: fmt.Sprintf("c%d", i), RemoteAddrs: []conf.Host{{Text: "203.0.113.7", From: addr("203.0.113.7"), To: addr("203.0.113.7")}}}
			if err := moon.e.LoadConn(context.Background(), c); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(moon.e.Conns()); n != 200 {
			t.Errorf("%d connections were loaded, expected 200", n)
		}
		if moon.e.config.Load().conns["office"].ike != before {
			t.Error("a connection that did not change was made anew")
		}
		if err := moon.e.LoadConn(context.Background(), &conf.Connection{Name: "office"}); err == nil {
			t.Error("a connection of the file was replaced over the control protocol")
		}
		if err := moon.e.UnloadConn(context.Background(), "c7"); err != nil {
			t.Error(err)
		}
		if err := moon.e.UnloadConn(context.Background(), "c7"); err == nil {
			t.Error("a connection was unloaded twice")
		}
		if _, err := moon.e.Reload(context.Background(), false); err != nil || len(moon.e.Conns()) != 199 {
			t.Errorf("a reload of the file touched what was loaded over the control protocol: %v, %d", err, len(moon.e.Conns()))
		}
	})
}
