// Package integ has the integrity algorithms of ESP, AH and IKE (transform
// type 3): a keyed MAC, truncated to the ICV.
package integ

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"
	"sync"

	"iked/crypto/internal/blockmac"
	"iked/crypto/suite"
)

type params struct {
	key, icv int              // octets
	hash     func() hash.Hash // HMAC
	block    func(key []byte) (hash.Hash, error)
}

// lookUp gives key and ICV lengths. RFC 4868, Section 2.1.1: keys of HMAC-SHA2
// have the length of the hash; RFC 2404, 3566, 4494 likewise fix theirs.
func lookUp(id uint16) (params, error) {
	switch id {
	case suite.IntegHMACMD5_96:
		return params{key: 16, icv: 12, hash: md5.New}, nil
	case suite.IntegHMACSHA1_96:
		return params{key: 20, icv: 12, hash: sha1.New}, nil
	case suite.IntegHMACSHA1_160:
		return params{key: 20, icv: 20, hash: sha1.New}, nil
	case suite.IntegHMACSHA256:
		return params{key: 32, icv: 16, hash: sha256.New}, nil
	case suite.IntegHMACSHA256_96:
		return params{key: 32, icv: 12, hash: sha256.New}, nil
	case suite.IntegHMACSHA384:
		return params{key: 48, icv: 24, hash: sha512.New384}, nil
	case suite.IntegHMACSHA512:
		return params{key: 64, icv: 32, hash: sha512.New}, nil
	case suite.IntegAESXCBC96:
		return params{key: 16, icv: 12, block: blockmac.NewXCBC}, nil
	case suite.IntegAESCMAC96:
		return params{key: 16, icv: 12, block: blockmac.NewCMAC}, nil
	}
	return params{}, fmt.Errorf("integrity algorithm %v: this build does not implement it",
		suite.Transform{Type: suite.INTEG, ID: id})
}

// Lens returns the key and ICV lengths of an algorithm in octets.
func Lens(id uint16) (key, icv int, err error) {
	p, err := lookUp(id)
	return p.key, p.icv, err
}

// MAC is one keyed algorithm. It is immutable and safe for concurrent use; in
// steady state it does not allocate.
type MAC struct {
	icv  int
	pool sync.Pool // of *state
}

type state struct {
	h   hash.Hash
	sum [64]byte
}

// New makes a MAC; key must have exactly the length that Lens gives.
func New(id uint16, key []byte) (*MAC, error) {
	p, err := lookUp(id)
	if err != nil {
		return nil, err
	}
	if len(key) != p.key {
		return nil, fmt.Errorf("integrity algorithm %v: key has %d octets, expected %d",
			suite.Transform{Type: suite.INTEG, ID: id}, len(key), p.key)
	}
	key = append([]byte(nil), key...)
	m := &MAC{icv: p.icv}
	if p.block != nil {
		if _, err := p.block(key); err != nil {
			return nil, err
		}
		m.pool.New = func() any {
			h, err := p.block(key)
			if err != nil {
				panic("integ: " + err.Error()) // the same key was accepted above
			}
			return &state{h: h}
		}
		return m, nil
	}
	m.pool.New = func() any { return &state{h: hmac.New(p.hash, key)} }
	return m, nil
}

// ICVLen is the length of the truncated MAC in octets.
func (m *MAC) ICVLen() int { return m.icv }

// Sum writes the ICV over the parts, one behind the other, into icv, which has
// ICVLen octets. The last part may be what goes into the MAC but not onto the
// wire (RFC 4303, Section 2.2.1).
func (m *MAC) Sum(icv []byte, parts ...[]byte) {
	s := m.run(parts)
	copy(icv[:m.icv], s.sum[:])
	m.pool.Put(s)
}

// Verify compares the ICV over the parts in constant time.
func (m *MAC) Verify(icv []byte, parts ...[]byte) bool {
	s := m.run(parts)
	ok := subtle.ConstantTimeCompare(icv, s.sum[:m.icv]) == 1
	m.pool.Put(s)
	return ok
}

func (m *MAC) run(parts [][]byte) *state {
	s := m.pool.Get().(*state)
	s.h.Reset()
	for _, p := range parts {
		s.h.Write(p)
	}
	s.h.Sum(s.sum[:0])
	return s
}
