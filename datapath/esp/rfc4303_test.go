package esp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"iked/crypto/suite"
	"iked/datapath/ip"
)

// RFC 4303, Sections 2.1 to 2.6: the packet has the SPI, numbers from 1 on without
// a gap, padding 1, 2, 3 ... to the block and to four octets, its length and the
// next header of the inner family.
func TestPacketFormat(t *testing.T) {
	for _, a := range algorithms {
		sa := newSA(t, a.encr, a.keyBits, a.in)
		o, in := pair(t, sa)
		for i := range 40 {
			inner, next := udp4(48+i, 0, true), byte(4)
			if i%2 == 1 {
				inner, next = udp6(48+i, 0), 41
			}
			buf, s := sealed(t, o, inner)
			b := bytes.Clone(esp(buf, s))
			if spi, seq := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]); spi != sa.SPI || seq != uint32(i+1) {
				t.Fatalf("%s: SPI %08x, number %d, expected %08x and %d", a.name, spi, seq, sa.SPI, i+1)
			}
			text, err := in.cipher.Open(new(Scratch).aeadScratch(), b, HeaderLen, 0, false)
			if err != nil {
				t.Fatal(err)
			}
			block := max(in.cipher.Block(), 1)
			if len(text)%block != 0 || (len(b)-in.cipher.ICVLen())%4 != 0 {
				t.Fatalf("%s: text of %d octets for blocks of %d, packet of %d", a.name, len(text), block, len(b))
			}
			pad := int(text[len(text)-2])
			if text[len(text)-1] != next || len(inner)+pad+2 != len(text) || pad >= max(block, 4) {
				t.Fatalf("%s: next header %d, %d octets of padding for %d octets", a.name, text[len(text)-1], pad, len(inner))
			}
			for j, c := range text[len(inner) : len(inner)+pad] {
				if c != byte(j+1) {
					t.Fatalf("%s: padding %v", a.name, text[len(inner):])
				}
			}
		}
	}
}

// RFC 3602, Section 3: the IV of CBC cannot be predicted; RFC 4106, Section 3.1,
// and RFC 7634, Section 2: that of a counter mode never comes twice.
func TestIVs(t *testing.T) {
	for _, a := range algorithms {
		o, in := pair(t, newSA(t, a.encr, a.keyBits, a.in))
		n := in.cipher.IVLen()
		if n == 0 {
			continue
		}
		seen := map[string]bool{}
		ones := make([]int, 8*n)
		const packets = 400
		for range packets {
			buf, s := sealed(t, o, udp4(60, 0, true))
			iv := esp(buf, s)[HeaderLen : HeaderLen+n]
			if seen[string(iv)] {
				t.Fatalf("%s: IV %x came twice", a.name, iv)
			}
			seen[string(iv)] = true
			for i := range ones {
				ones[i] += int(iv[i/8] >> (i % 8) & 1)
			}
		}
		if !in.cipher.RandomIV() {
			continue
		}
		for i, k := range ones {
			// Ten standard deviations from the mean: no bit is a constant or counts.
			if k < packets/2-100 || k > packets/2+100 {
				t.Errorf("%s: bit %d of the IV is set in %d of %d packets", a.name, i, k, packets)
			}
		}
	}
}

// RFC 4303, Section 3.3.3: with ESN the low half only is on the wire; numbers go
// on past 2^32 and both sides agree.
func TestESNPastTheFirstSubspace(t *testing.T) {
	for _, a := range algorithms {
		sa := newSA(t, a.encr, a.keyBits, a.in)
		sa.ESN = true
		o, in := pair(t, sa)
		const start = 1<<32 - 3
		o.SkipSequence(start)
		in.replay.Update(start)
		for i := range uint64(6) {
			buf, s := sealed(t, o, udp4(60, 0, true))
			if low := binary.BigEndian.Uint32(esp(buf, s)[4:]); s.Seq != start+1+i || low != uint32(s.Seq) {
				t.Fatalf("%s: number %d, %08x on the wire", a.name, s.Seq, low)
			}
			var out Opened
			if d := in.Open(new(Scratch), esp(buf, s), 0, &out); d != Pass || out.Seq != s.Seq {
				t.Fatalf("%s: packet %d: %v, number %d", a.name, s.Seq, d, out.Seq)
			}
		}
		// The high half is in the ICV, 0 too: who has no ESN makes another one.
		plain := *sa
		plain.ESN = false
		p, _ := pair(t, &plain)
		_, in = pair(t, sa)
		buf, s := sealed(t, p, udp4(60, 0, true))
		var out Opened
		if d := in.Open(new(Scratch), esp(buf, s), 0, &out); d != BadICV {
			t.Errorf("%s: a packet without ESN on an SA with ESN: %v, expected bad_icv", a.name, d)
		}
	}
}

// RFC 4303, Section 3.4.3: with the anti-replay check switched off repetitions
// pass, the ICV is checked all the same, and the sender counts on.
func TestWithoutReplayCheck(t *testing.T) {
	sa := gcmSA(t)
	sa.ReplayWindow = 0
	o, in := pair(t, sa)
	buf, s := sealed(t, o, udp4(60, 0, true))
	packet := bytes.Clone(esp(buf, s))
	for range 2 {
		var out Opened
		if d := in.Open(new(Scratch), bytes.Clone(packet), 0, &out); d != Pass {
			t.Errorf("%v, expected pass", d)
		}
	}
	packet[len(packet)-1] ^= 1
	var out Opened
	if d := in.Open(new(Scratch), packet, 0, &out); d != BadICV {
		t.Errorf("%v, expected bad_icv", d)
	}
	if _, s = sealed(t, o, udp4(60, 0, true)); s.Seq != 2 {
		t.Errorf("number %d, expected 2", s.Seq)
	}
}

// RFC 4303, Section 2.2: number 0 is on no packet.
func TestNumberZeroIsRefused(t *testing.T) {
	for _, esn := range []bool{false, true} {
		sa := gcmSA(t)
		sa.ESN = esn
		o, in := pair(t, sa)
		buf, s := sealed(t, o, udp4(60, 0, true))
		binary.BigEndian.PutUint32(esp(buf, s)[4:], 0)
		var out Opened
		if d := in.Open(new(Scratch), esp(buf, s), 0, &out); d != ReplayInvalid {
			t.Errorf("ESN %t: %v, expected replay_invalid", esn, d)
		}
	}
}

// RFC 4303, Section 3.2, and RFC 8221, Section 5: encryption without integrity is
// refused, NULL encryption with integrity is carried.
func TestNoEncryptionWithoutIntegrity(t *testing.T) {
	for _, encr := range []uint16{suite.EncrNull, suite.EncrAESCBC, suite.EncrAESCTR, suite.Encr3DES} {
		sa := newSA(t, suite.EncrAESCBC, 128, suite.IntegHMACSHA256)
		sa.Encr.ID, sa.Integ = encr, suite.Transform{Type: suite.INTEG}
		if encr == suite.EncrNull || encr == suite.Encr3DES {
			sa.Encr.KeyBits = 0
		}
		if _, err := NewOutbound(sa, 1500, now); err == nil {
			t.Errorf("cipher %d without integrity: outbound SA was made", encr)
		}
		if _, err := NewInbound(sa, now); err == nil {
			t.Errorf("cipher %d without integrity: inbound SA was made", encr)
		}
	}
}

// RFC 4301, Section 5.1.2.1: the inner header stays as it is but for ECN; its TTL
// is the business of who forwards.
func TestInnerHeaderStays(t *testing.T) {
	for _, inner := range [][]byte{udp4(100, 10<<2|ip.ECT0, true), udp6(100, 10<<2|ip.ECT1)} {
		o, in := pair(t, gcmSA(t))
		buf, s := sealed(t, o, inner)
		var out Opened
		if d := in.Open(new(Scratch), esp(buf, s), 46<<2|inner[1]&3, &out); d != Pass {
			t.Fatal(d)
		}
		want := bytes.Clone(inner)
		if inner[0]>>4 == 6 {
			ip.SetTOS(want, out.Info.TOS)
		}
		if !bytes.Equal(out.Packet, want) || out.Info.TOS>>2 != 10 || out.Info.TTL != 63 {
			t.Errorf("IPv%d: DSCP %d, TTL %d", inner[0]>>4, out.Info.TOS>>2, out.Info.TTL)
		}
	}
}
