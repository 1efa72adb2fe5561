package vm

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/kdc"
	"iked/interop/mip6"
)

// KINK with either backend: ESP and AH, tunnel and transport mode, rekeyed; nothing is
// left in the kernel.
func TestKINK(t *testing.T) {
	uml.Require(t)
	kdc.Require(t)
	for _, backend := range []string{"kernel", "userspace"} {
		for _, c := range []struct {
			name  string
			o     interop.KINKOptions
			wire  testnet.Class
			pairs int
		}{
			{"tunnel, ESP", interop.KINKOptions{}, testnet.ESP, 2},
			{"tunnel, AH", interop.KINKOptions{Child: []string{"ah_proposals: [sha256]"}}, testnet.AH, 2},
			{"transport, ESP", interop.KINKOptions{Transport: true, Child: []string{"mode: transport"}}, testnet.ESP, 1},
			{"transport, AH, IPv6", interop.KINKOptions{V6: true, Transport: true, Child: []string{"mode: transport", "ah_proposals: [sha256]"}}, testnet.AH, 1},
		} {
			t.Run(backend+"/"+c.name, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
				defer cancel()
				topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
				before := system(t, topo.GwA)
				c.o.Backend = backend
				wire, err := testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwB, If: "wan0"})
				if err != nil {
					t.Fatal(err)
				}
				k, err := interop.StartKINK(ctx, binaries(), topo, c.o)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("A:\n%s\nB:\n%s", k.A.Process.Log(), k.B.Process.Log())
					}
				})
				ping := func(when string) {
					t.Helper()
					from, list := k.Traffic()
					for _, to := range list {
						if _, err := from.WaitPing(to, testnet.PingOptions{}, 40*time.Second); err != nil {
							t.Fatalf("%s: %v", when, err)
						}
						if r, err := from.Ping(to, testnet.PingOptions{Count: 3, Size: 1000}); err != nil || r.Lost() > 0 {
							t.Errorf("%s: %v: %v, %v", when, to, r, err)
						}
					}
				}
				// A packet before the SAs would leave what the kernel has of its question for
				// half a minute.
				first, err := k.A.Until(ctx, "installed", func(list []interop.IKESA) bool { return installed(list) == c.pairs })
				if err != nil {
					t.Fatal(err)
				}
				ping("up")
				if out, err := k.A.Ikectl(ctx, "rekey", "net"); err != nil {
					t.Errorf("rekey: %v %s", err, out)
				}
				if _, err := k.A.Until(ctx, "rekeyed", func(list []interop.IKESA) bool { return installed(list) == c.pairs && !common(first, list) }); err != nil {
					t.Fatal(err)
				}
				ping("rekeyed")
				wire.Stop()
				for _, p := range k.Stray(wire) {
					t.Errorf("in clear: %v", p)
				}
				if wire.Counts()[c.wire] < 12 || wire.Counts()[testnet.KINK] < 4 {
					t.Errorf("on the wire: %v", wire)
				}
				if err := k.A.Stop(); err != nil {
					t.Error(err)
				}
				if after := system(t, topo.GwA); after != before {
					t.Errorf("iked left behind:\n%s\nbefore it there was:\n%s", after, before)
				}
			})
		}
	}
}

// installed counts the CHILD_SAs that are.
func installed(list []interop.IKESA) (n int) {
	for i := range list {
		for _, c := range list[i].Children {
			if c.State == "INSTALLED" {
				n++
			}
		}
	}
	return n
}

// common tells whether a CHILD_SA of a list is installed in another one.
func common(a, b []interop.IKESA) bool {
	spis := map[string]bool{}
	for _, x := range a {
		for _, c := range x.Children {
			spis[c.SPIIn] = true
		}
	}
	return slices.ContainsFunc(b, func(x interop.IKESA) bool {
		return slices.ContainsFunc(x.Children, func(c interop.ChildSA) bool { return c.State == "INSTALLED" && spis[c.SPIIn] })
	})
}

// A host of KINK moves, in the kernel, by the word of mobility managers on both sides: no
// message of KINK is about it, the pairs keep their SPIs, and what comes after is done
// from abroad: rekeyings by either side, and the end. The managers tell of one network of
// two, whose pair has the same ends: the other pair goes along.
func TestMigrateKINK(t *testing.T) {
	uml.Require(t)
	kdc.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topo.Connect(testnet.End{NS: topo.GwA, If: "wan1"}, testnet.End{NS: topo.Middle, If: "a1"}, 0))
	must(topo.Middle.AddAddr("a1", secondRouter+"/24"))
	k, err := interop.StartKINK(ctx, binaries(), topo, interop.KINKOptions{Backend: "kernel", Roams: true})
	must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("A:\n%s\nB:\n%s", k.A.Process.Log(), k.B.Process.Log())
		}
	})
	ping := func(when string) {
		t.Helper()
		for _, to := range []netip.Addr{topo.HostB4, topo.HostB6} {
			if _, err := topo.HostA.WaitPing(to, testnet.PingOptions{}, 40*time.Second); err != nil {
				t.Fatalf("%s: %v: %v", when, to, err)
			}
		}
	}
	spis := func(c *interop.Control) (list []string) {
		t.Helper()
		sas, err := c.Until(ctx, "two pairs", func(l []interop.IKESA) bool { return installed(l) == 2 })
		must(err)
		for _, x := range sas {
			for _, ch := range x.Children {
				if ch.State == "INSTALLED" {
					list = append(list, ch.SPIIn)
				}
			}
		}
		slices.Sort(list)
		return list
	}
	first := spis(&k.A.Control)
	ping("at home")
	wire, err := testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwA, If: "wan1"}, testnet.End{NS: topo.GwB, If: "wan0"})
	must(err)
	away := netip.MustParseAddr(secondA)
	must(errors.Join(topo.GwA.DelAddr("wan0", "192.0.2.1/24"), topo.GwA.AddAddr("wan1", secondA+"/24"), topo.GwA.AddRoute("default", secondRouter)))
	sides := []*testnet.Namespace{topo.GwA, topo.GwB}
	for i, ns := range sides {
		must(mip6.Netlink(ns, tells(topo, i == 0, topo.WanA4, away, topo.WanB4, topo.WanB4)...))
	}
	for _, ns := range sides {
		untilGone(t, ctx, ns, topo.WanA4, "state", "policy")
	}
	ping("abroad")
	wire.Stop()
	if n := wire.Counts()[testnet.KINK]; n != 0 || wire.Counts()[testnet.ESP] == 0 {
		t.Errorf("on the wire: %v", wire)
	}
	if now := spis(&k.A.Control); !slices.Equal(now, first) {
		t.Errorf("the SPIs are %v, they were %v", now, first)
	}
	for _, by := range []*interop.Iked{k.A, k.B} {
		before := spis(&k.A.Control)
		if out, err := by.Ikectl(ctx, "rekey", "net"); err != nil {
			t.Errorf("rekey: %v %s", err, out)
		}
		_, err := k.A.Until(ctx, "other pairs", func([]interop.IKESA) bool {
			now := spis(&k.A.Control)
			return !slices.ContainsFunc(now, func(s string) bool { return slices.Contains(before, s) })
		})
		must(err)
		ping("rekeyed abroad")
		for _, ns := range sides {
			untilGone(t, ctx, ns, topo.WanA4, "state", "policy")
		}
	}
	must(k.A.Stop())
	if _, err := k.B.Until(ctx, "no pair", func(l []interop.IKESA) bool { return installed(l) == 0 }); err != nil {
		t.Error(err)
	}
}
