package interop

import (
	"net/netip"
	"testing"
	"time"

	"iked/internal/testnet"
)

// AH as it is negotiated: between sites in tunnel mode, between hosts in transport
// mode, over IPv4 and IPv6, with extended sequence numbers and without. Only IKE, AH
// and the housekeeping of the link are on the wire.
func TestNegotiatedAH(t *testing.T) {
	for _, test := range []struct {
		name      string
		v6        bool
		transport bool
		proposal  string
	}{
		{"tunnel, IPv4", false, false, "sha256-x25519"},
		{"tunnel, IPv6", true, false, "sha512-esn-x25519"},
		{"transport, IPv4", false, true, "sha1-esn-x25519"},
		{"transport, IPv6", true, true, "sha384-x25519"},
		{"AES-GMAC", false, false, "aes128gmac-x25519"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ends := func(x *testnet.Topology) (netip.Addr, netip.Addr) {
				if test.v6 {
					return x.WanA6, x.WanB6
				}
				return x.WanA4, x.WanB4
			}
			child := []string{"ah_proposals: [" + test.proposal + "]", "replay_window: 64"}
			if test.transport {
				child = append(child, "mode: transport")
			}
			topo, a, b := twoIked(t, testnet.TopologyOptions{},
				func(x *testnet.Topology) string {
					l, r := ends(x)
					localTS, remoteTS := quoted(x.NetA4, x.NetA6), quoted(x.NetB4, x.NetB6)
					if test.transport {
						localTS, remoteTS = "dynamic", "dynamic"
					}
					return tunnelYAML(l, r, localTS, remoteTS, nil, append([]string{"start: always"}, child...))
				},
				func(x *testnet.Topology) string {
					r, l := ends(x)
					localTS, remoteTS := quoted(x.NetB4, x.NetB6), quoted(x.NetA4, x.NetA6)
					if test.transport {
						localTS, remoteTS = "dynamic", "dynamic"
					}
					return tunnelYAML(l, r, localTS, remoteTS, nil, append([]string{"start: passive"}, child...))
				})
			wire, err := testnet.Sent(testnet.End{NS: topo.GwA, If: "wan0"}, testnet.End{NS: topo.GwB, If: "wan0"})
			if err != nil {
				t.Fatal(err)
			}
			from, peers := topo.HostA, []netip.Addr{topo.HostB4, topo.HostB6}
			if test.transport {
				_, peer := ends(topo)
				from, peers = topo.GwA, []netip.Addr{peer}
			}
			for _, peer := range peers {
				if _, err := from.WaitPing(peer, testnet.PingOptions{}, 20*time.Second); err != nil {
					t.Fatalf("%v\n%s\n%s", err, counted(t, a), counted(t, b))
				}
				for _, size := range []int{56, 1200, 3000} {
					if r, err := from.Ping(peer, testnet.PingOptions{Count: 3, Size: size}); err != nil || r.Lost() > 0 && size < 3000 {
						t.Errorf("ping %v with %d octets: %v, %v\n%s\n%s", peer, size, r, err, counted(t, a), counted(t, b))
					}
				}
			}
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.AH] < 12 || wire.Counts()[testnet.ESP] != 0 {
				t.Errorf("on the wire: %v", wire)
			}
		})
	}
}

func counted(t *testing.T, s *site) string {
	t.Helper()
	out, err := s.Ikectl(within(t, 10*time.Second), "counters")
	if err != nil {
		t.Error(err)
	}
	return out
}
