package ip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// The ICMP errors of RFC 4301, Sections 6 and 8, as a router sends them: type,
// code, MTU, right checksums, the packet quoted, and readable again.
func TestICMPErrors(t *testing.T) {
	gw4, gw6 := netip.MustParseAddr("10.1.0.254"), netip.MustParseAddr("2001:db8:1::fe")
	for _, c := range []struct {
		e          ICMPError
		v6         bool
		typ, code  uint8
		mtu, limit int
	}{
		{TooBig, false, 3, 4, 1400, 576}, {Prohibited, false, 3, 13, 0, 576}, {Unreachable, false, 3, 1, 0, 576}, {TimeExceeded, false, 11, 0, 0, 576},
		{TooBig, true, 2, 0, 1400, 1280}, {Prohibited, true, 1, 1, 0, 1280}, {Unreachable, true, 1, 3, 0, 1280}, {TimeExceeded, true, 3, 0, 0, 1280},
	} {
		src, dst, gw := a4, b4, gw4
		if c.v6 {
			src, dst, gw = a6, b6, gw6
		}
		next := data(1460)
		copy(next, []byte{0x03, 0xe8, 0x07, 0xd0})
		orig := packet(src, dst, ProtoUDP, next)
		oi := mustParse(t, orig)
		msg, ok := AppendICMP([]byte{1, 2, 3}, c.e, gw, 1400, orig, &oi)
		if !ok || !bytes.Equal(msg[:3], []byte{1, 2, 3}) {
			t.Fatalf("%d %v: no message", c.e, c.v6)
		}
		msg = msg[3:]
		i := mustParse(t, msg)
		l := msg[i.HeaderLen:]
		var sum uint64
		if c.v6 {
			sum = PseudoSum(msg[8:24], msg[24:40], ProtoICMPv6, len(l))
		}
		if Checksum(l, sum) != 0 || len(msg) != c.limit || i.Src != gw || i.Dst != src || l[0] != c.typ || l[1] != c.code {
			t.Errorf("%d v6 %v: type %d code %d, %d octets from %s to %s, checksum %04x", c.e, c.v6, l[0], l[1], len(msg), i.Src, i.Dst, Checksum(l, sum))
		}
		if !bytes.HasPrefix(orig, l[8:]) {
			t.Errorf("%d v6 %v: the quote is not the packet's start", c.e, c.v6)
		}
		var e Embedded
		if !ParseICMPError(msg, &i, &e) || e.MTU != c.mtu || e.Info.Src != src || e.Info.DstPort != 2000 || e.Info.TotalLen != len(orig) || !bytes.HasPrefix(e.Next, next[:8]) {
			t.Errorf("%d v6 %v: read as %+v", c.e, c.v6, e)
		}
		if _, ok := AppendICMP(nil, c.e, gw, 0, msg, &i); ok {
			t.Errorf("%d v6 %v: an error about an error", c.e, c.v6)
		}
		for n := range l {
			b := bytes.Clone(msg[:i.HeaderLen+n])
			j := i
			j.TotalLen = len(b)
			ParseICMPError(b, &j, &e) // must not panic
		}
	}
}

// RFC 1122, Section 3.2.2, and RFC 4443, Section 2.4: about these packets nobody is told.
func TestICMPSilence(t *testing.T) {
	gw := netip.MustParseAddr("10.1.0.254")
	later := packet(a4, b4, ProtoUDP, data(16))
	binary.BigEndian.PutUint16(later[6:], 8)
	later[10], later[11] = 0, 0
	binary.BigEndian.PutUint16(later[10:], Checksum(later[:20], 0))
	for what, b := range map[string][]byte{
		"later fragment":      later,
		"from nobody":         packet(netip.MustParseAddr("0.0.0.0"), b4, ProtoUDP, data(16)),
		"from a group":        packet(netip.MustParseAddr("224.0.0.1"), b4, ProtoUDP, data(16)),
		"to a group":          packet(a4, netip.MustParseAddr("224.0.0.1"), ProtoUDP, data(16)),
		"to all":              packet(a4, netip.MustParseAddr("255.255.255.255"), ProtoUDP, data(16)),
		"redirect":            packet(a4, b4, ProtoICMP, []byte{5, 0, 0, 0, 0, 0, 0, 0}),
		"empty ICMP":          packet(a4, b4, ProtoICMP, nil),
		"from a loop address": packet(netip.MustParseAddr("127.0.0.1"), b4, ProtoUDP, data(16)),
	} {
		i := mustParse(t, b)
		if _, ok := AppendICMP(nil, Prohibited, gw, 0, b, &i); ok {
			t.Errorf("%s: an error was made", what)
		}
	}
	b := packet(a4, b4, ProtoICMP, []byte{8, 0, 0, 0, 0, 0, 0, 0})
	i := mustParse(t, b)
	if _, ok := AppendICMP(nil, Prohibited, gw, 0, b, &i); !ok {
		t.Error("an echo request is answered")
	}
	m := packet(a6, netip.MustParseAddr("ff02::1"), ProtoUDP, data(16))
	i = mustParse(t, m)
	_, big := AppendICMP(nil, TooBig, b6, 1280, m, &i)
	if _, other := AppendICMP(nil, Prohibited, b6, 0, m, &i); !big || other {
		t.Errorf("to an IPv6 group: too big %v, prohibited %v, expected the first only", big, other)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(packet(a4, b4, ProtoUDP, data(16)))
	f.Add(packet(a6, b6, ProtoDestOpts, []byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0, 3, 232, 7, 208}))
	f.Add(packet(a6, b6, ProtoFragment, []byte{ProtoUDP, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var i Info
		if Parse(b, &i) != OK {
			return
		}
		if i.TotalLen > len(b) || i.HeaderLen > i.TotalLen || i.FragStart > i.HeaderLen || i.Src.Is4() != (i.Version == 4) {
			t.Fatalf("%+v of %d octets", i, len(b))
		}
		var e Embedded
		if ParseICMPError(b, &i, &e) {
			e.Info.Outbound()
		}
		for _, k := range []ICMPError{TooBig, Prohibited} {
			from := a4
			if i.Version == 6 {
				from = a6
			}
			if out, ok := AppendICMP(nil, k, from, 1280, b, &i); ok {
				var j Info
				if f := Parse(out, &j); f != OK {
					t.Fatalf("the answer is not valid: %v", f)
				}
			}
		}
		buf := make([]byte, 100)
		if i.Version == 4 {
			Fragment4(b, &i, 100, buf, func(p []byte) {
				var j Info
				if f := Parse(p, &j); f != OK {
					t.Fatalf("fragment is not valid: %v", f)
				}
			})
		}
		work := bytes.Clone(b)
		SetTOS(work, 0x5a)
		DecrementTTL(work)
		var j Info
		if f := Parse(work, &j); f != OK || j.TOS != 0x5a {
			t.Fatalf("after the change of TOS: %v %02x", f, j.TOS)
		}
	})
}

// Parsing, ICMP reading and cutting make no garbage.
func TestAllocs(t *testing.T) {
	b := packet(a4, b4, ProtoUDP, data(1400))
	buf := make([]byte, 600)
	var i Info
	n := testing.AllocsPerRun(100, func() {
		if Parse(b, &i) != OK || !Fragment4(b, &i, 600, buf, func([]byte) {}) {
			t.Fatal("refused")
		}
	})
	if n != 0 {
		t.Errorf("%v allocations, expected none", n)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, p := range map[string][]byte{"IPv4": packet(a4, b4, ProtoTCP, data(1400)), "IPv6": packet(a6, b6, ProtoTCP, data(1400))} {
		b.Run(name, func(b *testing.B) {
			var i Info
			for b.Loop() {
				Parse(p, &i)
			}
		})
	}
}
