package pki

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Hash numbers of the "IKEv2 Hash Algorithms" registry (RFC 7427, Section 7;
// Identity is RFC 8420).
const (
	HashSHA1     uint16 = 1
	HashSHA256   uint16 = 2
	HashSHA384   uint16 = 3
	HashSHA512   uint16 = 4
	HashIdentity uint16 = 5
)

// SupportedHashes is what SIGNATURE_HASH_ALGORITHMS offers, best first. SHA-1 is
// not among them (RFC 8247, Section 3.1).
func SupportedHashes() []uint16 { return []uint16{HashSHA256, HashSHA384, HashSHA512, HashIdentity} }

// Auth methods of RFC 7296, Section 3.8, RFC 4754 and RFC 7427.
const (
	MethodRSA       uint8 = 1
	MethodECDSA256  uint8 = 9
	MethodECDSA384  uint8 = 10
	MethodECDSA521  uint8 = 11
	MethodSignature uint8 = 14
)

// signature is an AlgorithmIdentifier of RFC 7427, Appendix A, understood.
type signature struct {
	kind KeyKind
	pss  bool
	hash uint16
	salt int // of PSS, octets
}

func (s signature) String() string {
	switch {
	case s.kind == KindEd25519:
		return "Ed25519"
	case s.pss:
		return "RSASSA-PSS with " + hashName(s.hash)
	case s.kind == KindRSA:
		return "RSA (PKCS#1 v1.5) with " + hashName(s.hash)
	}
	return "ECDSA with " + hashName(s.hash)
}

func hashName(h uint16) string {
	switch h {
	case HashSHA1:
		return "SHA-1"
	case HashSHA256:
		return "SHA2-256"
	case HashSHA384:
		return "SHA2-384"
	case HashSHA512:
		return "SHA2-512"
	case HashIdentity:
		return "Identity"
	}
	return fmt.Sprintf("hash %d", h)
}

func cryptoHash(h uint16) crypto.Hash {
	switch h {
	case HashSHA1:
		return crypto.SHA1
	case HashSHA256:
		return crypto.SHA256
	case HashSHA384:
		return crypto.SHA384
	case HashSHA512:
		return crypto.SHA512
	}
	return 0
}

// algorithms maps the OIDs of RFC 7427, Appendix A, and RFC 8420 that carry the
// hash in themselves.
func algorithms(oid string) (signature, bool) {
	switch oid {
	case "1.2.840.113549.1.1.5":
		return signature{kind: KindRSA, hash: HashSHA1}, true
	case "1.2.840.113549.1.1.11":
		return signature{kind: KindRSA, hash: HashSHA256}, true
	case "1.2.840.113549.1.1.12":
		return signature{kind: KindRSA, hash: HashSHA384}, true
	case "1.2.840.113549.1.1.13":
		return signature{kind: KindRSA, hash: HashSHA512}, true
	case "1.2.840.10045.4.1":
		return signature{kind: KindECDSA, hash: HashSHA1}, true
	case "1.2.840.10045.4.3.2":
		return signature{kind: KindECDSA, hash: HashSHA256}, true
	case "1.2.840.10045.4.3.3":
		return signature{kind: KindECDSA, hash: HashSHA384}, true
	case "1.2.840.10045.4.3.4":
		return signature{kind: KindECDSA, hash: HashSHA512}, true
	case "1.3.101.112":
		return signature{kind: KindEd25519, hash: HashIdentity}, true
	}
	return signature{}, false
}

const oidPSS = "1.2.840.113549.1.1.10"

// splitAuth cuts the Authentication Data of method 14 (RFC 7427, Section 3):
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	| ASN.1 Length  | AlgorithmIdentifier ASN.1 object              |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~        AlgorithmIdentifier ASN.1 object continuing            ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	~                         Signature Value                       ~
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
func splitAuth(data []byte) (signature, []byte, error) {
	if len(data) == 0 {
		return signature{}, nil, errors.New("the AUTH payload is empty")
	}
	n := int(data[0])
	if len(data) < 1+n {
		return signature{}, nil, fmt.Errorf("the AUTH payload announces an AlgorithmIdentifier of %d octets and has %d", n, len(data)-1)
	}
	sig, err := parseAlgorithm(data[1 : 1+n])
	if err != nil {
		return signature{}, nil, err
	}
	if len(data) == 1+n {
		return signature{}, nil, errors.New("the AUTH payload has no signature after the AlgorithmIdentifier")
	}
	return sig, data[1+n:], nil
}

// parseAlgorithm reads an AlgorithmIdentifier. Absent and NULL parameters are
// both taken for RSA and ECDSA, as both are seen; anything else is refused.
func parseAlgorithm(der []byte) (signature, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1ObjectIdentifier(&oid) {
		return signature{}, errors.New("the AlgorithmIdentifier is not one DER SEQUENCE that begins with an OID")
	}
	if oid.String() == oidPSS {
		return parsePSS(seq)
	}
	sig, ok := algorithms(oid.String())
	if !ok {
		return signature{}, fmt.Errorf("signature algorithm %v is not supported", oid)
	}
	// RFC 8410, Section 3: no parameters with Ed25519.
	if !emptyOrNULL(seq) || sig.kind == KindEd25519 && !seq.Empty() {
		return signature{}, fmt.Errorf("signature algorithm %v has parameters that it must not have", oid)
	}
	return sig, nil
}

func emptyOrNULL(s cryptobyte.String) bool {
	if s.Empty() {
		return true
	}
	var null cryptobyte.String
	return s.ReadASN1(&null, cbasn1.NULL) && null.Empty() && s.Empty()
}

// parsePSS reads RSASSA-PSS-params (RFC 8017, Appendix A.2.3). Absent members
// have their defaults, which are SHA-1 and 20 octets of salt.
func parsePSS(in cryptobyte.String) (signature, error) {
	bad := errors.New("the RSASSA-PSS parameters are not DER as RFC 8017, Appendix A.2.3, has them")
	sig := signature{kind: KindRSA, pss: true, hash: HashSHA1, salt: 20}
	if in.Empty() {
		// RFC 8247, Section 3.2: empty parameters mean SHA-1 and must not be used.
		return sig, nil
	}
	var p cryptobyte.String
	if !in.ReadASN1(&p, cbasn1.SEQUENCE) || !in.Empty() {
		return signature{}, bad
	}
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	var part cryptobyte.String
	var has bool
	if !p.ReadOptionalASN1(&part, &has, tag(0)) {
		return signature{}, bad
	}
	if has {
		h, err := parseHash(&part)
		if err != nil {
			return signature{}, err
		}
		if !part.Empty() {
			return signature{}, bad
		}
		sig.hash = h
	}
	if !p.ReadOptionalASN1(&part, &has, tag(1)) {
		return signature{}, bad
	}
	mgf := HashSHA1
	if has {
		var alg cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !part.ReadASN1(&alg, cbasn1.SEQUENCE) || !part.Empty() || !alg.ReadASN1ObjectIdentifier(&oid) {
			return signature{}, bad
		}
		if oid.String() != "1.2.840.113549.1.1.8" {
			return signature{}, fmt.Errorf("RSASSA-PSS with the mask generation %v; only MGF1 is supported", oid)
		}
		h, err := parseHash(&alg)
		if err != nil {
			return signature{}, err
		}
		if !alg.Empty() {
			return signature{}, bad
		}
		mgf = h
	}
	if mgf != sig.hash {
		return signature{}, fmt.Errorf("RSASSA-PSS with %s for the message and %s for MGF1; both must be the same", hashName(sig.hash), hashName(mgf))
	}
	if !p.ReadOptionalASN1(&part, &has, tag(2)) {
		return signature{}, bad
	}
	if has && (!part.ReadASN1Integer(&sig.salt) || !part.Empty()) {
		return signature{}, bad
	}
	if sig.salt < 0 || sig.salt > 512 {
		return signature{}, fmt.Errorf("RSASSA-PSS with %d octets of salt", sig.salt)
	}
	if !p.ReadOptionalASN1(&part, &has, tag(3)) {
		return signature{}, bad
	}
	if has {
		var trailer int
		if !part.ReadASN1Integer(&trailer) || !part.Empty() || trailer != 1 {
			return signature{}, errors.New("RSASSA-PSS with a trailer field other than 1")
		}
	}
	if !p.Empty() {
		return signature{}, bad
	}
	return sig, nil
}

func parseHash(in *cryptobyte.String) (uint16, error) {
	var alg cryptobyte.String
	var oid asn1.ObjectIdentifier
	if !in.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) || !emptyOrNULL(alg) {
		return 0, errors.New("the hash algorithm of RSASSA-PSS is not DER")
	}
	switch oid.String() {
	case "1.3.14.3.2.26":
		return HashSHA1, nil
	case "2.16.840.1.101.3.4.2.1":
		return HashSHA256, nil
	case "2.16.840.1.101.3.4.2.2":
		return HashSHA384, nil
	case "2.16.840.1.101.3.4.2.3":
		return HashSHA512, nil
	}
	return 0, fmt.Errorf("hash algorithm %v is not supported", oid)
}

// appendAlgorithm writes the AlgorithmIdentifier with the octets of RFC 7427,
// Appendix A: NULL parameters for RSA, none for ECDSA and Ed25519.
func (s signature) appendAlgorithm(b []byte) []byte {
	rsaPrefix := []byte{0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01}
	switch {
	case s.kind == KindEd25519:
		return append(b, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70)
	case s.kind == KindECDSA:
		b = append(b, 0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03)
		return append(b, byte(s.hash))
	case s.pss:
		hash := []byte{0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, byte(s.hash - 1), 0x05, 0x00}
		b = append(b, 0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34, 0xa0, 0x0f)
		b = append(b, hash...)
		b = append(b, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08)
		b = append(b, hash...)
		return append(b, 0xa2, 0x03, 0x02, 0x01, byte(s.salt))
	}
	b = append(b, bytes.Clone(rsaPrefix)...)
	return append(b, byte(s.hash)+9, 0x05, 0x00)
}
