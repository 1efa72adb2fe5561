package datapath_test

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/datapath"
	"iked/datapath/ip"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// groupSAs makes an SA of a group, keyed by hand: what the sender has and what a
// receiver has. With one sender the receiver's is for its packets alone.
func groupSAs(from, group netip.Addr, spi uint32, ah, one bool) (out, in *sad.SA) {
	_, out = backendtest.Pair(spi, from, group, spi, spi, single(from), single(group))
	in, _ = backendtest.Pair(spi, group, from, spi, spi, single(group), single(from))
	for _, s := range []*sad.SA{out, in} {
		s.Mode, s.Static = spd.Transport, true
		if ah {
			authenticate(s)
		}
	}
	if one {
		in.Sender = from
	} else {
		// Several senders: no order of numbers (RFC 4302, Section 3.4.3).
		in.Src, in.ReplayWindow = netip.IPv4Unspecified(), 0
		if !group.Is4() {
			in.Src = netip.IPv6Unspecified()
		}
	}
	return out, in
}

// RFC 4301, Section 4.1: multicast UDP with ESP and with AH, over IPv4 and IPv6,
// from one host to the members of a group. The SPI is one that the receiver has
// given to a unicast SA as well; datagrams of a sender that has no SA are dropped.
func TestMulticast(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
	capture, err := topo.GwB.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct {
		name    string
		from    netip.Addr
		group   string
		ah, one bool
	}{
		{"ESP, IPv4", topo.WanA4, "239.1.2.3", false, false},
		{"AH, IPv4, one sender", topo.WanA4, "239.1.2.4", true, true},
		{"ESP, IPv6, one sender", topo.WanA6, "ff15::1:3", false, true},
		{"AH, IPv6", topo.WanA6, "ff15::1:4", true, false},
	} {
		group := netip.MustParseAddr(c.group)
		spi := uint32(0x5000 + i)
		out, in := groupSAs(c.from, group, spi, c.ah, c.one)
		unicast, _ := backendtest.Pair(900, topo.WanB4, topo.WanA4, spi, spi+0x1000, topo.NetB4, topo.NetA4)
		if c.ah {
			authenticate(unicast)
		}
		p := backendtest.Policy(uint64(10+i), spi, single(c.from), single(group))
		p.Mode = spd.Transport
		if c.ah {
			p.Proto = ip.ProtoAH
		}
		for _, err := range []error{a.AddSA(out), b.AddSA(unicast), b.AddSA(in), a.ApplyPolicies(nil, []spd.Policy{p})} {
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
		}
		network := "udp4"
		if !group.Is4() {
			network = "udp6"
		}
		server, err := topo.GwB.ListenPacket(network, ":7400")
		if err != nil {
			t.Fatal(err)
		}
		conn := groupSender(t, topo.GwA, c.from, group)
		got := make([]byte, 2048)
		for n := range 5 {
			msg := bytes.Repeat([]byte{byte(n)}, 200*(n+1))
			if _, err := conn.Write(msg); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			server.SetReadDeadline(time.Now().Add(3 * time.Second))
			m, from, err := server.ReadFrom(got)
			if err != nil || !bytes.Equal(got[:m], msg) {
				t.Errorf("%s: %v, %d octets from %v\na %v\nb %v", c.name, err, m, from, counters(a), counters(b))
				break
			}
		}
		if u, err := b.QuerySA(in.ID); err != nil || u.Packets != 5 {
			t.Errorf("%s: %v, usage %+v", c.name, err, u)
		}
		if u, err := b.QuerySA(unicast.ID); err != nil || u.Packets != 0 || u.BadICV != 0 {
			t.Errorf("%s: packets of the group came to the unicast SA: %v, usage %+v", c.name, err, u)
		}
		// A sender that names another interface sends nothing in clear.
		before := a.Counters()["out_drop_clear_group"]
		if err := clearSend(topo.GwA, "wan0", c.from, group); err == nil {
			t.Errorf("%s: sent in clear by another interface", c.name)
		}
		if n := a.Counters()["out_drop_clear_group"] - before; n != 1 {
			t.Errorf("%s: %d packets in clear were dropped, expected 1", c.name, n)
		}
		// What arrives in clear is not heard, though the host is a member.
		stranger := topo.HostB4
		if !group.Is4() {
			stranger = topo.HostB6
		}
		before = b.Counters()["in_drop_clear_text"]
		if err := clearSend(topo.HostB, "eth0", stranger, group); err != nil {
			t.Fatal(err)
		}
		server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if m, _, err := server.ReadFrom(got); err == nil {
			t.Errorf("%s: %d octets arrived in clear", c.name, m)
		}
		if n := b.Counters()["in_drop_clear_text"] - before; n != 1 {
			t.Errorf("%s: %d packets that arrived in clear were dropped, expected 1", c.name, n)
		}
		// Without its SA, and with one for another sender, nothing passes.
		if err := b.DeleteSA(in.ID); err != nil {
			t.Fatal(err)
		}
		if c.one {
			in.Src = in.Src.Next()
			in.Sender = in.Src
			if err := b.AddSA(in); err != nil {
				t.Fatal(err)
			}
		} else if err := b.AddSA(in); err != nil {
			t.Fatal(err)
		} else if err := b.DeleteSA(in.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if m, _, err := server.ReadFrom(got); err == nil {
			t.Errorf("%s: %d octets without an SA", c.name, m)
		}
		conn.Close()
		server.Close()
	}
	capture.Stop()
	for _, p := range capture.ClearText() {
		// Only memberships are told in clear (IGMP).
		if p.Proto != 2 {
			t.Errorf("clear text on the wire: %v", p)
		}
	}
	if n := capture.Counts()[testnet.AH] + capture.Counts()[testnet.ESP]; n < 20 {
		t.Errorf("on the wire: %v", capture)
	}
}

// groupSender is a socket that sends to a group from an address through the device:
// a socket with an address of another interface would use that one, whatever the
// routes say.
func groupSender(t *testing.T, ns *testnet.Namespace, from, group netip.Addr) net.Conn {
	t.Helper()
	var conn net.Conn
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName(datapath.DefaultDevice)
		if err != nil {
			return err
		}
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Control: func(_, _ string, c syscall.RawConn) error {
			var set error
			err := c.Control(func(fd uintptr) {
				if group.Is4() {
					set = unix.SetsockoptIPMreqn(int(fd), unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(dev.Index)})
				} else {
					set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, dev.Index)
				}
			})
			return errors.Join(err, set)
		}}
		conn, err = d.Dial("udp", netip.AddrPortFrom(group, 7400).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// clearSend sends to a group in clear, by the interface that has the address.
func clearSend(ns *testnet.Namespace, ifname string, from, group netip.Addr) error {
	return ns.Do(func() error {
		dev, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)))
		if err != nil {
			return err
		}
		defer c.Close()
		if !group.Is4() {
			rc, err := c.SyscallConn()
			if err != nil {
				return err
			}
			var set error
			if err := rc.Control(func(fd uintptr) {
				set = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, dev.Index)
			}); err != nil || set != nil {
				return errors.Join(err, set)
			}
		}
		_, err = c.WriteToUDPAddrPort([]byte("clear"), netip.AddrPortFrom(group, 7400))
		return err
	})
}

// The host is a member of a group while an SA has it, on the wire and on the
// device, and what contradicts itself is refused.
func TestMemberships(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	b := open(t, topo.GwB, datapath.Options{})
	group := netip.MustParseAddr("239.7.7.7")
	member := func() (n int) {
		t.Helper()
		if err := topo.GwB.Do(func() error {
			b, err := os.ReadFile("/proc/thread-self/net/igmp")
			n = strings.Count(string(b), "070707EF")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	_, zero := groupSAs(topo.WanA4, group, 0x6000, false, true)
	if err := b.AddSA(zero); err != nil {
		t.Fatal(err)
	}
	// An interface that comes later has the group a few seconds after.
	late := testnet.End{NS: topo.GwB, If: "late0"}
	if err := topo.Connect(late, testnet.End{NS: topo.HostA, If: "late0"}, 1500); err != nil {
		t.Fatal(err)
	}
	if err := topo.GwB.AddAddr("late0", "10.77.0.1/24"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(15 * time.Second); member() != 4; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("member on %d interfaces, expected 4 with the one that came later", member())
		}
	}
	if l, err := topo.GwB.Handle().LinkByName("late0"); err != nil || topo.GwB.Handle().LinkDel(l) != nil {
		t.Fatal(err)
	}
	if err := b.DeleteSA(zero.ID); err != nil || member() != 0 {
		t.Fatalf("%v; member on %d interfaces without an SA", err, member())
	}
	_, one := groupSAs(topo.WanA4, group, 0x6001, false, true)
	_, two := groupSAs(topo.WanA4, group, 0x6002, true, false)
	for _, s := range []*sad.SA{one, two} {
		if err := b.AddSA(s); err != nil {
			t.Fatal(err)
		}
		// wan0, lan0 and the device.
		if n := member(); n != 3 {
			t.Errorf("member on %d interfaces, expected 3", n)
		}
	}
	if err := b.AddSA(one); !errors.Is(err, backend.ErrExists) {
		t.Errorf("added twice: %v", err)
	}
	if err := b.DeleteSA(one.ID); err != nil || member() != 3 {
		t.Errorf("%v; member on %d interfaces while one SA is left", err, member())
	}
	if _, err := b.UpdateSA(two.ID, backend.Move{Src: topo.WanA4, Dst: topo.WanB4}); !errors.Is(err, backend.ErrUnsupported) {
		t.Errorf("moved away from its group: %v", err)
	}
	if err := b.DeleteSA(two.ID); err != nil || member() != 0 {
		t.Errorf("%v; member on %d interfaces without an SA", err, member())
	}
	for _, change := range []func(*sad.SA){
		func(s *sad.SA) { s.Sender = topo.WanB4 },
		func(s *sad.SA) { s.Dst, s.Sender = topo.WanB4, topo.WanA4 },
		func(s *sad.SA) { s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500} },
		func(s *sad.SA) { s.Src = group; s.Sender = netip.Addr{} },
	} {
		_, bad := groupSAs(topo.WanA4, group, 0x6003, false, true)
		change(bad)
		if err := b.AddSA(bad); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("%+v: %v", bad.ID, err)
		}
	}
	if bad, _ := groupSAs(netip.MustParseAddr("2001:db8:99::1"), netip.MustParseAddr("ff15::9"), 0x6004, false, true); bad.Proto == suite.ProtoESP {
		if err := b.AddSA(bad); !errors.Is(err, backend.ErrInvalid) {
			t.Errorf("a source that no interface has: %v", err)
		}
	}
}
