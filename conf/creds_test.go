package conf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"iked/internal/ident"
	"iked/internal/pki"
)

// credentials makes a CA, a certificate for moon and its key, as PEM.
func credentials(t *testing.T, until time.Time) (ca, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text := func(typ string, der []byte, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}))
	}
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Lab CA"}, NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "moon"}, NotBefore: testNow.Add(-time.Hour), NotAfter: until, DNSNames: []string{"moon.example.org"}}
	a, err := x509.CreateCertificate(rand.Reader, root, root, k.Public(), k)
	ca = text("CERTIFICATE", a, err)
	b, err := x509.CreateCertificate(rand.Reader, leaf, root, k.Public(), k)
	cert = text("CERTIFICATE", b, err)
	c, err := x509.MarshalPKCS8PrivateKey(k)
	return ca, cert, text("PRIVATE KEY", c, err)
}

const certConfig = `
connections:
  - name: office
    remote_addrs: [192.0.2.1]
    local: {id: moon.example.org}
    remote: {id: sun.example.org}
    children: [{name: net, remote_ts: [10.2.0.0/16]}]
`

// Certificates and keys beside the file are enough: the connection then uses them,
// and the store can choose the own certificate.
func TestCredentialDirectories(t *testing.T) {
	ca, cert, key := credentials(t, testNow.Add(time.Hour))
	c := load(t, map[string]string{"iked.yaml": certConfig, "cacerts/ca.pem": ca, "certs/moon.pem": cert, "private/moon.pem": key})
	if c.Connections[0].Local[0].Class != AuthPubkey || c.Connections[0].Remote[0].Class != AuthPubkey {
		t.Error("not by certificate")
	}
	id, _ := ident.Parse("moon.example.org")
	s := c.Store(nil)
	if own, f := s.Choose(testNow, pki.Own{ID: id}); f != nil || own.Chain[0].X509.Subject.CommonName != "moon" {
		t.Error(f)
	}
	if len(s.CertRequests(nil)) != 20 {
		t.Error("no trust anchor")
	}
	// By name, in the connection itself.
	named := strings.Replace(certConfig, "local: {", "local: {auth: pubkey, certs: [moon.pem], ", 1)
	named = strings.Replace(named, "remote: {", "remote: {auth: ecdsa-256, cacerts: [ca.pem], ", 1)
	c = load(t, map[string]string{"iked.yaml": named, "cacerts/ca.pem": ca, "certs/moon.pem": cert, "private/moon.pem": key})
	if len(c.Connections[0].Local[0].Certs) != 1 || len(c.Connections[0].Remote[0].CACerts) != 1 {
		t.Error("certificates by name")
	}
}

// What is wrong with credentials is told with the file or key and a remedy;
// a certificate that expired is a warning, as other connections may work.
func TestCredentialFaults(t *testing.T) {
	ca, cert, key := credentials(t, testNow.Add(time.Hour))
	_, _, otherKey := credentials(t, testNow.Add(time.Hour))
	expiredCA, expired, expiredKey := credentials(t, testNow.Add(-time.Minute))
	encrypted, err := os.ReadFile("../internal/pki/testdata/encrypted-pbkdf2.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name  string
		files map[string]string
		want  string
		warn  bool
	}{
		{"nothing", nil, "connections[office]: there is neither", false},
		{"no key", map[string]string{"cacerts/ca.pem": ca, "certs/moon.pem": cert}, "no own certificate with its private key for the identity moon.example.org", false},
		{"other key", map[string]string{"cacerts/ca.pem": ca, "certs/moon.pem": cert, "private/k.pem": otherKey}, "no own certificate with its private key", false},
		{"no CA certificate", map[string]string{"cacerts/ca.pem": cert, "certs/moon.pem": cert, "private/k.pem": key}, "cacerts/ca.pem: certificate \"CN=moon\" is no CA certificate", false},
		{"no CA", map[string]string{"certs/moon.pem": cert, "private/k.pem": key}, "nothing is there to check the peer's certificate with", false},
		{"junk", map[string]string{"cacerts/ca.pem": ca, "certs/moon.pem": "junk", "private/k.pem": key}, "certs/moon.pem: parsing the certificate", false},
		{"encrypted", map[string]string{"cacerts/ca.pem": ca, "certs/moon.pem": cert, "private/k.pem": key, "private/e.pem": string(encrypted)}, "passphrase", false},
		{"expired", map[string]string{"cacerts/ca.pem": expiredCA, "certs/moon.pem": expired, "private/k.pem": expiredKey}, "warning: certificate \"CN=moon\" expired on", true},
	} {
		t.Run(x.name, func(t *testing.T) {
			files := map[string]string{"iked.yaml": certConfig}
			for k, v := range x.files {
				files[k] = v
			}
			c, faults := Load(filepath.Join(dir(t, files), "iked.yaml"), testNow)
			if !strings.Contains(faults.Error(), x.want) || (c != nil) != x.warn {
				t.Errorf("want %q:\n%s", x.want, faults.Error())
			}
		})
	}
	// With its passphrase the encrypted key is read.
	c, faults := Load(filepath.Join(dir(t, map[string]string{
		"iked.yaml":      certConfig + "secrets: [{private: e.pem, passphrase: test}]\n",
		"cacerts/ca.pem": ca, "certs/moon.pem": cert, "private/k.pem": key, "private/e.pem": string(encrypted),
	}), "iked.yaml"), testNow)
	if c == nil || len(c.Keys) != 2 {
		t.Error(faults.Error())
	}
}

// The load commands for certificates and keys answer with the field's words.
func TestLoadCertAndKey(t *testing.T) {
	ca, cert, key := credentials(t, testNow.Add(time.Hour))
	for _, x := range []struct{ typ, flag, data, want string }{
		{"", "", cert, "certificate type missing"}, {"x", "", cert, "invalid certificate type 'x'"}, {"X509", "x", cert, "invalid certificate flag 'x'"},
		{"X509", "NONE", "", "certificate data missing"}, {"X509", "NONE", "junk", "parsing X509 certificate failed"}, {"X509", "CA", cert, "ca certificate lacks CA basic constraint, rejected"},
		{"x509ca", "", cert, "ca certificate lacks CA basic constraint, rejected"},
	} {
		if _, err := LoadCert(x.typ, x.flag, []byte(x.data)); err == nil || err.Error() != x.want {
			t.Errorf("want %q, got %v", x.want, err)
		}
	}
	if k, err := LoadCert("X509", "NONE", []byte(ca)); err != nil || !k.CA {
		t.Error("a CA certificate is a CA whatever the flag", err)
	}
	got, err := LoadCert("X509", "", []byte(cert))
	if err != nil || got.CA {
		t.Fatal(err)
	}
	k, err := LoadKey("ANY", []byte(key))
	if err != nil || k.KeyID != got.Cert.KeyID || len(hex.EncodeToString(k.KeyID[:])) != 40 {
		t.Error(err)
	}
	for _, x := range []struct{ typ, data, want string }{
		{"", key, "key type missing"}, {"bliss", key, "invalid key type: bliss"}, {"any", "", "key data missing"}, {"any", "junk", "parsing ANY private key failed"}, {"rsa", key, "parsing RSA private key failed"},
	} {
		if _, err := LoadKey(x.typ, []byte(x.data)); err == nil || err.Error() != x.want {
			t.Errorf("want %q, got %v", x.want, err)
		}
	}
	s, err := LoadShared(message(kv("id", "ike-1"), kv("type", "IKE"), kv("data", "\x00bin"), list("owners", "moon", "sun")))
	if err != nil || s.Name != "ike-1" || s.Type != SecretIKE || string(s.Data.Reveal()) != "\x00bin" || len(s.Owners) != 2 {
		t.Error(s, err)
	}
}
