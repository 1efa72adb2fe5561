package interop

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// A host has a tunnel for its own address, without a virtual one, and changes its
// network: the tunnel moves and is made anew for the new address, and nothing of the
// host's leaves in clear from there.
func TestTunnelOfAHostThatMoves(t *testing.T) {
	t.Parallel()
	yaml := func(a bool) func(*testnet.Topology) string {
		return func(x *testnet.Topology) string {
			if a {
				y := tunnelYAML(x.WanA4, x.WanB4, "dynamic", quoted(x.NetB4), []string{"local: {auth: psk, id: a.example}", "remote: {auth: psk, id: b.example}"}, []string{"start: always"})
				return strings.Replace(y, `"`+x.WanA4.String()+`"`, `"%any"`, 1)
			}
			y := tunnelYAML(x.WanB4, x.WanA4, quoted(x.NetB4), "dynamic", []string{"local: {auth: psk, id: b.example}", "remote: {auth: psk, id: a.example}"}, passive)
			return strings.Replace(y, `"`+x.WanA4.String()+`"`, `"%any"`, 1)
		}
	}
	topo, a, b := twoIked(t, testnet.TopologyOptions{Between: testnet.Router}, yaml(true), yaml(false))
	ctx := within(t, 60*time.Second)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(topo.Connect(testnet.End{NS: topo.GwA, If: "wan1"}, testnet.End{NS: topo.Middle, If: "a1"}, 0))
	must(topo.Middle.AddAddr("a1", secondRouter4+"/24"))
	echo := func(from string) {
		t.Helper()
		if _, err := topo.GwA.WaitPing(topo.HostB4, testnet.PingOptions{From: netip.MustParseAddr(from)}, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	_, first, err := a.UntilInstalled(ctx, "net")
	must(err)
	echo(topo.WanA4.String())
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	must(err)
	must(topo.GwA.DelAddr("wan0", "192.0.2.1/24", "2001:db8:a::1/64"))
	must(topo.GwA.AddAddr("wan1", secondA4+"/24"))
	must(topo.GwA.AddRoute("default", secondRouter4))
	for {
		ike, now, err := a.UntilInstalled(ctx, "net")
		must(err)
		_, far, err := b.UntilInstalled(ctx, "net")
		must(err)
		if ike.LocalHost == secondA4 && now.SPIIn != first.SPIIn && now.SPIIn == far.SPIOut {
			if len(now.LocalTS) != 1 || now.LocalTS[0] != secondA4+"/32" || len(far.RemoteTS) != 1 || far.RemoteTS[0] != secondA4+"/32" {
				t.Errorf("the tunnel is for %v and %v", now.LocalTS, far.RemoteTS)
			}
			break
		}
		// Whatever is sent meanwhile is held or dropped.
		topo.GwA.Ping(topo.HostB4, testnet.PingOptions{Count: 1, Timeout: 50 * time.Millisecond})
	}
	echo(secondA4)
	wire.Stop()
	for _, x := range wire.ClearText() {
		if x.Dst == topo.HostB4 || x.Src == topo.HostB4 {
			t.Errorf("in clear: %v", x)
			break
		}
	}
}
