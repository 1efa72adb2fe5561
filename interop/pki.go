package interop

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// KeyType is a kind of key pair for tests.
type KeyType string

const (
	RSA2048  KeyType = "rsa-2048"
	RSA3072  KeyType = "rsa-3072"
	ECDSA256 KeyType = "ecdsa-256"
	ECDSA384 KeyType = "ecdsa-384"
	ECDSA521 KeyType = "ecdsa-521"
	Ed25519  KeyType = "ed25519"
)

// Identity is a certificate with its private key.
type Identity struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	// Chain is the certificates between this one and the root, nearest first.
	Chain []*x509.Certificate
}

// CertOptions shapes a certificate; the zero value is an end entity without
// subject alternative names, valid from an hour ago for a day.
type CertOptions struct {
	DNS       []string
	Email     []string
	IP        []net.IP
	NotBefore time.Time
	NotAfter  time.Time
	// CA makes an intermediate authority.
	CA bool
	// Padding adds that many bytes in an extension of no meaning, to make the
	// certificate, and with it the IKE message, large.
	Padding int
}

// GenerateKey makes a key pair.
func GenerateKey(t KeyType) (crypto.Signer, error) {
	switch t {
	case RSA2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	case RSA3072:
		return rsa.GenerateKey(rand.Reader, 3072)
	case ECDSA256:
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSA384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ECDSA521:
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("interop: key type %q is unknown", t)
}

// NewCA makes a self-signed authority with the subject "C=CH, O=Interop, CN=name".
func NewCA(name string, t KeyType) (*Identity, error) {
	return newCert(nil, name, t, CertOptions{CA: true})
}

// Issue makes a certificate signed by the receiver.
func (ca *Identity) Issue(name string, t KeyType, o CertOptions) (*Identity, error) {
	return newCert(ca, name, t, o)
}

func newCert(ca *Identity, name string, t KeyType, o CertOptions) (*Identity, error) {
	key, err := GenerateKey(t)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = time.Now().Add(-time.Hour)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = time.Now().Add(24 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Country: []string{"CH"}, Organization: []string{"Interop"}, CommonName: name},
		NotBefore:    o.NotBefore, NotAfter: o.NotAfter,
		DNSNames: o.DNS, EmailAddresses: o.Email, IPAddresses: o.IP,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  o.CA,
	}
	if o.CA {
		template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	} else {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	}
	if o.Padding > 0 {
		// An arc for documentation and examples: 2.999.
		template.ExtraExtensions = []pkix.Extension{{Id: []int{2, 999, 1}, Value: make([]byte, o.Padding)}}
	}
	parent, signer := template, key
	var chain []*x509.Certificate
	if ca != nil {
		parent, signer = ca.Cert, ca.Key
		if ca.Cert.CheckSignatureFrom(ca.Cert) != nil { // not the root itself
			chain = append([]*x509.Certificate{ca.Cert}, ca.Chain...)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("interop: certificate of %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("interop: certificate of %s: %w", name, err)
	}
	return &Identity{Cert: cert, Key: key, Chain: chain}, nil
}

// DN is the subject in the notation of the configuration.
func (id *Identity) DN() string {
	return "C=CH, O=Interop, CN=" + id.Cert.Subject.CommonName
}

// CertPEM is the certificate in PEM.
func (id *Identity) CertPEM() []byte { return certPEM(id.Cert) }

func certPEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// KeyPEM is the private key in PEM, as PKCS#8.
func (id *Identity) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.Key)
	if err != nil {
		return nil, fmt.Errorf("interop: private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// WriteFiles writes certificate and key; an empty path is left out.
func (id *Identity) WriteFiles(certPath, keyPath string) error {
	if certPath != "" {
		if err := os.WriteFile(certPath, id.CertPEM(), 0o644); err != nil {
			return err
		}
	}
	if keyPath == "" {
		return nil
	}
	key, err := id.KeyPEM()
	if err != nil {
		return err
	}
	return os.WriteFile(keyPath, key, 0o600)
}
