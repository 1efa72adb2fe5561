package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"iked/beet"
	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

// hostCase is one mode between hosts: outer and inner addresses and a packet
// between the inner ones.
type hostCase struct {
	name     string
	mode     spd.Mode
	src, dst string // outer
	packet   []byte
}

func hostCases() []hostCase {
	return []hostCase{
		{"transport, IPv4", spd.Transport, "10.1.0.1", "10.2.0.1", udp4(1300, 0x2e<<2, true)},
		{"transport, IPv6", spd.Transport, "2001:db8:1::1", "2001:db8:2::1", udp6(1300, 0x2e<<2)},
		{"BEET, 4 in 4", spd.BEET, "192.0.2.1", "192.0.2.2", udp4(1300, 0x2e<<2, true)},
		{"BEET, 4 in 6", spd.BEET, "2001:db8::1", "2001:db8::2", udp4(1300, 0x2e<<2, true)},
		{"BEET, 6 in 6", spd.BEET, "2001:db8::1", "2001:db8::2", udp6(1300, 0x2e<<2)},
		{"BEET, 6 in 4", spd.BEET, "192.0.2.1", "192.0.2.2", udp6(1300, 0x2e<<2)},
	}
}

// hostPair makes both ends of an SA of the case, each with the selectors of its
// side.
func hostPair(t testing.TB, sa *sad.SA, c *hostCase, mtu int) (*Outbound, *Inbound) {
	t.Helper()
	info := parse(t, c.packet)
	sa.Mode, sa.Src, sa.Dst = c.mode, netip.MustParseAddr(c.src), netip.MustParseAddr(c.dst)
	sa.Local, sa.Remote = []spd.TS{spd.Host(info.Src)}, []spd.TS{spd.Host(info.Dst)}
	o, err := NewOutbound(sa, mtu, now)
	if err != nil {
		t.Fatal(err)
	}
	r := *sa
	r.Dir, r.Local, r.Remote = sad.In, sa.Remote, sa.Local
	i, err := NewInbound(&r, now)
	if err != nil {
		t.Fatal(err)
	}
	return o, i
}

// arrived is what a host knows of a packet: with a raw IPv4 socket the header lies
// before ESP.
func arrived(t testing.TB, buf []byte, s *Sealed, start, inside int) (at int, outer Outer) {
	t.Helper()
	info := parse(t, buf[start:])
	outer = Outer{Src: info.Src, Dst: info.Dst}
	outer.TOS, outer.TTL, outer.DF, outer.FlowLabel = info.TOS, info.TTL, info.DF, info.FlowLabel
	if info.Version == 4 {
		outer.ID = uint16(info.FragID)
		if inside == s.Off {
			outer.Header = inside - start
		}
	}
	return s.Off, outer
}

// Every algorithm in every mode between hosts, over IP and over UDP: what is
// sealed opens to the same packet, and the outer header is valid, goes between the
// outer addresses and names ESP or UDP.
func TestHostModes(t *testing.T) {
	for _, a := range algorithms {
		for _, encap := range []bool{false, true} {
			for _, c := range hostCases() {
				sa := newSA(t, a.encr, a.keyBits, a.in)
				sa.ESN = true
				if encap {
					sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
				}
				o, in := hostPair(t, sa, &c, 1500)
				buf, s := sealed(t, o, c.packet)
				start, inside := o.Encapsulate(buf, &s)
				outer := parse(t, buf[start:s.Off+s.Len])
				want := uint8(ip.ProtoESP)
				if encap {
					want = ip.ProtoUDP
				}
				if outer.Proto != want || outer.Src.String() != c.src || outer.Dst.String() != c.dst || outer.TTL != 63 || outer.TOS != 0x2e<<2 {
					t.Fatalf("%s, %s: outer header %+v", a.name, c.name, outer)
				}
				at, o6 := arrived(t, buf, &s, start, inside)
				var out Opened
				if d := in.OpenAt(new(Scratch), buf[:s.Off+s.Len], at, &o6, &out); d != Pass {
					t.Fatalf("%s, %s: %v", a.name, c.name, d)
				}
				got := bytes.Clone(out.Packet)
				if got[0]>>4 == 4 && outer.Version == 6 {
					got[6], got[10], got[11] = 0x40, 0, 0 // IPv6 has no DF
					binary.BigEndian.PutUint16(got[10:], ip.Checksum(got[:20], 0))
				}
				if !bytes.Equal(got, c.packet) {
					t.Fatalf("%s, %s:\n got %x\nwant %x", a.name, c.name, got[:60], c.packet[:60])
				}
			}
		}
	}
}

// The header of transport mode stays in front with its options and extension
// headers, but for destination options that are for the last host, and names ESP
// (RFC 4303, Section 3.1.1).
func TestTransportLayout(t *testing.T) {
	hop := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	options := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	routing := []byte{0, 0, 4, 0, 0, 0, 0, 0} // no segments left
	atomic := []byte{0, 0, 0, 0, 1, 2, 3, 4}
	chain := func(kinds []byte, headers ...[]byte) []byte {
		b := udp6(60, 0)
		data := bytes.Clone(b[40:])
		b = b[:40]
		b[6] = kinds[0]
		for n, h := range headers {
			h = bytes.Clone(h)
			h[0] = kinds[n+1]
			b = append(b, h...)
		}
		b = append(b, data...)
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
		return b
	}
	v4 := udp4(60, 0, true)
	v4 = append(append(bytes.Clone(v4[:20]), 0x94, 4, 0, 0), v4[20:]...)
	v4[0] = 0x46
	binary.BigEndian.PutUint16(v4[2:], uint16(len(v4)))
	v4[10], v4[11] = 0, 0
	binary.BigEndian.PutUint16(v4[10:], ip.Checksum(v4[:24], 0))
	for _, c := range []struct {
		name   string
		packet []byte
		header int // before ESP
		field  int // names ESP
		next   uint8
	}{
		{"IPv4 options", v4, 24, 9, ip.ProtoUDP},
		{"hop-by-hop", chain([]byte{0, 17}, hop), 48, 40, ip.ProtoUDP},
		{"routing", chain([]byte{43, 17}, routing), 48, 40, ip.ProtoUDP},
		{"a fragment header of a whole packet", chain([]byte{44, 17}, atomic), 48, 40, ip.ProtoUDP},
		{"destination options for the last host", chain([]byte{60, 17}, options), 40, 6, ip.ProtoDestOpts},
		{"hop-by-hop, routing, destination options", chain([]byte{0, 43, 60, 17}, hop, routing, options), 56, 48, ip.ProtoDestOpts},
		{"destination options before routing", chain([]byte{60, 43, 60, 17}, options, routing, options), 56, 48, ip.ProtoDestOpts},
	} {
		info := parse(t, c.packet)
		sa := newSA(t, suite.EncrNull, 0, suite.IntegHMACSHA256)
		h := hostCase{mode: spd.Transport, src: info.Src.String(), dst: info.Dst.String(), packet: c.packet}
		o, in := hostPair(t, sa, &h, 1500)
		buf, s := sealed(t, o, c.packet)
		start, inside := o.Encapsulate(buf, &s)
		b := buf[start : s.Off+s.Len]
		if s.Header != c.header || inside-start != c.header || !s.Special && c.header != 40 || b[c.field] != ip.ProtoESP {
			t.Errorf("%s: header of %d octets, special %v, field %d", c.name, s.Header, s.Special, b[c.field])
			continue
		}
		want := bytes.Clone(c.packet[:c.header])
		got := bytes.Clone(b[:c.header])
		for _, h := range [][]byte{want, got} {
			h[c.field] = 0
			if h[0]>>4 == 4 {
				h[2], h[3], h[10], h[11] = 0, 0, 0, 0
			} else {
				h[4], h[5] = 0, 0
			}
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: header\n got %x\nwant %x", c.name, got, want)
		}
		text := b[c.header+HeaderLen:] // NULL: in clear
		if data := c.packet[c.header:]; !bytes.Equal(text[:len(data)], data) {
			t.Errorf("%s: payload\n got %x\nwant %x", c.name, text[:len(data)], data)
		}
		if parse(t, b).TotalLen != len(b) {
			t.Errorf("%s: length %d, expected %d", c.name, parse(t, b).TotalLen, len(b))
		}
		at, outer := arrived(t, buf, &s, start, inside)
		var out Opened
		if d := in.OpenAt(new(Scratch), buf[:s.Off+s.Len], at, &outer, &out); d != Pass || out.Info.Proto != info.Proto || out.Info.SrcPort != 1000 {
			t.Errorf("%s: %v, %+v", c.name, d, out.Info)
		}
		if c.packet[0]>>4 == 4 && !bytes.Equal(out.Packet, c.packet) {
			t.Errorf("%s: opened\n got %x\nwant %x", c.name, out.Packet, c.packet)
		}
	}
}

// Modes between hosts take whole packets between their hosts, and nothing else
// (RFC 4303, Section 3.3.4).
func TestHostModesRefuse(t *testing.T) {
	for _, c := range hostCases() {
		o, in := hostPair(t, gcmSA(t), &c, 1500)
		refused := func(what string, packet []byte, want Drop) {
			t.Helper()
			buf := make([]byte, Headroom+2048+Tailroom)
			copy(buf[Headroom:], packet)
			if d := o.Seal(new(Scratch), buf, Headroom, parse(t, packet), new(Sealed)); d != want {
				t.Errorf("%s: %s: %v, expected %v", c.name, what, d, want)
			}
		}
		var pieces [][]byte
		emit := func(f []byte) { pieces = append(pieces, bytes.Clone(f)) }
		other := bytes.Clone(c.packet)
		if other[0]>>4 == 4 {
			whole := udp4(1300, 0, false)
			ip.Fragment4(whole, parse(t, whole), 600, make([]byte, 600), emit)
			other[19]++
			other[10], other[11] = 0, 0
			binary.BigEndian.PutUint16(other[10:], ip.Checksum(other[:20], 0))
		} else {
			ip.Fragment6(c.packet, 1, 600, make([]byte, 600), emit)
			other[39]++
		}
		refused("first fragment", pieces[0], InnerFragment)
		refused("later fragment", pieces[1], InnerFragment)
		refused("another host", other, SelectorMismatch)

		// A peer that sends from elsewhere does not fit the selectors of transport
		// mode; in BEET mode the addresses are those of the SA.
		buf, s := sealed(t, o, c.packet)
		start, inside := o.Encapsulate(buf, &s)
		at, outer := arrived(t, buf, &s, start, inside)
		outer.Header = 0
		outer.Src = outer.Src.Next()
		want := Pass
		if c.mode == spd.Transport {
			want = SelectorMismatch
		}
		if d := in.OpenAt(new(Scratch), buf[:s.Off+s.Len], at, &outer, new(Opened)); d != want {
			t.Errorf("%s: from another address: %v, expected %v", c.name, d, want)
		}
	}
}

// The largest packet that is said to fit does, and a longer one does not, for
// every algorithm, over IP and UDP; one with options or extension headers that is
// said to fit does too.
func TestHostModesMTU(t *testing.T) {
	size := func(o *Outbound, packet []byte) int {
		buf, s := sealed(t, o, packet)
		start, _ := o.Encapsulate(buf, &s)
		return s.Off + s.Len - start
	}
	for _, a := range algorithms {
		for _, encap := range []bool{false, true} {
			for _, c := range hostCases() {
				sa := newSA(t, a.encr, a.keyBits, a.in)
				if encap {
					sa.Encap = &sad.Encap{SrcPort: 4500, DstPort: 4500}
				}
				o, _ := hostPair(t, sa, &c, 1400)
				make := func(n int) []byte {
					if c.packet[0]>>4 == 4 {
						return udp4(n, 0, true)
					}
					return udp6(n, 0)
				}
				n := o.InnerMTU()
				if got := size(o, make(n)); got > 1400 {
					t.Errorf("%s, %s: a packet of %d octets becomes %d", a.name, c.name, n, got)
				}
				if got := size(o, make(n+1)); got <= 1400 {
					t.Errorf("%s, %s: a packet of %d octets, one more than fits, becomes %d", a.name, c.name, n+1, got)
				}
				if f, _ := o.Fit(parse(t, make(n))); f != Send {
					t.Errorf("%s, %s: %d octets do not fit: %v", a.name, c.name, n, f)
				}
				if f, mtu := o.Fit(parse(t, make(n+1))); f != Reply && n >= ip.MinMTU6 || f == Send || f == Reply && mtu < min(n, ip.MinMTU6) {
					t.Errorf("%s, %s: %d octets: %v, MTU %d", a.name, c.name, n+1, f, mtu)
				}
				if c.packet[0]>>4 != 4 {
					continue
				}
				if f, _ := o.Fit(parse(t, udp4(n+1, 0, false))); f != FragmentOuter {
					t.Errorf("%s, %s: without DF: %v, expected fragments behind ESP", a.name, c.name, f)
				}
				for words := 1; words <= 10; words++ {
					for less := range 24 {
						p := withOptions(make(n-4*words-less), words)
						f, _ := o.Fit(parse(t, p))
						if got := size(o, p); f == Send && got > 1400 {
							t.Fatalf("%s, %s: %d octets with %d words of options fit and become %d", a.name, c.name, len(p), words, got)
						}
					}
				}
			}
		}
	}
}

// withOptions puts options of no operation into an IPv4 header.
func withOptions(b []byte, words int) []byte {
	out := append(bytes.Clone(b[:20]), bytes.Repeat([]byte{1}, 4*words)...)
	out = append(out, b[20:]...)
	out[0] = 0x45 + byte(words)
	binary.BigEndian.PutUint16(out[2:], uint16(len(out)))
	out[10], out[11] = 0, 0
	binary.BigEndian.PutUint16(out[10:], ip.Checksum(out[:20+4*words], 0))
	return out
}

// IPv4 options cross in BEET mode, behind either outer header; a pseudo header
// that no right sender makes is dropped.
func TestBEETOptions(t *testing.T) {
	for _, c := range hostCases() {
		if c.mode != spd.BEET || c.packet[0]>>4 != 4 {
			continue
		}
		for words := 1; words <= 10; words++ {
			o, in := hostPair(t, gcmSA(t), &c, 1500)
			p := withOptions(udp4(200, 0, true), words)
			buf, s := sealed(t, o, p)
			start, inside := o.Encapsulate(buf, &s)
			at, outer := arrived(t, buf, &s, start, inside)
			outer.DF = true
			var out Opened
			if d := in.OpenAt(new(Scratch), buf[:s.Off+s.Len], at, &outer, &out); d != Pass || !bytes.Equal(out.Packet, p) {
				t.Errorf("%s, %d words of options: %v\n got %x\nwant %x", c.name, words, d, out.Packet, p)
			}
		}
		_, in := hostPair(t, gcmSA(t), &c, 1500)
		buf := append(make([]byte, 64), 17, 0, 3, 0, 1, 1, 1, 0)
		if d := in.unwrapBEET(buf, 64, 8, beet.ProtoBEETPH, &Outer{}, new(Opened)); d != BadPseudoHeader {
			t.Errorf("%s: %v", c.name, d)
		}
	}
}

// In transport mode a datagram of UDP tells its length, so that padding may follow
// and is cut off; nothing follows what does not (RFC 4303, Section 2.7).
func TestTransportTFC(t *testing.T) {
	for _, c := range hostCases()[:2] {
		sa := gcmSA(t)
		sa.TFCPadding = 1000
		small := c
		small.packet = udp4(100, 0, true)
		if c.packet[0]>>4 == 6 {
			small.packet = udp6(120, 0)
		}
		o, in := hostPair(t, sa, &small, 1500)
		buf, s := sealed(t, o, small.packet)
		if s.Len < 1000 {
			t.Errorf("%s: %d octets, expected padding to 1000", c.name, s.Len)
		}
		start, inside := o.Encapsulate(buf, &s)
		at, outer := arrived(t, buf, &s, start, inside)
		var out Opened
		if d := in.OpenAt(new(Scratch), buf[:s.Off+s.Len], at, &outer, &out); d != Pass || !bytes.Equal(out.Packet, small.packet) {
			t.Errorf("%s: %v, %d octets", c.name, d, len(out.Packet))
		}
		tcp := bytes.Clone(small.packet)
		if tcp[0]>>4 == 4 {
			tcp[9], tcp[10], tcp[11] = ip.ProtoTCP, 0, 0
			binary.BigEndian.PutUint16(tcp[10:], ip.Checksum(tcp[:20], 0))
		} else {
			tcp[6] = ip.ProtoTCP
		}
		if _, s := sealed(t, o, tcp); s.Len > 200 {
			t.Errorf("%s: TCP was padded to %d octets", c.name, s.Len)
		}
	}
}

// Checksums that were made with addresses from before a translation are right
// after it (RFC 3948, Section 3.1.2); what has none is left alone.
func TestTranslatedChecksums(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		seenSrc, seenDst := netip.MustParseAddr("198.51.100.9"), netip.MustParseAddr("10.2.0.1")
		realSrc, realDst := netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("203.0.113.7")
		if v6 {
			seenSrc, seenDst = netip.MustParseAddr("2001:db8:9::9"), netip.MustParseAddr("2001:db8:2::1")
			realSrc, realDst = netip.MustParseAddr("fd00::1"), netip.MustParseAddr("2001:db8:7::7")
		}
		for _, c := range []struct {
			proto uint8
			field int
		}{{ip.ProtoTCP, 16}, {ip.ProtoUDP, 6}, {ip.ProtoDCCP, 6}, {ip.ProtoICMPv6, 2}, {ip.ProtoMH, 4}} {
			sum := func(src, dst netip.Addr, b []byte) uint16 {
				return ip.Checksum(b, ip.PseudoSum(src.AsSlice(), dst.AsSlice(), c.proto, len(b)))
			}
			text := make([]byte, 40)
			for i := range text {
				text[i] = byte(7 * i)
			}
			if c.proto == ip.ProtoUDP {
				binary.BigEndian.PutUint16(text[4:], 40)
			}
			text[c.field], text[c.field+1] = 0, 0
			binary.BigEndian.PutUint16(text[c.field:], sum(realSrc, realDst, text))

			sa := gcmSA(t)
			sa.Dir, sa.Mode, sa.Src, sa.Dst = sad.In, spd.Transport, seenSrc, seenDst
			sa.Local, sa.Remote = []spd.TS{spd.Host(seenDst)}, []spd.TS{spd.Host(seenSrc)}
			sa.NATLocal, sa.NATRemote = realDst, realSrc
			in, err := NewInbound(sa, now)
			if err != nil {
				t.Fatal(err)
			}
			open := func(text []byte) []byte {
				buf := append(make([]byte, 64), text...)
				var out Opened
				if d := in.unwrapTransport(buf, 48, 64, len(text), c.proto, &Outer{Src: seenSrc, Dst: seenDst}, &out); d != Pass {
					t.Fatalf("protocol %d: %v", c.proto, d)
				}
				return out.Packet[out.Info.HeaderLen:]
			}
			if got := open(text); sum(seenSrc, seenDst, got) != 0 {
				t.Errorf("protocol %d, IPv6 %v: the checksum is wrong by %04x", c.proto, v6, sum(seenSrc, seenDst, got))
			}
			if c.proto == ip.ProtoUDP {
				text[6], text[7] = 0, 0
				if got := open(text); got[6] != 0 || got[7] != 0 {
					t.Errorf("UDP without a checksum got one: %x", got[6:8])
				}
			}
		}
	}
}

// Whatever a peer protects in these modes becomes a valid packet or is dropped.
func FuzzHostModes(f *testing.F) {
	f.Add(udp4(40, 0, true)[20:], uint8(17), uint8(0))
	f.Add(udp6(60, 0)[40:], uint8(17), uint8(1))
	f.Add([]byte{17, 0, 4, 0, 1, 1, 1, 1}, uint8(94), uint8(2))
	f.Add([]byte{17, 0, 1, 4, 0, 0, 0, 0}, uint8(60), uint8(4))
	f.Fuzz(func(t *testing.T, text []byte, next, which uint8) {
		cases := hostCases()
		c := cases[int(which)%len(cases)]
		sa := gcmSA(t)
		_, in := hostPair(t, sa, &c, 1500)
		in.sa.NATRemote = in.sa.Dst
		buf := append(make([]byte, 64), text...)
		var out Opened
		outer := Outer{Src: in.sa.Src, Dst: in.sa.Dst}
		check(t, in.unwrap(buf, 40, 64, len(text), next, &outer, &out), &out)
	})
}
