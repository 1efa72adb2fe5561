package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"iked/internal/ident"
	"iked/internal/secret"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// rsaKey is made once: it is slow.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func edKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ca is a certificate authority of a test.
type ca struct {
	cert *Cert
	key  crypto.Signer
}

var serial int64

func issue(t testing.TB, by *ca, pub crypto.PublicKey, signer crypto.Signer, change func(*x509.Certificate)) *Cert {
	t.Helper()
	serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		Subject: pkix.Name{Country: []string{"CH"}, Organization: []string{"Lab"}, CommonName: fmt.Sprint("c", serial)},
	}
	if change != nil {
		change(tmpl)
	}
	parent := tmpl
	if by != nil {
		parent, signer = by.cert.X509, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCert(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newCA(t testing.TB, by *ca, change func(*x509.Certificate)) *ca {
	k := ecKey(t, elliptic.P256())
	return &ca{key: k, cert: issue(t, by, k.Public(), k, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		if change != nil {
			change(c)
		}
	})}
}

func names(c *x509.Certificate) {
	c.DNSNames, c.EmailAddresses, c.IPAddresses = []string{"moon.example.org"}, []string{"carol@example.org"}, []net.IP{net.IPv4(192, 0, 2, 1), net.ParseIP("2001:db8::1")}
}

func id(t testing.TB, s string) ident.ID {
	t.Helper()
	i, err := ident.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// Every kind of key signs and verifies by every method that it has; a changed
// octet of the signature or of the signed data, or another certificate, does not
// verify.
func TestSignAndCheck(t *testing.T) {
	all := SupportedHashes()
	for _, x := range []struct {
		name   string
		key    crypto.Signer
		want   string
		hashes []uint16
		method uint8
		alg    string // hexadecimal of RFC 7427, Appendix A
	}{
		{"rsa sha1", rsaKey(), "", nil, MethodRSA, ""},
		{"rsa sha256", rsaKey(), "", all, MethodSignature, "300d06092a864886f70d01010b0500"},
		{"rsa sha384", rsaKey(), "", []uint16{HashSHA384}, MethodSignature, "300d06092a864886f70d01010c0500"},
		{"rsa sha512", rsaKey(), "rsa-sha512", all, MethodSignature, "300d06092a864886f70d01010d0500"},
		{"pss sha256", rsaKey(), "rsa/pss", all, MethodSignature, "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"},
		{"pss sha384", rsaKey(), "rsa/pss-sha384", all, MethodSignature, "304106092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"},
		{"pss sha512", rsaKey(), "rsa/pss-sha512", all, MethodSignature, "304106092a864886f70d01010a3034a00f300d06096086480165030402030500a11c301a06092a864886f70d010108300d06096086480165030402030500a203020140"},
		{"p256 classic", ecKey(t, elliptic.P256()), "", nil, MethodECDSA256, ""},
		{"p384 classic", ecKey(t, elliptic.P384()), "", nil, MethodECDSA384, ""},
		{"p521 classic", ecKey(t, elliptic.P521()), "", nil, MethodECDSA521, ""},
		{"p256", ecKey(t, elliptic.P256()), "", all, MethodSignature, "300a06082a8648ce3d040302"},
		{"p384", ecKey(t, elliptic.P384()), "", all, MethodSignature, "300a06082a8648ce3d040303"},
		{"p521", ecKey(t, elliptic.P521()), "", all, MethodSignature, "300a06082a8648ce3d040304"},
		{"ed25519", edKey(t), "", all, MethodSignature, "300506032b6570"},
	} {
		t.Run(x.name, func(t *testing.T) {
			key, err := NewKey(x.key, "")
			if err != nil {
				t.Fatal(err)
			}
			var want Constraints
			if x.want != "" {
				if want, err = ParseConstraints(x.want); err != nil {
					t.Fatal(err)
				}
			}
			octets := []byte("the signed octets")
			method, auth, err := Sign(key, want, x.hashes, octets)
			if err != nil || method != x.method {
				t.Fatalf("method %d: %v", method, err)
			}
			if x.alg != "" && hex.EncodeToString(auth[1:1+int(auth[0])]) != x.alg {
				t.Errorf("AlgorithmIdentifier %x", auth[1:1+int(auth[0])])
			}
			cert := issue(t, nil, x.key.Public(), x.key, names)
			if f := CheckAuth(cert, want, method, auth, octets); f != nil {
				t.Fatal(f)
			}
			refused := func(what string, cert *Cert, method uint8, auth, octets []byte) {
				t.Helper()
				if f := CheckAuth(cert, Constraints{}, method, auth, octets); f == nil || f.Step != StepSignature || f.Advice == "" {
					t.Errorf("%s: %v", what, f)
				}
			}
			refused("other octets", cert, method, auth, []byte("the signed octetz"))
			for n := range auth {
				refused(fmt.Sprintf("prefix %d", n), cert, method, auth[:n], octets)
			}
			for i := range auth {
				bad := append([]byte(nil), auth...)
				bad[i] ^= 1
				// A NULL that becomes another element or a longer salt must not pass, either.
				refused(fmt.Sprintf("octet %d", i), cert, method, bad, octets)
			}
			refused("trailing octet", cert, method, append(append([]byte(nil), auth...), 0), octets)
			refused("all zero", cert, method, make([]byte, len(auth)), octets)
			// CVE-2020-16088: the key must be that of the ID's certificate.
			var other crypto.Signer = edKey(t)
			if _, ok := x.key.(*ecdsa.PrivateKey); ok {
				other = ecKey(t, x.key.(*ecdsa.PrivateKey).Curve)
			}
			refused("other certificate", issue(t, nil, other.Public(), other, names), method, auth, octets)
			for m := range 256 {
				if uint8(m) != method {
					refused(fmt.Sprintf("method %d", m), cert, uint8(m), auth, octets)
				}
			}
		})
	}
}

// Without common hash an Ed25519 key cannot sign; constraints forbid SHA-1.
func TestSignRefusals(t *testing.T) {
	ed, _ := NewKey(edKey(t), "")
	if _, _, err := Sign(ed, Constraints{}, []uint16{HashSHA256}, nil); err == nil {
		t.Error("Ed25519 signed for a peer without Identity hash")
	}
	r, _ := NewKey(rsaKey(), "")
	c, _ := ParseConstraints("rsa-sha256")
	if _, _, err := Sign(r, c, nil, nil); err == nil {
		t.Error("RSA signed with SHA-1 against its constraint")
	}
	if _, _, err := Sign(r, Constraints{}, []uint16{HashSHA1}, []byte("x")); err != nil {
		t.Error(err) // falls back to method 1
	}
}

// SHA-1 is refused in method 14, whatever a peer signs with (RFC 8247).
func TestSHA1RefusedInMethod14(t *testing.T) {
	cert := issue(t, nil, rsaKey().Public(), rsaKey(), names)
	sig := signature{kind: KindRSA, hash: HashSHA1}
	value, err := sig.sign(rsaKey(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	alg, _ := hex.DecodeString("300d06092a864886f70d0101050500")
	auth := append(append([]byte{byte(len(alg))}, alg...), value...)
	if f := CheckAuth(cert, Constraints{}, MethodSignature, auth, []byte("x")); f == nil || !strings.Contains(f.Sentence, "SHA-1") {
		t.Error(f)
	}
	// Empty RSASSA-PSS parameters mean SHA-1 and are refused as well.
	alg, _ = hex.DecodeString("300d06092a864886f70d01010a3000")
	auth = append(append([]byte{byte(len(alg))}, alg...), value...)
	if f := CheckAuth(cert, Constraints{}, MethodSignature, auth, []byte("x")); f == nil {
		t.Error("PSS with default parameters was accepted")
	}
}

// With e = 3 a cube root forges signatures for lenient readers of PKCS#1 v1.5
// (CVE-2018-16151, -16152, CVE-2018-17540): hash first, garbage behind.
func TestForgeryWithExponent3(t *testing.T) {
	key := rsaKey()
	pub := &rsa.PublicKey{N: key.N, E: 3}
	octets := []byte("forged")
	h := crypto.SHA256.New()
	h.Write(octets)
	info, _ := hex.DecodeString("3031300d060960864801650304020105000420")
	block := append([]byte{0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}, append(info, h.Sum(nil)...)...)
	target := new(big.Int).SetBytes(append(block, make([]byte, 256-len(block))...))
	root := cubeRoot(new(big.Int).Add(target, new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), uint(8*(256-len(block)))), big.NewInt(1))))
	cube := new(big.Int).Exp(root, big.NewInt(3), nil)
	if got := cube.FillBytes(make([]byte, 256)); string(got[:len(block)]) != string(block) {
		t.Fatal("the forgery is not one")
	}
	forged := root.FillBytes(make([]byte, 256))
	cert := &Cert{X509: &x509.Certificate{PublicKey: pub}}
	if f := CheckAuth(cert, Constraints{}, MethodRSA, forged, octets); f == nil {
		t.Error("method 1 accepted the forgery")
	}
	alg, _ := hex.DecodeString("0f300d06092a864886f70d01010b0500")
	if f := CheckAuth(cert, Constraints{}, MethodSignature, append(alg, forged...), octets); f == nil {
		t.Error("method 14 accepted the forgery")
	}
}

func cubeRoot(n *big.Int) *big.Int {
	lo, hi := big.NewInt(0), new(big.Int).Lsh(big.NewInt(1), uint(n.BitLen()/3+2))
	for new(big.Int).Sub(hi, lo).Cmp(big.NewInt(1)) > 0 {
		mid := new(big.Int).Rsh(new(big.Int).Add(lo, hi), 1)
		if new(big.Int).Exp(mid, big.NewInt(3), nil).Cmp(n) <= 0 {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// Absent and NULL parameters are both read; everything else is refused.
func TestAlgorithmIdentifier(t *testing.T) {
	for _, ok := range []string{"300b06092a864886f70d01010b", "300d06092a864886f70d01010b0500", "300c06082a8648ce3d0403020500", "300506032b6570"} {
		b, _ := hex.DecodeString(ok)
		if _, err := parseAlgorithm(b); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
		for n := range b {
			if _, err := parseAlgorithm(b[:n]); err == nil {
				t.Errorf("%s: prefix %d was read", ok, n)
			}
		}
	}
	for _, bad := range []string{
		"300506032b6571",                 // Ed448
		"300706032b65700500",             // Ed25519 with parameters
		"300d06092a864886f70d0101040500", // MD5
		"300e06092a864886f70d01010b050100",
		"300d06092a864886f70d01010b050000",
		"300d06092a864886f70d01010a3080",
		// RSASSA-PSS: SHA-256 with MGF1 of SHA-1; salt of 2^31; negative salt; trailer 2
		"301e06092a864886f70d01010a3011a00f300d06096086480165030402010500",
		"304406092a864886f70d01010a3037a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a206020480000000",
		"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a2030201ff",
		"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a303020102",
	} {
		b, err := hex.DecodeString(bad)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := parseAlgorithm(b); err == nil {
			t.Errorf("%s was read as %v", bad, s)
		}
	}
}

// A certificate is accepted for the identities that it carries and for no other.
func TestVerifyIdentity(t *testing.T) {
	root := newCA(t, nil, nil)
	mid := newCA(t, root, nil)
	k := ecKey(t, elliptic.P256())
	leaf := issue(t, mid, k.Public(), nil, names)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	sent := [][]byte{leaf.X509.Raw, mid.cert.X509.Raw}
	for _, good := range []string{"moon.example.org", "MOON.example.org", "carol@example.org", "192.0.2.1", "2001:db8::1", leaf.Name(), "keyid:#" + hex.EncodeToString(leaf.KeyID[:])} {
		got, chain, f := s.Verify(now, Peer{ID: id(t, good), Certs: sent})
		if f != nil || !got.Equal(leaf) || len(chain) != 3 {
			t.Errorf("%s: %v, chain %d", good, f, len(chain))
		}
	}
	for _, bad := range []string{"sun.example.org", "*.example.org", "moon.example.org.", "dave@example.org", "192.0.2.2", "C=CH, O=Lab, CN=other", "C=CH, O=Lab, CN=*", "%any"} {
		if _, _, f := s.Verify(now, Peer{ID: id(t, bad), Certs: sent}); f == nil || f.Step != StepIdentity {
			t.Errorf("%s: %v", bad, f)
		}
	}
}

// Each reason to refuse a certificate has its own step, a sentence and advice.
func TestVerifyFailures(t *testing.T) {
	root := newCA(t, nil, nil)
	other := newCA(t, nil, nil)
	k := ecKey(t, elliptic.P256())
	me := id(t, "moon.example.org")
	mk := func(by *ca, change func(*x509.Certificate)) *Cert {
		return issue(t, by, k.Public(), nil, func(c *x509.Certificate) {
			names(c)
			if change != nil {
				change(c)
			}
		})
	}
	noCA := &ca{cert: issue(t, root, k.Public(), nil, nil), key: k}
	short := newCA(t, root, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	deep := newCA(t, short, nil)
	onlyOthers := newCA(t, root, func(c *x509.Certificate) {
		c.PermittedDNSDomains, c.PermittedDNSDomainsCritical = []string{"other.org"}, true
	})
	// CVE-2026-35331: excluded directory names must not be passed over.
	dn := newCA(t, root, func(c *x509.Certificate) {
		name, _ := ident.ParseDN("C=CH, O=Lab")
		tree, _ := asn1.Marshal(asn1.RawValue{Class: 2, Tag: 4, IsCompound: true, Bytes: name})
		sub, _ := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: tree})
		list, _ := asn1.Marshal(asn1.RawValue{Class: 2, Tag: 1, IsCompound: true, Bytes: sub})
		val, _ := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: list})
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 30}, Value: val}}
	})
	oldCA := newCA(t, root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) })
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	good := mk(root, nil)
	revoked := mk(root, nil)
	crl := func(next time.Time) *CRL {
		der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: next,
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.X509.SerialNumber, RevocationTime: now.Add(-time.Hour)}}}, root.cert.X509, root.key)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseCRLs(der, "test.crl")
		if err != nil {
			t.Fatal(err)
		}
		return l[0]
	}
	fresh, stale := crl(now.Add(time.Hour)), crl(now.Add(-time.Minute))
	limit := func(s string) Constraints {
		c, err := ParseConstraints(s)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, x := range []struct {
		name string
		step Step // "" is accepted
		leaf *Cert
		more []*Cert
		peer Peer
		crls []*CRL
	}{
		{name: "good", leaf: good},
		{name: "no certificate", step: StepMissing},
		{name: "foreign issuer", step: StepIssuer, leaf: mk(other, nil)},
		{name: "foreign issuer sends its root", step: StepIssuer, leaf: mk(other, nil), more: []*Cert{other.cert}},
		{name: "self-signed", step: StepIssuer, leaf: issue(t, nil, k.Public(), k, names)},
		{name: "expired", step: StepExpired, leaf: mk(root, func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Second) })},
		{name: "not yet valid", step: StepNotYet, leaf: mk(root, func(c *x509.Certificate) { c.NotBefore = now.Add(time.Second) })},
		{name: "expired CA", step: StepExpired, leaf: mk(oldCA, nil), more: []*Cert{oldCA.cert}},
		{name: "issuer is no CA", step: StepNotCA, leaf: mk(noCA, nil), more: []*Cert{noCA.cert}},
		{name: "path too long", step: StepChain, leaf: mk(deep, nil), more: []*Cert{deep.cert, short.cert}},
		{name: "DNS name constraint", step: StepChain, leaf: mk(onlyOthers, nil), more: []*Cert{onlyOthers.cert}},
		{name: "directory name constraint", step: StepChain, leaf: mk(dn, nil), more: []*Cert{dn.cert}},
		{name: "critical extension", step: StepChain, leaf: mk(root, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true, Value: []byte{5, 0}}}
		})},
		{name: "code signing", step: StepUsage, leaf: mk(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} })},
		{name: "ipsecIKE", leaf: mk(root, func(c *x509.Certificate) {
			c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 17}}
		})},
		{name: "serverAuth", leaf: mk(root, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })},
		{name: "keyEncipherment only", step: StepUsage, leaf: mk(root, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })},
		{name: "RSA 1024", step: StepKey, leaf: issue(t, root, weak.Public(), nil, names)},
		{name: "RSA allowed only", step: StepKey, leaf: good, peer: Peer{Constraints: limit("rsa-2048")}},
		{name: "ECDSA 384", step: StepKey, leaf: good, peer: Peer{Constraints: limit("ecdsa-384")}},
		{name: "ECDSA 256", leaf: good, peer: Peer{Constraints: limit("ecdsa-256-sha256")}},
		{name: "chain hash", step: StepKey, leaf: good, peer: Peer{Constraints: limit("pubkey-sha384")}},
		{name: "hash of IKE only", leaf: good, peer: Peer{Constraints: limit("ike:pubkey-sha384")}},
		{name: "other CA demanded", step: StepIssuer, leaf: good, peer: Peer{CACerts: []*Cert{other.cert}}},
		{name: "CA demanded", leaf: good, peer: Peer{CACerts: []*Cert{root.cert}}},
		{name: "not listed", step: StepNotAllowed, leaf: good, peer: Peer{Listed: []*Cert{revoked}}},
		{name: "listed, self-signed", leaf: issueListed, peer: Peer{}},
		{name: "CA identity", leaf: good, peer: Peer{CAID: ident.FromDN(root.cert.X509.RawSubject)}},
		{name: "other CA identity", step: StepCAID, leaf: good, peer: Peer{CAID: id(t, "CN=x")}},
		{name: "policy", step: StepPolicy, leaf: good, peer: Peer{Policies: []string{"1.2.3"}}},
		{name: "revoked", step: StepRevoked, leaf: revoked, crls: []*CRL{fresh}},
		{name: "revoked in an old CRL", step: StepRevoked, leaf: revoked, crls: []*CRL{stale}},
		{name: "not revoked, strict", leaf: good, crls: []*CRL{fresh}, peer: Peer{Revocation: Strict}},
		{name: "old CRL, strict", step: StepRevocation, leaf: good, crls: []*CRL{stale}, peer: Peer{Revocation: Strict}},
		{name: "no CRL, strict", step: StepRevocation, leaf: good, peer: Peer{Revocation: Strict}},
		{name: "no CRL, no URI", leaf: good, peer: Peer{Revocation: IfURI}},
		{name: "no CRL, URI", step: StepRevocation, leaf: mk(root, func(c *x509.Certificate) { c.CRLDistributionPoints = []string{"http://crl.invalid/a"} }), peer: Peer{Revocation: IfURI}},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := x.peer
			p.ID = me
			if x.leaf == issueListed {
				x.leaf = issue(t, nil, k.Public(), k, names)
				p.Listed = []*Cert{x.leaf}
			}
			if x.leaf != nil {
				p.Certs = [][]byte{x.leaf.X509.Raw}
			}
			for _, c := range x.more {
				p.Certs = append(p.Certs, c.X509.Raw)
			}
			s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}, CRLs: x.crls})
			leaf, _, f := s.Verify(now, p)
			switch {
			case x.step == "" && f != nil:
				t.Errorf("refused at %s: %v", f.Step, f)
			case x.step == "" && !leaf.Equal(x.leaf):
				t.Error("another certificate was returned")
			case x.step != "" && f == nil:
				t.Error("accepted")
			case x.step != "" && (f.Step != x.step || f.Sentence == "" || f.Advice == "" || leaf != nil):
				t.Errorf("refused at %s, want %s: %s; %s", f.Step, x.step, f.Sentence, f.Advice)
			}
		})
	}
}

// issueListed stands for a certificate that the test makes itself.
var issueListed = &Cert{}

// The own certificate is chosen by identity, private key, validity and the CAs
// that the peer asks for.
func TestChoose(t *testing.T) {
	a, b := newCA(t, nil, nil), newCA(t, nil, nil)
	k := ecKey(t, elliptic.P256())
	key, err := NewKey(k, "")
	if err != nil {
		t.Fatal(err)
	}
	stranger := ecKey(t, elliptic.P256())
	fromA, fromB := issue(t, a, k.Public(), nil, names), issue(t, b, k.Public(), nil, names)
	s := NewStore(StoreConfig{Anchors: []*Cert{a.cert, b.cert}, Certs: []*Cert{issue(t, a, stranger.Public(), nil, names), fromA, fromB}, Keys: []*Key{key}})
	for _, x := range []struct {
		asked *ca
		want  *Cert
	}{{a, fromA}, {b, fromB}, {nil, fromA}} {
		o := Own{ID: id(t, "moon.example.org")}
		if x.asked != nil {
			o.CertRequests = append(make([]byte, 20), x.asked.cert.SPKIHash[:]...)
		}
		got, f := s.Choose(now, o)
		if f != nil || !got.Chain[0].Equal(x.want) || len(got.Chain) != 1 || got.Key != key {
			t.Errorf("%+v %v", got, f)
		}
	}
	got, f := s.Choose(now, Own{})
	if f != nil || got.ID != ident.FromDN(got.Chain[0].X509.RawSubject) {
		t.Error("without identity, the subject is expected")
	}
	if _, f := s.Choose(now, Own{ID: id(t, "sun.example.org")}); f == nil || f.Step != StepOwn || len(f.Evidence) != 3 {
		t.Error(f)
	}
	if _, f := s.Choose(now.Add(48*time.Hour), Own{ID: id(t, "moon.example.org")}); f == nil {
		t.Error("an expired certificate was chosen")
	}
	if h := s.CertRequests(nil); len(h) != 40 || string(h[:20]) != string(a.cert.SPKIHash[:]) {
		t.Errorf("%x", h)
	}
}

// Keys are read in every form, encrypted ones with their passphrase; no error and
// no print shows any of it.
func TestParseKey(t *testing.T) {
	p8 := func(k any) []byte { b, _ := x509.MarshalPKCS8PrivateKey(k); return b }
	ec := ecKey(t, elliptic.P384())
	sec1, _ := x509.MarshalECPrivateKey(ec)
	p1 := x509.MarshalPKCS1PrivateKey(rsaKey())
	block := func(typ string, b []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: b}) }
	for i, data := range [][]byte{
		p8(rsaKey()), p8(ec), p8(edKey(t)), sec1, p1, block("PRIVATE KEY", p8(ec)), block("EC PRIVATE KEY", sec1), block("RSA PRIVATE KEY", p1),
		append(block("EC PARAMETERS", []byte{5, 0}), block("EC PRIVATE KEY", sec1)...),
	} {
		k, err := ParseKey(data, secret.Bytes{}, "x")
		if err != nil {
			t.Errorf("%d: %v", i, err)
			continue
		}
		if s := fmt.Sprintf("%v %+v %#v %s %x", k, k, k, k, k); !strings.Contains(s, "key ") || strings.Contains(s, "ecdsa") {
			t.Error(s)
		}
	}
	for i, data := range [][]byte{nil, []byte("x"), p1[:len(p1)-1], block("CERTIFICATE", p1), block("PRIVATE KEY", p1[:9]), []byte("-----BEGIN PRIVATE KEY-----\nxx")} {
		if _, err := ParseKey(data, secret.Bytes{}, "x"); err == nil {
			t.Errorf("%d was read", i)
		}
	}
	p224 := ecKey(t, elliptic.P224())
	if _, err := ParseKey(p8(p224), secret.Bytes{}, ""); err == nil || !strings.Contains(err.Error(), "P-224") {
		t.Error(err)
	}
}

// A PEM text may hold several certificates; damaged ones and other blocks are
// refused.
func TestParseCerts(t *testing.T) {
	root := newCA(t, nil, nil)
	leaf := issue(t, root, root.key.Public(), nil, names)
	block := func(c *Cert) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.X509.Raw})
	}
	got, err := ParseCerts(append(block(leaf), block(root.cert)...), "f.pem")
	if err != nil || len(got) != 2 || !got[1].Equal(root.cert) || got[0].Source != "f.pem" {
		t.Error(got, err)
	}
	if got, err := ParseCerts(leaf.X509.Raw, ""); err != nil || len(got) != 1 {
		t.Error(err)
	}
	for n := 0; n < len(leaf.X509.Raw); n += 7 {
		if _, err := ParseCerts(leaf.X509.Raw[:n], ""); err == nil {
			t.Errorf("a prefix of %d octets was read", n)
		}
	}
}

// Strange public keys in certificates (CVE-2026-14957) are refused by an error:
// e = 0, tiny moduli, explicit EC parameters.
func TestMalformedPublicKeys(t *testing.T) {
	root := newCA(t, nil, nil)
	leaf := issue(t, root, rsaKey().Public(), nil, names)
	spki := func(alg string, key []byte) []byte {
		a, _ := hex.DecodeString(alg)
		bits, _ := asn1.Marshal(asn1.BitString{Bytes: key, BitLength: 8 * len(key)})
		out, _ := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: append(a, bits...)})
		return out
	}
	rsaAlg := "300d06092a864886f70d0101010500"
	rsaBits := func(n *big.Int, e int) []byte {
		b, _ := asn1.Marshal(struct {
			N *big.Int
			E int
		}{n, e})
		return b
	}
	point := elliptic.Marshal(elliptic.P256(), elliptic.P256().Params().Gx, elliptic.P256().Params().Gy) //nolint:staticcheck // the octets of a point
	swap := func(with []byte) []byte {
		var tbs, parts []asn1.RawValue
		var outer asn1.RawValue
		if _, err := asn1.Unmarshal(leaf.X509.Raw, &outer); err != nil {
			t.Fatal(err)
		}
		for rest := outer.Bytes; len(rest) > 0; {
			var p asn1.RawValue
			rest, _ = asn1.Unmarshal(rest, &p)
			parts = append(parts, p)
		}
		for rest := parts[0].Bytes; len(rest) > 0; {
			var p asn1.RawValue
			rest, _ = asn1.Unmarshal(rest, &p)
			tbs = append(tbs, p)
		}
		var inner []byte
		for _, p := range tbs {
			if string(p.FullBytes) == string(leaf.X509.RawSubjectPublicKeyInfo) {
				inner = append(inner, with...)
			} else {
				inner = append(inner, p.FullBytes...)
			}
		}
		body, _ := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: inner})
		out, _ := asn1.Marshal(asn1.RawValue{Tag: 16, IsCompound: true, Bytes: append(append(body, parts[1].FullBytes...), parts[2].FullBytes...)})
		return out
	}
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	for name, key := range map[string][]byte{
		"e = 0":          spki(rsaAlg, rsaBits(rsaKey().N, 0)),
		"e = -1":         spki(rsaAlg, rsaBits(rsaKey().N, -1)),
		"n = 0":          spki(rsaAlg, rsaBits(big.NewInt(0), 3)),
		"n = 15":         spki(rsaAlg, rsaBits(big.NewInt(15), 3)),
		"n negative":     spki(rsaAlg, rsaBits(big.NewInt(-15), 3)),
		"explicit curve": spki("301106072a8648ce3d02013006020101020105", point),
		"no curve":       spki("300906072a8648ce3d0201", point),
		"not on curve":   spki("301306072a8648ce3d020106082a8648ce3d030107", append(append([]byte{}, point[:64]...), point[64]^1)),
		"Ed25519 short":  spki("300506032b6570", make([]byte, 31)),
		"unknown kind":   spki("300506032b6571", make([]byte, 57)),
	} {
		_, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{swap(key)}})
		if f == nil || f.Step != StepParse && f.Step != StepKey {
			t.Errorf("%s: %+v", name, f)
		}
	}
	// Verification with such a key at hand is an error, too, not a panic.
	for _, pub := range []*rsa.PublicKey{{N: big.NewInt(0), E: 3}, {N: big.NewInt(15), E: 0}, {N: rsaKey().N, E: 1}, {N: rsaKey().N, E: 2}} {
		if f := CheckAuth(&Cert{X509: &x509.Certificate{PublicKey: pub}}, Constraints{}, MethodRSA, make([]byte, 256), []byte("x")); f == nil {
			t.Error("accepted")
		}
	}
}

// The cache of received certificates is bounded, whatever variants a peer sends
// (CVE-2021-41991).
func TestCacheIsBounded(t *testing.T) {
	root := newCA(t, nil, nil)
	c := NewCache(3)
	for range 10 {
		x, err := c.Parse(issue(t, root, root.key.Public(), nil, nil).X509.Raw)
		if err != nil {
			t.Fatal(err)
		}
		c.Keep(x, x)
	}
	if c.Len() != 3 || len(c.All()) != 3 {
		t.Errorf("%d certificates are held", c.Len())
	}
	if _, err := c.Parse([]byte("junk")); err == nil || c.Len() != 3 {
		t.Error("junk was kept")
	}
	c.Flush()
	if c.Len() != 0 {
		t.Error("flush")
	}
}

func FuzzAlgorithm(f *testing.F) {
	for _, s := range []string{"300d06092a864886f70d01010b0500", "300a06082a8648ce3d040302", "300506032b6570",
		"304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d06096086480165030402010500a203020120"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := parseAlgorithm(der)
		if err != nil {
			return
		}
		if s.String() == "" || s.pss && (s.salt < 0 || s.salt > 512) {
			t.Errorf("%+v", s)
		}
		_, _, _ = splitAuth(append([]byte{byte(len(der))}, der...))
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte{0x30, 0x06, 0x30, 0x02, 0x05, 0x00, 0x04, 0x00})
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = ParseCerts(data, "")
		_, _ = ParseCRLs(data, "")
		if k, err := parseDERKey(data); err == nil {
			_, _ = NewKey(k, "")
		}
	})
}
