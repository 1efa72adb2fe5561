package vm

import (
	"context"
	"slices"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/kdc"
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
				before := System(t, topo.GwA)
				c.o.Backend = backend
				wire, err := testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwB, If: "wan0"})
				if err != nil {
					t.Fatal(err)
				}
				k, err := interop.StartKINK(ctx, Binaries(), topo, c.o)
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
				first, err := k.A.Until(ctx, "installed", func(list []interop.IKESA) bool { return Installed(list) == c.pairs })
				if err != nil {
					t.Fatal(err)
				}
				ping("up")
				if out, err := k.A.Ikectl(ctx, "rekey", "net"); err != nil {
					t.Errorf("rekey: %v %s", err, out)
				}
				if _, err := k.A.Until(ctx, "rekeyed", func(list []interop.IKESA) bool { return Installed(list) == c.pairs && !common(first, list) }); err != nil {
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
				if after := System(t, topo.GwA); after != before {
					t.Errorf("iked left behind:\n%s\nbefore it there was:\n%s", after, before)
				}
			})
		}
	}
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
