package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Sign makes the AUTH data over the signed octets of RFC 7296, Section 2.15.
//
// peerHashes are those of the peer's SIGNATURE_HASH_ALGORITHMS; with a common one
// the method is 14 (RFC 7427, Section 4). Without, RSA signs with SHA-1 (method 1)
// and ECDSA by the curve (methods 9 to 11, RFC 4754); Ed25519 cannot.
func Sign(key *Key, want Constraints, peerHashes []uint16, octets []byte) (method uint8, auth []byte, err error) {
	kind, bits := key.Kind()
	if h, ok := chooseHash(kind, bits, want, peerHashes); ok {
		sig := signature{kind: kind, hash: h}
		if kind == KindRSA && want.PSS {
			sig.pss, sig.salt = true, cryptoHash(h).Size()
		}
		value, err := sig.sign(key.signer, octets)
		if err != nil {
			return 0, nil, err
		}
		alg := sig.appendAlgorithm(nil)
		auth = append([]byte{byte(len(alg))}, alg...)
		return MethodSignature, append(auth, value...), nil
	}
	switch kind {
	case KindRSA:
		if want.PSS || !allowed(want.Hashes, HashSHA1) {
			return 0, nil, errors.New("the peer offers no common hash algorithm (RFC 7427), and the configuration of local auth forbids the classic RSA signature with SHA-1")
		}
		auth, err = signature{kind: KindRSA, hash: HashSHA1}.sign(key.signer, octets)
		return MethodRSA, auth, err
	case KindECDSA:
		m, h, size := classicECDSA(bits)
		if !allowed(want.Hashes, h) {
			return 0, nil, fmt.Errorf("the peer offers no common hash algorithm (RFC 7427), and the configuration of local auth forbids the classic ECDSA signature with %s", hashName(h))
		}
		der, err := signature{kind: KindECDSA, hash: h}.sign(key.signer, octets)
		if err != nil {
			return 0, nil, err
		}
		auth, err = rawECDSA(der, size)
		return m, auth, err
	}
	return 0, nil, errors.New("an Ed25519 key signs only for peers that offer the Identity hash (RFC 8420), which this one does not; use an ECDSA or RSA key")
}

func allowed(list []uint16, h uint16) bool { return len(list) == 0 || slices.Contains(list, h) }

// chooseHash finds the hash of method 14: that which fits the key's strength
// first, then any other that both sides have.
func chooseHash(kind KeyKind, bits int, want Constraints, peer []uint16) (uint16, bool) {
	order := []uint16{HashSHA256, HashSHA384, HashSHA512}
	switch {
	case kind == KindEd25519:
		order = []uint16{HashIdentity}
	case kind == KindECDSA && bits == 384:
		order = []uint16{HashSHA384, HashSHA512, HashSHA256}
	case kind == KindECDSA && bits == 521:
		order = []uint16{HashSHA512, HashSHA384, HashSHA256}
	}
	for _, h := range order {
		if slices.Contains(peer, h) && (h == HashIdentity || allowed(want.Hashes, h)) {
			return h, true
		}
	}
	return 0, false
}

// classicECDSA is the table of RFC 4754, Section 3: size is that of r and of s.
func classicECDSA(bits int) (method uint8, hash uint16, size int) {
	switch bits {
	case 384:
		return MethodECDSA384, HashSHA384, 48
	case 521:
		return MethodECDSA521, HashSHA512, 66
	}
	return MethodECDSA256, HashSHA256, 32
}

func (s signature) sign(key crypto.Signer, octets []byte) ([]byte, error) {
	var opts crypto.SignerOpts = cryptoHash(s.hash)
	input := octets
	if s.kind == KindEd25519 {
		opts = crypto.Hash(0)
	} else {
		h := cryptoHash(s.hash).New()
		h.Write(octets)
		input = h.Sum(nil)
	}
	if s.pss {
		opts = &rsa.PSSOptions{SaltLength: s.salt, Hash: cryptoHash(s.hash)}
	}
	out, err := key.Sign(rand.Reader, input, opts)
	if err != nil {
		return nil, fmt.Errorf("signing with %s: %w", s, err)
	}
	return out, nil
}

// rawECDSA turns SEQUENCE { r, s } into r | s of fixed width (RFC 4754, Section 7).
func rawECDSA(der []byte, size int) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1Integer(r) || !seq.ReadASN1Integer(s) || !seq.Empty() ||
		r.Sign() <= 0 || s.Sign() <= 0 || r.BitLen() > 8*size || s.BitLen() > 8*size {
		return nil, errors.New("the ECDSA signature is not SEQUENCE { r, s } of the curve's size")
	}
	out := make([]byte, 2*size)
	r.FillBytes(out[:size])
	s.FillBytes(out[size:])
	return out, nil
}

// CheckAuth verifies the peer's AUTH data with the key of its certificate. The
// certificate must have been verified for the peer's identity before.
func CheckAuth(c *Cert, limits Constraints, method uint8, auth, octets []byte) *Failure {
	kind, bits, err := kindOf(c.X509.PublicKey)
	if err != nil {
		return fail(StepKey, err.Error(), "Give the peer a certificate with an RSA, ECDSA or Ed25519 key.")
	}
	bad := func(format string, a ...any) *Failure {
		return fail(StepSignature, fmt.Sprintf(format, a...), "Check that the peer signs with the private key of the certificate that it sends, and with an algorithm that this side allows.")
	}
	if len(auth) == 0 {
		return bad("the signature in the peer's AUTH payload is empty")
	}
	switch method {
	case MethodSignature:
		sig, value, err := splitAuth(auth)
		if err != nil {
			return bad("%v", err)
		}
		if sig.kind != kind {
			return bad("the peer's AUTH payload says %s, but its certificate has an %s key", sig, kind)
		}
		// RFC 7427, Section 4: only hashes that we announced.
		if !slices.Contains(SupportedHashes(), sig.hash) {
			return bad("the peer signed with %s, which is not accepted (RFC 8247, Section 3.2)", sig)
		}
		if f := checkHash(sig, limits, bad); f != nil {
			return f
		}
		if !sig.verify(c.X509.PublicKey, octets, value) {
			return bad("the peer's signature (%s) is wrong", sig)
		}
		return nil
	case MethodRSA:
		if kind != KindRSA {
			return bad("the peer's AUTH payload says RSA, but its certificate has an %s key", kind)
		}
		if limits.PSS {
			return bad("the peer signed with RSA PKCS#1 v1.5, but remote auth asks for RSASSA-PSS")
		}
		// RFC 7296, Section 3.8: SHA-1 by default; a SHA-2 DigestInfo is seen, too.
		for _, h := range []uint16{HashSHA1, HashSHA256, HashSHA384, HashSHA512} {
			sig := signature{kind: KindRSA, hash: h}
			if !sig.verify(c.X509.PublicKey, octets, auth) {
				continue
			}
			return checkHash(sig, limits, bad)
		}
		return bad("the peer's RSA signature is wrong")
	case MethodECDSA256, MethodECDSA384, MethodECDSA521:
		m, h, size := classicECDSA(bits)
		if kind != KindECDSA || m != method {
			return bad("the peer's AUTH payload has method %d, which does not belong to the %s-%d key of its certificate", method, kind, bits)
		}
		sig := signature{kind: KindECDSA, hash: h}
		if f := checkHash(sig, limits, bad); f != nil {
			return f
		}
		if len(auth) != 2*size {
			return bad("the peer's ECDSA signature has %d octets, expected %d", len(auth), 2*size)
		}
		r, s := new(big.Int).SetBytes(auth[:size]), new(big.Int).SetBytes(auth[size:])
		var b cryptobyte.Builder
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1BigInt(r); b.AddASN1BigInt(s) })
		if !sig.verify(c.X509.PublicKey, octets, b.BytesOrPanic()) {
			return bad("the peer's signature (%s) is wrong", sig)
		}
		return nil
	}
	return bad("the peer authenticated by method %d, which is not a signature that is supported", method)
}

func checkHash(s signature, limits Constraints, bad func(string, ...any) *Failure) *Failure {
	if s.kind != KindEd25519 && !allowed(limits.Hashes, s.hash) {
		return bad("the peer signed with %s, which the configuration of remote auth does not allow", s)
	}
	if s.kind == KindRSA && limits.PSS && !s.pss {
		return bad("the peer signed with %s, but remote auth asks for RSASSA-PSS", s)
	}
	return nil
}

func (s signature) verify(pub crypto.PublicKey, octets, value []byte) bool {
	if s.kind == KindEd25519 {
		p, ok := pub.(ed25519.PublicKey)
		return ok && len(p) == ed25519.PublicKeySize && ed25519.Verify(p, octets, value)
	}
	ch := cryptoHash(s.hash)
	h := ch.New()
	h.Write(octets)
	digest := h.Sum(nil)
	switch p := pub.(type) {
	case *rsa.PublicKey:
		if s.kind != KindRSA {
			return false
		}
		if s.pss {
			// A salt of 0 octets is a value of its own here, not "automatic".
			salt := s.salt
			if salt == 0 {
				return false
			}
			return rsa.VerifyPSS(p, ch, digest, value, &rsa.PSSOptions{SaltLength: salt}) == nil
		}
		return rsa.VerifyPKCS1v15(p, ch, digest, value) == nil
	case *ecdsa.PublicKey:
		return s.kind == KindECDSA && ecdsa.VerifyASN1(p, digest, value)
	}
	return false
}
