package interop

import (
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// A mobility manager on each side tells iked by ikectl that A is in another network,
// and on another family: SAs in userspace follow without a message of IKE, the SPIs
// stay, no packet is lost but those that were sent while A was nowhere, and what comes
// after is done at the new addresses.
func TestMobilityManager(t *testing.T) {
	t.Parallel()
	anywhere := func(own, far func(*testnet.Topology) string, peer func(*testnet.Topology) string) func(*testnet.Topology) string {
		return func(x *testnet.Topology) string {
			y := tunnelYAML(x.WanA4, x.WanB4, own(x), far(x), []string{"mobike: no"}, passive)
			y = strings.Replace(y, `local_addrs: ["`+x.WanA4.String()+`"]`, `local_addrs: ["%any"]`, 1)
			return strings.Replace(y, `remote_addrs: ["`+x.WanB4.String()+`"]`, `remote_addrs: ["`+peer(x)+`"]`, 1)
		}
	}
	netA := func(x *testnet.Topology) string { return quoted(x.NetA4) }
	netB := func(x *testnet.Topology) string { return quoted(x.NetB4) }
	topo, a, b := twoIked(t, testnet.TopologyOptions{Between: testnet.Router},
		anywhere(netA, netB, func(x *testnet.Topology) string { return x.WanB4.String() }), anywhere(netB, netA, func(*testnet.Topology) string { return "%any" }))
	ctx := within(t, 60*time.Second)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topo.Connect(testnet.End{NS: topo.GwA, If: "wan1"}, testnet.End{NS: topo.Middle, If: "a1"}, 0))
	must(topo.Middle.AddAddr("a1", secondRouter4+"/24"))
	must(a.Initiate(ctx, "net"))
	_, first, err := a.UntilInstalled(ctx, "net")
	must(err)
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	tell := func(from, to, oldPeer, peer string) {
		t.Helper()
		for i, s := range []*site{a, b} {
			words := []string{"migrate", "old_src=" + from, "old_dst=" + oldPeer, "new_src=" + to, "new_dst=" + peer}
			if i == 1 {
				words = []string{"migrate", "old_src=" + oldPeer, "old_dst=" + from, "new_src=" + peer, "new_dst=" + to}
			}
			if out, err := s.Ikectl(ctx, words...); err != nil {
				t.Fatalf("%s: %v: %s", s.ns.Name, err, out)
			}
		}
	}
	for _, m := range []struct {
		name                    string
		change                  func() error
		from, to, oldPeer, peer string
	}{
		{"to the second network", func() error {
			if err := topo.GwA.DelAddr("wan0", "192.0.2.1/24"); err != nil {
				return err
			}
			if err := topo.GwA.AddAddr("wan1", secondA4+"/24"); err != nil {
				return err
			}
			return topo.GwA.AddRoute("default", secondRouter4)
		}, topo.WanA4.String(), secondA4, topo.WanB4.String(), topo.WanB4.String()},
		{"to IPv6", func() error { return nil }, secondA4, topo.WanA6.String(), topo.WanB4.String(), topo.WanB6.String()},
	} {
		wire, err := topo.Wire.NS.Capture(topo.Wire.If)
		must(err)
		must(m.change())
		tell(m.from, m.to, m.oldPeer, m.peer)
		for _, from := range []*testnet.Namespace{topo.HostA, topo.HostB} {
			to := topo.HostB4
			if from == topo.HostB {
				to = topo.HostA4
			}
			if r, err := from.Ping(to, testnet.PingOptions{Count: 20, Interval: 5 * time.Millisecond}); err != nil || r.Lost() > 0 {
				t.Errorf("%s: from %s: %v, %v", m.name, from.Name, r, err)
			}
		}
		wire.Stop()
		if n := wire.Counts()[testnet.IKE]; n != 0 {
			t.Errorf("%s: %d messages of IKE", m.name, n)
		}
		ike, now, err := a.UntilInstalled(ctx, "net")
		must(err)
		if now.SPIIn != first.SPIIn || now.SPIOut != first.SPIOut || ike.LocalHost != m.to || ike.RemoteHost != m.peer {
			t.Errorf("%s: IKE is between %s and %s, the SPIs are %s and %s, they were %s and %s", m.name, ike.LocalHost, ike.RemoteHost, now.SPIIn, now.SPIOut, first.SPIIn, first.SPIOut)
		}
	}
	if out, err := a.Ikectl(ctx, "migrate", "old_src=192.0.2.1", "old_dst=198.51.100.2", "new_src="+secondA4, "new_dst=198.51.100.2"); err == nil {
		t.Errorf("a move from where nothing is succeeds: %s", out)
	}
	if _, err := b.Call(ctx, "rekey", map[string]any{"child": "net"}); err != nil {
		t.Fatal(err)
	}
	for {
		_, now, err := a.UntilInstalled(ctx, "net")
		must(err)
		if now.SPIIn != first.SPIIn {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5}); err != nil || r.Lost() > 0 {
		t.Errorf("after a rekeying: %v, %v", r, err)
	}
}

// A tunnel in userspace that moves a hundred times a second between two addresses that
// both work loses no packet by that.
func TestHundredMovesASecond(t *testing.T) {
	t.Parallel()
	second := "192.0.2.9"
	topo, a, b := twoIked(t, testnet.TopologyOptions{}, plainA([]string{"mobike: no"}, passive), plainB([]string{"mobike: no"}, passive))
	ctx := within(t, 60*time.Second)
	if err := topo.GwA.AddAddr("wan0", second+"/24"); err != nil {
		t.Fatal(err)
	}
	if err := a.Initiate(ctx, "net"); err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		at, to := topo.WanA4.String(), second
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			peer := topo.WanB4.String()
			for i, s := range []*site{a, b} {
				words := map[string]any{"old_src": at, "old_dst": peer, "new_src": to, "new_dst": peer}
				if i == 1 {
					words = map[string]any{"old_src": peer, "old_dst": at, "new_src": peer, "new_dst": to}
				}
				if _, err := s.Call(ctx, "migrate", words); err != nil {
					t.Errorf("move %d of %s: %v", n, s.ns.Name, err)
					return
				}
			}
			at, to = to, at
			n++
		}
	}()
	began, sent, received := time.Now(), 0, 0
	for time.Since(began) < 3*time.Second {
		r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 200, Interval: time.Millisecond, Size: 1200})
		if err != nil {
			t.Fatal(err)
		}
		sent, received = sent+r.Sent, received+r.Received
	}
	took := time.Since(began)
	close(stop)
	moves := <-done
	t.Logf("%d moves and %d echo requests in %v, %d lost", moves, sent, took.Round(time.Millisecond), sent-received)
	if received != sent || moves < 100 {
		t.Errorf("%d of %d packets were lost in %d moves", sent-received, sent, moves)
	}
}

// A manager tells where IKE is before there is an SA, by ikectl: the first negotiation
// begins at the address that it told, although the routes prefer another one, and the
// tunnel is there; what is told of somebody else's traffic changes nothing.
func TestBeginsWhereTheManagerTells(t *testing.T) {
	t.Parallel()
	yaml := func(a bool) func(*testnet.Topology) string {
		return func(x *testnet.Topology) string {
			local, remote, own, far := x.WanA4, x.WanB4, x.NetA4, x.NetB4
			if !a {
				local, remote, own, far = remote, local, far, own
			}
			y := tunnelYAML(local, remote, quoted(own), quoted(far), []string{"mobike: no"}, passive)
			return strings.Replace(y, `"`+x.WanA4.String()+`"`, `"%any"`, 1)
		}
	}
	topo, a, _ := twoIked(t, testnet.TopologyOptions{Between: testnet.Router}, yaml(true), yaml(false))
	ctx := within(t, 60*time.Second)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topo.Connect(testnet.End{NS: topo.GwA, If: "wan1"}, testnet.End{NS: topo.Middle, If: "a1"}, 0))
	must(topo.Middle.AddAddr("a1", secondRouter4+"/24"))
	must(topo.GwA.AddAddr("wan1", secondA4+"/24"))
	from, peer := topo.WanA4.String(), topo.WanB4.String()
	words := func(src, dst string) []string {
		return []string{"migrate", "old_src=" + from, "old_dst=" + peer, "new_src=" + secondA4, "new_dst=" + peer, "src_ts=" + src, "dst_ts=" + dst, "ike_local=" + secondA4, "ike_remote=" + peer}
	}
	if out, err := a.Ikectl(ctx, words("10.99.0.0/16", "10.98.0.0/16")...); err == nil {
		t.Errorf("what is about no child succeeds: %s", out)
	}
	if out, err := a.Ikectl(ctx, words(topo.NetA4.String(), topo.NetB4.String())...); err != nil {
		t.Fatal(err, out)
	}
	out, err := a.Ikectl(ctx, "connections")
	if want := "begins at: " + secondA4 + ", " + peer + ", as a mobility manager told"; err != nil || !strings.Contains(out, want) {
		t.Errorf("%v: nobody says %q:\n%s", err, want, out)
	}
	must(a.Initiate(ctx, "net"))
	ike, _, err := a.UntilInstalled(ctx, "net")
	must(err)
	if ike.LocalHost != secondA4 || ike.RemoteHost != peer {
		t.Errorf("IKE is between %s and %s", ike.LocalHost, ike.RemoteHost)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 10*time.Second); err != nil {
		t.Error(err)
	}
}
