package mobile

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop/mip6"
	"iked/interop/vm"
	"iked/migrate"
	"iked/spd"
)

// untilGone waits until the kernel has an address in no SA, or in no policy either.
func untilGone(t *testing.T, ctx context.Context, ns *testnet.Namespace, a netip.Addr, tables ...string) {
	t.Helper()
	for {
		var with []string
		for _, table := range tables {
			for _, s := range vm.KernelList(t, ns, table) {
				if strings.Contains(s, " "+a.String()+" ") {
					with = append(with, s)
				}
			}
		}
		if len(with) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s has %v still at %s", ns.Name, with, a)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// What a manager moves in part is completed: one direction alone is told of on each side;
// and SAs move by policies of somebody else that have the same ends, while the daemon's
// own policies stand where they stood. In the end all of it is at the new address, with
// the SPIs of before, nothing was put right, and what is somebody else's is still there.
func TestMigratePartly(t *testing.T) {
	uml.Require(t)
	w, d := twoKernels(t, 3*time.Minute)
	ctx, must, sides := w.ctx, w.must, []*testnet.Namespace{w.GwA, w.GwB}
	first := w.agree()
	second := netip.MustParseAddr(secondA)
	arrives := func(when string, from netip.Addr) {
		t.Helper()
		for _, ns := range sides {
			untilGone(t, ctx, ns, from, "state", "policy")
		}
		if _, err := w.HostA.WaitPing(w.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if now := w.agree(); now.SPIIn != first.SPIIn || now.SPIOut != first.SPIOut {
			t.Errorf("%s: the SPIs are %s and %s, they were %s and %s", when, now.SPIIn, now.SPIOut, first.SPIIn, first.SPIOut)
		}
	}

	must(errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan1", secondA+"/24"), w.GwA.AddRoute("default", secondRouter)))
	must(mip6.Netlink(w.GwA, tells(w.Topology, true, w.WanA4, second, w.WanB4, w.WanB4)[0]))  // out
	must(mip6.Netlink(w.GwB, tells(w.Topology, false, w.WanA4, second, w.WanB4, w.WanB4)[0])) // in
	arrives("one direction", w.WanA4)

	// Policies of somebody else, of other traffic between the same ends.
	must(errors.Join(w.GwA.DelAddr("wan1", secondA+"/24"), w.GwA.AddAddr("wan0", "192.0.2.1/24"), w.GwA.AddRoute("default", "192.0.2.254")))
	theirs := [2]migrate.Event{tells(w.Topology, true, second, w.WanA4, w.WanB4, w.WanB4)[0], tells(w.Topology, false, second, w.WanA4, w.WanB4, w.WanB4)[0]}
	for i, ns := range sides {
		ev := &theirs[i]
		ev.Selector = spd.KernelSelector{Src: netip.MustParsePrefix("172.16.0.0/12"), Dst: netip.MustParsePrefix("10.99.0.0/16")}
		old := ev.Entries[0].Old
		if out, err := ns.Run(ctx, "ip", "xfrm", "policy", "add", "src", "172.16.0.0/12", "dst", "10.99.0.0/16", "dir", ev.Dir.String(),
			"tmpl", "src", old.Src.String(), "dst", old.Dst.String(), "proto", "esp", "mode", "tunnel"); err != nil {
			t.Fatal(err, out)
		}
	}
	for i, ns := range sides {
		must(mip6.Netlink(ns, theirs[i]))
	}
	arrives("by policies of others", second)
	for _, ns := range sides {
		if !slices.ContainsFunc(vm.KernelList(t, ns, "policy"), func(s string) bool {
			return strings.Contains(s, "172.16.0.0/12") && strings.Contains(s, w.WanA4.String())
		}) {
			t.Errorf("%s: the policy of somebody else is gone or was not moved", ns.Name)
		}
	}
	time.Sleep(4 * time.Second) // the comparison with the kernel
	for i, side := range d {
		if log := side.Process.Log(); strings.Contains(log, "put right") || strings.Contains(log, "not in the kernel any more") {
			t.Errorf("side %d found something to put right after the moves", i)
		}
		must(side.Stop())
		if left := vm.KernelList(t, sides[i], "state"); len(left) != 0 {
			t.Errorf("%s has left in the kernel: %v", sides[i].Name, left)
		}
		if left := vm.KernelList(t, sides[i], "policy"); len(left) != 1 {
			t.Errorf("%s has left policies in the kernel: %v", sides[i].Name, left)
		}
	}
}

// SAs keyed by hand, and a policy put in by hand, are moved by a manager: the daemon's
// picture follows, so that they are listed, moved and deleted where they are.
func TestMigrateByHand(t *testing.T) {
	uml.Require(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router})
	w := &wandering{T: t, Topology: topo, ctx: ctx}
	side := vm.StartIked(t, topo, topo.GwA, w.config("A", false, "no").YAML(), "kernel")
	call := func(command string, args map[string]any) string {
		t.Helper()
		m, err := side.Control.Call(ctx, command, args)
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		id, _ := m.Get("reqid").(string)
		return id
	}
	base := len(vm.KernelList(t, topo.GwA, "policy")) // of the configuration, and of sockets
	here, there := topo.NetA4.String(), topo.NetB4.String()
	sa := map[string]any{"dir": "out", "spi": "0x1000", "src": topo.WanA4.String(), "dst": topo.WanB4.String(), "local_ts": []string{here}, "remote_ts": []string{there},
		"alg": "aes128gcm16", "encr_key": strings.Repeat("k", 20)}
	reqid := call("static-sa-add", sa)
	sa["dir"], sa["spi"], sa["src"], sa["dst"], sa["reqid"] = "in", "0x2000", topo.WanB4.String(), topo.WanA4.String(), reqid
	call("static-sa-add", sa)
	call("static-policy-add", map[string]any{"name": "p", "action": "protect", "reqid": reqid, "local_ts": []string{here}, "remote_ts": []string{there},
		"outer_local": topo.WanA4.String(), "outer_remote": topo.WanB4.String()})
	move := func(from, to netip.Addr) {
		t.Helper()
		events := tells(topo, true, from, to, topo.WanB4, topo.WanB4)
		for i := range events {
			events[i].KM = migrate.Ends{}
		}
		if err := mip6.Netlink(topo.GwA, events...); err != nil {
			t.Fatal(err)
		}
		untilGone(t, ctx, topo.GwA, from, "state", "policy")
	}
	away := netip.MustParseAddr(secondA)
	before := len(vm.KernelList(t, topo.GwA, "policy"))
	move(topo.WanA4, away)
	time.Sleep(5 * time.Second) // until the tables were compared again
	if log := side.Process.Log(); strings.Contains(log, "put right") || strings.Contains(log, "not in the kernel any more") || !strings.Contains(log, "policy p follows") {
		t.Error("the daemon did not follow")
	}
	// It has them at their place: they move on from there, by its own hand, and go.
	call("static-sa-update", map[string]any{"spi": "0x1000", "new_src": topo.WanA4.String()})
	call("static-sa-update", map[string]any{"spi": "0x1000", "new_src": secondA})
	if n := len(vm.KernelList(t, topo.GwA, "policy")); n != before {
		t.Errorf("%d policies in the kernel, there were %d", n, before)
	}
	move(away, topo.WanA4)
	time.Sleep(time.Second)
	call("static-sa-delete", map[string]any{"spi": "0x1000"})
	call("static-sa-delete", map[string]any{"spi": "0x2000"})
	call("static-policy-delete", map[string]any{"name": "p"})
	if sas, policies := vm.KernelList(t, topo.GwA, "state"), vm.KernelList(t, topo.GwA, "policy"); len(sas) != 0 || len(policies) != base {
		t.Errorf("left in the kernel: %v and %v", sas, policies)
	}
	if err := side.Stop(); err != nil {
		t.Error(err)
	}
	if left := append(vm.KernelList(t, topo.GwA, "state"), vm.KernelList(t, topo.GwA, "policy")...); len(left) != 0 {
		t.Errorf("left in the kernel at the end: %v", left)
	}
}
