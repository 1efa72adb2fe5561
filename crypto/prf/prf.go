// Package prf has the pseudorandom functions of IKE (transform type 2) and
// prf+ of RFC 7296, Section 2.13.
package prf

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"

	"iked/crypto/internal/blockmac"
	"iked/crypto/suite"
)

// PRF is one pseudorandom function. It is immutable and safe for concurrent
// use; the zero value is not usable.
type PRF struct {
	id    uint16
	size  int
	hash  func() hash.Hash // HMAC
	block func(key []byte) (hash.Hash, error)
}

// New returns the PRF with a number of the IANA registry.
func New(id uint16) (PRF, error) {
	switch id {
	case suite.PRFHMACMD5:
		return PRF{id: id, size: md5.Size, hash: md5.New}, nil
	case suite.PRFHMACSHA1:
		return PRF{id: id, size: sha1.Size, hash: sha1.New}, nil
	case suite.PRFHMACSHA256:
		return PRF{id: id, size: sha256.Size, hash: sha256.New}, nil
	case suite.PRFHMACSHA384:
		return PRF{id: id, size: sha512.Size384, hash: sha512.New384}, nil
	case suite.PRFHMACSHA512:
		return PRF{id: id, size: sha512.Size, hash: sha512.New}, nil
	case suite.PRFAESXCBC:
		return PRF{id: id, size: blockmac.Size, block: blockmac.NewXCBC}, nil
	case suite.PRFAESCMAC:
		return PRF{id: id, size: blockmac.Size, block: blockmac.NewCMAC}, nil
	}
	return PRF{}, fmt.Errorf("PRF %v: this build does not implement it", suite.Transform{Type: suite.PRF, ID: id})
}

// ID is the number of the IANA registry.
func (p PRF) ID() uint16 { return p.id }

// Size is the preferred key length in octets, which is also the output length.
func (p PRF) Size() int { return p.size }

// FixedKey says that the PRF's key has a fixed size, so that SKEYSEED takes
// half of it from each nonce (RFC 7296, Section 2.14).
func (p PRF) FixedKey() bool { return p.block != nil }

// Sum is prf(key, data[0] | data[1] | ...), Size octets. Keys of any length are
// allowed; the AES PRFs shorten or pad them by RFC 4434, Section 2, and RFC
// 4615, Section 3.
func (p PRF) Sum(key []byte, data ...[]byte) []byte {
	h := p.keyed(key)
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum(make([]byte, 0, p.size))
}

// Plus is the first n octets of prf+(key, seed) of RFC 7296, Section 2.13. The
// counter is one octet, so n is at most 255 times Size.
func (p PRF) Plus(key, seed []byte, n int) ([]byte, error) {
	if n < 0 || n > 255*p.size {
		return nil, fmt.Errorf("prf+ of %v: %d octets wanted, at most %d exist (RFC 7296, Section 2.13)",
			suite.Transform{Type: suite.PRF, ID: p.id}, n, 255*p.size)
	}
	h := p.keyed(key)
	out := make([]byte, 0, n+p.size)
	var last []byte
	for i := 1; len(out) < n; i++ {
		h.Reset()
		h.Write(last)
		h.Write(seed)
		h.Write([]byte{byte(i)})
		out = h.Sum(out)
		last = out[len(out)-p.size:]
	}
	clear(out[n:])
	return out[:n:n], nil
}

func (p PRF) keyed(key []byte) hash.Hash {
	if p.block == nil {
		return hmac.New(p.hash, key)
	}
	if len(key) != blockmac.Size {
		var fixed [blockmac.Size]byte
		// RFC 4434, Section 2, pads a short key; RFC 4615, Section 3, does not.
		if len(key) < blockmac.Size && p.id == suite.PRFAESXCBC {
			copy(fixed[:], key)
		} else {
			h := p.mustBlock(fixed[:])
			h.Write(key)
			h.Sum(fixed[:0])
		}
		key = fixed[:]
	}
	return p.mustBlock(key)
}

func (p PRF) mustBlock(key []byte) hash.Hash {
	h, err := p.block(key)
	if err != nil {
		panic("prf: " + err.Error()) // the key has 16 octets
	}
	return h
}
