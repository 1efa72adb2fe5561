package aead

import (
	"crypto/subtle"
	"encoding/binary"
)

// nonce is salt | IV (RFC 4106, Section 4; RFC 7634, Section 2).
func (c *Cipher) nonce(w *Scratch, b []byte, hdr int) []byte {
	copy(w.nonce[:4], c.nonceSalt[:])
	copy(w.nonce[4:], b[hdr:hdr+8])
	return w.nonce[:]
}

// header is the associated data of a combined-mode cipher: the header as it
// stands, or with ESN SPI | SeqHi | SeqLo (RFC 4106, Section 5).
func (w *Scratch) header(b []byte, hdr int, seqHi uint32, esn bool) []byte {
	if !esn {
		return b[:hdr]
	}
	copy(w.aad[:4], b[:4])
	binary.BigEndian.PutUint32(w.aad[4:8], seqHi)
	copy(w.aad[8:], b[4:8])
	return w.aad[:]
}

// whole is the associated data of AES-GMAC: header, IV and payload, with ESN
// the high half after the SPI (RFC 4543, Section 3.3).
func (w *Scratch) whole(b []byte, seqHi uint32, esn bool) []byte {
	if !esn {
		return b
	}
	out := w.grow(len(b) + 4)
	copy(out, b[:4])
	binary.BigEndian.PutUint32(out[4:8], seqHi)
	copy(out[8:], b[4:])
	return out
}

// tail is the high half of the sequence number at the end of the input of a
// separate MAC (RFC 4303, Section 2.2.1).
func (w *Scratch) tail(seqHi uint32, esn bool) []byte {
	if !esn {
		return nil
	}
	binary.BigEndian.PutUint32(w.hi[:], seqHi)
	return w.hi[:]
}

// grow gives n octets of working memory, allocating only the first times.
func (w *Scratch) grow(n int) []byte {
	if cap(w.buf) < n {
		w.buf = make([]byte, max(n, 2048))
	}
	return w.buf[:n]
}

// sealShort makes AES-GCM with an ICV shorter than the tag, in working memory.
// The library has no tag of 8 octets, and its Seal with one of 12 writes up to
// three octets past the end where processors have AES instructions (Go 1.26).
func (c *Cipher) sealShort(w *Scratch, b []byte, hdr int, seqHi uint32, esn bool) {
	text := b[hdr+c.iv : len(b)-c.icv]
	nonce, aad := c.nonce(w, b, hdr), w.header(b, hdr, seqHi, esn)
	out := c.aead.Seal(w.grow(len(text) + 16)[:0], nonce, text, aad)
	copy(b[hdr+c.iv:], out[:len(text)+c.icv])
}

// openShort undoes sealShort. The keystream turns the ciphertext into the
// plaintext; sealing that again gives the whole tag to compare. b changes only
// after the check.
func (c *Cipher) openShort(w *Scratch, b []byte, hdr int, seqHi uint32, esn bool) ([]byte, error) {
	start, n := hdr+c.iv, len(b)-c.icv
	text := b[start:n]
	nonce, aad := c.nonce(w, b, hdr), w.header(b, hdr, seqHi, esn)
	size := len(text) + 16
	buf := w.grow(2 * size)
	plain := c.aead.Seal(buf[:0:size], nonce, text, aad)[:len(text)]
	again := c.aead.Seal(buf[size:size], nonce, plain, aad)
	if !equal(again[len(text):len(text)+c.icv], b[n:]) {
		clear(plain)
		return nil, ErrICV
	}
	copy(text, plain)
	return text, nil
}

// xorCTR is AES-CTR with the counter block nonce | IV | 1 (RFC 3686, Section 4).
// The library's CTR allocates for each packet. AES-GCM over the same nonce masks
// its tag with that first block and encrypts with the following ones (NIST SP
// 800-38D, Section 7.1), so it gives the rest of the keystream, in working memory
// because of its tag.
func (c *Cipher) xorCTR(w *Scratch, b []byte, hdr int) {
	nonce, text := c.nonce(w, b, hdr), b[hdr+c.iv:len(b)-c.icv]
	copy(w.ctr[:], nonce)
	binary.BigEndian.PutUint32(w.ctr[12:], 1)
	c.blk.Encrypt(w.ctr[:], w.ctr[:])
	rest := text[subtle.XORBytes(text, text, w.ctr[:]):]
	if len(rest) > 0 {
		copy(rest, c.aead.Seal(w.grow(len(rest) + 16)[:0], nonce, rest, nil)[:len(rest)])
	}
}

func equal(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
