package transport

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"iked/internal/testnet"
	"iked/internal/transport/batch"
)

// twoHosts are two namespaces with a link between them, 192.0.2.1 and .2,
// 2001:db8::1 and ::2; a transport on each.
func twoHosts(t *testing.T, a, b Options) (hosts [2]*testnet.Namespace, tr [2]*Transport, got [2]chan Datagram) {
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
	for i, name := range []string{"a", "b"} {
		if hosts[i], err = n.Namespace(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Connect(testnet.End{NS: hosts[0], If: "eth0"}, testnet.End{NS: hosts[1], If: "eth0"}, 0); err != nil {
		t.Fatal(err)
	}
	for i, addrs := range [][]string{{"192.0.2.1/24", "2001:db8::1/64"}, {"192.0.2.2/24", "2001:db8::2/64"}} {
		if err := hosts[i].AddAddr("eth0", addrs...); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range []Options{a, b} {
		if err := hosts[i].Do(func() error { tr[i], got[i] = start(t, o); return nil }); err != nil {
			t.Fatal(err)
		}
		tr[i].Start()
	}
	return hosts, tr, got
}

// eventually sends until the datagram arrives: the link needs its neighbours first. What
// was sent before more than once may still come meanwhile.
func eventually(t *testing.T, send func() error, got chan Datagram, want func(Datagram) bool) Datagram {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err := send(); err != nil {
			t.Fatal(err)
		}
		select {
		case d := <-got:
			if want(d) {
				return d
			}
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("no datagram arrived")
	return Datagram{}
}

// The kernel's IPsec policies, here one that blocks everything, hold for other
// sockets and not for those of IKE, in both directions and families (RFC 4301,
// Section 5.1: the key exchange bypasses).
func TestIKEPassesPoliciesOfTheKernel(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireCommand(t, "ip", "iproute2")
	hosts, tr, got := twoHosts(t, Options{}, Options{})
	for _, dir := range []string{"in", "out"} {
		for _, any := range []string{"0.0.0.0/0", "::/0"} {
			if out, err := hosts[0].Run(context.Background(), "ip", "xfrm", "policy", "add", "src", any, "dst", any, "dir", dir, "priority", "10", "action", "block"); err != nil {
				testnet.LeaveOut(t, "this kernel takes no IPsec policies (CONFIG_XFRM_USER): "+out)
			}
		}
		// Neighbours must be found; that is another matter.
		if out, err := hosts[0].Run(context.Background(), "ip", "xfrm", "policy", "add", "src", "::/0", "dst", "::/0", "proto", "ipv6-icmp", "dir", dir, "priority", "1", "action", "allow"); err != nil {
			t.Fatal(out, err)
		}
	}
	for name, ends := range map[string][2]string{"IPv4": {"192.0.2.1", "192.0.2.2"}, "IPv6": {"2001:db8::1", "2001:db8::2"}} {
		for _, natt := range []bool{false, true} {
			here, there := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
			portsHere, portsThere := port(tr[0], natt), port(tr[1], natt)
			if name == "IPv6" {
				awaitIPv6(t, hosts[0], here)
			}
			send := func() error {
				return tr[0].Send(netip.AddrPortFrom(here, 0), netip.AddrPortFrom(there, portsThere), []byte("to the peer"), natt, 0)
			}
			eventually(t, send, got[1], func(d Datagram) bool {
				return string(d.Data) == "to the peer" && d.NATT == natt && d.Remote.Addr() == here
			})
			send = func() error {
				return tr[1].Send(netip.AddrPortFrom(there, 0), netip.AddrPortFrom(here, portsHere), []byte("from the peer"), natt, 0)
			}
			eventually(t, send, got[0], func(d Datagram) bool {
				return string(d.Data) == "from the peer" && d.NATT == natt && d.Remote.Addr() == there
			})
		}
		c, err := hosts[0].Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(ends[1]), port(tr[1], false)).String())
		if err != nil {
			continue // blocked when it asked for a route
		}
		if _, err := c.Write([]byte("another socket")); err == nil {
			t.Errorf("%s: the policy does not block another socket, so this test shows nothing", name)
		}
		c.Close()
	}
}

func port(t *Transport, natt bool) uint16 {
	ike, n := t.Ports()
	if natt {
		return n
	}
	return ike
}

// awaitIPv6 waits until an address is no longer tentative.
func awaitIPv6(t *testing.T, ns *testnet.Namespace, a netip.Addr) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := ns.ListenPacket("udp", netip.AddrPortFrom(a, 0).String())
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// With KernelESP the NAT traversal port hands ESP to the kernel: IKE still comes
// through without its marker, keepalives and ESP end in the kernel (RFC 3948,
// Sections 2.2, 2.3 and 3.3).
func TestKernelTakesESP(t *testing.T) {
	hosts, tr, got := twoHosts(t, Options{KernelESP: true}, Options{})
	tr[0].SetESPHandler(func(int, []batch.Packet) { t.Error("ESP came to the handler") })
	for name, ends := range map[string][2]string{"IPv4": {"192.0.2.1", "192.0.2.2"}, "IPv6": {"2001:db8::1", "2001:db8::2"}} {
		here, there := netip.MustParseAddr(ends[0]), netip.MustParseAddr(ends[1])
		if name == "IPv6" {
			awaitIPv6(t, hosts[0], here)
			awaitIPv6(t, hosts[1], there)
		}
		to := netip.AddrPortFrom(here, port(tr[0], true))
		from := netip.AddrPortFrom(there, 0)
		send := func() error { return tr[1].Send(from, to, []byte("IKE"), true, 0) }
		eventually(t, send, got[0], func(d Datagram) bool { return string(d.Data) == "IKE" && d.NATT && d.Remote.Addr() == there })
		if err := tr[1].Keepalive(from, to); err != nil {
			t.Fatal(err)
		}
		esp := make([]byte, 64)
		esp[0] = 0xc0
		if res := tr[1].SendESP(0, []batch.Packet{{Data: esp, Local: from, Remote: to}}); res.Failed != 0 {
			t.Fatalf("%+v", res)
		}
		// What comes after them tells that they were there before.
		if err := tr[1].Send(from, to, []byte("end"), true, 0); err != nil {
			t.Fatal(err)
		}
		for d := receive(t, got[0]); string(d.Data) != "end"; d = receive(t, got[0]) {
			if string(d.Data) != "IKE" {
				t.Fatalf("%s: got %q", name, d.Data)
			}
		}
		// The other way the marker and the keepalive are the peer's to understand.
		back := func() error {
			return tr[0].Send(netip.AddrPortFrom(here, 0), netip.AddrPortFrom(there, port(tr[1], true)), []byte("answer"), true, 0)
		}
		eventually(t, back, got[1], func(d Datagram) bool {
			return string(d.Data) == "answer" && d.Remote == netip.AddrPortFrom(here, port(tr[0], true))
		})
		if err := tr[0].Keepalive(netip.AddrPortFrom(here, 0), netip.AddrPortFrom(there, port(tr[1], true))); err != nil {
			t.Fatal(err)
		}
	}
	if c := tr[0].Counters(); c["udp_esp_in"]+c["udp_esp_unclaimed"]+c["keepalives"]+c["udp_runts"] != 0 {
		t.Errorf("what is the kernel's came to the socket: %v", c)
	}
	for deadline := time.Now().Add(10 * time.Second); tr[1].Counters()["keepalives"] < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the keepalives did not arrive: %v", tr[1].Counters())
		}
	}
}
