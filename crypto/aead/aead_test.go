package aead

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"iked/crypto/suite"
)

func encr(id uint16, bits int) suite.Transform {
	return suite.Transform{Type: suite.ENCR, ID: id, KeyBits: uint16(bits)}
}

func integOf(id uint16) suite.Transform { return suite.Transform{Type: suite.INTEG, ID: id} }

var none suite.Transform

type pair struct{ encr, integ suite.Transform }

func (p pair) String() string {
	if p.integ == none {
		return p.encr.String()
	}
	return p.encr.String() + "/" + p.integ.String()
}

// pairs is every combination of ciphers and integrity algorithms.
func pairs() []pair {
	var out []pair
	var plain []suite.Transform
	for _, bits := range []int{128, 192, 256} {
		for _, id := range []uint16{suite.EncrAESGCM8, suite.EncrAESGCM12, suite.EncrAESGCM16, suite.EncrNullAESGMAC} {
			out = append(out, pair{encr(id, bits), none})
		}
		plain = append(plain, encr(suite.EncrAESCBC, bits), encr(suite.EncrAESCTR, bits))
	}
	out = append(out, pair{encr(suite.EncrChaCha20Poly1305, 0), none}, pair{encr(suite.EncrChaCha20Poly1305, 256), none})
	plain = append(plain, encr(suite.Encr3DES, 0), encr(suite.EncrNull, 0))
	for _, e := range plain {
		for _, id := range []uint16{
			suite.IntegHMACMD5_96, suite.IntegHMACSHA1_96, suite.IntegHMACSHA1_160,
			suite.IntegHMACSHA256, suite.IntegHMACSHA256_96, suite.IntegHMACSHA384, suite.IntegHMACSHA512,
			suite.IntegAESXCBC96, suite.IntegAESCMAC96,
		} {
			out = append(out, pair{e, integOf(id)})
		}
	}
	return out
}

func fill(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func mustNew(t testing.TB, p pair) *Cipher {
	t.Helper()
	el, il, err := KeyLens(p.encr, p.integ)
	if err != nil {
		t.Fatalf("%v: %v", p, err)
	}
	c, err := New(p.encr, p.integ, fill(1, el), fill(2, il))
	if err != nil {
		t.Fatalf("%v: %v", p, err)
	}
	return c
}

// packet lays out hdr | IV | text | room for the ICV.
func packet(c *Cipher, hdr, text int) []byte {
	return append(fill(uint64(text), hdr+c.IVLen()+text), make([]byte, c.ICVLen())...)
}

// What Seal makes, Open undoes, at every length, with and without ESN, for an
// ESP and an IKE header; and nothing outside the packet is touched.
func TestRoundTrip(t *testing.T) {
	for _, p := range pairs() {
		c := mustNew(t, p)
		var w Scratch
		for _, k := range []struct {
			hdr int
			esn bool
		}{{8, false}, {8, true}, {32, false}, {36, false}, {0, false}} {
			for n := 0; n <= 80; n += c.Block() {
				b := packet(c, k.hdr, n)
				text := bytes.Clone(b[k.hdr+c.IVLen() : len(b)-c.ICVLen()])
				head := bytes.Clone(b[:k.hdr+c.IVLen()])
				room := append(bytes.Clone(b), bytes.Repeat([]byte{0xee}, 32)...)
				pkt := room[:len(b)]
				c.Seal(&w, pkt, k.hdr, 7, k.esn)
				if !bytes.Equal(room[len(b):], bytes.Repeat([]byte{0xee}, 32)) {
					t.Fatalf("%v: Seal wrote past the packet", p)
				}
				if !bytes.Equal(pkt[:len(head)], head) {
					t.Fatalf("%v: Seal changed the header or the IV", p)
				}
				got, err := c.Open(&w, pkt, k.hdr, 7, k.esn)
				if err != nil || !bytes.Equal(got, text) {
					t.Fatalf("%v: header %d, ESN %v, %d octets: %x (%v), want %x", p, k.hdr, k.esn, n, got, err, text)
				}
				if !bytes.Equal(room[len(b):], bytes.Repeat([]byte{0xee}, 32)) {
					t.Fatalf("%v: Open wrote past the packet", p)
				}
				if len(got) > 0 && &got[0] != &pkt[len(head)] {
					t.Fatalf("%v: Open did not work in place", p)
				}
			}
		}
	}
}

// Every single changed bit, every cut, a wrong high half and a wrong ESN flag
// are refused (RFC 4303, Section 3.4.4.1).
func TestForgery(t *testing.T) {
	for _, p := range pairs() {
		c := mustNew(t, p)
		var w Scratch
		for _, esn := range []bool{false, true} {
			good := packet(c, 8, 48)
			c.Seal(&w, good, 8, 1, esn)
			try := func(what string, b []byte, hi uint32, esn bool) {
				t.Helper()
				if _, err := c.Open(&w, b, 8, hi, esn); !errors.Is(err, ErrICV) && !errors.Is(err, ErrLength) {
					t.Errorf("%v: %s: error %v", p, what, err)
				}
			}
			for i := range good {
				b := bytes.Clone(good)
				b[i] ^= 1 << (i % 8)
				try(fmt.Sprintf("bit in octet %d", i), b, 1, esn)
			}
			for i := range good {
				try(fmt.Sprintf("cut to %d", i), bytes.Clone(good[:i]), 1, esn)
			}
			try("ESN flag", bytes.Clone(good), 1, !esn)
			if esn {
				try("high half", bytes.Clone(good), 2, true)
			}
		}
	}
}

// After a failed check the payload of a packet with a separate MAC, and of
// AES-GCM with a short tag, is as it came: nothing is decrypted unverified.
func TestVerifyFirst(t *testing.T) {
	for _, p := range pairs() {
		c := mustNew(t, p)
		if c.mode == combined {
			continue // the library clears it
		}
		var w Scratch
		b := packet(c, 8, 32)
		c.Seal(&w, b, 8, 0, false)
		b[len(b)-1] ^= 1
		was := bytes.Clone(b)
		if _, err := c.Open(&w, b, 8, 0, false); !errors.Is(err, ErrICV) || !bytes.Equal(b, was) {
			t.Errorf("%v: error %v, packet changed: %v", p, err, !bytes.Equal(b, was))
		}
	}
}

// Lengths of key material, IV, ICV and padding: RFC 4106, 4543, 7634, 3602,
// 2451, 3686, 2410, 2404, 4868, 3566, 4494.
func TestLengths(t *testing.T) {
	for _, c := range []struct {
		p                           pair
		encr, integ, iv, icv, block int
	}{
		{pair{encr(suite.EncrAESGCM8, 128), none}, 20, 0, 8, 8, 1},
		{pair{encr(suite.EncrAESGCM12, 192), none}, 28, 0, 8, 12, 1},
		{pair{encr(suite.EncrAESGCM16, 256), none}, 36, 0, 8, 16, 1},
		{pair{encr(suite.EncrAESGCM16, 128), integOf(suite.IntegNone)}, 20, 0, 8, 16, 1},
		{pair{encr(suite.EncrNullAESGMAC, 128), none}, 20, 0, 8, 16, 1},
		{pair{encr(suite.EncrChaCha20Poly1305, 0), none}, 36, 0, 8, 16, 1},
		{pair{encr(suite.EncrAESCBC, 128), integOf(suite.IntegHMACSHA1_96)}, 16, 20, 16, 12, 16},
		{pair{encr(suite.EncrAESCBC, 256), integOf(suite.IntegHMACSHA256)}, 32, 32, 16, 16, 16},
		{pair{encr(suite.EncrAESCBC, 192), integOf(suite.IntegHMACSHA384)}, 24, 48, 16, 24, 16},
		{pair{encr(suite.EncrAESCTR, 128), integOf(suite.IntegHMACSHA512)}, 20, 64, 8, 32, 1},
		{pair{encr(suite.Encr3DES, 0), integOf(suite.IntegAESXCBC96)}, 24, 16, 8, 12, 8},
		{pair{encr(suite.EncrNull, 0), integOf(suite.IntegAESCMAC96)}, 0, 16, 0, 12, 1},
		{pair{encr(suite.EncrNull, 0), integOf(suite.IntegHMACSHA256_96)}, 0, 32, 0, 12, 1},
	} {
		el, il, err := KeyLens(c.p.encr, c.p.integ)
		if err != nil || el != c.encr || il != c.integ {
			t.Errorf("%v: keys of %d and %d octets (%v), want %d and %d", c.p, el, il, err, c.encr, c.integ)
			continue
		}
		x := mustNew(t, c.p)
		if x.IVLen() != c.iv || x.ICVLen() != c.icv || x.Block() != c.block || x.RandomIV() != (c.block > 1) {
			t.Errorf("%v: IV %d, ICV %d, block %d, random IV %v", c.p, x.IVLen(), x.ICVLen(), x.Block(), x.RandomIV())
		}
	}
}

// Nothing without integrity, nothing with two, nothing unknown, no key of a
// wrong length (RFC 8221, Section 4; RFC 7296,
// Section 3.3).
func TestRefusals(t *testing.T) {
	for _, p := range []pair{
		{encr(suite.EncrNull, 0), none},
		{encr(suite.EncrNull, 0), integOf(suite.IntegNone)},
		{encr(suite.EncrAESCBC, 128), none},
		{encr(suite.EncrAESCTR, 128), none},
		{encr(suite.EncrAESGCM16, 128), integOf(suite.IntegHMACSHA256)},
		{encr(suite.EncrAESGCM16, 0), none},
		{encr(suite.EncrAESGCM16, 129), none},
		{encr(suite.EncrChaCha20Poly1305, 128), none},
		{encr(suite.Encr3DES, 192), integOf(suite.IntegHMACSHA256)},
		{encr(suite.EncrAESCCM16, 128), none},
		{encr(23, 128), integOf(suite.IntegHMACSHA256)},
		{encr(suite.EncrAESCBC, 128), integOf(3)},
		{encr(suite.EncrAESCBC, 128), suite.Transform{Type: suite.PRF, ID: 5}},
		{integOf(12), integOf(12)},
	} {
		if _, _, err := KeyLens(p.encr, p.integ); err == nil {
			t.Errorf("%v: KeyLens accepts it", p)
		}
		if _, err := New(p.encr, p.integ, make([]byte, 36), make([]byte, 32)); err == nil {
			t.Errorf("%v: New accepts it", p)
		}
	}
	for _, p := range pairs() {
		el, il, _ := KeyLens(p.encr, p.integ)
		if _, err := New(p.encr, p.integ, make([]byte, el+1), make([]byte, il)); err == nil {
			t.Errorf("%v: a longer key was accepted", p)
		}
		if _, err := New(p.encr, p.integ, make([]byte, el), make([]byte, il+1)); err == nil {
			t.Errorf("%v: a longer integrity key was accepted", p)
		}
	}
}

// Seal panics on a layout that only a defect of the caller can make, rather
// than send something unprotected.
func TestSealLayout(t *testing.T) {
	c := mustNew(t, pair{encr(suite.EncrAESCBC, 128), integOf(suite.IntegHMACSHA256)})
	for what, f := range map[string]func(w *Scratch){
		"no room":      func(w *Scratch) { c.Seal(w, make([]byte, 8+16+15), 8, 0, false) },
		"half a block": func(w *Scratch) { c.Seal(w, make([]byte, 8+16+8+16), 8, 0, false) },
		"ESN with IKE": func(w *Scratch) { c.Seal(w, make([]byte, 32+16+16+16), 32, 0, true) },
		"header of -1": func(w *Scratch) { c.Seal(w, make([]byte, 64), -1, 0, false) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: Seal accepted it", what)
				}
			}()
			f(&Scratch{})
		}()
	}
}

// The counter is the IV, big endian.
func TestPutIV(t *testing.T) {
	iv := bytes.Repeat([]byte{9}, 8)
	PutIV(iv, 0x0102030405060708)
	if !bytes.Equal(iv, []byte{1, 2, 3, 4, 5, 6, 7, 8}) {
		t.Errorf("IV %x", iv)
	}
	PutIV(nil, 1)
}

// One Cipher serves several goroutines, each with its own Scratch.
func TestConcurrent(t *testing.T) {
	for _, p := range pairs() {
		c := mustNew(t, p)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				var w Scratch
				for range 50 {
					b := packet(c, 8, 96)
					want := bytes.Clone(b[8+c.IVLen() : len(b)-c.ICVLen()])
					c.Seal(&w, b, 8, 1, true)
					if got, err := c.Open(&w, b, 8, 1, true); err != nil || !bytes.Equal(got, want) {
						t.Errorf("%v: %v", p, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

// A forged packet of any length gives an error or a plaintext inside it, and
// never a panic.
func FuzzOpen(f *testing.F) {
	all := pairs()
	var ciphers []*Cipher
	for i, p := range all {
		c := mustNew(f, p)
		ciphers = append(ciphers, c)
		if i%9 == 0 {
			b := packet(c, 8, 16)
			c.Seal(&Scratch{}, b, 8, 1, true)
			f.Add(uint8(i), b, 8, true)
		}
		f.Add(uint8(i), []byte{1, 2, 3}, 8, false)
	}
	f.Fuzz(func(t *testing.T, i uint8, b []byte, hdr int, esn bool) {
		c := ciphers[int(i)%len(ciphers)]
		got, err := c.Open(&Scratch{}, b, hdr, 1, esn)
		if err == nil && len(got) != len(b)-hdr-c.IVLen()-c.ICVLen() {
			t.Errorf("plaintext of %d octets out of %d", len(got), len(b))
		}
	})
}

func benchPairs() []pair {
	sha256 := integOf(suite.IntegHMACSHA256)
	return []pair{
		{encr(suite.EncrAESGCM16, 128), none},
		{encr(suite.EncrAESGCM16, 256), none},
		{encr(suite.EncrAESGCM12, 128), none},
		{encr(suite.EncrAESGCM8, 128), none},
		{encr(suite.EncrChaCha20Poly1305, 0), none},
		{encr(suite.EncrNullAESGMAC, 128), none},
		{encr(suite.EncrAESCBC, 128), integOf(suite.IntegHMACSHA1_96)},
		{encr(suite.EncrAESCBC, 128), sha256},
		{encr(suite.EncrAESCBC, 256), sha256},
		{encr(suite.EncrAESCBC, 256), integOf(suite.IntegHMACSHA384)},
		{encr(suite.EncrAESCBC, 256), integOf(suite.IntegHMACSHA512)},
		{encr(suite.EncrAESCBC, 128), integOf(suite.IntegAESXCBC96)},
		{encr(suite.EncrAESCBC, 128), integOf(suite.IntegAESCMAC96)},
		{encr(suite.EncrAESCTR, 128), sha256},
		{encr(suite.EncrNull, 0), sha256},
		{encr(suite.Encr3DES, 0), integOf(suite.IntegHMACSHA1_96)},
	}
}

func BenchmarkSeal(b *testing.B) {
	for _, p := range benchPairs() {
		b.Run(p.String(), func(b *testing.B) {
			c := mustNew(b, p)
			var w Scratch
			pkt := packet(c, 8, 1400/c.Block()*c.Block())
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				c.Seal(&w, pkt, 8, 0, false)
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	for _, p := range benchPairs() {
		b.Run(p.String(), func(b *testing.B) {
			c := mustNew(b, p)
			var w Scratch
			sealed := packet(c, 8, 1400/c.Block()*c.Block())
			c.Seal(&w, sealed, 8, 0, false)
			pkt := make([]byte, len(sealed))
			b.SetBytes(1400)
			b.ReportAllocs()
			for b.Loop() {
				copy(pkt, sealed)
				if _, err := c.Open(&w, pkt, 8, 0, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
