// Package pki is the public key half of authentication: certificates and
// private keys, the choice of an own certificate, the verification of a peer's
// chain, and the AUTH payload by RFC 7296, RFC 4754, RFC 7427 and RFC 8420. It
// uses only Go's own cryptography and never fetches anything from the network.
package pki

import (
	"crypto"
	"crypto/x509"
)

// Cert is a parsed X.509 certificate. It is immutable.
type Cert struct {
	X509 *x509.Certificate
	// KeyID is the SHA-1 of the subjectPublicKey bits, which CERTREQ payloads
	// carry (over the whole SubjectPublicKeyInfo: see SPKIHash) and which the
	// control protocol calls the key.
	KeyID [20]byte
	// SPKIHash is the SHA-1 of the DER SubjectPublicKeyInfo: what a CERTREQ payload
	// holds (RFC 7296, Section 3.7).
	SPKIHash [20]byte
	// Source is the file it came from, "" otherwise.
	Source string
}

// Key is a private key. It prints as its kind and key id only.
type Key struct {
	signer crypto.Signer
	// KeyID is that of the public half, as in Cert.
	KeyID  [20]byte
	Source string
}

// CRL is a parsed certificate revocation list. It is immutable.
type CRL struct {
	List   *x509.RevocationList
	Source string
}

// Revocation is how much must be known about the revocation of a certificate.
type Revocation uint8

// Revocation choices: Relaxed refuses only what is proven revoked; IfURI also
// when the certificate names a CRL and none is there; Strict whenever no valid
// CRL tells.
const (
	Relaxed Revocation = iota
	IfURI
	Strict
)

// Constraints limit the keys and signatures of a peer; the zero value limits
// nothing beyond the defaults.
type Constraints struct {
	// Keys are the allowed kinds with their smallest sizes; none: all kinds.
	Keys []KeyConstraint
	// Hashes are the allowed hash algorithms of the AUTH signature, by the numbers
	// of the "IKEv2 Hash Algorithms" registry; none: all.
	Hashes []uint16
	// ChainHashes are those of the signatures on the certificates; none: all.
	ChainHashes []uint16
	// PSS: RSA signatures must be RSASSA-PSS.
	PSS bool
}

// KeyConstraint is a kind of key and its smallest size.
type KeyConstraint struct {
	Kind KeyKind
	Bits int // 0: the default minimum
}

// KeyKind is a kind of public key.
type KeyKind uint8

// Kinds.
const (
	KindRSA KeyKind = iota + 1
	KindECDSA
	KindEd25519
)
