package ah

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"iked/crypto/suite"
	"iked/datapath/ip"
)

// RFC 791, Section 3.1: a source route of nothing whose pointer lies before its
// start is refused, and reads no octet before it.
func TestSourceRouteWithoutAddresses(t *testing.T) {
	for pointer := range 5 {
		for _, sent := range []bool{false, true} {
			h := packet4([]byte{131, 3, byte(pointer), 0}, 0)
			h[9] = ip.ProtoAH
			pkt := append(h, make([]byte, 24)...)
			Put(pkt[len(h):], 24, 17, 0x12345678, 3)
			if _, f := new(Scratch).form(pkt, len(h), 24, 12, sent); (f == OK) != (pointer == 4) {
				t.Errorf("pointer %d, sent %t: fault %d", pointer, sent, f)
			}
		}
	}
}

// The input of the ICV agrees with the reference for any headers, valid and not,
// of packets that leave and that arrive.
func TestMutabilityAgreesWithReference(t *testing.T) {
	octets := func(t *rapid.T, lo, hi int, name string) []byte {
		return rapid.SliceOfN(rapid.Byte(), lo, hi).Draw(t, name)
	}
	rapid.Check(t, func(t *rapid.T) {
		var h []byte
		if rapid.Bool().Draw(t, "IPv4") {
			var options []byte
			for rapid.IntRange(0, 3).Draw(t, "more") != 0 && len(options) < 36 {
				kind := rapid.SampledFrom([]byte{0, 1, 7, 68, 82, 130, 131, 133, 134, 136, 137, 148, 149, 150, 25}).Draw(t, "option")
				if kind < 2 {
					options = append(options, kind)
					continue
				}
				data := octets(t, 0, 13, "data")
				if (kind == 131 || kind == 137) && rapid.Bool().Draw(t, "route") {
					data = append([]byte{byte(4 * rapid.IntRange(0, 5).Draw(t, "pointer"))}, octets(t, 8, 8, "route data")...)
				}
				options = append(append(options, kind, byte(2+len(data))), data...)
			}
			if rapid.IntRange(0, 9).Draw(t, "cut") == 0 {
				options = options[:len(options)/2]
			}
			if len(options) > 40 {
				options = options[:40]
			}
			h = packet4(options, 0)
			h[9] = ip.ProtoAH
		} else {
			h = packet6(nil, 0)
			last := 6
			for rapid.IntRange(0, 2).Draw(t, "more") != 0 && len(h) < 300 {
				h[last] = rapid.SampledFrom([]byte{0, 43, 60, 60, 43, 44, 135}).Draw(t, "header")
				kind := h[last]
				last = len(h)
				var ext []byte
				switch kind {
				case 43:
					n := rapid.IntRange(0, 3).Draw(t, "addresses")
					typ := rapid.SampledFrom([]byte{0, 0, 2, 4}).Draw(t, "type")
					ext = append([]byte{51, byte(2 * n), typ, byte(rapid.IntRange(0, n+1).Draw(t, "left")), 0, 0, 0, 0}, octets(t, 16*n, 16*n, "route")...)
				default:
					ext = []byte{51, 0}
					for rapid.IntRange(0, 2).Draw(t, "more options") != 0 && len(ext) < 80 {
						o := rapid.SampledFrom([]byte{0, 1, 5, 0x3e, 0xc9, 0xc2, 0x63}).Draw(t, "option")
						if o == 0 {
							ext = append(ext, 0)
							continue
						}
						data := octets(t, 0, 5, "data")
						if o == 0xc9 && rapid.IntRange(0, 5).Draw(t, "home") != 0 {
							data = octets(t, 16, 16, "home address")
						}
						ext = append(append(ext, o, byte(len(data))), data...)
					}
					for len(ext)%8 != 0 {
						ext = append(ext, 0)
					}
					ext[1] = byte(len(ext)/8 - 1)
				}
				h = append(h, ext...)
			}
			h[last] = ip.ProtoAH
		}
		sent := rapid.Bool().Draw(t, "sent")
		pkt := append(bytes.Clone(h), make([]byte, 24)...)
		Put(pkt[len(h):], 24, 17, 0x12345678, 3)
		pkt = append(pkt, "payload"...)
		want, err := reference(pkt, len(h), 12, sent, nil)
		before := bytes.Clone(pkt)
		head, f := new(Scratch).form(pkt, len(h), 24, 12, sent)
		if (err == nil) != (f == OK) {
			t.Fatalf("fault %d, the reference says %v: %x", f, err, pkt)
		}
		if err == nil && !bytes.Equal(append(bytes.Clone(head), pkt[len(head):]...), want) {
			t.Fatalf("the ICV is made of\n%x, expected\n%x", head, want)
		}
		if !bytes.Equal(before, pkt) {
			t.Fatal("the packet itself was changed")
		}
	})
}

// RFC 4302, Section 3.3.3.1: what a sender predicts is what arrives. A packet is
// sealed at the start of its route and verified at the end, after each hop has
// done its part.
func TestRoutesArePredicted(t *testing.T) {
	a, _ := newAuth(t, suite.IntegHMACSHA1_96)
	w := new(Scratch)
	arrives := func(name string, pkt []byte, at int) {
		t.Helper()
		if f := verify(a, w, pkt, at, 1, false); f != OK {
			t.Errorf("%s: refused after its way, fault %d", name, f)
		}
	}
	for _, kind := range []byte{optLSRR, optSSRR} {
		route := []byte{kind, 11, 4, 198, 51, 100, 1, 198, 51, 100, 2, optNop}
		pkt := withAH(packet4(route, 40), 32, 24, 1)
		if f := a.Seal(w, pkt, 32, 1, false); f != OK {
			t.Fatal(f)
		}
		for hop := range 2 {
			next := pkt[23+4*hop : 27+4*hop]
			copy(pkt[16:20], next)
			copy(next, []byte{203, 0, 113, byte(hop)}) // the hop records itself
			pkt[22] += 4
			pkt[8]--
		}
		arrives("IPv4 source route", pkt, 32)
	}
	for _, c := range []struct {
		name string
		ext  []byte
	}{
		{"type 0", append([]byte{43, 6, 0, 3, 0, 0, 0, 0}, bytes.Repeat([]byte("0123456789abcdef"), 3)...)},
		{"type 2", append([]byte{43, 2, 2, 1, 0, 0, 0, 0}, "the home address"...)},
	} {
		for i := 8; i < len(c.ext); i += 16 {
			c.ext[i] = byte(i)
		}
		pkt := packet6([][]byte{c.ext}, 40)
		at := 40 + len(c.ext)
		pkt = withAH(pkt, at, 24, 1)
		if f := a.Seal(w, pkt, at, 1, false); f != OK {
			t.Fatal(f)
		}
		if f := verify(a, w, pkt, at, 1, false); f == OK {
			t.Errorf("%s: accepted before its way is over", c.name)
		}
		for n := (len(c.ext) - 8) / 16; pkt[43] > 0; pkt[43]-- {
			i := n - int(pkt[43])
			swap(pkt[24:40], pkt[48+16*i:64+16*i])
			pkt[7]--
		}
		arrives(c.name, pkt, at)
	}
	// RFC 6275, Section 11.3.2: the option on the wire has the home address, the
	// ICV sees it in the source field. An attacker who claims another one fails.
	home := append([]byte{60, 2, optPad1, optPad1, optPad1, optPad1, 0xc9, 16}, "the home address"...)
	pkt := withAH(packet6([][]byte{home}, 40), 64, 24, 1)
	if f := a.Seal(w, pkt, 64, 1, false); f != OK {
		t.Fatal(f)
	}
	in, _ := w.form(pkt, 64, 24, 12, false)
	if string(in[8:24]) != "the home address" || !bytes.Equal(in[48:64], pkt[8:24]) {
		t.Errorf("the ICV has source %x and home address %x", in[8:24], in[48:64])
	}
	arrives("home address", pkt, 64)
}

// AH without its own header's fault: a fragment header never has an ICV behind it
// (RFC 4302, Section 3.4.1), nor has a header of which nobody knows what changes.
func TestUnknownHeadersHaveNoICV(t *testing.T) {
	w := new(Scratch)
	for _, c := range []struct {
		ext  []byte
		want Fault
	}{
		{[]byte{44, 0, 0, 0, 0, 0, 0, 1}, Fragmented},
		{[]byte{135, 0, 0, 0, 0, 0, 0, 0}, BadOption},                                                // mobility
		{[]byte{139, 0, 0, 0, 0, 0, 0, 0}, BadOption},                                                // host identity
		{[]byte{43, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, BadOption}, // segment routing
		{[]byte{60, 0, 0xc9, 4, 0, 0, 0, 0}, BadOption},
	} {
		pkt := packet6([][]byte{c.ext}, 20)
		at := 40 + len(c.ext)
		pkt = withAH(pkt, at, 24, 1)
		if _, f := w.form(pkt, at, 24, 12, true); f != c.want {
			t.Errorf("header %d: fault %d, expected %d", c.ext[0], f, c.want)
		}
	}
}

// FuzzForm: any octets before the header, from strangers; what the reference
// refuses is refused, the rest is the same.
func FuzzForm(f *testing.F) {
	f.Add(packet4([]byte{131, 7, 4, 1, 2, 3, 4, 0}, 0), true)
	f.Add(packet6([][]byte{{0, 0, 5, 2, 0, 0, 1, 0}, {60, 0, 0x3e, 4, 1, 2, 3, 4}}, 0), false)
	f.Add([]byte{0x45}, false)
	f.Fuzz(func(t *testing.T, h []byte, out bool) {
		if len(h) < 20 || h[0]>>4 != 4 && h[0]>>4 != 6 || h[0]>>4 == 6 && len(h) < 40 || h[0]>>4 == 4 && len(h) > 60 {
			return
		}
		pkt := append(bytes.Clone(h), make([]byte, 28)...)
		want, err := reference(pkt, len(h), 12, out, nil)
		head, fault := new(Scratch).form(pkt, len(h), 24, 12, out)
		if (err == nil) != (fault == OK) {
			t.Fatalf("fault %d, the reference says %v", fault, err)
		}
		if err == nil && !bytes.Equal(append(bytes.Clone(head), pkt[len(head):]...), want) {
			t.Fatalf("the ICV is made of\n%x, expected\n%x", head, want)
		}
	})
}
