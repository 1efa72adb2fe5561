// Package vm tests the devices of route-based tunnels on a kernel that has VTI.
package vm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/spd"
	"iked/xfrm/iface"
)

func TestMain(m *testing.M) { uml.Main(m, uml.Options{}) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is one end: a namespace with a manager of devices.
type host struct {
	ns *testnet.Namespace
	m  *iface.Manager
}

func hosts(t *testing.T) (a, b host) {
	t.Helper()
	n, err := testnet.Open()
	must(t, err)
	t.Cleanup(func() { must(t, n.Close()) })
	for i, h := range []*host{&a, &b} {
		h.ns, err = n.Namespace([]string{"a", "b"}[i])
		must(t, err)
	}
	must(t, n.Connect(testnet.End{NS: a.ns, If: "eth0"}, testnet.End{NS: b.ns, If: "eth0"}, 0))
	for i, h := range []*host{&a, &b} {
		must(t, h.ns.AddAddr("eth0", fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)))
		must(t, h.ns.Do(func() (err error) { h.m, err = iface.New(); return err }))
		t.Cleanup(h.m.End)
	}
	return a, b
}

func (h host) ip(t *testing.T, line string) string {
	t.Helper()
	out, err := h.ns.Run(context.Background(), append([]string{"ip"}, strings.Fields(line)...)...)
	if err != nil {
		t.Fatalf("ip %s: %v\n%s", line, err, out)
	}
	return out
}

// A kernel without XFRM interfaces is told of in words, and VTI are made in their
// place.
func TestKindOfThisKernel(t *testing.T) {
	uml.Require(t)
	a, _ := hosts(t)
	if err := a.m.Can(); err != nil {
		t.Fatal(err)
	}
	if s := a.m.Describe(); !strings.Contains(s, "VTI") || !strings.Contains(s, "CONFIG_XFRM_INTERFACE is not set") {
		t.Errorf("%q", s)
	}
	before, err := a.ns.Links()
	must(t, err)
	for _, l := range before {
		if strings.Contains(l, "probe") {
			t.Errorf("finding out left %s", l)
		}
	}
}

// What is routed to the device is protected, and nothing else is: the same peer is
// reached in clear beside it. Without SAs what is routed to it stays.
func TestTrafficThroughVTI(t *testing.T) {
	uml.Require(t)
	for _, ends := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}, {"192.0.2.1", ""}} {
		t.Run(ends[0]+" "+ends[1], func(t *testing.T) {
			a, b := hosts(t)
			outer := ends
			if ends[1] == "" {
				outer[1] = "192.0.2.2" // the peer may come from anywhere
			}
			for i, h := range []host{a, b} {
				local, remote := netip.MustParseAddr(outer[i]), netip.MustParseAddr(outer[1-i])
				if ends[1] == "" {
					remote = netip.Addr{}
				}
				id, mark, err := h.m.Open("office0", 7, local, remote)
				must(t, err)
				if id != 0 || mark != (spd.Mark{Value: 7, Mask: ^uint32(0)}) {
					t.Fatalf("bound by %d and %+v", id, mark)
				}
				h.ip(t, fmt.Sprintf("addr add 10.%d.0.1/32 dev office0", i+1))
				h.ip(t, fmt.Sprintf("route add 10.%d.0.0/16 dev office0", 2-i))
			}
			wire, err := a.ns.Capture("eth0")
			must(t, err)
			ping := func(to string) int {
				r, err := a.ns.Ping(netip.MustParseAddr(to), testnet.PingOptions{Count: 3, Timeout: time.Second})
				if err != nil {
					return 0
				}
				return r.Received
			}
			if n := ping("10.2.0.1"); n != 0 {
				t.Errorf("%d pings came back without SAs", n)
			}
			for i, h := range []host{a, b} {
				me, peer := outer[i], outer[1-i]
				for _, way := range [][3]string{{me, peer, fmt.Sprintf("0x100%d", i)}, {peer, me, fmt.Sprintf("0x100%d", 1-i)}} {
					h.ip(t, "xfrm state add src "+way[0]+" dst "+way[1]+" proto esp spi "+way[2]+" reqid 1 mode tunnel flag af-unspec aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128")
				}
				h.ip(t, "xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir out mark 7 tmpl src "+me+" dst "+peer+" proto esp reqid 1 mode tunnel")
				for _, dir := range []string{"in", "fwd"} {
					h.ip(t, "xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir "+dir+" mark 7 tmpl src "+peer+" dst "+me+" proto esp reqid 1 mode tunnel")
				}
			}
			if n := ping("10.2.0.1"); n != 3 {
				t.Errorf("%d of 3 pings through the device came back\n%s\n%s", n, a.ip(t, "-s xfrm state"), b.ip(t, "-s link show office0"))
			}
			wire.Stop()
			if clear := wire.ClearText(); len(clear) > 0 || wire.Counts()[testnet.ESP] < 6 {
				t.Errorf("on the wire: %v", wire)
			}
			if n := ping("192.0.2.2"); n != 3 {
				t.Errorf("%d of 3 pings beside the device came back", n)
			}
			for _, h := range []host{a, b} {
				must(t, h.m.Close("office0"))
				if out := h.ip(t, "-o link"); strings.Contains(out, "office0") {
					t.Errorf("the device is left: %s", out)
				}
			}
		})
	}
}

// What a crashed process left is taken over, with its routes when it is the same;
// a device of others is never touched.
func TestLeftoversInTheKernel(t *testing.T) {
	uml.Require(t)
	a, _ := hosts(t)
	_, _, err := a.m.Open("office0", 7, netip.MustParseAddr("192.0.2.1"), netip.Addr{})
	must(t, err)
	a.ip(t, "route add 10.2.0.0/16 dev office0")
	var again *iface.Manager
	must(t, a.ns.Do(func() (err error) { again, err = iface.New(); return err }))
	defer again.End()
	_, _, err = again.Open("office0", 7, netip.MustParseAddr("192.0.2.1"), netip.Addr{})
	must(t, err)
	if out := a.ip(t, "route"); !strings.Contains(out, "office0") {
		t.Errorf("the route is gone: %s", out)
	}
	_, _, err = again.Open("office0", 8, netip.MustParseAddr("192.0.2.1"), netip.Addr{})
	must(t, err)
	if out := a.ip(t, "-d link show office0"); !strings.Contains(out, "0.0.0.8") {
		t.Errorf("the device was not made anew: %s", out)
	}
	a.ip(t, "link add dmz0 type veth peer name dmz1")
	if _, _, err := again.Open("dmz0", 9, netip.Addr{}, netip.Addr{}); err == nil {
		t.Error("a foreign device was taken")
	}
	if err := again.Close("dmz0"); err == nil {
		t.Error("a foreign device was removed")
	}
	must(t, again.Close("office0"))
}
