package ke

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"sync"

	"filippo.io/bigmod"

	"iked/crypto/suite"
	"iked/internal/secret"
)

// group is one MODP group. exponent is the length of the private value in
// bits: at least the larger estimate of RFC 3526, Section 8, that is twice the
// strength of the group. A longer one would be slower and no stronger.
type group struct {
	bits, exponent int
	prime          []byte
	modulus        *bigmod.Modulus
}

// load makes a group's constants once, on first use.
func load(bits, exponent int, prime string) func() *group {
	return sync.OnceValue(func() *group {
		b, err := hex.DecodeString(prime)
		if err != nil {
			panic("ke: " + err.Error()) // a constant of this package
		}
		m, err := bigmod.NewModulus(b)
		if err != nil {
			panic("ke: " + err.Error())
		}
		return &group{bits, exponent, b, m}
	})
}

var (
	modp1024 = load(1024, 256, prime1024)
	modp1536 = load(1536, 256, prime1536)
	modp2048 = load(2048, 320, prime2048)
	modp3072 = load(3072, 448, prime3072)
	modp4096 = load(4096, 512, prime4096)
	modp6144 = load(6144, 576, prime6144)
	modp8192 = load(8192, 640, prime8192)
)

func modpGroup(id uint16) *group {
	switch id {
	case suite.KEMODP1024:
		return modp1024()
	case suite.KEMODP1536:
		return modp1536()
	case suite.KEMODP2048:
		return modp2048()
	case suite.KEMODP3072:
		return modp3072()
	case suite.KEMODP4096:
		return modp4096()
	case suite.KEMODP6144:
		return modp6144()
	case suite.KEMODP8192:
		return modp8192()
	}
	return nil
}

type modpKey struct {
	g    *group
	priv []byte
}

// newMODP takes ownership of priv, big endian.
func newMODP(id uint16, g *group, priv []byte) (*KeyPair, error) {
	k := &modpKey{g, priv}
	two := make([]byte, g.bits/8)
	two[len(two)-1] = 2
	pub, err := k.power(two)
	if err != nil {
		return nil, fmt.Errorf("key exchange %v: %w", name(id), err)
	}
	return &KeyPair{group: id, public: pub, modp: k}, nil
}

// power is base^priv mod p in the length of the prime, in a time that depends
// only on the lengths.
func (k *modpKey) power(base []byte) ([]byte, error) {
	b, err := bigmod.NewNat().SetBytes(base, k.g.modulus)
	if err != nil {
		return nil, fmt.Errorf("the value is not below the prime")
	}
	return bigmod.NewNat().Exp(b, k.priv, k.g.modulus).Bytes(k.g.modulus), nil
}

func (k *modpKey) shared(id uint16, y []byte) (secret.Bytes, error) {
	if k.priv == nil {
		return secret.Bytes{}, fmt.Errorf("key exchange %v: the key pair was destroyed", name(id))
	}
	// RFC 6989, Section 2.1: 1 < y < p-1.
	if !k.g.valid(y) {
		return secret.Bytes{}, fmt.Errorf("%w: %v: the value is not between 1 and p-1", ErrPublic, name(id))
	}
	s, err := k.power(y)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %v: %w", ErrPublic, name(id), err)
	}
	return secret.New(s), nil
}

// valid compares public values only, so its time tells nothing.
func (g *group) valid(y []byte) bool {
	one := make([]byte, len(g.prime))
	one[len(one)-1] = 1
	last := bytes.Clone(g.prime)
	last[len(last)-1]-- // the primes are odd
	return bytes.Compare(y, one) > 0 && bytes.Compare(y, last) < 0
}
