package esp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

func ts(t testing.TB, s string) spd.TS {
	t.Helper()
	x, _, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// open seals a payload as a peer might, rightly authenticated, and opens it.
func open(t testing.TB, o *Outbound, in *Inbound, pl []byte, nextHeader, tos uint8) (Drop, Opened) {
	t.Helper()
	buf, w := make([]byte, Headroom+len(pl)+300+Tailroom), new(Scratch)
	copy(buf[Headroom:], pl)
	var s Sealed
	if d := o.seal(w, buf, o.Path(), payload{off: Headroom, n: len(pl), nextHeader: nextHeader}, &s); d != Pass {
		t.Fatalf("seal: %v", d)
	}
	var out Opened
	return in.Open(w, esp(buf, s), tos, &out), out
}

// An authentic packet with a wrong inside is dropped for the right reason (RFC
// 4301, Section 5.2; RFC 4303, Sections 2.4 to 2.7).
func TestInsideRules(t *testing.T) {
	sa := gcmSA(t)
	sa.Local, sa.Remote = []spd.TS{ts(t, "10.2.0.0/16[udp/2000]")}, []spd.TS{ts(t, "10.1.0.0/16")}
	o, in := pair(t, sa)
	good := udp4(60, 0, true)

	cut := bytes.Clone(good)
	frag := bytes.Clone(good)
	binary.BigEndian.PutUint16(frag[6:], 8)
	checksum4(frag)
	otherPort := bytes.Clone(good)
	otherPort[23]++
	otherSource := bytes.Clone(good)
	otherSource[13]++
	checksum4(otherSource)
	notECT := bytes.Clone(good)
	for _, c := range []struct {
		what    string
		payload []byte
		nh, tos uint8
		want    Drop
	}{
		{"the good packet", good, 4, 0, Pass},
		{"with TFC padding", append(bytes.Clone(good), make([]byte, 100)...), 4, 0, Pass},
		{"shorter than its length says", cut[:59], 4, 0, InnerInvalid},
		{"nothing", nil, 4, 0, InnerInvalid},
		{"one octet", good[:1], 4, 0, InnerInvalid},
		{"IPv4 as IPv6", good, 41, 0, InnerVersion},
		{"IPv6 as IPv4", udp6(60, 0), 4, 0, InnerVersion},
		{"IPv6, which no selector has", udp6(60, 0), 41, 0, SelectorMismatch},
		{"UDP without IP", good[20:], 17, 0, BadNextHeader},
		{"protocol 0", good, 0, 0, BadNextHeader},
		{"a dummy", []byte{1, 2, 3}, 59, 0, Dummy},
		{"a dummy that is not IP at all", nil, 59, 0, Dummy},
		{"another source", otherSource, 4, 0, SelectorMismatch},
		{"another port", otherPort, 4, 0, SelectorMismatch},
		{"a later fragment on an SA with ports", frag, 4, 0, InnerFragment},
		{"CE outside, Not-ECT inside", notECT, 4, ip.CE, InnerECN},
	} {
		before := in.replay.Top()
		d, out := open(t, o, in, bytes.Clone(c.payload), c.nh, c.tos)
		if d != c.want {
			t.Errorf("%s: %v, expected %v", c.what, d, c.want)
		}
		if in.replay.Top() != before+1 || out.Seq != before+1 {
			t.Errorf("%s: the window did not move: an authentic packet counts whatever is inside", c.what)
		}
		if d == Pass && !bytes.Equal(out.Packet, good) {
			t.Errorf("%s: packet %x", c.what, out.Packet)
		}
	}
}

func checksum4(b []byte) {
	b[10], b[11] = 0, 0
	binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:20], 0))
}

// An ICMP error passes when the packet that it quotes is traffic of the SA, and
// not otherwise (RFC 4301, Section 6.2).
func TestICMPErrorOverSA(t *testing.T) {
	sa := gcmSA(t)
	sa.Local, sa.Remote = []spd.TS{ts(t, "10.1.0.0/16[udp/1000]")}, []spd.TS{ts(t, "10.2.0.0/16[udp/2000]")}
	o, in := pair(t, sa)
	sent := udp4(60, 0, true) // 10.1.0.1:1000 to 10.2.0.1:2000, as we sent it
	msg, ok := ip.AppendICMP(nil, ip.Unreachable, netip.MustParseAddr("10.9.9.9"), 0, sent, parse(t, sent))
	if !ok {
		t.Fatal("no ICMP error was made")
	}
	if d, _ := open(t, o, in, msg, 4, 0); d != Pass {
		t.Errorf("error about our packet: %v, expected pass", d)
	}
	foreign := bytes.Clone(sent)
	foreign[23]++ // to another port
	msg, _ = ip.AppendICMP(nil, ip.Unreachable, netip.MustParseAddr("10.9.9.9"), 0, foreign, parse(t, foreign))
	if d, _ := open(t, o, in, msg, 4, 0); d != SelectorMismatch {
		t.Errorf("error about a packet that the SA does not carry: %v, expected selector_mismatch", d)
	}
}

// RFC 4303, Section 2.4: padding other than 1, 2, 3 ..., or longer than the packet, is refused.
func TestTrim(t *testing.T) {
	for _, c := range []struct {
		in   []byte
		n    int
		want bool
	}{
		{[]byte{0, 4}, 0, true},
		{[]byte{9, 9, 1, 2, 2, 4}, 2, true},
		{[]byte{9, 9, 1, 3, 2, 4}, 0, false},
		{[]byte{9, 9, 0, 0, 2, 4}, 0, false},
		{[]byte{1, 2, 3, 4, 4}, 0, false},
		{[]byte{1, 2, 3, 3, 4}, 0, true},
		{[]byte{255, 4}, 0, false},
	} {
		got, next, ok := trim(c.in)
		if ok != c.want || ok && (len(got) != c.n || next != 4) {
			t.Errorf("%v: %v, %d, %v, expected %d octets, %v", c.in, got, next, ok, c.n, c.want)
		}
	}
}

// TFC padding fills up to the size or to the path MTU, is zero, and is trimmed by the receiver.
func TestTFC(t *testing.T) {
	for _, c := range []struct {
		tfc  uint32
		n    int
		want int // octets of padded payload
	}{{0, 60, 60}, {300, 60, 300}, {300, 400, 400}, {sad.TFCToMTU, 60, 0}, {9000, 60, 0}} {
		sa := gcmSA(t)
		sa.TFCPadding = c.tfc
		o, in := pair(t, sa)
		if c.want == 0 {
			c.want = o.InnerMTU()
		}
		buf, s := sealed(t, o, udp4(c.n, 0, true))
		if want := 8 + 8 + (c.want+2+3)&^3 + 16; s.Len != want {
			t.Errorf("TFC %d, packet of %d: ESP has %d octets, expected %d", c.tfc, c.n, s.Len, want)
		}
		start, _ := o.Encapsulate(buf, &s)
		if n := s.Off + s.Len - start; n > 1500 {
			t.Errorf("TFC %d: outer packet of %d octets passes the path MTU", c.tfc, n)
		}
		clone := bytes.Clone(esp(buf, s))
		text, err := o.cipher.Open(new(Scratch).aeadScratch(), clone, HeaderLen, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if tail := text[c.n:c.want]; !bytes.Equal(tail, make([]byte, len(tail))) {
			t.Errorf("TFC %d: stale octets of the buffer leave with the padding", c.tfc)
		}
		var out Opened
		if d := in.Open(new(Scratch), esp(buf, s), 0, &out); d != Pass || len(out.Packet) != c.n {
			t.Errorf("TFC %d: %v, %d octets, expected %d", c.tfc, d, len(out.Packet), c.n)
		}
	}
}

// The largest inner packet fills the path MTU and one octet more passes it, for
// every algorithm, family and encapsulation.
func TestInnerMTU(t *testing.T) {
	for _, a := range algorithms {
		for mtu := 1280; mtu <= 1320; mtu++ {
			for _, outer6 := range []bool{false, true} {
				for _, encap := range []*sad.Encap{nil, {SrcPort: 4500, DstPort: 4500}} {
					sa := newSA(t, a.encr, a.keyBits, a.in)
					sa.Encap = encap
					if outer6 {
						sa.Src, sa.Dst = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
					}
					o, err := NewOutbound(sa, mtu, now)
					if err != nil {
						t.Fatal(err)
					}
					for extra := range 2 {
						buf, s := sealed(t, o, udp4(o.InnerMTU()+extra, 0, false))
						start, _ := o.Encapsulate(buf, &s)
						if n := s.Off + s.Len - start; (n <= mtu) != (extra == 0) {
							t.Fatalf("%s, path MTU %d, inner %d: outer packet of %d octets", a.name, mtu, o.InnerMTU()+extra, n)
						}
					}
				}
			}
		}
	}
}

// RFC 4301, Section 8.2, and RFC 8200, Section 5: what is too big is answered, cut before or cut behind ESP.
func TestFit(t *testing.T) {
	for _, c := range []struct {
		mtu      int
		packet   []byte
		want     Fit
		reported int
	}{
		{1500, udp4(1400, 0, true), Send, 1446},
		{1500, udp4(1446, 0, true), Send, 1446},
		{1500, udp4(1447, 0, true), Reply, 1446},
		{1500, udp4(1447, 0, false), FragmentInner, 1446},
		{1500, udp6(1447, 0), Reply, 1446},
		{1300, udp6(1281, 0), Reply, 1280},
		{1300, udp6(1280, 0), FragmentOuter, 1246},
		{1300, udp6(1246, 0), Send, 1246},
		{100, udp4(1000, 0, true), Reply, 522}, // 100 is below the floor of 576
	} {
		o, err := NewOutbound(gcmSA(t), c.mtu, now)
		if err != nil {
			t.Fatal(err)
		}
		info := parse(t, c.packet)
		if f, mtu := o.Fit(info); f != c.want || mtu != c.reported {
			t.Errorf("path MTU %d, IPv%d packet of %d, DF %v: %v and MTU %d, expected %v and %d", c.mtu, info.Version, len(c.packet), info.DF, f, mtu, c.want, c.reported)
		}
	}
	o, _ := pair(t, gcmSA(t))
	if !o.LowerMTU(1400) || o.LowerMTU(1450) || o.Path().MTU != 1400 || !o.LowerMTU(10) || o.Path().MTU != 576 {
		t.Errorf("reported path MTUs lower it only, and to no less than 576: now %d", o.Path().MTU)
	}
}

// The outer header: DSCP and DF by the SA's choice, ECN copied (RFC 4301, Section 5.1.2; RFC 6040, Section 4.1).
func TestOuterHeader(t *testing.T) {
	const ef, ect0 = 46 << 2, ip.ECT0
	for _, c := range []struct {
		dscp   sad.DSCP
		df     sad.DF
		noECN  bool
		packet []byte
		tos    uint8
		wantDF bool
	}{
		{sad.DSCPOut, sad.DFCopy, false, udp4(100, ef|ect0, true), ef | ect0, true},
		{sad.DSCPOut, sad.DFCopy, false, udp4(100, ef|ip.CE, false), ef | ip.CE, false},
		{sad.DSCPNo, sad.DFSet, false, udp4(100, ef|ect0, false), ect0, true},
		{sad.DSCPIn, sad.DFClear, true, udp4(100, ef|ect0, true), 0, false},
		{sad.DSCPBoth, sad.DFCopy, true, udp6(100, ef|ect0), ef, false},
		{sad.DSCPBoth, sad.DFCopy, false, udp6(1400, ef), ef, true},
		{sad.DSCPBoth, sad.DFSet, false, udp4(1480, 0, true), 0, false}, // passes the MTU: will be cut
	} {
		sa := gcmSA(t)
		sa.DSCP, sa.DF, sa.NoECN = c.dscp, c.df, c.noECN
		hops := uint8(64)
		if c.noECN {
			sa.HopLimit, hops = 33, 33
		}
		o, _ := pair(t, sa)
		buf, s := sealed(t, o, c.packet)
		start, _ := o.Encapsulate(buf, &s)
		info := parse(t, buf[start:])
		if info.TOS != c.tos || info.DF != c.wantDF || info.TTL != hops || info.Src != sa.Src || info.Dst != sa.Dst {
			t.Errorf("DSCP %d, DF %d, no ECN %v: outer header %+v, expected TOS %02x, DF %v", c.dscp, c.df, c.noECN, info, c.tos, c.wantDF)
		}
	}
}

// A header that may be fragmented has an identification (RFC 6864, Section 4): in
// place of 0 the kernel puts one of its own, another one in each fragment.
func TestFragmentsHaveOneIdentification(t *testing.T) {
	beet, tunnel := gcmSA(t), gcmSA(t)
	beet.Mode = spd.BEET
	beet.Local, beet.Remote = []spd.TS{ts(t, "2001:db8:1::1")}, []spd.TS{ts(t, "2001:db8:2::1")}
	tunnel.SPI = 0x11220001 // and the first sequence number makes 0
	for _, sa := range []*sad.SA{beet, tunnel} {
		o, _ := pair(t, sa)
		buf, s := sealed(t, o, udp6(3000, 0))
		start, _ := o.Encapsulate(buf, &s)
		if info := parse(t, buf[start:]); info.DF || info.FragID == 0 {
			t.Errorf("mode %d: DF %v, identification %d", sa.Mode, info.DF, info.FragID)
		}
	}
}

// At decapsulation the ECN field follows RFC 6040 and the checksum follows it.
func TestDecapECN(t *testing.T) {
	sa := gcmSA(t)
	sa.DSCP = sad.DSCPBoth
	o, in := pair(t, sa)
	d, out := open(t, o, in, udp4(60, 10<<2|ip.ECT0, true), 4, 46<<2|ip.CE)
	if d != Pass || out.Packet[1] != 46<<2|ip.CE || out.Info.TOS != out.Packet[1] || parse(t, out.Packet).TOS != out.Packet[1] {
		t.Errorf("IPv4: %v, TOS %02x, expected EF and CE", d, out.Packet[1])
	}
	d, out = open(t, o, in, udp6(60, 10<<2|ip.ECT0), 41, 46<<2|ip.CE)
	if d != Pass || parse(t, out.Packet).TOS != 46<<2|ip.CE {
		t.Errorf("IPv6: %v, class %02x, expected EF and CE", d, parse(t, out.Packet).TOS)
	}
}

// Dummy packets are made with the SA's numbers and dropped by the receiver after the window moved.
func TestDummy(t *testing.T) {
	o, in := pair(t, gcmSA(t))
	buf, w := make([]byte, 1500), new(Scratch)
	var s Sealed
	if d := o.SealDummy(w, buf, 100, &s); d != Pass {
		t.Fatal(d)
	}
	var out Opened
	if d := in.Open(w, esp(buf, s), 0, &out); d != Dummy || in.replay.Top() != 1 {
		t.Errorf("%v, top of the window %d, expected dummy and 1", d, in.replay.Top())
	}
}

// No packet leaves with a number twice, none over a hard limit (RFC 4303, Section 3.3.3; RFC 4301, Section 4.4.2.1).
func TestLimits(t *testing.T) {
	o, _ := pair(t, gcmSA(t))
	o.SkipSequence(1<<32 - 2)
	buf, s := sealed(t, o, udp4(60, 0, true))
	if s.Seq != 1<<32-1 || binary.BigEndian.Uint32(esp(buf, s)[4:]) != 1<<32-1 {
		t.Errorf("last number %d, expected 2^32-1", s.Seq)
	}
	for range 3 {
		b := make([]byte, 1500)
		p := udp4(60, 0, true)
		copy(b[Headroom:], p)
		if d := o.Seal(new(Scratch), b, Headroom, parse(t, p), &s); d != SequenceOverflow {
			t.Errorf("after the last number: %v, expected sequence_overflow", d)
		}
	}

	sa := gcmSA(t)
	sa.Limits = sad.Limits{SoftPackets: 2, HardPackets: 3, HardTime: time.Hour}
	o, in := pair(t, sa)
	for n, want := range []sad.Expiry{sad.Alive, sad.SoftPackets, sad.SoftPackets} {
		buf, s := sealed(t, o, udp4(60, 0, true))
		var out Opened
		if d := in.Open(new(Scratch), esp(buf, s), 0, &out); d != Pass || s.Expiry != want || out.Expiry != want {
			t.Errorf("packet %d: %v, %v and %v, expected %v", n+1, d, s.Expiry, out.Expiry, want)
		}
	}
	b := make([]byte, 1500)
	p := udp4(60, 0, true)
	copy(b[Headroom:], p)
	if d := o.Seal(new(Scratch), b, Headroom, parse(t, p), &s); d != LifetimeOver || s.Expiry != sad.HardPackets {
		t.Errorf("fourth packet: %v, expected lifetime_over", d)
	}
	if e := o.CheckTime(now.Add(time.Hour)); e != sad.HardTime {
		t.Errorf("after an hour: %v, expected the hard time limit", e)
	}
}

// What the datapath cannot carry is refused with a reason, not carried half.
func TestNewRefuses(t *testing.T) {
	for what, change := range map[string]func(*sad.SA){
		"mode 3":            func(sa *sad.SA) { sa.Mode = spd.BEET + 1 },
		"BEET of networks":  func(sa *sad.SA) { sa.Mode = spd.BEET },
		"AH":                func(sa *sad.SA) { sa.Proto = suite.ProtoAH },
		"reserved SPI":      func(sa *sad.SA) { sa.SPI = 255 },
		"mixed families":    func(sa *sad.SA) { sa.Src = netip.MustParseAddr("::1") },
		"no selectors":      func(sa *sad.SA) { sa.Remote = nil },
		"CBC without ICV":   func(sa *sad.SA) { sa.Encr = suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128} },
		"key of wrong size": func(sa *sad.SA) { sa.Encr.KeyBits = 256 },
	} {
		sa := gcmSA(t)
		change(sa)
		if _, err := NewOutbound(sa, 1500, now); err == nil {
			t.Errorf("%s: outbound SA was made", what)
		}
		if _, err := NewInbound(sa, now); err == nil {
			t.Errorf("%s: inbound SA was made", what)
		}
	}
}

// Buffers without room are refused before a number is used.
func TestNoRoom(t *testing.T) {
	o, _ := pair(t, gcmSA(t))
	p := udp4(60, 0, true)
	for _, c := range []struct{ off, size int }{{Headroom - 1, 1000}, {Headroom, Headroom + 60 + Tailroom - 1}} {
		b := make([]byte, c.size)
		copy(b[c.off:], p)
		var s Sealed
		if d := o.Seal(new(Scratch), b, c.off, parse(t, p), &s); d != NoRoom || o.seq.Last() != 0 {
			t.Errorf("packet at %d of %d: %v, number %d, expected no_room", c.off, c.size, d, o.seq.Last())
		}
	}
}

// Any order, loss and duplication: each packet passes at most once, and exactly
// when it is not behind the window.
func TestReorderedPackets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sa := gcmSA(t)
		sa.ESN = rapid.Bool().Draw(rt, "esn")
		o, in := pair(t, sa)
		skip := rapid.SampledFrom([]uint64{0, 1<<32 - 40, 5<<32 - 3}).Draw(rt, "start")
		if !sa.ESN {
			skip = 0
		}
		o.SkipSequence(skip)
		if skip > 0 {
			in.replay.Update(skip)
		}
		var packets [][]byte
		for range 120 {
			buf, s := sealed(t, o, udp4(60, 0, true))
			packets = append(packets, bytes.Clone(esp(buf, s)))
		}
		seen, top := map[int]bool{}, -1
		for range 200 {
			n := min(max(top+rapid.IntRange(-100, 5).Draw(rt, "step"), 0), len(packets)-1)
			want := Pass
			switch {
			case top-n >= 64 && sa.ESN:
				// Behind the window means ahead of it by 2^32 (RFC 4303, Appendix
				// A2): only the ICV tells.
				want = BadICV
			case top-n >= 64:
				want = ReplayOld
			case seen[n]:
				want = ReplayDuplicate
			}
			var out Opened
			d := in.Open(new(Scratch), bytes.Clone(packets[n]), 0, &out)
			if d != want {
				rt.Fatalf("packet %d, top %d, seen %v: %v, expected %v", n, top, seen[n], d, want)
			}
			if d == Pass {
				seen[n] = true
				top = max(top, n)
			}
		}
	})
}

// aeadScratch is for tests that open without an Inbound.
func (w *Scratch) aeadScratch() *scratchOf { return &w.aead }
