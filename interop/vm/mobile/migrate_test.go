package mobile

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/mip6"
	"iked/interop/vm"
	"iked/migrate"
	"iked/spd"
)

// tells are the events of a move of A for one side, in the order of its manager.
func tells(topo *testnet.Topology, ofA bool, from, to, oldPeer, peer netip.Addr) (list []migrate.Event) {
	here, there := topo.NetA4, topo.NetB4
	old, next := migrate.Pair{Src: from, Dst: oldPeer}, migrate.Pair{Src: to, Dst: peer}
	km, dirs := migrate.Ends{Local: to, Remote: peer}, []migrate.Dir{migrate.Out, migrate.In, migrate.Fwd}
	back := func(p migrate.Pair) migrate.Pair { return migrate.Pair{Src: p.Dst, Dst: p.Src} }
	if !ofA {
		here, there, old, next, km = there, here, back(old), back(next), migrate.Ends{Local: peer, Remote: to}
		dirs = []migrate.Dir{migrate.In, migrate.Fwd, migrate.Out}
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

// Mobility managers on both sides move the SAs and policies of the kernel, as with the
// K bit of Mobile IPv6 (RFC 6275, Section 6.1.7): both ikeds follow without a message
// of IKE, the SPIs stay, packets go on, also from IPv4 to IPv6 and back home, and what
// comes after is done at the new addresses.
func TestMigrate(t *testing.T) {
	uml.Require(t)
	w, d := twoKernels(t, 80*time.Second)
	ctx, must := w.ctx, w.must
	first := w.agree()
	if _, err := w.HostA.WaitPing(w.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	second := netip.MustParseAddr(secondA)
	moves := []struct {
		name                    string
		from, to, oldPeer, peer netip.Addr
		change                  func() error
	}{
		{"abroad", w.WanA4, second, w.WanB4, w.WanB4, func() error {
			return errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan1", secondA+"/24"), w.GwA.AddRoute("default", secondRouter))
		}},
		{"to IPv6", second, w.WanA6, w.WanB4, w.WanB6, func() error { return nil }},
		{"home", w.WanA6, w.WanA4, w.WanB6, w.WanB4, func() error {
			return errors.Join(w.GwA.DelAddr("wan1", secondA+"/24"), w.GwA.AddAddr("wan0", "192.0.2.1/24"), w.GwA.AddRoute("default", "192.0.2.254"))
		}},
	}
	for _, m := range moves {
		w.move(w.HostA, netip.Addr{}, m.name, m.to.String(), m.peer, func() error {
			wire, err := testnet.Sent(testnet.End{NS: w.GwA, If: "wan0"}, testnet.End{NS: w.GwA, If: "wan1"}, testnet.End{NS: w.GwB, If: "wan0"})
			if err != nil {
				return err
			}
			t.Cleanup(func() {
				wire.Stop()
				if n := wire.Counts()[testnet.IKE]; m.name != "home" && n != 0 {
					t.Errorf("%s: %d messages of IKE: %v", m.name, n, wire)
				}
			})
			if err := m.change(); err != nil {
				return err
			}
			if err := mip6.Netlink(w.GwA, tells(w.Topology, true, m.from, m.to, m.oldPeer, m.peer)...); err != nil {
				return err
			}
			if err := mip6.Netlink(w.GwB, tells(w.Topology, false, m.from, m.to, m.oldPeer, m.peer)...); err != nil {
				return err
			}
			time.Sleep(500 * time.Millisecond)
			wire.Stop()
			return nil
		})
		last := w.agree()
		if last.SPIIn != first.SPIIn || last.SPIOut != first.SPIOut {
			t.Errorf("%s: the SPIs are %s and %s, they were %s and %s", m.name, last.SPIIn, last.SPIOut, first.SPIIn, first.SPIOut)
		}
	}
	// The comparison with the kernel finds nothing to put right, once it looks again.
	time.Sleep(4 * time.Second)
	for i, side := range d {
		if strings.Contains(side.Process.Log(), "put right") || strings.Contains(side.Process.Log(), "not in the kernel any more") {
			t.Errorf("side %d found something to put right after the moves", i)
		}
	}
	for _, by := range []*interop.Control{w.a, w.b} {
		spi := w.agree().SPIIn
		if _, err := by.Call(ctx, "rekey", map[string]any{"child": "net"}); err != nil {
			t.Fatal(err)
		}
		for w.agree().SPIIn == spi {
			time.Sleep(50 * time.Millisecond)
		}
		if r, err := w.HostA.Ping(w.HostB4, testnet.PingOptions{Count: 5}); err != nil || r.Lost() > 0 {
			t.Errorf("after a rekeying: %v, %v", r, err)
		}
	}
	if _, err := w.a.Call(ctx, "terminate", map[string]any{"ike": "net"}); err != nil {
		t.Error(err)
	}
	for _, c := range []*interop.Control{w.a, w.b} {
		if _, err := c.Until(ctx, "no SA after terminate", func(sas []interop.IKESA) bool { return len(sas) == 0 }); err != nil {
			t.Error(err)
		}
	}
	for i, side := range d {
		must(side.Stop())
		ns := []*testnet.Namespace{w.GwA, w.GwB}[i]
		if left := append(vm.KernelList(t, ns, "state"), vm.KernelList(t, ns, "policy")...); len(left) != 0 {
			t.Errorf("%s has left in the kernel: %v", ns.Name, left)
		}
	}
}

// The same with strongSwan on one side, which follows a MIGRATE that has KMADDRESS and
// the request id of its CHILD_SA: as the node that moves, and as the one that stays. It
// may make the CHILD_SA anew; the IKE SA stays, and both go on at the new address.
func TestMigrateWithStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	for _, role := range []string{"initiator", "responder"} {
		t.Run(role, func(t *testing.T) {
			w := newWandering(t, "kernel", role, false, "no")
			if err := w.a.Initiate(w.ctx, "net"); err != nil {
				t.Fatal(err)
			}
			w.agree()
			if _, err := w.HostA.WaitPing(w.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
				t.Fatal(err)
			}
			ikes := func() string {
				sas, err := w.a.SAs(w.ctx)
				if err != nil || len(sas) != 1 {
					t.Fatalf("%s, %v", interop.Describe(sas), err)
				}
				return sas[0].InitiatorSPI
			}
			first, second := ikes(), netip.MustParseAddr(secondA)
			w.move(w.HostA, netip.Addr{}, "abroad", secondA, w.WanB4, func() error {
				if err := errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan1", secondA+"/24"), w.GwA.AddRoute("default", secondRouter)); err != nil {
					return err
				}
				for i, ns := range []*testnet.Namespace{w.GwA, w.GwB} {
					events := tells(w.Topology, i == 0, w.WanA4, second, w.WanB4, w.WanB4)
					for j := range events {
						if ns == w.ikedNS {
							continue
						}
						events[j].Entries[0].ReqID = 1 // strongSwan looks for its CHILD_SA by it
					}
					for _, ev := range events {
						err := mip6.Netlink(ns, ev)
						// strongSwan moves the policies of the other directions itself as soon as it
						// hears of the first, by taking them out and putting others in, and may be
						// faster than the manager.
						if ns != w.ikedNS && (errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOENT)) {
							continue
						}
						if err != nil {
							return err
						}
					}
				}
				return nil
			})
			if now := ikes(); now != first {
				t.Errorf("the IKE SA is %s, it was %s", now, first)
			}
			for _, by := range []*interop.Control{w.a, w.b} {
				spi := w.agree().SPIIn
				if _, err := by.Call(w.ctx, "rekey", map[string]any{"child": "net"}); err != nil {
					t.Fatal(err)
				}
				for w.agree().SPIIn == spi {
					time.Sleep(50 * time.Millisecond)
				}
				if _, err := w.HostA.WaitPing(w.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
					t.Errorf("after a rekeying: %v", err)
				}
			}
		})
	}
}
