package datapath_test

import (
	"net/netip"
	"testing"
	"time"

	"iked/datapath"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// A host behind a NAT and a server protect in transport mode, over UDP: each sees
// the other by the translated address, and checksums, made with the original one,
// are corrected (RFC 3948, Section 3.1.2). Without the original addresses TCP and
// UDP do not pass, ICMP, which has no pseudo header, does.
func TestTransportBehindNAT(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	testnet.RequireCommand(t, "nft", "nftables")
	for _, known := range []bool{true, false} {
		t.Run(map[bool]string{true: "original addresses known", false: "not known"}[known], func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.NAT})
			client, server := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			add := func(g *gateway, local, remote netip.Addr, in, out uint32, natLocal, natRemote netip.Addr) (sad.ID, sad.ID) {
				i, o := backendtest.Pair(1, local, remote, in, out, single(local), single(remote))
				if known {
					i.NATLocal, i.NATRemote = natLocal, natRemote
				}
				for _, s := range []*sad.SA{i, o} {
					s.Mode, s.Encap = spd.Transport, &sad.Encap{SrcPort: 4500, DstPort: 4500}
					if err := g.AddSA(s); err != nil {
						t.Fatal(err)
					}
				}
				p := backendtest.Policy(1, 1, single(local), single(remote))
				p.Mode = spd.Transport
				if err := g.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
					t.Fatal(err)
				}
				return i.ID, o.ID
			}
			// The server's checksums are made with the outside of the NAT, the client's
			// with its own address.
			add(client, topo.WanA4, topo.WanB4, 0x1001, 0x2001, topo.Seen4, netip.Addr{})
			in, out := add(server, topo.WanB4, topo.Seen4, 0x2001, 0x1001, netip.Addr{}, topo.WanA4)

			// The first packet tells where the NAT has put the client.
			topo.GwA.Ping(topo.WanB4, testnet.PingOptions{Count: 1, Timeout: 100 * time.Millisecond})
			var m backend.Mapping
			for m.From.Port() == 0 {
				select {
				case e := <-server.Events():
					m, _ = e.(backend.Mapping)
				case <-time.After(5 * time.Second):
					t.Fatalf("no event of the mapping\nclient %v\nserver %v", counters(client), counters(server))
				}
			}
			if m.From.Addr() != topo.Seen4 || m.From.Port() == 4500 {
				t.Fatalf("mapping %+v", m)
			}
			for id, move := range map[sad.ID]backend.Move{
				in:  {Src: topo.Seen4, Dst: topo.WanB4, Encap: &sad.Encap{SrcPort: m.From.Port(), DstPort: 4500}},
				out: {Src: topo.WanB4, Dst: topo.Seen4, Encap: &sad.Encap{SrcPort: 4500, DstPort: m.From.Port()}},
			} {
				if _, err := server.UpdateSA(id, move); err != nil {
					t.Fatal(err)
				}
			}
			if r, err := topo.GwA.Ping(topo.WanB4, testnet.PingOptions{Count: 3}); err != nil || r.Lost() != 0 {
				t.Errorf("ping: %v, %v\nclient %v\nserver %v", r, err, counters(client), counters(server))
			}
			if !known {
				if datagram(t, topo.GwA, topo.GwB, topo.WanB4, 7000, 100, 300*time.Millisecond) {
					t.Error("a datagram with a wrong checksum was delivered")
				}
				return
			}
			c, err := topo.GwB.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{0, 1, 1000} {
				if !datagram(t, topo.GwA, topo.GwB, topo.WanB4, 7000, size, 5*time.Second) {
					t.Errorf("a datagram of %d octets did not come back", size)
				}
			}
			exchange(t, topo.GwA, topo.GwB, topo.WanB4, 1<<20)
			c.Stop()
			if clear := c.ClearText(); len(clear) != 0 {
				t.Errorf("clear text on the wire:\n%v", clear)
			}
			// The capture would see fragments as the NAT changed them.
			if !datagram(t, topo.GwA, topo.GwB, topo.WanB4, 7000, 3000, 5*time.Second) {
				t.Error("a datagram of 3000 octets did not come back")
			}
		})
	}
}

// A path with a smaller MTU behind a router: what may be cut is cut behind ESP, the
// rest learns the size, TCP goes on.
func TestPathMTUBetweenHosts(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	for i := range hostWays(&testnet.Topology{}) {
		t.Run(hostWays(&testnet.Topology{})[i].name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{Between: testnet.Router, MTU: 1300})
			// The hosts do not know: only the router's link is small.
			for _, ns := range []*testnet.Namespace{topo.GwA, topo.GwB} {
				if err := ns.SetMTU("wan0", 1500); err != nil {
					t.Fatal(err)
				}
			}
			if err := topo.Middle.SetMTU("a0", 1500); err != nil {
				t.Fatal(err)
			}
			w := hostWays(topo)[i]
			a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
			protect(t, a, b, w, nil)
			if err := topo.GwB.SetMTU("wan0", 1300); err != nil {
				t.Fatal(err)
			}
			if exchange(t, topo.GwA, topo.GwB, w.inB, 1<<19); t.Failed() {
				t.Fatalf("a %v\nb %v", counters(a), counters(b))
			}
			if !datagram(t, topo.GwA, topo.GwB, w.inB, 7000, 3000, 10*time.Second) &&
				!datagram(t, topo.GwA, topo.GwB, w.inB, 7000, 3000, 10*time.Second) {
				t.Errorf("a datagram of 3000 octets did not come back\na %v\nb %v", counters(a), counters(b))
			}
		})
	}
}
