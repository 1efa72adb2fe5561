// Package ke has the key exchange methods of IKE (transform type 4): MODP
// groups (RFC 2409, RFC 3526), ECP groups (RFC 5903) and Curve25519 (RFC 8031).
// Peers' values are checked by RFC 6989.
package ke

import (
	"crypto/ecdh"
	"errors"
	"fmt"
	"io"

	"iked/crypto/suite"
	"iked/internal/secret"
)

// ErrPublic is wrapped by every refusal of a peer's public value.
var ErrPublic = errors.New("unacceptable key exchange data")

// KeyPair is an ephemeral private key with its public value. It is immutable
// and safe for concurrent use until Destroy.
type KeyPair struct {
	group  uint16
	public []byte
	modp   *modpKey
	ec     *ecdh.PrivateKey
}

// Supported says whether the group is implemented.
func Supported(group uint16) bool { return PublicLen(group) != 0 }

// PublicLen is the length of the Key Exchange Data in octets (RFC 7296, Section
// 3.4), 0 for a group that is not implemented.
func PublicLen(group uint16) int {
	if g := modpGroup(group); g != nil {
		return g.bits / 8
	}
	switch group {
	case suite.KEECP256:
		return 2 * 32
	case suite.KEECP384:
		return 2 * 48
	case suite.KEECP521:
		return 2 * 66
	case suite.KEX25519:
		return 32
	}
	return 0
}

// Generate makes a key pair from rand, which must be cryptographically strong.
// The same octets give the same pair.
func Generate(group uint16, rand io.Reader) (*KeyPair, error) {
	if g := modpGroup(group); g != nil {
		priv := make([]byte, g.exponent/8)
		if _, err := io.ReadFull(rand, priv); err != nil {
			return nil, fmt.Errorf("key exchange %v: reading randomness: %w", name(group), err)
		}
		// The top bit makes the exponent full length, and never 0 or 1.
		priv[0] |= 0x80
		return newMODP(group, g, priv)
	}
	curve := curveOf(group)
	if curve == nil {
		return nil, fmt.Errorf("key exchange %v: this build does not implement it", name(group))
	}
	priv := make([]byte, (PublicLen(group)+1)/2)
	if group == suite.KEX25519 {
		priv = make([]byte, 32)
	}
	// A scalar of a NIST curve is refused when it is 0 or not below the order: at
	// worst once in 2^32 for P-256, and about every second time for P-521's top bit.
	for range 64 {
		if _, err := io.ReadFull(rand, priv); err != nil {
			return nil, fmt.Errorf("key exchange %v: reading randomness: %w", name(group), err)
		}
		if group == suite.KEECP521 {
			priv[0] &= 1
		}
		k, err := curve.NewPrivateKey(priv)
		if err != nil {
			continue
		}
		clear(priv)
		return newEC(group, k), nil
	}
	return nil, fmt.Errorf("key exchange %v: the source of randomness gave no usable key in 64 attempts", name(group))
}

// Group is the transform ID.
func (k *KeyPair) Group() uint16 { return k.group }

// Public is the Key Exchange Data to send: MODP values padded to the length of
// the prime (RFC 7296, Section 3.4), ECP points as x|y (RFC 5903, Section 7),
// Curve25519 as its 32 octets. The caller must not change it.
func (k *KeyPair) Public() []byte { return k.public }

// Shared computes g^ir from the peer's Key Exchange Data: MODP padded to the
// length of the prime, ECP the x coordinate only (RFC 5903, Section 7). A value
// that RFC 6989 or RFC 8031 forbids is an error that wraps ErrPublic.
func (k *KeyPair) Shared(peer []byte) (secret.Bytes, error) {
	if want := PublicLen(k.group); len(peer) != want {
		return secret.Bytes{}, fmt.Errorf("%w: %v has %d octets, expected %d", ErrPublic, name(k.group), len(peer), want)
	}
	if k.modp != nil {
		return k.modp.shared(k.group, peer)
	}
	if k.ec == nil {
		return secret.Bytes{}, fmt.Errorf("key exchange %v: the key pair was destroyed", name(k.group))
	}
	if k.group != suite.KEX25519 {
		// RFC 5903 leaves out the 0x04 of the uncompressed form.
		peer = append([]byte{4}, peer...)
	}
	// RFC 6989, Section 2.3: the point must be on the curve.
	pub, err := k.ec.Curve().NewPublicKey(peer)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %v: not a point of the curve", ErrPublic, name(k.group))
	}
	// RFC 8031: ECDH refuses the all-zero result.
	s, err := k.ec.ECDH(pub)
	if err != nil {
		return secret.Bytes{}, fmt.Errorf("%w: %v: a point of low order", ErrPublic, name(k.group))
	}
	return secret.New(s), nil
}

// Destroy forgets the private key; Shared fails afterwards. What crypto/ecdh
// holds is left to the garbage collector.
func (k *KeyPair) Destroy() {
	if k.modp != nil {
		clear(k.modp.priv)
		k.modp.priv = nil
	}
	k.ec = nil
}

func newEC(group uint16, k *ecdh.PrivateKey) *KeyPair {
	pub := k.PublicKey().Bytes()
	if group != suite.KEX25519 {
		pub = pub[1:]
	}
	return &KeyPair{group: group, public: pub, ec: k}
}

func curveOf(group uint16) ecdh.Curve {
	switch group {
	case suite.KEECP256:
		return ecdh.P256()
	case suite.KEECP384:
		return ecdh.P384()
	case suite.KEECP521:
		return ecdh.P521()
	case suite.KEX25519:
		return ecdh.X25519()
	}
	return nil
}

func name(group uint16) suite.Transform {
	return suite.Transform{Type: suite.KE, ID: group}
}
