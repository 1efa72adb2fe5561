// Package aead protects ESP packets and the Encrypted payload of IKE with one
// interface, both for combined-mode ciphers and for encrypt-then-MAC (RFC 4303,
// Section 3.3.2; RFC 7296, Section 3.14; RFC 5282).
//
// A packet b is laid out as
//
//	[hdr octets, authenticated only][IV][plaintext][room for the ICV]
//
// and is worked on in place, without allocation.
package aead

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"iked/crypto/integ"
	"iked/crypto/suite"
)

// Errors of Open. Both mean that the packet must be dropped.
var (
	ErrICV    = errors.New("integrity check failed")
	ErrLength = errors.New("length does not fit the cipher")
)

// mode is how a cipher works on the payload.
type mode uint8

const (
	combined mode = iota // AEAD with a 16-octet ICV, which the library checks
	shortTag             // AES-GCM with an ICV of 8 or 12 octets
	gmac                 // AES-GMAC: nothing encrypted, all authenticated
	cbc
	ctr
	null
)

// params are the lengths of an encryption algorithm in octets.
type params struct {
	mode          mode
	key           int // with the salt
	salt, iv, icv int
	block         int
}

func lookUp(t suite.Transform) (params, error) {
	if t.Type == suite.ENCR && t.Implemented() {
		key := int(t.KeyBits) / 8
		switch t.ID {
		case suite.EncrAESGCM8: // RFC 4106, Sections 3, 6, 8.1
			return params{mode: shortTag, key: key + 4, salt: 4, iv: 8, icv: 8, block: 1}, nil
		case suite.EncrAESGCM12:
			return params{mode: shortTag, key: key + 4, salt: 4, iv: 8, icv: 12, block: 1}, nil
		case suite.EncrAESGCM16:
			return params{mode: combined, key: key + 4, salt: 4, iv: 8, icv: 16, block: 1}, nil
		case suite.EncrNullAESGMAC: // RFC 4543, Section 3
			return params{mode: gmac, key: key + 4, salt: 4, iv: 8, icv: 16, block: 1}, nil
		case suite.EncrChaCha20Poly1305: // RFC 7634, Section 2
			return params{mode: combined, key: 36, salt: 4, iv: 8, icv: 16, block: 1}, nil
		case suite.EncrAESCBC: // RFC 3602, Section 2
			return params{mode: cbc, key: key, iv: 16, block: 16}, nil
		case suite.Encr3DES: // RFC 2451, Section 2
			return params{mode: cbc, key: 24, iv: 8, block: 8}, nil
		case suite.EncrAESCTR: // RFC 3686, Sections 3 and 5.1
			return params{mode: ctr, key: key + 4, salt: 4, iv: 8, block: 1}, nil
		case suite.EncrNull: // RFC 2410
			return params{mode: null, block: 1}, nil
		}
	}
	return params{}, fmt.Errorf("encryption algorithm %v: this build does not implement it", t)
}

// KeyLens returns the lengths of the key material in octets: encrLen with the
// salt, integLen 0 for combined-mode ciphers. integ is the zero Transform or
// INTEG NONE when there is none. A pair that cannot protect is an error.
func KeyLens(encr, integrity suite.Transform) (encrLen, integLen int, err error) {
	p, err := lookUp(encr)
	if err != nil {
		return 0, 0, err
	}
	if integrity == (suite.Transform{}) {
		integrity.Type = suite.INTEG
	}
	if integrity.Type != suite.INTEG {
		return 0, 0, fmt.Errorf("integrity algorithm: found a transform of type %v", integrity.Type)
	}
	none := integrity.ID == suite.IntegNone
	switch {
	case encr.AEAD() && !none:
		// RFC 7296, Section 3.3: a combined-mode cipher has none beside it.
		return 0, 0, fmt.Errorf("%v carries its own integrity and cannot be used with %v", encr, integrity)
	case encr.AEAD():
		return p.key, 0, nil
	case none:
		// RFC 8221, Section 4: encryption must be authenticated.
		return 0, 0, fmt.Errorf("%v without an integrity algorithm is not allowed", encr)
	}
	integLen, _, err = integ.Lens(integrity.ID)
	return p.key, integLen, err
}

// Sizes returns the lengths in octets of the IV and the ICV on the wire, and of the
// block that the plaintext must fill. The pair is one that KeyLens accepts.
func Sizes(encr, integrity suite.Transform) (iv, icv, block int, err error) {
	_, il, err := KeyLens(encr, integrity)
	if err != nil {
		return 0, 0, 0, err
	}
	p, err := lookUp(encr)
	if err != nil {
		return 0, 0, 0, err
	}
	if il > 0 {
		_, p.icv, err = integ.Lens(integrity.ID)
	}
	return p.iv, p.icv, p.block, err
}

// Cipher is one direction of one SA's protection. It is immutable and safe for
// concurrent use, each user with its own Scratch.
type Cipher struct {
	params
	nonceSalt [4]byte

	aead     cipher.AEAD  // combined, shortTag, gmac, ctr
	blk      cipher.Block // ctr
	enc, dec sync.Pool    // cbc: of ivMode
	mac      *integ.MAC   // cbc, ctr, null
}

// ivMode is a CBC mode whose IV can be set, so that it is made once.
type ivMode interface {
	cipher.BlockMode
	SetIV([]byte)
}

// Scratch is the working memory of one goroutine. The zero value is ready.
type Scratch struct {
	nonce [12]byte
	aad   [12]byte
	hi    [4]byte
	ctr   [16]byte
	ks    [16]byte
	buf   []byte // shortTag, ctr, and gmac with ESN
}

// New makes a Cipher. encrKey ends with the salt, if the algorithm has one; both
// keys have exactly the lengths that KeyLens gives. The keys are copied.
func New(encr, integrity suite.Transform, encrKey, integKey []byte) (*Cipher, error) {
	el, il, err := KeyLens(encr, integrity)
	if err != nil {
		return nil, err
	}
	if len(encrKey) != el || len(integKey) != il {
		return nil, fmt.Errorf("%v and %v need keys of %d and %d octets, found %d and %d",
			encr, suite.Transform{Type: suite.INTEG, ID: integrity.ID}, el, il, len(encrKey), len(integKey))
	}
	c := &Cipher{}
	if c.params, err = lookUp(encr); err != nil {
		return nil, err
	}
	key := encrKey[:el-c.salt]
	copy(c.nonceSalt[:], encrKey[el-c.salt:])
	if err := c.setKey(encr, key); err != nil {
		return nil, fmt.Errorf("%v: %w", encr, err)
	}
	if il > 0 {
		if c.mac, err = integ.New(integrity.ID, integKey); err != nil {
			return nil, err
		}
		c.icv = c.mac.ICVLen()
	}
	return c, nil
}

func (c *Cipher) setKey(encr suite.Transform, key []byte) (err error) {
	switch {
	case c.mode == null:
		return nil
	case encr.ID == suite.EncrChaCha20Poly1305:
		c.aead, err = chacha20poly1305.New(key)
		return err
	case encr.ID == suite.Encr3DES:
		c.blk, err = des.NewTripleDESCipher(key)
	default:
		c.blk, err = aes.NewCipher(key)
	}
	if err != nil {
		return err
	}
	switch c.mode {
	case combined, shortTag, gmac, ctr:
		c.aead, err = cipher.NewGCM(c.blk)
		if c.mode != ctr {
			c.blk = nil // the key schedule is in the AEAD too
		}
	case cbc:
		zero := make([]byte, c.iv)
		blk := c.blk
		if _, ok := cipher.NewCBCEncrypter(blk, zero).(ivMode); !ok {
			return errors.New("the library's CBC cannot change its IV")
		}
		if _, ok := cipher.NewCBCDecrypter(blk, zero).(ivMode); !ok {
			return errors.New("the library's CBC cannot change its IV")
		}
		c.enc.New = func() any { return cipher.NewCBCEncrypter(blk, zero) }
		c.dec.New = func() any { return cipher.NewCBCDecrypter(blk, zero) }
	}
	return err
}

// IVLen is the length of the IV on the wire in octets.
func (c *Cipher) IVLen() int { return c.iv }

// ICVLen is the length of the ICV in octets.
func (c *Cipher) ICVLen() int { return c.icv }

// Block is the size in octets of which the plaintext must be a multiple.
func (c *Cipher) Block() int { return c.block }

// RandomIV says whether Seal needs an IV that nobody can predict (CBC). Other
// ciphers need one that never repeats under the key: see PutIV.
func (c *Cipher) RandomIV() bool { return c.mode == cbc }

// PutIV writes a counter as the IV of a counter-mode cipher into iv, which has
// IVLen octets. Each value may be used once per key (RFC 4106, Section 3.1).
// For the 8-octet IV of a counter mode this is the counter, big endian; without
// an IV (NULL) nothing is written. It must not be used where RandomIV is true.
func PutIV(iv []byte, counter uint64) {
	if len(iv) >= 8 {
		clear(iv[:len(iv)-8])
		binary.BigEndian.PutUint64(iv[len(iv)-8:], counter)
	}
}

// Seal encrypts and authenticates b in place; see the package for its layout.
// The IV is already there. With esn, hdr must be the 8 octets of an ESP header,
// and seqHi, the high half of the sequence number, is authenticated too (RFC
// 4303, Section 2.2.1; RFC 4106, Section 5). A b that is too short for its
// parts, or a plaintext that is not a multiple of Block, is an error of the
// caller and panics.
func (c *Cipher) Seal(w *Scratch, b []byte, hdr int, seqHi uint32, esn bool) {
	n := len(b) - c.icv
	start := hdr + c.iv
	if hdr < 0 || hdr > len(b) || n < start || (n-start)%c.block != 0 || esn && hdr != 8 {
		panic(fmt.Sprintf("aead: Seal of %d octets with header %d, IV %d, ICV %d, block %d, ESN %v", len(b), hdr, c.iv, c.icv, c.block, esn))
	}
	text := b[start:n]
	switch c.mode {
	case combined:
		c.aead.Seal(text[:0], c.nonce(w, b, hdr), text, w.header(b, hdr, seqHi, esn))
		return
	case shortTag:
		c.sealShort(w, b, hdr, seqHi, esn)
		return
	case gmac:
		c.aead.Seal(b[n:n], c.nonce(w, b, hdr), nil, w.whole(b[:n], seqHi, esn))
		return
	case cbc:
		m := c.enc.Get().(ivMode)
		m.SetIV(b[hdr:start])
		m.CryptBlocks(text, text)
		c.enc.Put(m)
	case ctr:
		c.xorCTR(w, b, hdr)
	}
	c.mac.Sum(b[n:], b[:n], w.tail(seqHi, esn))
}

// Open checks the ICV of b and then decrypts it in place; see Seal. The result
// is the plaintext inside b. After ErrICV the payload of b is undefined and
// must not be used. A forged b never panics.
func (c *Cipher) Open(w *Scratch, b []byte, hdr int, seqHi uint32, esn bool) ([]byte, error) {
	n := len(b) - c.icv
	start := hdr + c.iv
	if hdr < 0 || hdr > len(b) || n < start || (n-start)%c.block != 0 || esn && hdr != 8 {
		return nil, ErrLength
	}
	text := b[start:n]
	switch c.mode {
	case combined:
		out, err := c.aead.Open(text[:0], c.nonce(w, b, hdr), b[start:], w.header(b, hdr, seqHi, esn))
		if err != nil {
			return nil, ErrICV
		}
		return out, nil
	case shortTag:
		return c.openShort(w, b, hdr, seqHi, esn)
	case gmac:
		tag := c.aead.Seal(w.ks[:0], c.nonce(w, b, hdr), nil, w.whole(b[:n], seqHi, esn))
		if !equal(tag, b[n:]) {
			return nil, ErrICV
		}
		return text, nil
	}
	if !c.mac.Verify(b[n:], b[:n], w.tail(seqHi, esn)) {
		return nil, ErrICV
	}
	switch c.mode {
	case cbc:
		m := c.dec.Get().(ivMode)
		m.SetIV(b[hdr:start])
		m.CryptBlocks(text, text)
		c.dec.Put(m)
	case ctr:
		c.xorCTR(w, b, hdr)
	}
	return text, nil
}
