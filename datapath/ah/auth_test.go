package ah

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"hash"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"iked/crypto/suite"
	"iked/datapath/ip"
	"iked/internal/vectors"
)

func integID(id uint16) suite.Transform { return suite.Transform{Type: suite.INTEG, ID: id} }

// algorithms are all that AH takes.
var algorithms = []struct {
	name string
	id   uint16
	hash func() hash.Hash // of HMAC
}{
	{"HMAC-SHA1-96", suite.IntegHMACSHA1_96, sha1.New},
	{"SHA2-256-128", suite.IntegHMACSHA256, sha256.New},
	{"SHA2-256-96", suite.IntegHMACSHA256_96, sha256.New},
	{"SHA2-384-192", suite.IntegHMACSHA384, sha512.New384},
	{"SHA2-512-256", suite.IntegHMACSHA512, sha512.New},
	{"AES-XCBC-96", suite.IntegAESXCBC96, nil},
	{"AES-CMAC-96", suite.IntegAESCMAC96, nil},
	{"AES-128-GMAC", suite.IntegAES128GMAC, nil},
	{"AES-192-GMAC", suite.IntegAES192GMAC, nil},
	{"AES-256-GMAC", suite.IntegAES256GMAC, nil},
}

// verify is what a receiver does with a header.
func verify(a *Auth, w *Scratch, pkt []byte, at int, seq uint64, esn bool) Fault {
	n, f := a.Check(pkt, at)
	if f != OK {
		return f
	}
	return a.Verify(w, pkt, at, n, seq, esn)
}

func newAuth(t testing.TB, id uint16) (*Auth, []byte) {
	t.Helper()
	n, _, err := Lens(integID(id))
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, n)
	for i := range key {
		key[i] = byte(11*i + 3)
	}
	a, err := NewAuth(integID(id), key)
	if err != nil {
		t.Fatal(err)
	}
	return a, key
}

type packetVector struct {
	Name, Mode, Auth   string
	AuthKey            vectors.Hex `json:"auth_key"`
	SPI                uint32
	Seq                uint32
	ESN                bool
	ESNHi              uint32 `json:"esn_hi"`
	ICVLen             int    `json:"icv_len"`
	AHLen              int    `json:"ah_len"`
	AHOffset           int    `json:"ah_offset"`
	Input, Output, ICV vectors.Hex
	ICVInput           vectors.Hex `json:"icv_input"`
}

// Packets that another implementation made: the input of the ICV, the ICV and the
// header are the same octet for octet, and the packet is accepted.
func TestVectors(t *testing.T) {
	byName := map[string]uint16{}
	for _, a := range algorithms {
		byName[a.name] = a.id
	}
	for _, v := range vectors.Load[packetVector](t, "packets.json") {
		a, err := NewAuth(integID(byName[v.Auth]), v.AuthKey)
		if err != nil {
			t.Fatal(err)
		}
		w := new(Scratch)
		seq := uint64(v.ESNHi)<<32 | uint64(v.Seq)
		if n := a.Len(v.Output[0] >> 4); n != v.AHLen {
			t.Errorf("%s %s: header of %d octets, expected %d", v.Name, v.Auth, n, v.AHLen)
			continue
		}
		head, f := w.form(v.Output, v.AHOffset, v.AHLen, v.ICVLen, true)
		if f != OK {
			t.Errorf("%s %s: fault %d", v.Name, v.Auth, f)
			continue
		}
		got := slices.Concat(head, v.Output[len(head):], w.tail(seq, v.ESN))
		if !bytes.Equal(got, v.ICVInput) {
			t.Errorf("%s %s: the ICV is made of\n%x, expected\n%x", v.Name, v.Auth, got, v.ICVInput)
		}
		pkt := bytes.Clone(v.Output)
		clear(pkt[v.AHOffset+HeaderLen : v.AHOffset+HeaderLen+v.ICVLen])
		if f := a.Seal(w, pkt, v.AHOffset, seq, v.ESN); f != OK || !bytes.Equal(pkt, v.Output) {
			t.Errorf("%s %s: fault %d, packet\n%x, expected\n%x", v.Name, v.Auth, f, pkt, v.Output)
		}
		// A source-routed packet of the file is one that has not arrived.
		if pkt[6] == ip.ProtoRouting {
			continue
		}
		if f := verify(a, w, pkt, v.AHOffset, seq, v.ESN); f != OK {
			t.Errorf("%s %s: refused, fault %d", v.Name, v.Auth, f)
		}
	}
}

// Every algorithm, computed here by other means over the reference's input.
func TestAlgorithms(t *testing.T) {
	for _, alg := range algorithms {
		for _, esn := range []bool{false, true} {
			for _, pkt := range [][]byte{packet4(nil, 40), packet6(nil, 40)} {
				a, key := newAuth(t, alg.id)
				const seq = 5<<32 | 77
				version := pkt[0] >> 4
				at := map[uint8]int{4: 20, 6: 40}[version]
				pkt = withAH(pkt, at, a.Len(version), seq)
				w := new(Scratch)
				if f := a.Seal(w, pkt, at, seq, esn); f != OK {
					t.Fatalf("%s: fault %d", alg.name, f)
				}
				var tail []byte
				if esn {
					tail = binary.BigEndian.AppendUint32(nil, seq>>32)
				}
				in, err := reference(pkt, at, a.icv, true, tail)
				if err != nil {
					t.Fatal(err)
				}
				icv := pkt[at+HeaderLen : at+HeaderLen+a.icv]
				switch {
				case alg.hash != nil:
					m := hmac.New(alg.hash, key)
					m.Write(in)
					if !bytes.Equal(icv, m.Sum(nil)[:a.icv]) {
						t.Errorf("%s: ICV %x, expected %x", alg.name, icv, m.Sum(nil)[:a.icv])
					}
				case a.gmac != nil:
					// RFC 4543, Section 4: ICV field is IV | tag, nonce is salt | IV.
					b, _ := aes.NewCipher(key[:len(key)-4])
					g, _ := cipher.NewGCM(b)
					iv := binary.BigEndian.AppendUint64(nil, seq)
					tag := g.Seal(nil, append(key[len(key)-4:len(key):len(key)], iv...), nil, in)
					if !bytes.Equal(icv, append(iv, tag...)) {
						t.Errorf("%s: ICV %x, expected %x%x", alg.name, icv, iv, tag)
					}
				}
				if f := verify(a, w, pkt, at, seq, esn); f != OK {
					t.Errorf("%s: refused, fault %d", alg.name, f)
				}
				if f := verify(a, w, pkt, at, seq+1<<32, esn); (f == BadICV) != esn {
					t.Errorf("%s, ESN %v: with another high half fault %d", alg.name, esn, f)
				}
			}
		}
	}
}

// RFC 4302, Section 2.2 and 2.6: lengths of the header and its padding, whole
// words in IPv4 and pairs of words in IPv6; RFC 4543, errata 3643 for GMAC.
func TestLengths(t *testing.T) {
	for _, c := range []struct {
		id     uint16
		v4, v6 int
	}{
		{suite.IntegHMACSHA1_96, 24, 24}, {suite.IntegHMACSHA256_96, 24, 24}, {suite.IntegAESXCBC96, 24, 24}, {suite.IntegAESCMAC96, 24, 24},
		{suite.IntegHMACSHA256, 28, 32}, {suite.IntegHMACSHA384, 36, 40}, {suite.IntegHMACSHA512, 44, 48},
		{suite.IntegAES128GMAC, 36, 40}, {suite.IntegAES256GMAC, 36, 40},
	} {
		a, _ := newAuth(t, c.id)
		if a.Len(4) != c.v4 || a.Len(6) != c.v6 {
			t.Errorf("%d: %d and %d octets, expected %d and %d", c.id, a.Len(4), a.Len(6), c.v4, c.v6)
		}
		for _, version := range []uint8{4, 6} {
			pkt, at := packet4(nil, 40), 20
			if version == 6 {
				pkt, at = packet6(nil, 40), 40
			}
			n := a.Len(version)
			for words := range 256 {
				b := withAH(pkt, at, max(n, HeaderLen), 1)
				b = append(b, make([]byte, 1100)...)
				b[at+1] = byte(words)
				got, f := a.Check(b, at)
				ok := (words+2)*4 == n || version == 4 && (words+2)*4 == c.v6
				if ok != (f == OK) || ok && got != (words+2)*4 {
					t.Errorf("%d, IPv%d: Payload Len %d gives fault %d and %d octets", c.id, version, words, f, got)
				}
			}
		}
	}
}

// RFC 4302, Section 3.2: nothing but an integrity algorithm will do, with a key
// of its length.
func TestNewAuthRefuses(t *testing.T) {
	for _, tr := range []suite.Transform{
		integID(suite.IntegNone), integID(3), integID(4), {Type: suite.ENCR, ID: suite.EncrNull}, {},
		{Type: suite.INTEG, ID: suite.IntegHMACSHA256, KeyBits: 128},
	} {
		if _, err := NewAuth(tr, make([]byte, 32)); err == nil {
			t.Errorf("%v was accepted", tr)
		}
	}
	for _, alg := range algorithms {
		n, _, _ := Lens(integID(alg.id))
		for _, wrong := range []int{0, n - 1, n + 1} {
			if _, err := NewAuth(integID(alg.id), make([]byte, wrong)); err == nil {
				t.Errorf("%s: a key of %d octets was accepted", alg.name, wrong)
			}
		}
	}
}

// Any octet of the packet that changes and that may not makes the ICV wrong; the
// fields that may change may.
func TestEveryOctetCounts(t *testing.T) {
	a, _ := newAuth(t, suite.IntegHMACSHA256)
	w := new(Scratch)
	for _, c := range []struct {
		name    string
		pkt     []byte
		at      int
		mutable []int // octets all of whose bits may change
	}{
		{"IPv4", packet4(nil, 30), 20, []int{1, 6, 7, 8, 10, 11}},
		{"IPv6", packet6(nil, 30), 40, []int{1, 2, 3, 7}},
	} {
		pkt := withAH(c.pkt, c.at, a.Len(c.pkt[0]>>4), 9)
		if f := a.Seal(w, pkt, c.at, 9, false); f != OK {
			t.Fatal(f)
		}
		for i := range pkt {
			for bit := range 8 {
				b := bytes.Clone(pkt)
				b[i] ^= 1 << bit
				if i == 0 && bit >= 4 && c.pkt[0]>>4 == 4 {
					continue // another version, which ip.Parse tells apart
				}
				may := slices.Contains(c.mutable, i) || c.name == "IPv6" && i == 0 && bit < 4
				f := verify(a, w, b, c.at, 9, false)
				if may != (f == OK) {
					t.Errorf("%s: octet %d, bit %d changed: fault %d", c.name, i, bit, f)
				}
			}
		}
		// Every prefix is refused.
		for n := c.at; n < len(pkt); n++ {
			if verify(a, w, pkt[:n:n], c.at, 9, false) == OK {
				t.Errorf("%s: %d octets of %d were accepted", c.name, n, len(pkt))
			}
		}
	}
}

// packet4 is an IPv4 packet of UDP with options, which are padded with zero.
func packet4(options []byte, payload int) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	b := make([]byte, 20, 200)
	b = append(b, options...)
	b[0] = 0x40 | byte(len(b)/4)
	for i := range payload {
		b = append(b, byte(3*i))
	}
	copy(b[1:], []byte{0x2e, 0, 0, 0x12, 0x34, 0x40, 0, 61, ip.ProtoUDP, 0xaa, 0xbb, 192, 0, 2, 1, 192, 0, 2, 2})
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// packet6 is an IPv6 packet with extension headers, which begin with their type.
func packet6(exts [][]byte, payload int) []byte {
	b := make([]byte, 40, 400)
	copy(b, []byte{0x6a, 0xbc, 0xde, 0xf1, 0, 0, ip.ProtoUDP, 63, 0x20, 1, 0xd, 0xb8, 1})
	copy(b[24:], []byte{0x20, 1, 0xd, 0xb8, 2})
	b[23], b[39] = 1, 2
	last := 6
	for _, e := range exts {
		b[last] = e[0]
		last = len(b)
		b = append(b, ip.ProtoUDP)
		b = append(b, e[1:]...)
	}
	for i := range payload {
		b = append(b, byte(5*i))
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	return b
}

// withAH puts a header without ICV at octet at, before the next layer protocol.
func withAH(pkt []byte, at, n int, seq uint64) []byte {
	b := slices.Insert(bytes.Clone(pkt), at, make([]byte, n)...)
	next := &b[9]
	if b[0]>>4 == 6 {
		next = &b[6]
		for o := 40; o < at; o += 8 * (1 + int(b[o+1])) {
			next = &b[o]
		}
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)-40))
	} else {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	}
	Put(b[at:], n, *next, 0x55667788, seq)
	*next = ip.ProtoAH
	return b
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
