package krb5

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des" //nolint:gosec // des3-cbc-sha1-kd is used when named only
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // RFC 3961's pseudo-random hashes with SHA-1
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"hash"
	"math/bits"

	"iked/kink"
)

// PRF is pseudo-random of RFC 3961, Section 3. The library's is wrong for all types
// but 3DES.
func (k Key) PRF(form kink.PRFForm, b []byte) ([]byte, error) {
	switch k.etype {
	case DES3:
		block, err := des.NewTripleDESCipher(k.derive("prf"))
		if err != nil {
			return nil, err
		}
		// RFC 3961, Section 5.3: tmp1 truncated to a multiple of m, which is 8.
		sum := sha1.Sum(b)
		out := sum[:16]
		cipher.NewCBCEncrypter(block, make([]byte, 8)).CryptBlocks(out, out)
		return out, nil
	case AES128, AES256:
		block, err := aes.NewCipher(k.derive("prf"))
		if err != nil {
			return nil, err
		}
		sum := sha1.Sum(b)
		if form != kink.PRFRacoon2 {
			// One block with ciphertext stealing is the block.
			block.Encrypt(sum[:16], sum[:16])
			return sum[:16], nil
		}
		// RFC 3962, Section 5: the last two blocks change places, the last is cut.
		var c1, c2 [16]byte
		block.Encrypt(c1[:], sum[:16])
		copy(c2[:], c1[:])
		for i, v := range sum[16:] {
			c2[i] ^= v
		}
		block.Encrypt(c2[:], c2[:])
		return append(c2[:], c1[:4]...), nil
	case SHA256:
		return k.kdf2(sha256.New, b, 256), nil
	case SHA384:
		return k.kdf2(sha512.New384, b, 384), nil
	}
	return nil, errors.New("no key")
}

// kdf2 is KDF-HMAC-SHA2(key, "prf", octet-string, size) of RFC 8009, Sections 3 and 5:
// HMAC(key, 00000001 | "prf" | 00 | octet-string | size in bits).
func (k Key) kdf2(h func() hash.Hash, b []byte, size uint32) []byte {
	m := hmac.New(h, k.value.Reveal())
	m.Write([]byte{0, 0, 0, 1, 'p', 'r', 'f', 0})
	m.Write(b)
	m.Write(binary.BigEndian.AppendUint32(nil, size))
	return m.Sum(nil)
}

// derive is DK(key, constant) of RFC 3961, Section 5.1, for 3DES and AES of RFC 3962.
func (k Key) derive(constant string) []byte {
	key := k.value.Reveal()
	var block cipher.Block
	var err error
	n := len(key)
	if k.etype == DES3 {
		block, err = des.NewTripleDESCipher(key)
		n = 21
	} else {
		block, err = aes.NewCipher(key)
	}
	if err != nil {
		return nil // the size of a Key is right
	}
	var out []byte
	for in := nfold([]byte(constant), block.BlockSize()); len(out) < n; {
		block.Encrypt(in, in)
		out = append(out, in...)
	}
	if k.etype == DES3 {
		return des3Key(out[:21])
	}
	return out[:n]
}

// des3Key is random-to-key of RFC 3961, Section 6.3.1: the eighth octet of each DES
// key has the lowest bits of the seven before, and the lowest bit makes odd parity.
func des3Key(b []byte) []byte {
	out := make([]byte, 0, 24)
	for i := 0; i < 21; i += 7 {
		var last byte
		for j, v := range b[i : i+7] {
			last |= v & 1 << (j + 1)
			out = append(out, v)
		}
		out = append(out, last)
		d := out[len(out)-8:]
		for j := range d {
			d[j] &^= 1
			d[j] |= byte(bits.OnesCount8(d[j])&1) ^ 1
		}
		if weakDES(d) {
			d[7] ^= 0xf0
		}
	}
	return out
}

// weakDES tells a weak or semi-weak key of DES with its parity.
func weakDES(k []byte) bool {
	switch binary.BigEndian.Uint64(k) {
	case 0x0101010101010101, 0xfefefefefefefefe, 0xe0e0e0e0f1f1f1f1, 0x1f1f1f1f0e0e0e0e,
		0x011f011f010e010e, 0x1f011f010e010e01, 0x01e001e001f101f1, 0xe001e001f101f101,
		0x01fe01fe01fe01fe, 0xfe01fe01fe01fe01, 0x1fe01fe00ef10ef1, 0xe01fe01ff10ef10e,
		0x1ffe1ffe0efe0efe, 0xfe1ffe1ffe0efe0e, 0xe0fee0fef1fef1fe, 0xfee0fee0fef1fef1:
		return true
	}
	return false
}

// nfold is n-fold of RFC 3961, Section 5.1, to n octets: copies of the input, each
// rotated right by 13 bits more than the one before, are added in ones' complement
// in pieces of n octets, until their length is a multiple of both.
func nfold(in []byte, n int) []byte {
	size := len(in)
	total := size * n / gcd(size, n)
	sum := make([]uint, n)
	for i := range total {
		// Octet i of the copies: bit b of copy c is bit b-13c of the input.
		c, at := i/size, i%size*8
		var v uint
		for b := range 8 {
			bit := ((at+b-13*c)%(size*8) + size*8) % (size * 8)
			v = v<<1 | uint(in[bit/8]>>(7-bit%8)&1)
		}
		sum[i%n] += v
	}
	// The carries go up, and around the end.
	for carry := true; carry; {
		carry = false
		for i := n - 1; i >= 0; i-- {
			if over := sum[i] >> 8; over != 0 {
				sum[i] &= 0xff
				sum[(i+n-1)%n] += over
				carry = true
			}
		}
	}
	out := make([]byte, n)
	for i, v := range sum {
		out[i] = byte(v)
	}
	return out
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
