package mobile

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/interop"
	"iked/interop/vm"
)

// wandering is iked with strongSwan that uses the kernel's SAs: A has two networks
// behind a router and began, both sides may be anywhere.
type wandering struct {
	*testing.T
	*testnet.Topology
	ctx    context.Context
	a, b   *interop.Control
	ikedNS *testnet.Namespace
	before string
}

// The second network of gateway A.
const secondA, secondRouter = "203.0.113.1", "203.0.113.254"

// Both sides have SAs that really move (RFC 4555, Section 3.5): after each change of
// network packets go on over the same SPIs, with either backend and in either role.
func TestMOBIKE(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	for _, backend := range []string{"kernel", "userspace"} {
		for _, role := range []string{"initiator", "responder"} {
			t.Run(backend+"/"+role, func(t *testing.T) {
				t.Run("between sites", func(t *testing.T) { wander(t, backend, role, false) })
				t.Run("with a virtual address", func(t *testing.T) { wander(t, backend, role, true) })
			})
		}
	}
}

// Without NAT traversal iked says NO_NATS_ALLOWED with its addresses (RFC 4555, Section
// 3.9), and strongSwan follows all the same; both stay at port 500.
func TestNoNATsWithStrongSwan(t *testing.T) {
	uml.Require(t)
	testnet.RequireCommand(t, interop.CharonPath, "strongswan-charon")
	w := newWandering(t, "kernel", "initiator", false, "yes", interop.Entry{Key: "nat_traversal", Value: "no"})
	if err := w.a.Initiate(w.ctx, "net"); err != nil {
		t.Fatal(err)
	}
	first := w.agree()
	if _, err := w.HostA.WaitPing(w.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	w.move(w.HostA, netip.Addr{}, "to the second network", secondA, w.WanB4, func() error {
		w.GwA.DelRoute("default", "192.0.2.254")
		return errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan1", secondA+"/24"), w.GwA.AddRoute("default", secondRouter))
	})
	last := w.agree()
	if last.SPIIn != first.SPIIn || last.SPIOut != first.SPIOut {
		t.Errorf("the SPIs are %s and %s, they were %s and %s: the SAs did not move", last.SPIIn, last.SPIOut, first.SPIIn, first.SPIOut)
	}
	sas, err := w.a.SAs(w.ctx)
	if err != nil || len(sas) != 1 || sas[0].LocalPort != "500" || sas[0].RemotePort != "500" {
		t.Errorf("%s, %v", interop.Describe(sas), err)
	}
}

func wander(t *testing.T, backend, role string, vip bool) {
	w := newWandering(t, backend, role, vip, "yes")
	if err := w.a.Initiate(w.ctx, "net"); err != nil {
		t.Fatal(err)
	}
	first, from := w.agree(), netip.Addr{}
	sender := w.HostA
	if vip {
		sender = w.GwA
		sa, _, err := w.a.UntilInstalled(w.ctx, "net")
		if err != nil || len(sa.LocalVIPs) != 1 {
			t.Fatalf("A has no virtual address: %+v, %v", sa, err)
		}
		from = netip.MustParseAddr(sa.LocalVIPs[0])
	}
	if _, err := sender.WaitPing(w.HostB4, testnet.PingOptions{From: from}, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	// strongSwan has its virtual address on the link, so that the link keeps its routes.
	drop := func(via string) { w.GwA.DelRoute("default", via) }
	w.move(sender, from, "to the second network", secondA, w.WanB4, func() error {
		drop("192.0.2.254")
		return errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan1", secondA+"/24"), w.GwA.AddRoute("default", secondRouter))
	})
	w.move(sender, from, "back", "192.0.2.1", w.WanB4, func() error {
		drop(secondRouter)
		return errors.Join(w.GwA.DelAddr("wan1", secondA+"/24"), w.GwA.AddAddr("wan0", "192.0.2.1/24"), w.GwA.AddRoute("default", "192.0.2.254"))
	})
	w.move(sender, from, "to IPv6", w.WanA6.String(), w.WanB6, func() error {
		// The kernel asks for a route before it asks for a policy, and there is none for IPv4
		// without an address.
		return errors.Join(w.GwA.DelAddr("wan0", "192.0.2.1/24"), w.GwA.AddAddr("wan0", w.WanA6.String()+"/64"), func() error {
			_, err := w.GwA.Run(w.ctx, "ip", "route", "replace", w.NetB4.String(), "dev", "wan0")
			return err
		}())
	})
	last := w.agree()
	if last.SPIIn != first.SPIIn || last.SPIOut != first.SPIOut {
		t.Errorf("the SPIs are %s and %s, they were %s and %s: the SAs did not move", last.SPIIn, last.SPIOut, first.SPIIn, first.SPIOut)
	}
	// What comes after is done at the new addresses.
	for _, by := range []*interop.Control{w.a, w.b} {
		spi := w.agree().SPIIn
		if _, err := by.Call(w.ctx, "rekey", map[string]any{"child": "net"}); err != nil {
			t.Fatal(err)
		}
		for w.agree().SPIIn == spi {
			time.Sleep(50 * time.Millisecond)
		}
		if r, err := sender.Ping(w.HostB4, testnet.PingOptions{From: from, Count: 5}); err != nil || r.Lost() > 0 {
			t.Errorf("after a rekeying: %v, %v", r, err)
		}
	}
	if _, err := w.a.Call(w.ctx, "terminate", map[string]any{"ike": "net"}); err != nil {
		t.Error(err)
	}
	for _, c := range []*interop.Control{w.a, w.b} {
		if _, err := c.Until(w.ctx, "no SA after terminate", func(sas []interop.IKESA) bool { return len(sas) == 0 }); err != nil {
			t.Error(err)
		}
	}
}

func (w *wandering) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// twoNetworks is where A has a second network to go to, with no daemon yet.
func twoNetworks(t *testing.T, within time.Duration) *wandering {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	w := &wandering{T: t, Topology: testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router}), ctx: ctx}
	w.must(w.Connect(testnet.End{NS: w.GwA, If: "wan1"}, testnet.End{NS: w.Middle, If: "a1"}, 0))
	w.must(w.Middle.AddAddr("a1", secondRouter+"/24"))
	return w
}

// twoKernels has iked on both sides, with the kernel's IPsec and without MOBIKE, and a
// tunnel between them.
func twoKernels(t *testing.T, within time.Duration) (w *wandering, d [2]*interop.Iked) {
	w = twoNetworks(t, within)
	for i, side := range []string{"A", "B"} {
		c := w.config(side, false, "no")
		d[i] = vm.StartIked(t, w.Topology, []*testnet.Namespace{w.GwA, w.GwB}[i], c.YAML(), "kernel")
	}
	w.a, w.b = &d[0].Control, &d[1].Control
	w.must(w.a.Initiate(w.ctx, "net"))
	return w, d
}

// newWandering starts both sides; keys are for the connection of iked alone.
func newWandering(t *testing.T, backend, role string, vip bool, mobike string, keys ...interop.Entry) *wandering {
	w := twoNetworks(t, 45*time.Second)
	ctx, must := w.ctx, w.must
	must(w.GwA.DelAddr("wan0", w.WanA6.String()+"/64"))
	var charonNS *testnet.Namespace
	if role == "initiator" {
		w.ikedNS, charonNS = w.GwA, w.GwB
	} else {
		w.ikedNS, charonNS = w.GwB, w.GwA
	}
	iked, err := interop.NewIked(vm.Binaries(), w.Path("iked"))
	must(err)
	c := w.config(map[string]string{"initiator": "A", "responder": "B"}[role], vip, mobike)
	c.Connections[0].Value = append(c.Connections[0].Value.(interop.Section), keys...)
	must(iked.Configure(c.YAML()))
	must(iked.Start(ctx, w.ikedNS, "--backend", backend))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of iked:\n%s", iked.Process.Log())
		}
	})
	charon, err := interop.StartCharon(ctx, charonNS, w.Path("charon"), interop.CharonOptions{Kernel: true, Settings: "interfaces_use = wan0, wan1\n"})
	must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of charon:\n%s", charon.Process.Log())
		}
	})
	if role == "initiator" {
		w.a, w.b = &iked.Control, &charon.Control
		must(charon.LoadFile(ctx, w.config("B", vip, mobike).Swanctl()))
	} else {
		w.a, w.b = &charon.Control, &iked.Control
		must(charon.LoadFile(ctx, w.config("A", vip, mobike).Swanctl()))
	}
	return w
}

// config is the configuration of one side.
func (w *wandering) config(side string, vip bool, mobike string) interop.Config {
	local, remote, ids := w.NetA4.String(), w.NetB4.String(), [2]string{"a.example", "b.example"}
	peer, c := w.WanB4.String(), interop.Config{Secrets: []interop.Secret{{PSK: "a throw-away secret", IDs: []string{"a.example", "b.example"}}}}
	if vip {
		local = "dynamic"
	}
	conn := interop.Section{{Key: "version", Value: "2"}, {Key: "mobike", Value: mobike}, {Key: "proposals", Value: []string{"aes128-sha256-x25519"}}}
	if side == "B" {
		local, remote, ids, peer = remote, local, [2]string{ids[1], ids[0]}, "%any"
		if vip {
			conn.Set("pools", []string{"addresses"})
			c.Pools = interop.Section{{Key: "addresses", Value: interop.Section{{Key: "addrs", Value: "10.3.0.0/28"}}}}
		}
	} else if vip {
		conn.Set("vips", []string{"0.0.0.0"})
	}
	conn.Set("remote_addrs", []string{peer})
	conn.Set("local", interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[0]}})
	conn.Set("remote", interop.Section{{Key: "auth", Value: "psk"}, {Key: "id", Value: ids[1]}})
	conn.Set("children", interop.Section{{Key: "net", Value: interop.Section{
		{Key: "local_ts", Value: []string{local}}, {Key: "remote_ts", Value: []string{remote}}, {Key: "esp_proposals", Value: []string{"aes128gcm16"}}}}})
	c.Connections = interop.Section{{Key: "net", Value: conn}}
	return c
}

// agree is the CHILD SA of A when both sides list the same one.
func (w *wandering) agree() *interop.ChildSA {
	w.Helper()
	for {
		_, a, errA := w.a.UntilInstalled(w.ctx, "net")
		_, b, errB := w.b.UntilInstalled(w.ctx, "net")
		if errA != nil || errB != nil {
			w.Fatalf("A: %v, B: %v", errA, errB)
		}
		if a.SPIIn == b.SPIOut && a.SPIOut == b.SPIIn {
			return a
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// move changes the network of A while packets pass, and wants them to pass again in
// the time that the look at the change, the exchange and the proof of the new address
// take.
func (w *wandering) move(sender *testnet.Namespace, from netip.Addr, name, a string, b netip.Addr, change func() error) {
	w.Helper()
	const interval = 50 * time.Millisecond
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	done := make(chan [2]int, 1)
	go func() {
		var sum [2]int
		for ctx.Err() == nil {
			r, _ := sender.Ping(w.HostB4, testnet.PingOptions{From: from, Count: 1, Timeout: interval})
			sum[0]++
			sum[1] += r.Received
			time.Sleep(interval)
		}
		done <- sum
	}()
	time.Sleep(10 * interval)
	began := time.Now()
	if err := change(); err != nil {
		w.Fatal(err)
	}
	is := func(sas []interop.IKESA, local, remote string) bool {
		return len(sas) == 1 && (local == "" || sas[0].LocalHost == local) && (remote == "" || sas[0].RemoteHost == remote)
	}
	if _, err := w.a.Until(w.ctx, "A is at "+a, func(sas []interop.IKESA) bool { return is(sas, a, b.String()) }); err != nil {
		w.Fatalf("%s: %v", name, err)
	}
	if _, err := w.b.Until(w.ctx, "B has A at "+a, func(sas []interop.IKESA) bool { return is(sas, b.String(), a) }); err != nil {
		w.Fatalf("%s: %v", name, err)
	}
	if _, err := sender.WaitPing(w.HostB4, testnet.PingOptions{From: from}, 10*time.Second); err != nil {
		w.Fatalf("%s: %v", name, err)
	}
	away := time.Since(began)
	time.Sleep(10 * interval)
	stop()
	sum := <-done
	w.Logf("%s: away for at most %v, %d of %d packets lost", name, away.Round(time.Millisecond), sum[0]-sum[1], sum[0])
	if away > 5*time.Second {
		w.Errorf("%s: packets pass again after %v", name, away)
	}
}
