// Package blockmac has the two block-cipher MACs of IPsec over AES-128:
// AES-CMAC (RFC 4493) and AES-XCBC-MAC (RFC 3566).
package blockmac

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"fmt"
	"hash"
)

// Size is the length of the whole MAC in octets.
const Size = aes.BlockSize

// mac is the chaining that CMAC and XCBC share: all blocks but the last go
// through CBC-MAC; the last is combined with whole, or, padded with 10*, with
// part.
type mac struct {
	block       cipher.Block
	whole, part [Size]byte

	x   [Size]byte // chaining value
	buf [Size]byte // the last block so far
	n   int        // octets in buf
}

// NewCMAC returns AES-CMAC of RFC 4493; key has 16, 24 or 32 octets.
func NewCMAC(key []byte) (hash.Hash, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-CMAC: %w", err)
	}
	m := &mac{block: b}
	// RFC 4493, Section 2.3: the subkeys are L doubled once and twice.
	var l [Size]byte
	b.Encrypt(l[:], l[:])
	double(&m.whole, &l)
	double(&m.part, &m.whole)
	return m, nil
}

// NewXCBC returns AES-XCBC-MAC of RFC 3566, whole 16 octets; key has 16.
func NewXCBC(key []byte) (hash.Hash, error) {
	if len(key) != 16 {
		return nil, fmt.Errorf("AES-XCBC-MAC: key has %d octets, expected 16", len(key))
	}
	k, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("AES-XCBC-MAC: %w", err)
	}
	// RFC 3566, Section 4: K1, K2, K3 encrypt 0x01, 0x02, 0x03 repeated.
	derive := func(v byte) (out [Size]byte) {
		for i := range out {
			out[i] = v
		}
		k.Encrypt(out[:], out[:])
		return out
	}
	k1 := derive(1)
	b, err := aes.NewCipher(k1[:])
	if err != nil {
		return nil, fmt.Errorf("AES-XCBC-MAC: %w", err)
	}
	return &mac{block: b, whole: derive(2), part: derive(3)}, nil
}

// double multiplies by x in GF(2^128) without a branch on the key.
func double(dst, src *[Size]byte) {
	msb := src[0] >> 7
	for i := range Size - 1 {
		dst[i] = src[i]<<1 | src[i+1]>>7
	}
	dst[Size-1] = src[Size-1]<<1 ^ msb*0x87
}

func (m *mac) Size() int      { return Size }
func (m *mac) BlockSize() int { return Size }

func (m *mac) Reset() {
	m.x, m.buf, m.n = [Size]byte{}, [Size]byte{}, 0
}

// Write holds the last whole block back, since Sum treats it differently.
func (m *mac) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		if m.n == Size {
			subtle.XORBytes(m.x[:], m.x[:], m.buf[:])
			m.block.Encrypt(m.x[:], m.x[:])
			m.n = 0
		}
		c := copy(m.buf[m.n:], p)
		m.n += c
		p = p[c:]
	}
	return total, nil
}

// Sum appends the MAC and leaves the state as it was.
func (m *mac) Sum(b []byte) []byte {
	start := len(b)
	b = append(b, m.x[:]...)
	out := b[start:]
	subtle.XORBytes(out, out, m.buf[:m.n])
	if m.n == Size {
		subtle.XORBytes(out, out, m.whole[:])
	} else {
		out[m.n] ^= 0x80
		subtle.XORBytes(out, out, m.part[:])
	}
	m.block.Encrypt(out, out)
	return b
}
