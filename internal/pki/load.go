package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"

	"iked/internal/secret"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// maxObject bounds a certificate, key or CRL file.
const maxObject = 16 << 20

// MaxRSA is the largest RSA key in bits that is read in a certificate.
const MaxRSA = 16384

// NewCert parses one DER certificate, as a CERT payload of encoding 4 holds it.
func NewCert(der []byte) (*Cert, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing the certificate: %w", err)
	}
	if k, ok := c.PublicKey.(*rsa.PublicKey); ok {
		// Peers send certificates before anything is known of them, and a signature
		// by a key of half a million bits takes seconds to check.
		if n := k.N.BitLen(); n > MaxRSA {
			return nil, fmt.Errorf("the RSA key of the certificate has %d bits, at most %d are read", n, MaxRSA)
		}
		if k.E < 3 || k.E&1 == 0 {
			return nil, fmt.Errorf("the RSA key of the certificate has the exponent %d, expected an odd number from 3 on", k.E)
		}
	}
	bits, err := subjectPublicKey(c.RawSubjectPublicKeyInfo)
	if err != nil {
		return nil, err
	}
	return &Cert{X509: c, KeyID: sha1.Sum(bits), SPKIHash: sha1.Sum(c.RawSubjectPublicKeyInfo)}, nil
}

// ParseCerts reads all certificates of a PEM text, or the one of a DER file.
func ParseCerts(data []byte, source string) ([]*Cert, error) {
	ders, err := blocks(data, "CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var certs []*Cert
	for _, der := range ders {
		c, err := NewCert(der)
		if err != nil {
			return nil, err
		}
		c.Source = source
		certs = append(certs, c)
	}
	return certs, nil
}

// ParseCRLs reads all CRLs of a PEM text, or the one of a DER file.
func ParseCRLs(data []byte, source string) ([]*CRL, error) {
	ders, err := blocks(data, "X509 CRL")
	if err != nil {
		return nil, err
	}
	var lists []*CRL
	for _, der := range ders {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("parsing the CRL: %w", err)
		}
		lists = append(lists, &CRL{List: l, Source: source})
	}
	return lists, nil
}

// blocks returns the DER of the PEM blocks of the given types, or the data
// itself when it is no PEM.
func blocks(data []byte, types ...string) ([][]byte, error) {
	if len(data) == 0 {
		return nil, errors.New("no data")
	}
	if len(data) > maxObject {
		return nil, fmt.Errorf("%d octets, at most %d are read", len(data), maxObject)
	}
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return [][]byte{data}, nil
	}
	var ders [][]byte
	found := ""
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		found = b.Type
		for _, t := range types {
			if b.Type == t {
				ders = append(ders, b.Bytes)
			}
		}
	}
	switch {
	case len(ders) > 0:
		return ders, nil
	case found == "":
		return nil, errors.New("damaged PEM: no block is complete")
	}
	return nil, fmt.Errorf("expected a PEM block %q, found %q", types[0], found)
}

// subjectPublicKey returns the contents of the BIT STRING of a
// SubjectPublicKeyInfo (RFC 5280, Section 4.1).
func subjectPublicKey(spki []byte) ([]byte, error) {
	in := cryptobyte.String(spki)
	var seq, alg cryptobyte.String
	var bits []byte
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1(&alg, cbasn1.SEQUENCE) || !seq.ReadASN1BitStringAsBytes(&bits) {
		return nil, errors.New("the SubjectPublicKeyInfo is not DER")
	}
	return bits, nil
}

// ErrEncrypted is returned for an encrypted private key without passphrase.
var ErrEncrypted = errors.New("the private key is encrypted and no passphrase is configured")

// ParseKey reads a private key: PEM or DER; PKCS#8 (RFC 5958), plain or
// encrypted with PBES2 (RFC 8018), PKCS#1 (RFC 8017) or SEC1 (RFC 5915); RSA,
// ECDSA on P-256, P-384 or P-521, or Ed25519. No octet of the key appears in an
// error.
func ParseKey(data []byte, passphrase secret.Bytes, source string) (*Key, error) {
	if len(data) > maxObject {
		return nil, fmt.Errorf("%d octets, at most %d are read", len(data), maxObject)
	}
	der, kind := data, ""
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		b, err := keyBlock(data)
		if err != nil {
			return nil, err
		}
		if b.Headers["DEK-Info"] != "" {
			return nil, errors.New("the key has the old PEM encryption, which is not supported; convert it with: openssl pkcs8 -topk8 -in OLD -out NEW")
		}
		der, kind = b.Bytes, b.Type
	}
	if kind == "" && isEncryptedPKCS8(der) {
		kind = "ENCRYPTED PRIVATE KEY"
	}
	if kind == "ENCRYPTED PRIVATE KEY" {
		if passphrase.Len() == 0 {
			return nil, ErrEncrypted
		}
		plain, err := decryptPKCS8(der, passphrase)
		if err != nil {
			return nil, err
		}
		defer clear(plain)
		der = plain
	}
	k, err := parseDERKey(der)
	if err != nil {
		return nil, err
	}
	return NewKey(k, source)
}

func keyBlock(data []byte) (*pem.Block, error) {
	found := ""
	for rest := data; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		found = b.Type
		switch b.Type {
		case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY":
			return b, nil
		}
	}
	if found == "" {
		return nil, errors.New("damaged PEM: no block is complete")
	}
	return nil, fmt.Errorf("expected a PEM block \"PRIVATE KEY\", found %q", found)
}

func parseDERKey(der []byte) (any, error) {
	k, err8 := x509.ParsePKCS8PrivateKey(der)
	if err8 == nil {
		return k, nil
	}
	if k, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return k, nil
	}
	if k, err := x509.ParseECPrivateKey(der); err == nil {
		return k, nil
	}
	return nil, errors.New("not a private key in PKCS#8, PKCS#1 or SEC1 form, or of a kind other than RSA, ECDSA on P-256, P-384, P-521, and Ed25519")
}

// NewKey wraps a private key: *rsa.PrivateKey, *ecdsa.PrivateKey,
// ed25519.PrivateKey, or any other crypto.Signer with such a public key.
func NewKey(k any, source string) (*Key, error) {
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	if r, ok := k.(*rsa.PrivateKey); ok {
		if err := r.Validate(); err != nil {
			return nil, errors.New("the RSA key is not consistent")
		}
	}
	if _, _, err := kindOf(s.Public()); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(s.Public())
	if err != nil {
		return nil, fmt.Errorf("public half of the key: %w", err)
	}
	bits, err := subjectPublicKey(spki)
	if err != nil {
		return nil, err
	}
	return &Key{signer: s, KeyID: sha1.Sum(bits), Source: source}, nil
}

// Public is the public half.
func (k *Key) Public() crypto.PublicKey { return k.signer.Public() }

// Kind is the kind of key and its size in bits.
func (k *Key) Kind() (KeyKind, int) {
	kind, bits, _ := kindOf(k.signer.Public())
	return kind, bits
}

// String never shows the key.
func (k *Key) String() string {
	kind, bits := k.Kind()
	return fmt.Sprintf("%s-%d key %x", kind, bits, k.KeyID)
}

// GoString never shows the key.
func (k *Key) GoString() string { return k.String() }

// Format never shows the key, for every verb.
func (k *Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// kindOf names a public key and refuses the kinds that are not supported.
func kindOf(pub crypto.PublicKey) (KeyKind, int, error) {
	switch p := pub.(type) {
	case *rsa.PublicKey:
		return KindRSA, p.N.BitLen(), nil
	case *ecdsa.PublicKey:
		switch n := p.Curve.Params().Name; n {
		case "P-256", "P-384", "P-521":
			return KindECDSA, p.Curve.Params().BitSize, nil
		default:
			return 0, 0, fmt.Errorf("ECDSA on curve %s is not supported; use P-256, P-384 or P-521", n)
		}
	case ed25519.PublicKey:
		return KindEd25519, 256, nil
	}
	return 0, 0, fmt.Errorf("public keys of type %T are not supported; use RSA, ECDSA or Ed25519", pub)
}

// String is the name of the kind.
func (k KeyKind) String() string {
	switch k {
	case KindRSA:
		return "RSA"
	case KindECDSA:
		return "ECDSA"
	case KindEd25519:
		return "Ed25519"
	}
	return "unknown"
}

// Equal tells whether two certificates are the same octets.
func (c *Cert) Equal(o *Cert) bool {
	return c == o || c != nil && o != nil && bytes.Equal(c.X509.Raw, o.X509.Raw)
}

// IsCA tells whether the certificate may sign others.
func (c *Cert) IsCA() bool { return c.X509.BasicConstraintsValid && c.X509.IsCA }
