package guard

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"iked/internal/testnet"
	"iked/spd"
)

func selectors(t *testing.T, list ...string) (out []spd.TS) {
	t.Helper()
	for _, s := range list {
		ts, _, err := spd.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ts)
	}
	return out
}

// Intervals are disjoint, whatever the selectors, and the last address of a
// family has no end.
func TestElements(t *testing.T) {
	var got []string
	for _, e := range elements(selectors(t, "10.1.0.0/16", "10.1.2.0/24", "10.9.0.0..10.9.0.2", "255.255.255.0/24")) {
		a, _ := netip.AddrFromSlice(e.Key)
		s := a.String()
		if e.IntervalEnd {
			s = "<" + s
		}
		got = append(got, s)
	}
	want := []string{"10.1.0.0", "<10.2.0.0", "10.9.0.0", "<10.9.0.2", "10.9.0.2", "<10.9.0.3", "255.255.255.0"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// A datagram in clear from an address behind the tunnel is dropped when it comes
// from outside, is delivered when it comes out of the tunnel device, and nothing
// else is touched.
func TestClearTextDropped(t *testing.T) {
	testnet.RequireRoot(t)
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gw, err := n.Namespace("gw")
	must(err)
	far, err := n.Namespace("far")
	must(err)
	for _, name := range []string{"ipsec0", "wan0"} {
		must(n.Connect(testnet.End{NS: gw, If: name}, testnet.End{NS: far, If: name}, 1500))
		must(gw.Sysctl("net.ipv4.conf."+name+".rp_filter", "0"))
	}
	must(gw.Sysctl("net.ipv4.conf.all.rp_filter", "0"))
	must(gw.AddAddr("wan0", "192.0.2.1/24", "10.1.0.1/32"))
	must(far.AddAddr("wan0", "192.0.2.2/24", "10.2.0.2/32"))
	must(far.AddRoute("10.1.0.1/32", "192.0.2.1"))
	// In gw the way to 10.2.0.0/16 is the tunnel device.
	dev, err := gw.Handle().LinkByName("ipsec0")
	must(err)
	must(gw.Handle().RouteAdd(&netlink.Route{LinkIndex: dev.Attrs().Index, Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: net.IPv4(10, 2, 0, 0).To4(), Mask: net.CIDRMask(16, 32)}}))

	var g *Guard
	must(gw.Do(func() (err error) { g, err = New("ipsec0", []uint16{500, 4500}, 0x1ced); return err }))
	defer g.Close()

	var server net.PacketConn
	must(gw.Do(func() (err error) { server, err = net.ListenPacket("udp4", "0.0.0.0:7000"); return err }))
	defer server.Close()
	var ike net.PacketConn
	must(gw.Do(func() (err error) { ike, err = net.ListenPacket("udp4", "0.0.0.0:4500"); return err }))
	defer ike.Close()
	arrives := func(at net.PacketConn, from, to string) bool {
		t.Helper()
		var c net.PacketConn
		must(far.Do(func() (err error) { c, err = net.ListenPacket("udp4", from+":0"); return err }))
		defer c.Close()
		dst, err := net.ResolveUDPAddr("udp4", to)
		must(err)
		_, err = c.WriteTo([]byte("clear"), dst)
		must(err)
		// On a veth pair delivery is done when the write returns; the time is for a
		// busy machine only.
		at.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err = at.ReadFrom(make([]byte, 64))
		return err == nil
	}
	if !arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Fatal("without a policy nothing is dropped")
	}
	local := selectors(t, "10.1.0.0/24")
	must(g.Add(local))
	must(g.Add(local))
	if arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Error("clear text from behind the tunnel was delivered")
	}
	if c, err := g.Dropped(); err != nil || c != 1 {
		t.Errorf("counted %d drops, want 1 (%v)", c, err)
	}
	if !arrives(server, "192.0.2.2", "10.1.0.1:7000") {
		t.Error("a source that is not behind the tunnel was dropped")
	}
	if !arrives(server, "10.2.0.2", "192.0.2.1:7000") {
		t.Error("a destination that no policy has was dropped")
	}
	if !arrives(ike, "10.2.0.2", "10.1.0.1:4500") {
		t.Error("IKE was dropped")
	}

	// The device of a crashed daemon is gone, its unreachable route is not.
	must(gw.Handle().LinkDel(dev))
	if arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Error("clear text was delivered while the device is away")
	}

	must(g.Remove(local))
	if arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Error("the selectors of one policy went with those of another")
	}
	must(g.Remove(local))
	if !arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Error("still dropped without a policy")
	}

	// A second start takes over what a crash left.
	must(g.Add(local))
	var again *Guard
	must(gw.Do(func() (err error) { again, err = New("ipsec0", nil, 0); return err }))
	if !arrives(server, "10.2.0.2", "10.1.0.1:7000") {
		t.Error("the selectors of the crashed daemon are still in force")
	}
	must(again.Close())
}
