package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"math/big"
)

// CurveOf is the size in bits of the key's curve, 0 for an RSA key; IKEv1 names
// the method before it signs (RFC 4754, Section 3). Other keys have no method
// there.
func CurveOf(key *Key) (int, error) {
	switch kind, bits := key.Kind(); kind {
	case KindRSA:
		return 0, nil
	case KindECDSA:
		return bits, nil
	}
	return 0, errors.New("an Ed25519 key cannot sign in IKEv1, which has RSA and ECDSA; use another key, or version: 2")
}

// SignIKEv1 signs HASH_I or HASH_R. With RSA they are the message of PKCS #1
// itself, without an algorithm before it (RFC 2409, Section 5.1); with ECDSA they
// are the digest, and the result is r | s (RFC 4754, Section 7).
func SignIKEv1(key *Key, hash []byte) ([]byte, error) {
	sig, err := key.signer.Sign(rand.Reader, hash, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("signing for IKEv1: %w", err)
	}
	if kind, bits := key.Kind(); kind == KindECDSA {
		_, _, size := classicECDSA(bits)
		return rawECDSA(sig, size)
	}
	return sig, nil
}

// CheckIKEv1 verifies the peer's SIG payload over HASH_I or HASH_R with the key of
// its certificate, which must have been verified for the peer's identity before.
// method is that of phase 1: MethodECDSA256 and so on, or RSA.
func CheckIKEv1(c *Cert, limits Constraints, method uint8, sig, hash []byte) *Failure {
	bad := func(format string, a ...any) *Failure {
		return fail(StepSignature, fmt.Sprintf(format, a...), "Check that the peer signs with the private key of the certificate that it sends.")
	}
	kind, bits, err := kindOf(c.X509.PublicKey)
	if err != nil {
		return fail(StepKey, err.Error(), "Give the peer a certificate with an RSA or ECDSA key.")
	}
	if limits.PSS {
		return bad("remote auth asks for RSASSA-PSS, which IKEv1 does not have")
	}
	switch p := c.X509.PublicKey.(type) {
	case *rsa.PublicKey:
		if method != methodRSAv1 {
			return bad("phase 1 has method %d, but the peer's certificate has an RSA key", method)
		}
		if rsa.VerifyPKCS1v15(p, crypto.Hash(0), hash, sig) != nil {
			return bad("the peer's RSA signature is wrong")
		}
		return nil
	case *ecdsa.PublicKey:
		m, _, size := classicECDSA(bits)
		if m != method || len(sig) != 2*size {
			return bad("phase 1 has method %d and a signature of %d octets, which do not belong to the %s-%d key of the peer's certificate", method, len(sig), kind, bits)
		}
		if !ecdsa.Verify(p, hash, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:])) {
			return bad("the peer's ECDSA signature is wrong")
		}
		return nil
	}
	return bad("the peer's certificate has an %s key, which IKEv1 cannot use", kind)
}

// methodRSAv1 is RSA signatures in phase 1 (RFC 2409, Appendix A).
const methodRSAv1 = 3
