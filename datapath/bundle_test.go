package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/datapath/tun"
	"iked/internal/backend"
	"iked/internal/backend/backendtest"
	"iked/internal/secret"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// layer is one SA of a bundle.
type layer struct {
	proto uint8
	mode  spd.Mode
	comp  bool // it compresses, with its SPI as CPI
}

var (
	espTransport = layer{proto: ip.ProtoESP, mode: spd.Transport}
	espTunnel    = layer{proto: ip.ProtoESP, mode: spd.Tunnel}
	ahTransport  = layer{proto: ip.ProtoAH, mode: spd.Transport}
	ahTunnel     = layer{proto: ip.ProtoAH, mode: spd.Tunnel}
)

// authenticate turns an SA into one of AH.
func authenticate(s *sad.SA) {
	s.Proto, s.Encr, s.EncrKey = suite.ProtoAH, suite.Transform{}, secret.Bytes{}
	s.Integ = suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}
	s.IntegKey = secret.New(bytes.Repeat([]byte{byte(s.SPI), byte(s.SPI >> 8)}, 16))
}

// nest makes the SAs of layers, the innermost first, with the ReqIDs 1, 2, ... on
// both sides, and gives the policies of both for traffic between two networks.
func nest(t testing.TB, a, b *side, outA, outB netip.Addr, netA, netB netip.Prefix, layers []layer) (pa, pb spd.Policy) {
	t.Helper()
	pa, pb = backendtest.Policy(1, 1, netA, netB), backendtest.Policy(1, 1, netB, netA)
	for i, l := range layers {
		id := uint32(i + 1)
		locA, locB := netA, netB
		if i > 0 {
			locA, locB = single(outA), single(outB)
		}
		inA, sendA := backendtest.Pair(id, outA, outB, 0x1000+id, 0x2000+id, locA, locB)
		inB, sendB := backendtest.Pair(id, outB, outA, 0x2000+id, 0x1000+id, locB, locA)
		for j, s := range []*sad.SA{inA, sendA, inB, sendB} {
			s.Mode, s.ESN = l.mode, true
			if l.proto == ip.ProtoAH {
				authenticate(s)
			}
			if l.comp {
				s.CPI = uint16(s.SPI)
			}
			if err := []*side{a, a, b, b}[j].AddSA(s); err != nil {
				t.Fatal(err)
			}
		}
		if i == 0 {
			pa.Proto, pb.Proto, pa.Mode, pb.Mode = l.proto, l.proto, l.mode, l.mode
			continue
		}
		pa.Bundle = append(pa.Bundle, spd.Template{Proto: l.proto, Mode: l.mode, ReqID: id, Local: outA, Remote: outB})
		pb.Bundle = append(pb.Bundle, spd.Template{Proto: l.proto, Mode: l.mode, ReqID: id, Local: outB, Remote: outA})
	}
	return pa, pb
}

func apply(t testing.TB, s *side, p spd.Policy) {
	t.Helper()
	if err := s.ApplyPolicies(nil, []spd.Policy{p}); err != nil {
		t.Fatal(err)
	}
}

var bundles = []struct {
	name   string
	layers []layer
	nets   bool  // between networks, else between the hosts themselves
	wire   []int // protocols on the wire, the outermost first
}{
	{"AH transport", []layer{ahTransport}, false, []int{51}},
	{"AH tunnel", []layer{ahTunnel}, true, []int{51}},
	{"ESP transport, then AH transport", []layer{espTransport, ahTransport}, false, []int{51, 50}},
	{"ESP tunnel, then AH transport", []layer{espTunnel, ahTransport}, true, []int{51, 50}},
	{"ESP transport in AH tunnel", []layer{espTransport, ahTunnel}, false, []int{51}},
	{"AH transport, then ESP transport", []layer{ahTransport, espTransport}, false, []int{50}},
	{"ESP tunnel in ESP tunnel, then AH transport", []layer{espTunnel, espTunnel, ahTransport}, true, []int{51, 50}},
	{"AH transport in AH tunnel", []layer{ahTransport, ahTunnel}, false, []int{51}},
}

// RFC 4301, Section 4.1 and Appendix E; RFC 4302, Section 3.1: the SAs of a policy
// are applied from the inside out, and a packet that came through all of them, in
// order, arrives as it was sent.
func TestBundles(t *testing.T) {
	for _, c := range bundles {
		for _, v6 := range []bool{false, true} {
			outA, outB, netA, netB := out4A, out4B, net4A, net4B
			if v6 {
				outA, outB, netA, netB = out6A, out6B, net6A, net6B
			}
			if !c.nets {
				netA, netB = single(outA), single(outB)
			}
			a, b := pair(t, Options{}, 1500)
			pa, pb := nest(t, a, b, outA, outB, netA, netB, c.layers)
			apply(t, a, pa)
			apply(t, b, pb)
			src, dst := netA.Addr(), netB.Addr()
			if c.nets {
				src, dst = src.Next(), dst.Next()
			}
			for i := range 20 {
				p := packet(src, dst, 30*i)
				if !v6 {
					p[5] = byte(i + 1) // an identification, which AH keeps
					p[10], p[11] = 0, 0
					binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:20], 0))
				}
				a.dev.Inject(i%2, tun.Header{}, p)
				if got := receive(t, b); !bytes.Equal(got, p) {
					t.Fatalf("%s, IPv6 %v: packet %d\n got %x\nwant %x", c.name, v6, i, got, p)
				}
			}
			sent := a.raw.seen
			for _, s := range sent {
				var info ip.Info
				if ip.Parse(s.Data, &info) != ip.OK || info.Src != outA || info.Dst != outB {
					t.Fatalf("%s: on the wire %+v", c.name, info)
				}
				protos := []int{int(info.Proto)}
				if info.Proto == ip.ProtoAH {
					protos = append(protos, int(s.Data[info.HeaderLen]))
				}
				for i, p := range c.wire {
					if protos[i] != p {
						t.Errorf("%s: protocols %v on the wire, expected %v", c.name, protos, c.wire)
					}
				}
			}
			if n := len(sent); n != 20 {
				t.Errorf("%s: %d packets on the wire, expected 20", c.name, n)
			}
			// Every SA has counted every packet.
			for id := range uint32(len(c.layers)) {
				proto := protocol(c.layers[id].proto)
				for _, q := range []struct {
					s  *side
					id sad.ID
				}{{a, sad.ID{Dir: sad.Out, Proto: proto, SPI: 0x2001 + id, Dst: outB}}, {b, sad.ID{Dir: sad.In, Proto: proto, SPI: 0x2001 + id, Dst: outB}}} {
					if u, err := q.s.QuerySA(q.id); err != nil || u.Packets != 20 || u.LastUsed.IsZero() {
						t.Errorf("%s, SA %d: %v, usage %+v", c.name, id+1, err, u)
					}
				}
			}
		}
	}
}

// RFC 4301, Section 5.2: a packet that came through fewer SAs than its policy
// demands, through others, or in another order, is dropped and counted, authentic
// as it is.
func TestBundleIsDemanded(t *testing.T) {
	demand := []layer{espTransport, ahTransport}
	for _, c := range []struct {
		name string
		send func(p *spd.Policy) // what the sender does in place of it
	}{
		{"ESP only", func(p *spd.Policy) { p.Bundle = nil }},
		{"AH only", func(p *spd.Policy) {
			p.ReqID, p.Proto, p.Bundle = p.Bundle[0].ReqID, p.Bundle[0].Proto, nil
		}},
		{"the other way round", func(p *spd.Policy) {
			p.ReqID, p.Proto, p.Bundle[0].ReqID, p.Bundle[0].Proto = p.Bundle[0].ReqID, p.Bundle[0].Proto, p.ReqID, ip.ProtoESP
		}},
	} {
		a, b := pair(t, Options{}, 1500)
		pa, pb := nest(t, a, b, out4A, out4B, single(out4A), single(out4B), demand)
		c.send(&pa)
		apply(t, a, pa)
		apply(t, b, pb)
		a.dev.Inject(0, tun.Header{}, packet(out4A, out4B, 100))
		wait(t, b, "in_bundle", 1)
		if n := b.Counters()["in_packets"]; n != 0 {
			t.Errorf("%s: %d packets passed", c.name, n)
		}
	}
}

// A policy whose bundle is not complete sends nothing, and asks for SAs.
func TestBundleFailsClosed(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	pa, pb := nest(t, a, b, out4A, out4B, single(out4A), single(out4B), []layer{espTransport, ahTransport})
	pa.Acquire = true
	apply(t, a, pa)
	apply(t, b, pb)
	if err := a.DeleteSA(sad.ID{Dir: sad.Out, Proto: suite.ProtoAH, SPI: 0x2002, Dst: out4B}); err != nil {
		t.Fatal(err)
	}
	a.dev.Inject(0, tun.Header{}, packet(out4A, out4B, 100))
	if e := event[backend.Acquire](t, a); e.ReqID != 1 {
		t.Errorf("asked for %+v", e)
	}
	if n := a.Counters()["out_packets"]; n != 0 || len(a.raw.seen) != 0 {
		t.Errorf("%d packets were sent", n)
	}
	// What it cannot do is refused with a sentence.
	for _, c := range []struct {
		change func(p *spd.Policy)
		want   string
	}{
		{func(p *spd.Policy) { p.Bundle = append(p.Bundle, p.Bundle[0], p.Bundle[0]) }, "at most 3"},
		{func(p *spd.Policy) { p.Bundle[0].Proto = 17 }, "expected 50"},
		{func(p *spd.Policy) { p.Bundle[0].ReqID = p.ReqID }, "one of its own"},
		{func(p *spd.Policy) { p.Bundle[0].Mode = spd.BEET }, "BEET"},
		{func(p *spd.Policy) { p.Mode = spd.BEET }, "BEET mode has no place"},
		{func(p *spd.Policy) { p.Action, p.ReqID = spd.Bypass, 0 }, "protects"},
	} {
		_, bad := nest(t, b, a, out6B, out6A, single(out6B), single(out6A), nil)
		bad.Bundle = []spd.Template{pa.Bundle[0]}
		c.change(&bad)
		if err := b.ApplyPolicies(nil, []spd.Policy{bad}); !errors.Is(err, backend.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, expected one with %q", err, c.want)
		}
	}
}

// RFC 4301, Section 8.2.1: a bundle leaves as much of the path as all its headers
// take: a packet of that size goes out whole and fills the path up to the padding,
// one octet more is answered with that size.
func TestBundleMTU(t *testing.T) {
	for _, c := range bundles {
		a, b := pair(t, Options{}, 1400)
		netA, netB := net4A, net4B
		src, dst := netA.Addr().Next(), netB.Addr().Next()
		if !c.nets {
			netA, netB, src, dst = single(out4A), single(out4B), out4A, out4B
		}
		pa, pb := nest(t, a, b, out4A, out4B, netA, netB, c.layers)
		apply(t, a, pa)
		apply(t, b, pb)
		a.dev.Inject(0, tun.Header{}, packet(src, dst, 1400-28))
		answer := receive(t, a)
		if answer[20] != 3 || answer[21] != 4 {
			t.Fatalf("%s: answered %x, expected ICMP 3/4", c.name, answer)
		}
		mtu := int(binary.BigEndian.Uint16(answer[26:]))
		a.dev.Inject(0, tun.Header{}, packet(src, dst, mtu-28))
		receive(t, b)
		a.raw.mu.Lock()
		n := len(a.raw.seen[0].Data)
		a.raw.mu.Unlock()
		if n > 1400 || n < 1400-4*len(c.layers)-16 {
			t.Errorf("%s: a packet of %d octets became %d, the path takes 1400", c.name, mtu, n)
		}
		a.dev.Inject(0, tun.Header{}, packet(src, dst, mtu-27))
		if answer := receive(t, a); int(binary.BigEndian.Uint16(answer[26:])) != mtu {
			t.Errorf("%s: one octet more: %x", c.name, answer[:28])
		}
	}
}

// RFC 4302, Section 3.4.2: what is no AH packet of an SA is dropped and counted by
// its reason, whatever the socket gave.
func TestAHGarbageIsCounted(t *testing.T) {
	a, b := pair(t, Options{}, 1500)
	pa, pb := nest(t, a, b, out4A, out4B, net4A, net4B, []layer{ahTunnel})
	apply(t, a, pa)
	apply(t, b, pb)
	a.dev.Inject(0, tun.Header{}, packet(host(net4A, 1), host(net4B, 1), 100))
	receive(t, b)
	good := a.raw.seen[0].Data
	feed := func(data []byte) {
		b.raw.ah <- []batch.Packet{{Data: data, Remote: netip.AddrPortFrom(out4A, 0), Local: netip.AddrPortFrom(out4B, 0)}}
	}
	for i, c := range []struct {
		counter string
		change  func(p []byte) []byte
	}{
		{"in_runt", func([]byte) []byte { return nil }},
		{"in_runt", func(p []byte) []byte { return p[:10] }},
		{"in_runt", func(p []byte) []byte { p[0] = 0x41; return p }},
		{"in_runt", func(p []byte) []byte { p[9] = ip.ProtoESP; return p }},
		{"in_runt", func(p []byte) []byte { p = p[:26]; p[3] = 26; p[2] = 0; return p }},
		{"in_no_sa", func(p []byte) []byte { p[24] ^= 1; return p }},
		{"in_drop_ah_bad_length", func(p []byte) []byte { p[21] += 3; return p }},
		{"in_drop_bad_icv", func(p []byte) []byte { p[31] ^= 2; return p }},
		{"in_drop_replay_duplicate", func(p []byte) []byte { return p }},
		{"in_drop_outer_fragment", func(p []byte) []byte { p[6] |= 0x20; p[3] = 172; return p[:172] }},
	} {
		before := b.Counters()[c.counter]
		feed(c.change(bytes.Clone(good)))
		wait(t, b, c.counter, before+1)
		if n := b.Counters()["in_packets"]; n != 1 {
			t.Fatalf("case %d passed", i)
		}
	}
}
