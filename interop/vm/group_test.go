package vm

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/internal/uml"
	"iked/sad"
	"iked/spd"
)

const groupPort = 7400

// Two hosts send to a multicast group under one key each, set by hand, and hear each
// other; without the SA the packet is dropped and leaves not in clear (RFC 4301,
// Section 4.1).
func TestGroupInTheKernel(t *testing.T) {
	uml.Require(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	a, b := Kernel().Open(t, topo.GwA), Kernel().Open(t, topo.GwB)
	for i, c := range []struct {
		group string
		a, b  netip.Addr
	}{{"239.1.2.3", topo.WanA4, topo.WanB4}, {"ff15::1:3", topo.WanA6, topo.WanB6}} {
		t.Run(c.group, func(t *testing.T) {
			group := netip.MustParseAddr(c.group)
			for j, s := range []struct {
				from, to *testnet.Namespace
				src      netip.Addr
				out, in  backend.Backend
			}{{topo.GwA, topo.GwB, c.a, a, b}, {topo.GwB, topo.GwA, c.b, b, a}} {
				wire, err := testnet.Sent(testnet.End{NS: s.from, If: "wan0"})
				if err != nil {
					t.Fatal(err)
				}
				id := uint32(0x5000 + 2*i + j)
				one := func(x netip.Addr) netip.Prefix { return netip.PrefixFrom(x, x.BitLen()) }
				_, out := backendtest.Pair(id, s.src, group, id, id, one(s.src), one(group))
				in, _ := backendtest.Pair(id, group, s.src, id, id, one(group), one(s.src))
				// Whoever sends: the kernel finds SAs of a group by SPI and destination.
				in.Src, in.ReplayWindow = netip.IPv4Unspecified(), 0
				if !group.Is4() {
					in.Src = netip.IPv6Unspecified()
				}
				for _, sa := range []*sad.SA{out, in} {
					sa.Mode, sa.Static = spd.Transport, true
				}
				sending, hearing := backendtest.Policy(uint64(id), id, one(s.src), one(group)), backendtest.Policy(uint64(id), id, one(group), one(s.src))
				sending.Mode, hearing.Mode = spd.Transport, spd.Transport
				err = errors.Join(s.out.AddSA(out), s.in.AddSA(in), s.out.ApplyPolicies(nil, []spd.Policy{sending}), s.in.ApplyPolicies(nil, []spd.Policy{hearing}))
				if err != nil {
					t.Fatal(err)
				}
				member, sender := groupSocket(t, s.to, netip.AddrPortFrom(group, groupPort), group), groupSocket(t, s.from, netip.AddrPortFrom(s.src, 0), group)
				say := func(text string) (string, error) {
					_, err := sender.WriteTo([]byte(text), net.UDPAddrFromAddrPort(netip.AddrPortFrom(group, groupPort)))
					if err != nil {
						return "", err
					}
					buf := make([]byte, 64)
					_ = member.SetReadDeadline(time.Now().Add(time.Second))
					n, _, err := member.ReadFrom(buf)
					return string(buf[:n]), err
				}
				if got, err := say("to the group"); err != nil || got != "to the group" {
					t.Errorf("from %v: %q, %v\n%s", s.src, got, err, strings.Join(append(KernelList(t, s.to, "state"), KernelList(t, s.to, "policy")...), "\n"))
				}
				if u, err := s.in.QuerySA(in.ID); err != nil || u.Packets != 1 {
					t.Errorf("inbound SA of the group: %+v, %v", u, err)
				}
				if err := s.out.DeleteSA(out.ID); err != nil {
					t.Fatal(err)
				}
				if got, err := say("without an SA"); err == nil {
					t.Errorf("%q arrived without an SA", got)
				}
				wire.Stop()
				esp := 0
				for _, p := range wire.Packets() {
					if p.Dst == group && p.Class == testnet.ESP {
						esp++
					} else if p.Dst == group && p.Proto == 17 {
						t.Errorf("on the wire: %v", p)
					}
				}
				if esp != 1 {
					t.Errorf("%d packets of ESP to the group, expected 1", esp)
				}
				sender.Close()
				member.Close()
			}
		})
	}
}

// groupSocket is a UDP socket of a member of the group on wan0, which also sends
// there.
func groupSocket(t *testing.T, ns *testnet.Namespace, at netip.AddrPort, group netip.Addr) net.PacketConn {
	t.Helper()
	var c net.PacketConn
	err := ns.Do(func() error {
		dev, err := net.InterfaceByName("wan0")
		if err != nil {
			return err
		}
		if c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
			return fmt.Errorf("listen on %v: %w", at, err)
		}
		g := &net.UDPAddr{IP: group.AsSlice()}
		if group.Is4() {
			p := ipv4.NewPacketConn(c)
			return errors.Join(p.JoinGroup(dev, g), p.SetMulticastInterface(dev))
		}
		p := ipv6.NewPacketConn(c)
		return errors.Join(p.JoinGroup(dev, g), p.SetMulticastInterface(dev))
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}
