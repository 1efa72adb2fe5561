package datapath_test

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"iked/datapath"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/spd"
)

func bypass(t *testing.T, id uint64, local, remote string) spd.Policy {
	t.Helper()
	p := spd.Policy{ID: id, Name: "bypass", Action: spd.Bypass}
	for s, list := range map[string]*[]spd.TS{local: &p.Local, remote: &p.Remote} {
		ts, _, err := spd.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		*list = []spd.TS{ts}
	}
	return p
}

// A host that protects everything, its own link included, still finds its
// neighbours and renews its lease when entries before the others let that pass in
// clear, both ways; all else stays protected. Without those entries it does not.
func TestHousekeepingOfAnEndNode(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	g := open(t, topo.GwA, datapath.Options{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	any4, any6 := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")
	all := []spd.Policy{backendtest.Policy(1, 1, any4, any4), backendtest.Policy(2, 2, any6, any6)}
	for i := range all {
		all[i].Priority = 1000
	}
	must(g.ApplyPolicies(nil, all))

	// The neighbour answers IKE, a name server's and a DHCP server's questions.
	ask := func(from int, to string) bool {
		t.Helper()
		server, err := topo.GwB.ListenPacket("udp", to)
		must(err)
		defer server.Close()
		go func() {
			b := make([]byte, 64)
			for {
				_, a, err := server.ReadFrom(b)
				if err != nil {
					return
				}
				server.WriteTo([]byte("answer"), a)
			}
		}()
		var c *net.UDPConn
		addr, err := net.ResolveUDPAddr("udp", to)
		must(err)
		must(topo.GwA.Do(func() (err error) {
			c, err = net.DialUDP("udp", &net.UDPAddr{IP: topo.WanA4.AsSlice(), Port: from}, addr)
			return err
		}))
		defer c.Close()
		for range 3 {
			if _, err := c.Write([]byte("question")); err != nil {
				continue
			}
			c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, err := c.Read(make([]byte, 64)); err == nil {
				return true
			}
		}
		return false
	}
	// What the daemon sends is marked; whether it leaves is a matter of neighbours.
	neighbour := func() bool {
		t.Helper()
		if out, err := topo.GwA.Run(context.Background(), "ip", "-6", "neigh", "flush", "to", topo.WanB6.String()); err != nil {
			t.Fatal(out, err)
		}
		server, err := topo.GwB.ListenPacket("udp6", netip.AddrPortFrom(topo.WanB6, 5000).String())
		must(err)
		defer server.Close()
		for range 3 {
			if err := g.udp.Send(netip.AddrPortFrom(topo.WanA6, 0), netip.AddrPortFrom(topo.WanB6, 5000), []byte("IKE"), false, 0); err != nil {
				t.Fatal(err)
			}
			server.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if _, _, err := server.ReadFrom(make([]byte, 64)); err == nil {
				return true
			}
		}
		return false
	}
	dhcp, dns := topo.WanB4.String()+":67", topo.WanB4.String()+":53"
	if d, n := ask(68, dhcp), neighbour(); d || n {
		t.Error(d, n, "without entries for them, DHCP or neighbour discovery pass: this test shows nothing")
	}
	must(g.ApplyPolicies(nil, []spd.Policy{
		bypass(t, 10, topo.WanA4.String()+"/32[udp/68]", "0.0.0.0/0[udp/67]"),
		bypass(t, 11, topo.WanA6.String()+"/128[ipv6-icmp/133-137]", "::/0[ipv6-icmp/133-137]"),
	}))
	if !ask(68, dhcp) {
		t.Errorf("DHCP does not pass: %v", counters(g))
	}
	if !neighbour() {
		t.Errorf("neighbour discovery does not pass: %v", counters(g))
	}
	if ask(1068, dhcp) || ask(68, dns) {
		t.Error("more than the entries say passes in clear")
	}
	must(g.ApplyPolicies([]uint64{10, 11}, nil))
	if d, n := ask(68, dhcp), neighbour(); d || n {
		t.Error(d, n, "the entries are gone, and what they let pass still does")
	}
}
