package integ

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
	"sync"

	"iked/crypto/suite"
)

// GMACIVLen is the length of the IV that a GMAC carries in octets.
const GMACIVLen = 8

// gmacSaltLen is what follows the AES key in the key material.
const gmacSaltLen = 4

const gmacTagLen = 16

// GMAC is AES-GMAC as the integrity algorithm of AH (RFC 4543, Section 4). Unlike
// a MAC it needs an IV that never repeats under the key, which goes onto the wire
// in front of the tag; AH alone has room for it, so that ESP and IKE cannot use
// it as an INTEG transform. It is immutable and safe for concurrent use.
type GMAC struct {
	aead cipher.AEAD
	salt [gmacSaltLen]byte
	pool sync.Pool // of *gmacState
}

type gmacState struct {
	nonce [gmacSaltLen + GMACIVLen]byte
	tag   [gmacTagLen]byte
	data  []byte
}

// GMACLens returns the length of the key material, salt included, and of IV and
// tag together, in octets. ok is false for what is no GMAC.
func GMACLens(id uint16) (key, icv int, ok bool) {
	switch id {
	case suite.IntegAES128GMAC:
		key = 16
	case suite.IntegAES192GMAC:
		key = 24
	case suite.IntegAES256GMAC:
		key = 32
	default:
		return 0, 0, false
	}
	return key + gmacSaltLen, GMACIVLen + gmacTagLen, true
}

// LensAH is Lens for AH, which has AES-GMAC too: with its salt and its IV.
func LensAH(id uint16) (key, icv int, err error) {
	if key, icv, ok := GMACLens(id); ok {
		return key, icv, nil
	}
	return Lens(id)
}

// HeaderAH is the length of an AH header with an ICV, of AES-GMAC with its IV, of
// icv octets: padding brings it to four octets in IPv4 and to eight in IPv6 (RFC
// 4302, Section 2.6).
func HeaderAH(icv int, v6 bool) int {
	const fixed = 12 // what comes before the ICV (RFC 4302, Section 2)
	if v6 {
		return (fixed + icv + 7) &^ 7
	}
	return (fixed + icv + 3) &^ 3
}

// NewGMAC makes a GMAC; key is the AES key and the salt, with exactly the length
// that GMACLens gives.
func NewGMAC(id uint16, key []byte) (*GMAC, error) {
	n, _, ok := GMACLens(id)
	t := suite.Transform{Type: suite.INTEG, ID: id}
	switch {
	case !ok:
		return nil, fmt.Errorf("integrity algorithm %v is no AES-GMAC", t)
	case len(key) != n:
		return nil, fmt.Errorf("integrity algorithm %v: key and salt have %d octets, expected %d", t, len(key), n)
	}
	b, err := aes.NewCipher(key[:n-gmacSaltLen])
	if err != nil {
		return nil, err
	}
	g := &GMAC{}
	if g.aead, err = cipher.NewGCM(b); err != nil {
		return nil, err
	}
	copy(g.salt[:], key[n-gmacSaltLen:])
	g.pool.New = func() any { return new(gmacState) }
	return g, nil
}

// ICVLen is the length of IV and tag in octets.
func (g *GMAC) ICVLen() int { return GMACIVLen + gmacTagLen }

// Sum writes the tag over the parts behind the IV that is in icv already.
func (g *GMAC) Sum(icv []byte, parts ...[]byte) {
	s := g.run(icv[:GMACIVLen], parts)
	copy(icv[GMACIVLen:], s.tag[:])
	g.pool.Put(s)
}

// Verify compares the tag behind the IV with that over the parts, in constant
// time.
func (g *GMAC) Verify(icv []byte, parts ...[]byte) bool {
	if len(icv) != g.ICVLen() {
		return false
	}
	s := g.run(icv[:GMACIVLen], parts)
	ok := subtle.ConstantTimeCompare(icv[GMACIVLen:], s.tag[:]) == 1
	g.pool.Put(s)
	return ok
}

// run needs the input in one piece: the library takes associated data that way.
func (g *GMAC) run(iv []byte, parts [][]byte) *gmacState {
	s := g.pool.Get().(*gmacState)
	// RFC 4543, Section 3.2: the nonce is salt | IV.
	copy(s.nonce[:], g.salt[:])
	copy(s.nonce[gmacSaltLen:], iv)
	s.data = s.data[:0]
	for _, p := range parts {
		s.data = append(s.data, p...)
	}
	g.aead.Seal(s.tag[:0], s.nonce[:], nil, s.data)
	return s
}
