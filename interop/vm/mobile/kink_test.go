package mobile

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
	"iked/interop/vm"
)

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
	k, err := interop.StartKINK(ctx, vm.Binaries(), topo, interop.KINKOptions{Backend: "kernel", Roams: true})
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
		sas, err := c.Until(ctx, "two pairs", func(l []interop.IKESA) bool { return vm.Installed(l) == 2 })
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
	if _, err := k.B.Until(ctx, "no pair", func(l []interop.IKESA) bool { return vm.Installed(l) == 0 }); err != nil {
		t.Error(err)
	}
}
