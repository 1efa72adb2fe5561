package pki

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"

	"iked/internal/ident"
)

// der makes a certificate without reading it back.
func der(t *testing.T, by *ca, pub any, change func(*x509.Certificate)) []byte {
	t.Helper()
	serial++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		Subject: pkix.Name{CommonName: "peer"}}
	names(tmpl)
	if change != nil {
		change(tmpl)
	}
	b, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert.X509, pub, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// CVE-2026-14957 and CVE-2023-29409 class: a peer's certificate may hold any key,
// before anything is known of the peer. RSA keys beyond MaxRSA, whose signatures
// take seconds to check, and exponents that no RSA key has are refused at once,
// as leaf and as intermediate.
func TestCVE_2023_29409_HugeKey(t *testing.T) {
	root := newCA(t, nil, nil)
	huge := new(big.Int).SetBit(big.NewInt(1), 60000, 1)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	for name, pub := range map[string]*rsa.PublicKey{
		"60001 bits": {N: huge, E: 65537},
		"16385 bits": {N: new(big.Int).SetBit(big.NewInt(1), MaxRSA, 1), E: 65537},
		"e = 1":      {N: rsaKey().N, E: 1},
		"e = 4":      {N: rsaKey().N, E: 4},
	} {
		b := der(t, root, pub, nil)
		if _, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{b}}); f == nil || f.Step != StepParse {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if _, err := NewCert(der(t, root, &rsa.PublicKey{N: new(big.Int).SetBit(big.NewInt(1), MaxRSA-1, 1), E: 65537}, nil)); err != nil {
		t.Errorf("%d bits: %v", MaxRSA, err)
	}
}

// CVE-2021-41991 class: what strangers send is not kept. Only certificates whose
// chain was verified enter the cache, so no flood drives them out.
func TestCVE_2021_41991_StrangersAreNotCached(t *testing.T) {
	root, other := newCA(t, nil, nil), newCA(t, nil, nil)
	cache := NewCache(4)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}, Cache: cache})
	good := issue(t, root, root.key.Public(), nil, names)
	if _, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{good.X509.Raw}}); f != nil {
		t.Fatal(f)
	}
	before := cache.Len()
	for range 20 {
		bad := issue(t, other, other.key.Public(), nil, names)
		if _, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{bad.X509.Raw, other.cert.X509.Raw}}); f == nil {
			t.Fatal("a stranger's chain was accepted")
		}
	}
	if cache.Len() != before || before == 0 {
		t.Errorf("%d certificates are held, %d were before the flood", cache.Len(), before)
	}
	held := false
	for _, c := range cache.All() {
		held = held || c.Equal(good)
	}
	if !held {
		t.Error("the certificate that was verified was driven out")
	}
}

// CVE-2020-16088 class: the key that proves the identity is that of the
// certificate that holds the identity. Another certificate of the same CA, good
// as it is, does not serve, whichever of its names resembles the identity.
func TestCVE_2020_16088_OtherCertificate(t *testing.T) {
	root := newCA(t, nil, nil)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	mallory := issue(t, root, root.key.Public(), nil, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: "moon.example.org"}
		c.DNSNames = []string{"mallory.example.org", "*.example.org", "moon.example.org.mallory.net"}
		c.EmailAddresses = []string{"moon@example.org"}
	})
	moon := issue(t, root, root.key.Public(), nil, names)
	for _, want := range []string{"moon.example.org", "carol@example.org", "192.0.2.1", "C=CH, O=Lab, CN=moon"} {
		_, _, f := s.Verify(now, Peer{ID: id(t, want), Certs: [][]byte{mallory.X509.Raw, moon.X509.Raw}})
		if f == nil || f.Step != StepIdentity {
			t.Errorf("%s: %+v", want, f)
		}
	}
}

// CVE-2013-6075 and CVE-2013-5018 class: identities with NUL, with a prefix of
// another, of another type and with odd DER compare as different, and none of
// them harms.
func TestCVE_2013_6075_IdentityComparison(t *testing.T) {
	c := issue(t, newCA(t, nil, nil), ecKey(t, elliptic.P256()).Public(), nil, names)
	raw := string(c.X509.RawSubject)
	for _, x := range []ident.ID{
		{Type: ident.FQDN, Data: "moon.example.org\x00"}, {Type: ident.FQDN, Data: "moon.example.org\x00.evil.net"},
		{Type: ident.FQDN, Data: "moon.example.or"}, {Type: ident.FQDN, Data: ""}, {Type: ident.FQDN, Data: "*"},
		{Type: ident.RFC822, Data: "moon.example.org"}, {Type: ident.KeyID, Data: ""}, {Type: ident.KeyID, Data: "moon.example.org"},
		{Type: ident.DERDN, Data: raw[:len(raw)-1]}, {Type: ident.DERDN, Data: raw + "\x00"}, {Type: ident.DERDN, Data: ""},
		{Type: ident.DERDN, Data: "\x30\x84\xff\xff\xff\xff"}, {Type: ident.DERGN, Data: raw}, {Type: ident.NullID}, {Type: ident.Any},
		{Type: ident.IPv4, Data: "\xc0\x00\x02"}, {Type: ident.IPv6, Data: "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\xc0\x00\x02\x01"},
	} {
		if c.Holds(x) {
			t.Errorf("the certificate holds %v (%q)", x, x.Data)
		}
	}
}

// CVE-2026-35331 class: a CA that is limited by excluded or permitted names
// cannot vouch for others.
func TestCVE_2026_35331_NameConstraints(t *testing.T) {
	root := newCA(t, nil, nil)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	for name, limit := range map[string]func(*x509.Certificate){
		"excluded":          func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"example.org"} },
		"excluded, case":    func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"EXAMPLE.ORG"} },
		"permitted another": func(c *x509.Certificate) { c.PermittedDNSDomains = []string{"example.net"} },
	} {
		sub := newCA(t, root, limit)
		leaf := issue(t, sub, sub.key.Public(), nil, func(c *x509.Certificate) { c.DNSNames = []string{"moon.example.org"} })
		_, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{leaf.X509.Raw, sub.cert.X509.Raw}})
		if f == nil || f.Step != StepChain {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

// CVE-2022-40617 class: a certificate names places to fetch revocation from.
// Nothing here can fetch: the check of a stranger's chain with such places ends
// with what is at hand.
func TestCVE_2022_40617_NothingIsFetched(t *testing.T) {
	root, other := newCA(t, nil, nil), newCA(t, nil, nil)
	s := NewStore(StoreConfig{Anchors: []*Cert{root.cert}})
	places := func(c *x509.Certificate) {
		names(c)
		c.CRLDistributionPoints = []string{"http://127.0.0.1:1/crl"}
		c.OCSPServer = []string{"http://127.0.0.1:1/ocsp"}
		c.IssuingCertificateURL = []string{"http://127.0.0.1:1/ca"}
	}
	bad := issue(t, other, other.key.Public(), nil, places)
	if _, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{bad.X509.Raw}, Revocation: Strict}); f == nil || f.Step != StepIssuer {
		t.Errorf("%+v", f)
	}
	good := issue(t, root, root.key.Public(), nil, places)
	if _, _, f := s.Verify(now, Peer{ID: id(t, "moon.example.org"), Certs: [][]byte{good.X509.Raw}, Revocation: Strict}); f == nil {
		t.Error("without a CRL at hand, strict must refuse")
	}
}

// CVE-2018-16151 class: signatures that are empty, zero, cut, extended, or of a
// method that proves nothing (NULL of RFC 7619, shared key, reserved ones) are
// refused for every kind of key.
func TestCVE_2018_16151_BadSignatures(t *testing.T) {
	root := newCA(t, nil, nil)
	octets := []byte("signed octets")
	for name, key := range map[string]any{"RSA": rsaKey(), "ECDSA": ecKey(t, elliptic.P256()), "Ed25519": edKey(t)} {
		k, err := NewKey(key, "")
		if err != nil {
			t.Fatal(err)
		}
		c := issue(t, root, k.Public(), nil, names)
		method, auth, err := Sign(k, Constraints{}, SupportedHashes(), octets)
		if err != nil {
			t.Fatal(err)
		}
		if f := CheckAuth(c, Constraints{}, method, auth, octets); f != nil {
			t.Fatalf("%s: %v", name, f)
		}
		alg := auth[:1+int(auth[0])]
		forged := map[string][]byte{
			"empty": nil, "no signature": alg, "zeros": append(append([]byte{}, alg...), make([]byte, len(auth)-len(alg))...),
			"cut": auth[:len(auth)-1], "longer": append(append([]byte{}, auth...), 0), "twice": append(append([]byte{}, auth...), auth[len(alg):]...),
		}
		for what, a := range forged {
			if f := CheckAuth(c, Constraints{}, method, a, octets); f == nil {
				t.Errorf("%s: %s was accepted", name, what)
			}
		}
		for m := range 256 {
			if uint8(m) == method {
				continue
			}
			if f := CheckAuth(c, Constraints{}, uint8(m), auth, octets); f == nil {
				t.Errorf("%s: method %d was accepted", name, m)
			}
		}
	}
}

// What a stranger's certificate says reaches logs only in a form that cannot
// break a line or steer a terminal.
func TestNamesAreHarmless(t *testing.T) {
	evil := "moon\n{\"level\":\"info\"}\x1b[2J\u202e"
	root := newCA(t, nil, nil)
	c := issue(t, root, root.key.Public(), nil, func(c *x509.Certificate) {
		c.Subject = pkix.Name{CommonName: evil, Organization: []string{evil}}
		c.EmailAddresses = []string{"a\x1b[1m@b"}
	})
	s := NewStore(StoreConfig{})
	_, _, f := s.Verify(now, Peer{ID: ident.ID{Type: ident.FQDN, Data: evil}, Certs: [][]byte{c.X509.Raw}})
	if f == nil {
		t.Fatal("accepted")
	}
	tr := f.Trace()
	for _, text := range append(append(c.Names(), tr.Sentence), tr.Evidence...) {
		if strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f || r == 0x202e }) {
			t.Errorf("%q", text)
		}
	}
}
