package aead

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"strings"
	"testing"

	"iked/crypto/suite"
	"iked/internal/vectors"
)

// check seals aad | iv | text and compares it with ct | tag, then opens that.
// A vector that is not valid must fail to open.
func check(t *testing.T, what string, c *Cipher, aad, iv, text, ct, tag []byte, valid bool) {
	t.Helper()
	if len(iv) != c.IVLen() || len(tag) != c.ICVLen() {
		t.Fatalf("%s: IV of %d and tag of %d octets", what, len(iv), len(tag))
	}
	var w Scratch
	hdr, hi, esn := aad, uint32(0), false
	if len(aad) == 12 {
		// SPI | SeqHi | SeqLo: the high half is not on the wire.
		hdr, hi, esn = append(bytes.Clone(aad[:4]), aad[8:]...), binary.BigEndian.Uint32(aad[4:]), true
	}
	wire := bytes.Join([][]byte{hdr, iv, ct, tag}, nil)
	if valid {
		b := bytes.Join([][]byte{hdr, iv, text, make([]byte, len(tag))}, nil)
		c.Seal(&w, b, len(hdr), hi, esn)
		if !bytes.Equal(b, wire) {
			t.Errorf("%s: sealed %x, want %x", what, b, wire)
		}
	}
	got, err := c.Open(&w, bytes.Clone(wire), len(hdr), hi, esn)
	switch {
	case valid && (err != nil || !bytes.Equal(got, text)):
		t.Errorf("%s: opened %x (%v), want %x", what, got, err, text)
	case !valid && err == nil:
		t.Errorf("%s: a forgery was opened", what)
	}
}

func cipherFor(t *testing.T, e, i suite.Transform, keys ...[]byte) *Cipher {
	t.Helper()
	_, il, err := KeyLens(e, i)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(e, i, bytes.Join(keys, nil), make([]byte, il))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type aeadVector struct {
	TcID                       int
	Comment                    string
	Key, IV, AAD, Msg, CT, Tag vectors.Hex
	Valid                      bool
}

// Wycheproof and NIST: the 96-bit nonce is the salt and the IV, tags of 64, 96
// and 128 bits, forgeries included.
func TestAEADVectors(t *testing.T) {
	for _, f := range []string{
		"wycheproof_aes_gcm.json", "wycheproof_chacha20_poly1305.json",
		"nist_gcmEncryptExtIV128.json", "nist_gcmEncryptExtIV256.json", "nist_gcmDecrypt128.json",
	} {
		ran, forged := 0, 0
		for _, v := range vectors.Load[aeadVector](t, f) {
			e := encr(suite.EncrAESGCM16, len(v.Key)*8)
			switch {
			case strings.Contains(f, "chacha"):
				e = encr(suite.EncrChaCha20Poly1305, 0)
			case len(v.Tag) == 8:
				e.ID = suite.EncrAESGCM8
			case len(v.Tag) == 12:
				e.ID = suite.EncrAESGCM12
			}
			c := cipherFor(t, e, none, v.Key, v.IV[:4])
			check(t, f, c, v.AAD, v.IV[4:], v.Msg, v.CT, v.Tag, v.Valid)
			if ran++; !v.Valid {
				forged++
			}
		}
		t.Logf("%s: %d, of which %d forged", f, ran, forged)
	}
}

type espVector struct {
	Name                               string
	Key, Salt, IV, AAD                 vectors.Hex
	Plaintext, Ciphertext, ICV, Packet vectors.Hex
	SPI, Seq                           uint32
	Valid                              bool
}

// ESP and IKE with AES-GCM, ChaCha20-Poly1305 and AES-GMAC: RFC 4106, RFC 7634
// Appendices A and B, RFC 4543; with 64-bit sequence numbers among them.
func TestESPVectors(t *testing.T) {
	esn := 0
	for _, v := range vectors.Load[espVector](t, "rfc4106.json") {
		if len(v.AAD) == 12 {
			esn++
		}
		c := cipherFor(t, encr(suite.EncrAESGCM16, len(v.Key)*8), none, v.Key, v.Salt)
		check(t, "RFC 4106", c, v.AAD, v.IV, v.Plaintext, v.Ciphertext, v.ICV, true)
	}
	if esn == 0 {
		t.Error("no vector with ESN")
	}
	for _, v := range vectors.Load[espVector](t, "rfc7634.json") {
		c := cipherFor(t, encr(suite.EncrChaCha20Poly1305, 0), none, v.Key, v.Salt)
		check(t, v.Name, c, v.AAD, v.IV, v.Plaintext, v.Ciphertext, v.ICV, true)
	}
	for _, v := range vectors.Load[espVector](t, "rfc4543.json") {
		c := cipherFor(t, encr(suite.EncrNullAESGMAC, len(v.Key)*8), none, v.Key, v.Salt)
		check(t, "RFC 4543", c, v.AAD, v.IV, v.Plaintext, v.Plaintext, v.ICV, v.Valid)
	}
}

// The unauthenticated modes are checked by their ciphertext, under any MAC.
func TestModes(t *testing.T) {
	sealed := func(c *Cipher, hdr, iv, text []byte) []byte {
		b := bytes.Join([][]byte{hdr, iv, text, make([]byte, c.ICVLen())}, nil)
		c.Seal(&Scratch{}, b, len(hdr), 0, false)
		got, err := c.Open(&Scratch{}, bytes.Clone(b), len(hdr), 0, false)
		if err != nil || !bytes.Equal(got, text) {
			t.Errorf("opened %x (%v), want %x", got, err, text)
		}
		return b[:len(b)-c.ICVLen()]
	}
	sha := integOf(suite.IntegHMACSHA256)
	for _, v := range vectors.Load[espVector](t, "rfc3602.json") {
		c := cipherFor(t, encr(suite.EncrAESCBC, 128), sha, v.Key)
		hdr := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, v.SPI), v.Seq)
		if got := sealed(c, hdr, v.IV, v.Plaintext); !bytes.HasSuffix(v.Packet, got) || len(v.Packet) != 20+len(got) {
			t.Errorf("%s: %x, want the end of %x", v.Name, got, v.Packet)
		}
	}
	for _, v := range vectors.Load[espVector](t, "rfc3686.json") {
		c := cipherFor(t, encr(suite.EncrAESCTR, (len(v.Key)-4)*8), sha, v.Key)
		if got := sealed(c, nil, v.IV, v.Plaintext); !bytes.Equal(got[8:], v.Ciphertext) {
			t.Errorf("RFC 3686: %x, want %x", got[8:], v.Ciphertext)
		}
	}
	for _, v := range vectors.Load[espVector](t, "des3.json") {
		c := cipherFor(t, encr(suite.Encr3DES, 0), sha, v.Key)
		if got := sealed(c, nil, v.IV, v.Plaintext); !bytes.Equal(got[8:], v.Ciphertext) {
			t.Errorf("3DES: %x, want %x", got[8:], v.Ciphertext)
		}
	}
	for _, v := range vectors.Load[aeadVector](t, "wycheproof_aes_cbc_pkcs5.json") {
		c := cipherFor(t, encr(suite.EncrAESCBC, len(v.Key)*8), sha, v.Key)
		pad := 16 - len(v.Msg)%16
		text := append(bytes.Clone(v.Msg), bytes.Repeat([]byte{byte(pad)}, pad)...)
		if got := sealed(c, nil, v.IV, text); !bytes.Equal(got[16:], v.CT) {
			t.Errorf("AES-CBC %d: %x, want %x", v.TcID, got[16:], v.CT)
		}
	}
}

// AES-CTR equals the library's stream at every length (RFC 3686, Section 4).
func TestCTRStream(t *testing.T) {
	key, iv := fill(3, 36), fill(4, 8)
	c := cipherFor(t, encr(suite.EncrAESCTR, 256), integOf(suite.IntegHMACSHA256), key)
	blk, err := aes.NewCipher(key[:32])
	if err != nil {
		t.Fatal(err)
	}
	for n := range 300 {
		text := fill(uint64(n), n)
		want := make([]byte, n)
		cipher.NewCTR(blk, bytes.Join([][]byte{key[32:], iv, {0, 0, 0, 1}}, nil)).XORKeyStream(want, text)
		b := bytes.Join([][]byte{make([]byte, 8), iv, text, make([]byte, c.ICVLen())}, nil)
		c.Seal(&Scratch{}, b, 8, 0, false)
		if got := b[16 : 16+n]; !bytes.Equal(got, want) {
			t.Fatalf("%d octets: %x, want %x", n, got, want)
		}
	}
}

// Whole ESP packets from another program, with and without ESN: the ICV covers
// what RFC 4303, Sections 2.2.1 and 3.3.2, says, and fails without the high half.
func TestESPPackets(t *testing.T) {
	type vector struct {
		Crypt     string
		CryptKey  vectors.Hex `json:"crypt_key"`
		Auth      string
		AuthKey   vectors.Hex `json:"auth_key"`
		ESN       bool
		ESNHi     uint32      `json:"esn_hi"`
		ICVLen    int         `json:"icv_len"`
		Packet    vectors.Hex `json:"esp_from_spi"`
		Plaintext vectors.Hex `json:"decrypted_with_trailer"`
	}
	withESN := map[string]bool{}
	for _, v := range vectors.Load[vector](t, "esp_generated.json") {
		p := pair{integ: map[string]suite.Transform{
			"SHA2-256-128": integOf(suite.IntegHMACSHA256), "HMAC-SHA1-96": integOf(suite.IntegHMACSHA1_96),
			"SHA2-512-256": integOf(suite.IntegHMACSHA512),
		}[v.Auth]}
		switch v.Crypt {
		case "AES-CBC":
			p.encr = encr(suite.EncrAESCBC, len(v.CryptKey)*8)
		case "NULL":
			p.encr = encr(suite.EncrNull, 0)
		case "AES-GCM":
			p.encr = encr(suite.EncrAESGCM16, (len(v.CryptKey)-4)*8)
		default:
			t.Fatalf("unknown cipher %q", v.Crypt)
		}
		c, err := New(p.encr, p.integ, v.CryptKey, v.AuthKey)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Open(&Scratch{}, bytes.Clone(v.Packet), 8, v.ESNHi, v.ESN)
		if err != nil || !bytes.Equal(got, v.Plaintext) {
			t.Errorf("%v, ESN %v: %x (%v), want %x", p, v.ESN, got, err, v.Plaintext)
		}
		b := bytes.Clone(v.Packet)
		copy(b[8+c.IVLen():], v.Plaintext)
		c.Seal(&Scratch{}, b, 8, v.ESNHi, v.ESN)
		if !bytes.Equal(b, v.Packet) {
			t.Errorf("%v, ESN %v: sealed %x, want %x", p, v.ESN, b, v.Packet)
		}
		if v.ESN {
			withESN[v.Crypt] = true
			if _, err := c.Open(&Scratch{}, bytes.Clone(v.Packet), 8, v.ESNHi, false); err == nil {
				t.Errorf("%v: passes without the high half", p)
			}
		}
	}
	if len(withESN) != 3 {
		t.Errorf("ESN was checked for %v only", withESN)
	}
}
