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
