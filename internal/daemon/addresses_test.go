package daemon

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"testing"
	"time"

	"iked/datapath/route"
	"iked/internal/testnet"
)

// oneHost is a namespace with a link to another one.
func oneHost(t *testing.T) *testnet.Namespace {
	t.Helper()
	testnet.RequireRoot(t)
	n, err := testnet.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var ns [2]*testnet.Namespace
	for i, name := range []string{"host", "other"} {
		if ns[i], err = n.Namespace(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Connect(testnet.End{NS: ns[0], If: "eth0"}, testnet.End{NS: ns[1], If: "eth0"}, 0); err != nil {
		t.Fatal(err)
	}
	for i, a := range []string{"192.0.2.1/24", "192.0.2.2/24"} {
		if err := ns[i].AddAddr("eth0", a); err != nil {
			t.Fatal(err)
		}
	}
	return ns[0]
}

// The own addresses are those of the host with the lengths of their prefixes, an
// address has its device, and a change is told of once it rests.
func TestAddressesOfThisHost(t *testing.T) {
	ns := oneHost(t)
	own := func() (list []netip.Prefix) {
		t.Helper()
		if err := ns.Do(func() (err error) { list, err = markedRoutes{}.Own(); return err }); err != nil {
			t.Fatal(err)
		}
		return list
	}
	if list := own(); !slices.Contains(list, netip.MustParsePrefix("192.0.2.1/24")) {
		t.Errorf("own addresses %v", list)
	}
	var dev string
	err := ns.Do(func() (err error) {
		dev, err = markedRoutes{}.DeviceOf(netip.MustParseAddr("192.0.2.1"))
		if err == nil {
			_, bad := markedRoutes{}.DeviceOf(netip.MustParseAddr("192.0.2.9"))
			if bad == nil {
				t.Error("an address that is not there has a device")
			}
		}
		return err
	})
	if err != nil || dev != "eth0" {
		t.Errorf("device of the address: %q, %v", dev, err)
	}
	changed := make(chan struct{}, 16)
	var w *networkWatch
	if err := ns.Do(func() (err error) { w, err = watchNetwork(func() { changed <- struct{}{} }); return err }); err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := ns.AddAddr("eth0", "192.0.2.7/24", "192.0.2.8/24"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("a new address was not told of")
	}
	if list := own(); !slices.Contains(list, netip.MustParsePrefix("192.0.2.8/24")) {
		t.Errorf("own addresses %v", list)
	}
}

// The ways to a peer: first the address that the kernel chooses, then those whose
// packets leave by the link that has them, and no address of a link that leads
// elsewhere. A new route is told of, one of the daemon's own is not.
func TestPathsToAPeer(t *testing.T) {
	ns := oneHost(t)
	testnet.RequireCommand(t, "ip", "iproute2")
	run := func(args ...string) {
		t.Helper()
		if out, err := ns.Run(context.Background(), append([]string{"ip"}, args...)...); err != nil {
			t.Fatal(out, err)
		}
	}
	run("addr", "add", "192.0.2.7/24", "dev", "eth0")
	run("link", "add", "inside", "type", "veth", "peer", "name", "inside2")
	run("addr", "add", "10.1.0.1/24", "dev", "inside")
	run("link", "set", "inside", "up")
	run("link", "set", "inside2", "up")
	paths := func(to string) (list []netip.Addr, err error) {
		t.Helper()
		if e := ns.Do(func() error { list, err = markedRoutes{1}.Paths(netip.MustParseAddr(to)); return nil }); e != nil {
			t.Fatal(e)
		}
		return list, err
	}
	if list, err := paths("203.0.113.9"); err == nil {
		t.Errorf("without a route there are the paths %v", list)
	}
	changed := make(chan struct{}, 16)
	var w *networkWatch
	if err := ns.Do(func() (err error) { w, err = watchNetwork(func() { changed <- struct{}{} }); return err }); err != nil {
		t.Fatal(err)
	}
	defer w.close()
	// The links are news for a while: IPv6 looks for duplicates of its addresses.
	for quiet := false; !quiet; {
		select {
		case <-changed:
		case <-time.After(3 * time.Second):
			quiet = true
		}
	}
	run("route", "add", "198.51.100.0/24", "via", "192.0.2.2", "proto", strconv.Itoa(int(route.Protocol)))
	select {
	case <-changed:
		t.Error("a route of the daemon's own is taken for a change")
	case <-time.After(5 * settle):
	}
	run("route", "add", "203.0.113.0/24", "via", "192.0.2.2", "src", "192.0.2.7")
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("a new route was not told of")
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("192.0.2.1")}
	if list, err := paths("203.0.113.9"); err != nil || !slices.Equal(list, want) {
		t.Errorf("paths %v, %v, expected %v", list, err, want)
	}
}

// A policy of the kernel that blocks everything does not hold for the daemon's
// questions: the name server can be asked, and the way to a peer is found.
func TestOwnQuestionsPassPolicies(t *testing.T) {
	ns := oneHost(t)
	testnet.RequireCommand(t, "ip", "iproute2")
	for _, dir := range []string{"in", "out"} {
		if out, err := ns.Run(context.Background(), "ip", "xfrm", "policy", "add", "src", "0.0.0.0/0", "dst", "0.0.0.0/0", "dir", dir, "action", "block"); err != nil {
			testnet.LeaveOut(t, "this kernel takes no IPsec policies (CONFIG_XFRM_USER): "+out)
		}
	}
	err := ns.Do(func() error {
		a, err := markedRoutes{1}.LocalFor(netip.MustParseAddr("192.0.2.2"))
		if err != nil || a != netip.MustParseAddr("192.0.2.1") {
			t.Errorf("own address towards the peer: %v, %v", a, err)
		}
		c, err := marked(1).Dial("udp", "192.0.2.2:53")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("question")); err != nil {
			t.Errorf("question to a name server: %v", err)
		}
		other, err := net.Dial("udp", "192.0.2.2:53")
		if err != nil {
			return nil
		}
		defer other.Close()
		if _, err := other.Write([]byte("question")); err == nil {
			t.Error("the policy does not block others, so this test shows nothing")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
