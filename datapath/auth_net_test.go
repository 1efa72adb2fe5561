package datapath_test

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/crypto/suite"
	"iked/datapath"
	"iked/datapath/ip"
	"iked/internal/backend/backendtest"
	"iked/internal/secret"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// authenticate turns an SA into one of AH.
func authenticate(s *sad.SA) {
	s.Proto, s.Encr, s.EncrKey = suite.ProtoAH, suite.Transform{}, secret.Bytes{}
	s.Integ = suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}
	s.IntegKey = secret.New(bytes.Repeat([]byte{byte(s.SPI), byte(s.SPI >> 8)}, 16))
}

func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// discovery lets the neighbours find each other, as every end node must.
func discovery() spd.Policy {
	ts := spd.TS{From: netip.IPv6Unspecified(), To: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Proto: ip.ProtoICMPv6,
		PortFrom: 135 << 8, PortTo: 136<<8 | 255}
	return spd.Policy{ID: 900, Name: "test/nd", Action: spd.Bypass, Local: []spd.TS{ts}, Remote: []spd.TS{ts}, Priority: 1}
}

// hosts protects all between two addresses of the gateways with an SA of ESP in
// transport mode, if esp, and with AH around it.
func hosts(t *testing.T, a, b *gateway, id uint32, addrA, addrB netip.Addr, esp bool) {
	t.Helper()
	add := func(g *gateway, l, r netip.Addr, in, out uint32) {
		t.Helper()
		p := backendtest.Policy(uint64(id), id, single(l), single(r))
		p.Mode, p.Proto = spd.Transport, ip.ProtoAH
		if esp {
			p.Proto = ip.ProtoESP
			p.Bundle = []spd.Template{{Proto: ip.ProtoAH, Mode: spd.Transport, ReqID: id + 1}}
		}
		for i := range uint32(2) {
			if i == 1 && !esp {
				continue
			}
			x, y := backendtest.Pair(id+i, l, r, in+i, out+i, single(l), single(r))
			for _, s := range []*sad.SA{x, y} {
				s.Mode, s.ESN = spd.Transport, true
				if i == 1 || !esp {
					authenticate(s)
				}
				if err := g.AddSA(s); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := g.ApplyPolicies(nil, []spd.Policy{p, discovery()}); err != nil {
			t.Fatal(err)
		}
	}
	add(a, addrA, addrB, 0x1000+id, 0x2000+id)
	add(b, addrB, addrA, 0x2000+id, 0x1000+id)
}

// RFC 4302, Section 3.1.1 and 3.3.3.1, with the kernels of both ends: datagrams with
// IPv4 options, which the receiver's kernel fills in, and with IPv6 extension
// headers, of which a raw socket gets to know on the side, are authentic when they
// arrive, alone and with ESP inside. Nothing else is on the wire.
func TestAuthenticatedOptions(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	for _, esp := range []bool{false, true} {
		topo := testnet.ForTest(t, testnet.TopologyOptions{})
		a, b := open(t, topo.GwA, datapath.Options{}), open(t, topo.GwB, datapath.Options{})
		hosts(t, a, b, 10, topo.WanA4, topo.WanB4, esp)
		hosts(t, a, b, 20, topo.WanA6, topo.WanB6, esp)
		c, err := topo.GwB.Capture(topo.Wire.If)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			name    string
			to      netip.Addr
			network string
			set     func(fd int) error
		}{
			{"IPv4", topo.WanB4, "udp4", func(int) error { return nil }},
			{"IPv4 router alert and record route", topo.WanB4, "udp4", func(fd int) error {
				opt := []byte{148, 4, 0, 0, 7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
				return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string(opt))
			}},
			{"IPv4 timestamps", topo.WanB4, "udp4", func(fd int) error {
				return unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, string([]byte{68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}))
			}},
			{"IPv6", topo.WanB6, "udp6", func(int) error { return nil }},
			{"IPv6 hop-by-hop and destination options", topo.WanB6, "udp6", func(fd int) error {
				if err := unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_HOPOPTS, string([]byte{0, 0, 1, 4, 0, 0, 0, 0})); err != nil {
					return err
				}
				// 0x3e may change on the way.
				return unix.SetsockoptString(fd, unix.IPPROTO_IPV6, unix.IPV6_DSTOPTS, string([]byte{0, 0, 0x3e, 4, 1, 2, 3, 4}))
			}},
		} {
			server, err := topo.GwB.ListenPacket(x.network, netip.AddrPortFrom(x.to, 7300).String())
			if err != nil {
				t.Fatal(err)
			}
			conn, err := topo.GwA.Dial(x.network, netip.AddrPortFrom(x.to, 7300).String())
			if err != nil {
				t.Fatal(err)
			}
			rc, err := conn.(*net.UDPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			var set error
			if err := rc.Control(func(fd uintptr) { set = x.set(int(fd)) }); err != nil || set != nil {
				t.Fatalf("%s: options: %v, %v", x.name, err, set)
			}
			before := b.Counters()["in_packets"]
			for i := range 5 {
				msg := bytes.Repeat([]byte{byte(i)}, 100*(i+1))
				if _, err := conn.Write(msg); err != nil {
					t.Fatalf("%s: %v", x.name, err)
				}
				got := make([]byte, 2048)
				server.SetReadDeadline(time.Now().Add(3 * time.Second))
				n, _, err := server.ReadFrom(got)
				if err != nil || !bytes.Equal(got[:n], msg) {
					t.Errorf("%s, ESP inside %v: %v, %d octets\na %v\nb %v", x.name, esp, err, n, counters(a), counters(b))
					break
				}
			}
			if n := b.Counters()["in_packets"] - before; n != 5 {
				t.Errorf("%s, ESP inside %v: %d packets came through the SAs, expected 5", x.name, esp, n)
			}
			conn.Close()
			server.Close()
		}
		for _, to := range []netip.Addr{topo.WanB4, topo.WanB6} {
			r, err := topo.GwA.Ping(to, testnet.PingOptions{Count: 3, Size: 3000})
			if err != nil || r.Lost() != 0 {
				t.Errorf("ping %v, ESP inside %v: %v, %v\na %v\nb %v", to, esp, r, err, counters(a), counters(b))
			}
		}
		c.Stop()
		if clear := c.ClearText(); len(clear) != 0 {
			t.Errorf("clear text on the wire:\n%v", clear)
		}
		a.close()
		b.close()
	}
}
