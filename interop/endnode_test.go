package interop

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
)

// An end node that protects everything, or everything to its own subnet, or all
// its traffic with a neighbour, from the first packet on: the policy covers the
// peer's own address and the link. IKE gets through, neighbours are found again
// after they were forgotten, and only IKE, ESP and the housekeeping of the link are
// on the wire.
func TestEndNode(t *testing.T) {
	for _, test := range []struct {
		name           string
		v6             bool
		remoteA        string
		childA, childB []string
		localB         string
		entries        string // of ikectl policies on A
	}{
		{name: "everything over IPv6", v6: true, remoteA: `"::/0"`, localB: `"::/0"`, entries: "bypass-nd bypass-ike bypass-dhcp"},
		{name: "everything over IPv4", remoteA: `"0.0.0.0/0"`, localB: `"0.0.0.0/0"`, entries: "bypass-ike bypass-dhcp"},
		{name: "own subnet", remoteA: `"192.0.2.0/24"`, localB: `"192.0.2.0/24"`, entries: "bypass-ike bypass-dhcp"},
		{name: "own subnet over IPv6", v6: true, remoteA: `"2001:db8::/64"`, localB: `"2001:db8::/64"`, entries: "bypass-nd bypass-ike"},
		{name: "transport mode over IPv6", v6: true, remoteA: "dynamic", localB: "dynamic", childA: []string{"mode: transport"}, childB: []string{"mode: transport"}, entries: "bypass-nd bypass-ike"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ends := func(x *testnet.Topology) (netip.Addr, netip.Addr) {
				if test.v6 {
					return x.WanA6, x.WanB6
				}
				return x.WanA4, x.WanB4
			}
			topo, a, _ := twoIked(t, testnet.TopologyOptions{},
				func(x *testnet.Topology) string {
					l, r := ends(x)
					return tunnelYAML(l, r, "dynamic", test.remoteA, nil, append([]string{"start: on-demand"}, test.childA...))
				},
				func(x *testnet.Topology) string {
					r, l := ends(x)
					return tunnelYAML(l, r, test.localB, "dynamic", nil, append([]string{"start: passive"}, test.childB...))
				})
			wire, err := topo.Wire.NS.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			_, peer := ends(topo)
			if _, err := topo.GwA.WaitPing(peer, testnet.PingOptions{}, 20*time.Second); err != nil {
				t.Fatal(err)
			}
			out, err := a.Ikectl(within(t, 10*time.Second), "policies")
			if err != nil {
				t.Fatal(out, err)
			}
			for _, e := range strings.Fields(test.entries) {
				if !strings.Contains(out, e) {
					t.Errorf("there is no %s among the policies:\n%s", e, out)
				}
			}
			for _, ns := range []*testnet.Namespace{topo.GwA, topo.GwB} {
				if out, err := ns.Run(context.Background(), "ip", "neigh", "flush", "dev", "wan0"); err != nil {
					t.Fatal(out, err)
				}
				if out, err := ns.Run(context.Background(), "ip", "-6", "neigh", "flush", "dev", "wan0"); err != nil {
					t.Fatal(out, err)
				}
			}
			r, err := topo.GwA.Ping(peer, testnet.PingOptions{Count: 5, Size: 1000})
			if err != nil || r.Lost() > 0 {
				t.Errorf("after the neighbours were forgotten: %v, %v", r, err)
			}
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 10 {
				t.Errorf("on the wire: %v", wire)
			}
		})
	}
}

// RFC 4301, Section 5.1: where the configuration ends with an entry that discards
// everything, the tunnel of the gateway comes up and carries for the hosts behind it,
// and nothing else leaves or comes in. The near side is no way out.
func TestEverythingElseIsDiscarded(t *testing.T) {
	t.Parallel()
	rest := `
      - {name: rest, mode: drop, local_ts: [0.0.0.0/0], remote_ts: [0.0.0.0/0], start: always}`
	topo, a, _ := twoIked(t, testnet.TopologyOptions{},
		func(x *testnet.Topology) string {
			return tunnelYAML(x.WanA4, x.WanB4, quoted(x.NetA4), quoted(x.NetB4), nil, []string{"start: on-demand" + rest})
		},
		func(x *testnet.Topology) string {
			return tunnelYAML(x.WanB4, x.WanA4, quoted(x.NetB4), quoted(x.NetA4), nil, []string{"start: passive"})
		})
	wire, err := topo.Wire.NS.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := topo.HostA.WaitPing(topo.HostB4, testnet.PingOptions{}, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		from *testnet.Namespace
		to   netip.Addr
	}{
		{"the gateway to its peer", topo.GwA, topo.WanB4}, {"a host to the peer", topo.HostA, topo.WanB4},
	} {
		if r, err := x.from.Ping(x.to, testnet.PingOptions{Count: 2, Timeout: 300 * time.Millisecond}); err == nil && r.Received > 0 {
			t.Errorf("%s: %v", x.name, r)
		}
	}
	if r, err := topo.HostA.Ping(topo.HostB4, testnet.PingOptions{Count: 5, Size: 1000}); err != nil || r.Lost() > 0 {
		t.Errorf("through the tunnel: %v, %v", r, err)
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 10 {
		t.Errorf("on the wire: %v %v", wire, clear)
	}
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	if r, err := topo.GwA.Ping(topo.WanB4, testnet.PingOptions{Count: 2}); err != nil || r.Lost() > 0 {
		t.Errorf("after the end of the daemon: %v, %v", r, err)
	}
}
