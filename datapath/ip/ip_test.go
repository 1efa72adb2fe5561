package ip

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"iked/internal/vectors"

	"pgregory.net/rapid"
)

var (
	a4, b4 = netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")
	a6, b6 = netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")
)

// packet is an IP packet with the given next layer.
func packet(src, dst netip.Addr, proto uint8, next []byte) []byte {
	h := Outer{Src: src, Dst: dst, Proto: proto, TTL: 64}
	b := make([]byte, h.Len()+len(next))
	h.Put(b, len(next))
	copy(b[h.Len():], next)
	return b
}

func mustParse(t testing.TB, b []byte) Info {
	t.Helper()
	var i Info
	if f := Parse(b, &i); f != OK {
		t.Fatalf("%x is not valid: %v", b, f)
	}
	return i
}

// The example of RFC 1071, Section 3, and its agreement with plain 16-bit sums
// for any data; RFC 1624: an adjusted checksum is the computed one.
func TestChecksum(t *testing.T) {
	if c := Checksum(vectors.Bytes(t, "0001f203f4f5f6f7"), 0); c != ^uint16(0xddf2) {
		t.Errorf("RFC 1071 example: %04x, expected %04x", c, ^uint16(0xddf2))
	}
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data")
		var s uint32
		for i := 0; i < len(b); i += 2 {
			w := uint32(b[i]) << 8
			if i+1 < len(b) {
				w |= uint32(b[i+1])
			}
			s += w
			s = s>>16 + s&0xffff
		}
		c := Checksum(b, 0)
		if c != ^uint16(s) {
			t.Fatalf("checksum of %x is %04x, expected %04x", b, c, ^uint16(s))
		}
		if len(b) >= 64 {
			if got := Checksum(b[32:], Sum(b[:32], 0)); got != c {
				t.Fatalf("checksum in two parts %04x, expected %04x", got, c)
			}
			old := binary.BigEndian.Uint16(b[10:])
			v := rapid.Uint16().Draw(t, "new")
			binary.BigEndian.PutUint16(b[10:], v)
			if got, want := Adjust(c, old, v), Checksum(b, 0); got != want && got^want != 0xffff {
				t.Fatalf("adjusted %04x, computed %04x", got, want)
			}
		}
	})
}

// The values of selectors are found behind options and extension headers, and
// are missing where RFC 4301, Section 4.4.1.1 says that they are not available.
func TestParse(t *testing.T) {
	ports := []byte{0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4}
	dest := []byte{ProtoUDP, 0, 1, 4, 0, 0, 0, 0} // destination options before UDP
	frag := func(next uint8, off uint16, more byte) []byte {
		return []byte{next, 0, byte(off >> 8), byte(off) | more, 0, 0, 0, 9}
	}
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		what      string
		b         []byte
		proto     uint8
		src, dst  uint16
		has, frag bool
		header    int
	}{
		{"IPv4 UDP", packet(a4, b4, ProtoUDP, ports), ProtoUDP, 1000, 2000, true, false, 20},
		{"IPv4 GRE", packet(a4, b4, 47, ports), 47, 0, 0, false, false, 20},
		{"IPv4 echo", packet(a4, b4, ProtoICMP, []byte{8, 0, 0, 0}), ProtoICMP, 0x800, 0x800, true, false, 20},
		{"IPv4 with three octets of UDP", packet(a4, b4, ProtoUDP, ports[:3]), ProtoUDP, 0, 0, false, false, 20},
		{"IPv6 TCP", packet(a6, b6, ProtoTCP, ports), ProtoTCP, 1000, 2000, true, false, 40},
		{"IPv6 echo", packet(a6, b6, ProtoICMPv6, []byte{128, 0, 0, 0}), ProtoICMPv6, 0x8000, 0x8000, true, false, 40},
		{"IPv4 protocol 58 has no types", packet(a4, b4, ProtoICMPv6, []byte{128, 0, 0, 0}), ProtoICMPv6, 0, 0, false, false, 20},
		{"mobility header", packet(a6, b6, ProtoMH, []byte{59, 0, 5, 0, 0, 0, 0, 0}), ProtoMH, 0x500, 0x500, true, false, 40},
		{"destination options", packet(a6, b6, ProtoDestOpts, cat(dest, ports)), ProtoUDP, 1000, 2000, true, false, 48},
		{"first fragment", packet(a6, b6, ProtoFragment, cat(frag(ProtoUDP, 0, 1), ports, make([]byte, 4))), ProtoUDP, 1000, 2000, true, true, 48},
		{"later fragment", packet(a6, b6, ProtoFragment, cat(frag(ProtoUDP, 16, 0), ports)), ProtoUDP, 0, 0, false, true, 48},
		{"later fragment of an extension header", packet(a6, b6, ProtoFragment, cat(frag(ProtoDestOpts, 16, 0), ports)), ProtoDestOpts, 0, 0, false, true, 48},
		{"atomic fragment", packet(a6, b6, ProtoFragment, cat(frag(ProtoUDP, 0, 0), ports)), ProtoUDP, 1000, 2000, true, false, 48},
		{"no next header", packet(a6, b6, ProtoNoNext, nil), ProtoNoNext, 0, 0, false, false, 40},
	} {
		i := mustParse(t, append(bytes.Clone(c.b), 0xaa, 0xbb)) // octets behind the packet do not count
		if i.Proto != c.proto || i.SrcPort != c.src || i.DstPort != c.dst || i.HasPorts != c.has || i.Fragmented != c.frag || i.HeaderLen != c.header || i.TotalLen != len(c.b) {
			t.Errorf("%s: %+v", c.what, i)
		}
		out, in := i.Outbound(), i.Inbound()
		if out.Local != i.Src || in.Local != i.Dst || out.RemotePort != c.dst || in.RemotePort != c.src {
			t.Errorf("%s: flows %+v and %+v", c.what, out, in)
		}
		for n := range c.b {
			var j Info
			if Parse(c.b[:n], &j) == OK {
				t.Errorf("%s: %d of %d octets are valid", c.what, n, len(c.b))
			}
		}
	}
}

// What no host may send is refused, with the reason.
func TestParseRejects(t *testing.T) {
	v4 := func(change func(b []byte)) []byte {
		b := packet(a4, b4, ProtoUDP, make([]byte, 16))
		change(b)
		b[10], b[11] = 0, 0
		if hl := int(b[0]&15) * 4; hl >= 20 && hl <= len(b) {
			binary.BigEndian.PutUint16(b[10:], Checksum(b[:hl], 0))
		}
		return b
	}
	chain := bytes.Repeat([]byte{ProtoDestOpts, 0, 1, 4, 0, 0, 0, 0}, 20)
	for _, c := range []struct {
		what string
		b    []byte
		want Fault
	}{
		{"version 5", v4(func(b []byte) { b[0] = 0x55 }), BadVersion},
		{"header of four words", v4(func(b []byte) { b[0] = 0x44 }), BadHeaderLength},
		{"header longer than the packet", v4(func(b []byte) { b[0] = 0x4f }), BadHeaderLength},
		{"total length below the header", v4(func(b []byte) { b[3] = 19 }), BadTotalLength},
		{"total length beyond the buffer", v4(func(b []byte) { b[2] = 1 }), BadTotalLength},
		{"fragment that is not a multiple of 8", v4(func(b []byte) { b[3] = 33; b[6] = 0x20 }), BadFragment},
		{"ping of death", v4(func(b []byte) { b[6], b[7] = 0x1f, 0xff }), BadFragment},
		{"wrong checksum", func() []byte { b := packet(a4, b4, 17, nil); b[8]++; return b }(), BadChecksum},
		{"hop-by-hop in second place", packet(a6, b6, ProtoDestOpts, []byte{ProtoHopByHop, 0, 1, 4, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0}), BadExtensionHeader},
		{"extension header beyond the packet", packet(a6, b6, ProtoDestOpts, []byte{59, 9, 1, 4, 0, 0, 0, 0}), BadExtensionHeader},
		{"endless chain", packet(a6, b6, ProtoDestOpts, chain), TooManyExtensionHeaders},
		{"two fragment headers", packet(a6, b6, ProtoFragment, []byte{44, 0, 0, 0, 0, 0, 0, 0, 59, 0, 0, 0, 0, 0, 0, 0}), BadExtensionHeader},
	} {
		var i Info
		if f := Parse(c.b, &i); f != c.want {
			t.Errorf("%s: %v, expected %v", c.what, f, c.want)
		}
	}
}

// The table of RFC 6040, Section 4.2, Figure 4, cell by cell, and of Section 4.1.
func TestECN(t *testing.T) {
	const drop = 9
	for inner, row := range map[uint8][4]uint8{ // outer Not-ECT, ECT(0), ECT(1), CE
		NotECT: {NotECT, NotECT, NotECT, drop},
		ECT0:   {ECT0, ECT0, ECT1, CE},
		ECT1:   {ECT1, ECT1, ECT1, CE},
		CE:     {CE, CE, CE, CE},
	} {
		for i, outer := range []uint8{NotECT, ECT0, ECT1, CE} {
			tos, ok := InnerTOS(0xb8|inner, outer, false, true)
			if want := row[i]; ok != (want != drop) || ok && tos != 0xb8|want {
				t.Errorf("inner %d, outer %d: %02x %v, expected ECN %d", inner, outer, tos, ok, want)
			}
			if tos, ok := InnerTOS(inner, 0x28|outer, true, false); !ok || tos != 0x28|inner {
				t.Errorf("compatibility mode, inner %d, outer %d: %02x %v, expected the outer DSCP and the inner ECN", inner, outer, tos, ok)
			}
		}
		if OuterTOS(0xb8|inner, true, true) != 0xb8|inner || OuterTOS(0xb8|inner, false, true) != inner || OuterTOS(0xb8|inner, true, false) != 0xb8 {
			t.Errorf("outer header of inner ECN %d", inner)
		}
	}
}

// Changing TOS or TTL leaves a valid header.
func TestHeaderChanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src, dst := a4, b4
		if rapid.Bool().Draw(t, "v6") {
			src, dst = a6, b6
		}
		h := Outer{Src: src, Dst: dst, Proto: ProtoUDP, TOS: rapid.Byte().Draw(t, "tos"), TTL: rapid.Byte().Draw(t, "ttl"), ID: rapid.Uint16().Draw(t, "id"), FlowLabel: 0xabcde}
		b := make([]byte, h.Len()+8)
		h.Put(b, 8)
		tos := rapid.Byte().Draw(t, "new tos")
		SetTOS(b, tos)
		forwarded := DecrementTTL(b)
		var i Info
		if f := Parse(b, &i); f != OK {
			t.Fatalf("after the change: %v", f)
		}
		want := h.TTL
		if forwarded {
			want--
		}
		if i.TOS != tos || i.TTL != want || forwarded != (h.TTL > 1) || dst == b6 && i.FlowLabel != 0xabcde {
			t.Fatalf("%+v, expected TOS %02x, TTL %d", i, tos, want)
		}
	})
}
