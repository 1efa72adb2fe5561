package datapath_test

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/spd"
)

// A host protects one port between itself and a neighbour, and has a tunnel for the same
// address to a network elsewhere, as a mobile node has with its home agent: the rest of
// what the neighbours say to each other arrives in clear, what comes from the network
// does not, and nothing of either passes when the tunnel is for the neighbour too (RFC
// 4301, Section 5.2).
func TestPortsBesideATunnel(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	for i, w := range hostWays(&testnet.Topology{}) {
		if w.mode != spd.Transport || w.encap {
			continue
		}
		t.Run(w.name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			w := hostWays(topo)[i]
			a, b := strictHost(t, topo.GwA), strictHost(t, topo.GwB)
			protect(t, a, b, w, func(l, r *[]spd.TS) {
				(*l)[0].Proto, (*r)[0].Proto = 17, 17
				(*l)[0].PortFrom, (*l)[0].PortTo, (*r)[0].PortFrom, (*r)[0].PortTo = 7000, 7000, 7000, 7000
			})
			behind, host := netip.MustParsePrefix("10.9.0.0/24"), netip.MustParseAddr("10.9.0.5")
			if !w.inB.Is4() {
				behind, host = netip.MustParsePrefix("2001:db8:9::/64"), netip.MustParseAddr("2001:db8:9::5")
			}
			tunnel := backendtest.Policy(2, 2, single(w.inB), behind)
			tunnel.Mode = spd.Tunnel
			if err := b.ApplyPolicies(nil, []spd.Policy{tunnel}); err != nil {
				t.Fatal(err)
			}
			if r, err := topo.GwA.Ping(w.inB, testnet.PingOptions{Count: 3}); err != nil || r.Lost() != 0 {
				t.Errorf("the rest between the neighbours: %v, %v", r, err)
			}
			if r, err := topo.GwB.Ping(w.inA, testnet.PingOptions{Count: 3}); err != nil || r.Lost() != 0 {
				t.Errorf("the rest the other way: %v, %v", r, err)
			}
			// Datagrams to a port, from the neighbour or from the network behind the tunnel.
			arrives := func(from netip.Addr, port uint16) bool {
				t.Helper()
				in, err := topo.GwB.ListenPacket("udp", netip.AddrPortFrom(w.inB, port).String())
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				out, err := topo.GwA.ListenPacket("udp", netip.AddrPortFrom(from, 0).String())
				if err != nil {
					t.Fatal(err)
				}
				defer out.Close()
				for range 3 {
					if _, err := out.WriteTo([]byte("in clear"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(w.inB, port))); err != nil {
						t.Fatal(err)
					}
				}
				in.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
				_, _, err = in.ReadFrom(make([]byte, 64))
				return err == nil
			}
			if err := topo.GwA.AddAddr("lo", single(host).String()); err != nil {
				t.Fatal(err)
			}
			if arrives(host, 7002) {
				t.Error("what the tunnel is for arrives in clear")
			}
			if !arrives(w.inA, 7002) {
				t.Error("a datagram of the rest does not arrive")
			}
			wider := tunnel
			wider.Remote = append(wider.Remote[:1:1], spd.Host(w.inA))
			if err := b.ApplyPolicies([]uint64{2}, []spd.Policy{wider}); err != nil {
				t.Fatal(err)
			}
			if arrives(w.inA, 7002) {
				t.Error("what a tunnel is for arrives in clear beside a protected port")
			}
		})
	}
}
