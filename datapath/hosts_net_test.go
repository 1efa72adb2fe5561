package datapath_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"iked/datapath"
	"iked/internal/backend/backendtest"
	"iked/internal/testnet"
	"iked/sad"
	"iked/spd"
)

// hostWay is how two hosts protect what they say to each other.
type hostWay struct {
	name       string
	mode       spd.Mode
	outA, outB netip.Addr
	inA, inB   netip.Addr
	encap      bool
}

func hostWays(topo *testnet.Topology) []hostWay {
	a := netip.MustParseAddr
	hit4A, hit4B, hit6A, hit6B := a("10.77.0.1"), a("10.77.0.2"), a("2001:20::1"), a("2001:20::2")
	return []hostWay{
		{"transport, IPv4", spd.Transport, topo.WanA4, topo.WanB4, topo.WanA4, topo.WanB4, false},
		{"transport, IPv6", spd.Transport, topo.WanA6, topo.WanB6, topo.WanA6, topo.WanB6, false},
		{"transport, IPv4, UDP", spd.Transport, topo.WanA4, topo.WanB4, topo.WanA4, topo.WanB4, true},
		{"transport, IPv6, UDP", spd.Transport, topo.WanA6, topo.WanB6, topo.WanA6, topo.WanB6, true},
		{"BEET, 4 in 4", spd.BEET, topo.WanA4, topo.WanB4, hit4A, hit4B, false},
		{"BEET, 6 in 6", spd.BEET, topo.WanA6, topo.WanB6, hit6A, hit6B, false},
		{"BEET, 4 in 6", spd.BEET, topo.WanA6, topo.WanB6, hit4A, hit4B, false},
		{"BEET, 6 in 4", spd.BEET, topo.WanA4, topo.WanB4, hit6A, hit6B, false},
		{"BEET, 6 in 4, UDP", spd.BEET, topo.WanA4, topo.WanB4, hit6A, hit6B, true},
		{"tunnel between the ends, IPv4", spd.Tunnel, topo.WanA4, topo.WanB4, topo.WanA4, topo.WanB4, false},
		{"tunnel between the ends, IPv6", spd.Tunnel, topo.WanA6, topo.WanB6, topo.WanA6, topo.WanB6, false},
	}
}

// protect sets SAs and policies of one way on both hosts; change may narrow them.
func protect(t testing.TB, a, b *gateway, w hostWay, change func(*[]spd.TS, *[]spd.TS)) {
	t.Helper()
	add := func(g *gateway, outL, outR, inL, inR netip.Addr, in, out uint32) {
		i, o := backendtest.Pair(1, outL, outR, in, out, single(inL), single(inR))
		for _, s := range []*sad.SA{i, o} {
			s.Mode = w.mode
			if w.encap {
				s.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
			}
			if change != nil {
				change(&s.Local, &s.Remote)
			}
			if err := g.AddSA(s); err != nil {
				t.Fatal(err)
			}
		}
		p := backendtest.Policy(1, 1, single(inL), single(inR))
		p.Mode = w.mode
		if change != nil {
			change(&p.Local, &p.Remote)
		}
		if err := g.ApplyPolicies(nil, []spd.Policy{p, discovery()}); err != nil {
			t.Fatal(err)
		}
	}
	add(a, w.outA, w.outB, w.inA, w.inB, 0x1001, 0x2001)
	add(b, w.outB, w.outA, w.inB, w.inA, 0x2001, 0x1001)
}

// exchange sends n octets over TCP and back, from a to b.
func exchange(t *testing.T, a, b *testnet.Namespace, dst netip.Addr, n int) {
	t.Helper()
	l, err := b.Listen("tcp", netip.AddrPortFrom(dst, 7777).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.Copy(c, c)
	}()
	c, err := a.Dial("tcp", netip.AddrPortFrom(dst, 7777).String())
	if err != nil {
		t.Errorf("TCP to %v: %v", dst, err)
		return
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	data := bytes.Repeat([]byte("0123456789abcdef"), n/16)
	go func() { c.Write(data) }()
	got := make([]byte, len(data))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("TCP to %v: %v", dst, err)
	}
}

// datagram sends one of n octets from a to b and back; it tells whether it came.
func datagram(t *testing.T, a, b *testnet.Namespace, dst netip.Addr, port uint16, n int, wait time.Duration) bool {
	t.Helper()
	s, err := b.ListenPacket("udp", netip.AddrPortFrom(dst, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go func() {
		buf := make([]byte, 65536)
		for {
			m, from, err := s.ReadFrom(buf)
			if err != nil {
				return
			}
			s.WriteTo(buf[:m], from)
		}
	}()
	c, err := a.Dial("udp", netip.AddrPortFrom(dst, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	data := bytes.Repeat([]byte{0x5a}, n)
	c.SetDeadline(time.Now().Add(wait))
	if _, err := c.Write(data); err != nil {
		t.Errorf("UDP to %v: %v", dst, err)
		return false
	}
	got := make([]byte, 65536)
	m, err := c.Read(got)
	return err == nil && bytes.Equal(got[:m], data)
}

// Local sockets notice nothing: ping, TCP and UDP, fragmented too, between two
// hosts in every mode, with strict reverse path filtering; on the wire there is
// ESP and nothing else.
func TestHosts(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	for i := range hostWays(&testnet.Topology{}) {
		t.Run(hostWays(&testnet.Topology{})[i].name, func(t *testing.T) {
			topo := testnet.ForTest(t, testnet.TopologyOptions{})
			w := hostWays(topo)[i]
			a, b := strictHost(t, topo.GwA), strictHost(t, topo.GwB)
			protect(t, a, b, w, nil)
			// The kernel makes routes to new IPv6 addresses in its own time.
			if _, err := topo.GwA.WaitPing(w.inB, testnet.PingOptions{}, 5*time.Second); err != nil {
				t.Fatal(err)
			}
			if _, err := topo.GwB.WaitPing(w.inA, testnet.PingOptions{}, 5*time.Second); err != nil {
				t.Fatal(err)
			}
			c, err := topo.GwB.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{56, 1000, 1300} {
				if r, err := topo.GwA.Ping(w.inB, testnet.PingOptions{Count: 2, Size: size}); err != nil || r.Lost() != 0 {
					t.Fatalf("ping with %d octets: %v, %v\na %v\nb %v", size, r, err, counters(a), counters(b))
				}
			}
			exchange(t, topo.GwA, topo.GwB, w.inB, 1<<20)
			exchange(t, topo.GwB, topo.GwA, w.inA, 1<<20)
			for _, size := range []int{0, 1, 1200, 1400, 3000, 20000} {
				if !datagram(t, topo.GwA, topo.GwB, w.inB, 7000, size, 5*time.Second) {
					t.Errorf("a datagram of %d octets did not come back", size)
				}
			}
			c.Stop()
			if clear := c.ClearText(); len(clear) != 0 {
				t.Errorf("clear text on the wire:\n%v", clear)
			}
			if t.Failed() {
				t.Logf("a %v\nb %v", counters(a), counters(b))
			}
		})
	}
}

// strictHost is a datapath on a host with strict reverse path filtering.
func strictHost(t *testing.T, ns *testnet.Namespace) *gateway {
	t.Helper()
	for _, key := range []string{"net.ipv4.conf.all.rp_filter", "net.ipv4.conf.default.rp_filter"} {
		if err := ns.Sysctl(key, "1"); err != nil {
			t.Fatal(err)
		}
	}
	return open(t, ns, datapath.Options{})
}

// A policy for one port protects that port, fails closed for it, and lets all
// else between the two hosts pass in clear, both ways.
func TestPortsBetweenHosts(t *testing.T) {
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
			// UDP port 7000 at b.
			port := func(l, r *[]spd.TS) {
				side := &(*l)[0]
				if side.From != w.inB {
					side = &(*r)[0]
				}
				(*l)[0].Proto, (*r)[0].Proto = 17, 17
				side.PortFrom, side.PortTo = 7000, 7000
			}
			protect(t, a, b, w, port)
			works := func(what string, dst uint16, esp bool) {
				t.Helper()
				c, err := topo.GwB.Capture(topo.Wire.If)
				if err != nil {
					t.Fatal(err)
				}
				if !datagram(t, topo.GwA, topo.GwB, w.inB, dst, 3000, 5*time.Second) {
					t.Errorf("%s: it did not come back\na %v\nb %v", what, counters(a), counters(b))
				}
				c.Stop()
				if clear := len(c.ClearText()) > 0; clear == esp {
					t.Errorf("%s: clear text on the wire %v", what, clear)
				}
			}
			works("the protected port", 7000, true)
			works("another port", 7001, false)
			refusedPort(t, topo, w.inB, 7000)
			exchange(t, topo.GwA, topo.GwB, w.inB, 1<<18)
			exchange(t, topo.GwB, topo.GwA, w.inA, 1<<18)
			if r, err := topo.GwA.Ping(w.inB, testnet.PingOptions{Count: 2}); err != nil || r.Lost() != 0 {
				t.Errorf("ping in clear: %v, %v", r, err)
			}

			// Without the peer's SA nothing of that port leaves; in clear nothing of it
			// arrives.
			if err := a.DeleteSA(sad.ID{Dir: sad.Out, Proto: 3, SPI: 0x2001, Dst: w.outB}); err != nil {
				t.Fatal(err)
			}
			c, err := topo.GwB.Capture(topo.Wire.If)
			if err != nil {
				t.Fatal(err)
			}
			if datagram(t, topo.GwA, topo.GwB, w.inB, 7000, 100, 300*time.Millisecond) {
				t.Error("a datagram passed without an SA")
			}
			c.Stop()
			for _, p := range c.ClearText() {
				if p.Proto == unix.IPPROTO_UDP { // connections from before may still end
					t.Errorf("left in clear: %v", p)
				}
			}
			if err := a.ApplyPolicies([]uint64{1}, nil); err != nil {
				t.Fatal(err)
			}
			before := b.Counters()["in_drop_clear_text"]
			if datagram(t, topo.GwA, topo.GwB, w.inB, 7000, 100, 300*time.Millisecond) {
				t.Error("a datagram in clear was delivered where protection is demanded")
			}
			if b.Counters()["in_drop_clear_text"] == before {
				t.Error("it was not counted")
			}
			if !datagram(t, topo.GwA, topo.GwB, w.inB, 7002, 100, 5*time.Second) {
				t.Error("another port in clear does not arrive")
			}
		})
	}
}

// refusedPort sends to a protected port where nobody listens: the answer, an ICMP
// error about traffic of the SA, comes through the SA and reaches the socket (RFC
// 4301, Section 6.2).
func refusedPort(t *testing.T, topo *testnet.Topology, dst netip.Addr, port uint16) {
	t.Helper()
	wire, err := topo.GwB.Capture(topo.Wire.If)
	if err != nil {
		t.Fatal(err)
	}
	c, err := topo.GwA.Dial("udp", netip.AddrPortFrom(dst, port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.Write([]byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 64)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a closed port: %v, expected that it is refused", err)
	}
	wire.Stop()
	if clear := wire.ClearText(); len(clear) != 0 {
		t.Errorf("the error came in clear: %v", clear)
	}
}

// An entry that lets a port pass comes before the one that protects all.
func TestBypassBetweenHosts(t *testing.T) {
	testnet.RequireRoot(t)
	testnet.RequireTUN(t)
	topo := testnet.ForTest(t, testnet.TopologyOptions{})
	w := hostWays(topo)[0]
	a, b := strictHost(t, topo.GwA), strictHost(t, topo.GwB)
	protect(t, a, b, w, nil)
	for _, c := range []struct {
		g              *gateway
		local, remote  netip.Addr
		lPorts, rPorts string
	}{{a, w.inA, w.inB, "", "/7000"}, {b, w.inB, w.inA, "/7000", ""}} {
		p := bypass(t, 2, fmt.Sprintf("%v[udp%s]", c.local, c.lPorts), fmt.Sprintf("%v[udp%s]", c.remote, c.rPorts))
		if err := c.g.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
			t.Fatal(err)
		}
	}
	for port, esp := range map[uint16]bool{7000: false, 7001: true} {
		c, err := topo.GwB.Capture(topo.Wire.If)
		if err != nil {
			t.Fatal(err)
		}
		if !datagram(t, topo.GwA, topo.GwB, w.inB, port, 1000, 5*time.Second) {
			t.Errorf("port %d: it did not come back\na %v\nb %v", port, counters(a), counters(b))
		}
		c.Stop()
		if clear := len(c.ClearText()) > 0; clear == esp {
			t.Errorf("port %d: clear text on the wire %v", port, clear)
		}
	}
}
