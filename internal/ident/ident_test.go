package ident

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"testing"
)

func parse(t testing.TB, s string) ID {
	t.Helper()
	id, err := Parse(s)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return id
}

// The text grammar of identities gives the type, the data and the print form.
func TestParse(t *testing.T) {
	for _, x := range []struct {
		text string
		typ  Type
		data string // hexadecimal; "" skips
		out  string
	}{
		{"", Any, "", "%any"}, {"%any", Any, "", "%any"}, {"*", Any, "", "%any"}, {"0.0.0.0", Any, "", "%any"}, {"::", Any, "", "%any"},
		{"192.0.2.1", IPv4, "c0000201", "192.0.2.1"}, {"2001:db8::1", IPv6, "", "2001:db8::1"},
		{"192.0.2.0/24", IPv4Subnet, "c0000200ffffff00", "192.0.2.0/24"}, {"2001:db8::/32", IPv6Subnet, "", "2001:db8::/32"},
		{"192.0.2.1-192.0.2.9", IPv4Range, "c0000201c0000209", "192.0.2.1-192.0.2.9"},
		{"moon.example.org", FQDN, "", "moon.example.org"}, {"@moon", FQDN, "6d6f6f6e", "moon"}, {"fqdn:192.0.2.1", FQDN, "", "192.0.2.1"},
		{"carol@example.org", RFC822, "", "carol@example.org"}, {"@@carol", RFC822, "6361726f6c", "carol"}, {"email:x", RFC822, "78", "x"},
		{"@#0102ab", KeyID, "0102ab", "01:02:ab"}, {"keyid:abc", KeyID, "616263", "abc"}, {"keyid:#6162", KeyID, "6162", "ab"}, {"x:y", KeyID, "", "x:y"},
		{"C=CH, O=Lab, CN=moon", DERDN, "302a310b30090603550406130243483" + "10c300a060355040a13034c6162310d300b060355040313046d6f6f6e", "C=CH, O=Lab, CN=moon"},
		{"/C=CH/O=Lab/CN=moon", DERDN, "", "C=CH, O=Lab, CN=moon"}, {"QQ=1", KeyID, "", "QQ=1"},
		{"{11}:#ff", KeyID, "ff", "ff"}, {"ipv4net:10.0.0.1", IPv4Subnet, "0a000001ffffffff", "10.0.0.1/32"},
	} {
		id := parse(t, x.text)
		if id.Type != x.typ || id.String() != x.out || x.data != "" && hex.EncodeToString([]byte(id.Data)) != x.data {
			t.Errorf("%q: type %d, %x, %q; want %d, %s, %q", x.text, id.Type, id.Data, id.String(), x.typ, x.data, x.out)
		}
	}
	for _, bad := range []string{"ipv4:moon", "ipv4:::1", "@", "@@", "@#xyz", "asn1dn:moon", "uri:http://x", "{999}:x", "fqdn:^($"} {
		if id, err := Parse(bad); err == nil {
			t.Errorf("%q was taken as %v", bad, id)
		}
	}
}

// A pattern matches by its kind, more exact ones rank higher, and only the pattern
// side has wildcards.
func TestMatch(t *testing.T) {
	order := func(id string, patterns ...string) {
		t.Helper()
		last := Rank(1 << 20)
		for _, p := range patterns {
			r := Match(parse(t, p), parse(t, id))
			if r == None || r >= last {
				t.Errorf("%q against %q: rank %d after %d", id, p, r, last)
			}
			last = r
		}
	}
	order("a.b.example.org", "A.B.EXAMPLE.ORG", "*.b.example.org", "*.example.org", "%any")
	order("carol@example.org", "carol@example.org", "*@example.org", "%any")
	order("192.0.2.7", "192.0.2.7", "192.0.2.0/24", "192.0.0.0/16", "%any")
	order("C=CH, O=Lab, CN=moon", "C=CH, O=LAB, CN=Moon", "C=CH, O=Lab, CN=*", "C=CH, O=*, CN=*", "%any")
	order("a.example.org", "fqdn:^[a-c]\\.example\\.org$", "%any")
	for _, x := range [][2]string{
		{"*.example.org", "example.org"}, {"moon", "*"}, {"moon.example.org", "@*.example.org"}, {"192.0.2.0/24", "192.0.3.1"}, {"192.0.2.0/24", "2001:db8::1"},
		{"192.0.2.1-192.0.2.9", "192.0.2.10"}, {"C=CH, O=Lab", "C=CH, O=Lab, CN=moon"}, {"C=CH, CN=*", "O=CH, CN=x"}, {"O=Lab, C=CH", "C=CH, O=Lab"},
		{"C=CH, CN=moon", "C=CH, CN=*"}, {"fqdn:moon", "keyid:moon"}, {"fqdn:^a$", "ab"}, {"fqdn:^a|b$", "ab"},
	} {
		if r := Match(parse(t, x[0]), parse(t, x[1])); x[1] != "*" && r != None {
			t.Errorf("%q matches %q with rank %d", x[0], x[1], r)
		}
	}
}

// A distinguished name keeps its order, its string types do not count for
// equality, and escapes survive.
func TestDN(t *testing.T) {
	name := pkix.Name{Country: []string{"CH"}, Organization: []string{"Höhle, Inc."}, CommonName: "a+b \"c\" \\d#"}
	der, err := asn1.Marshal(name.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	text, err := FormatDN(der)
	if err != nil || text != `C=CH, O=Höhle\, Inc., CN=a\+b \"c\" \\d#` {
		t.Error(text, err)
	}
	back, err := ParseDN(text)
	if err != nil || !Equal(FromDN(der), FromDN(back)) {
		t.Errorf("%x is not %x: %v", back, der, err)
	}
	utf8DN, _ := ParseDN("CN=#0c046d6f6f6e") // UTF8String "moon"
	if !Equal(FromDN(utf8DN), parse(t, "CN=moon")) || string(utf8DN) == parse(t, "CN=moon").Data {
		t.Error("the string type counts")
	}
	for _, bad := range []string{"CN", "CN=a,", "CN=\"a", "=x", "CN=#zz", "CN=#0c05ab", "1=x", "9.9=x"} {
		if der, err := ParseDN(bad); err == nil {
			t.Errorf("%q gave %x", bad, der)
		}
	}
}

// Identities with the wrong size or broken DER are refused, at every length.
func TestWellFormed(t *testing.T) {
	for _, x := range []struct {
		typ  uint8
		data []byte
	}{{4, make([]byte, 7)}, {1, make([]byte, 3)}, {1, make([]byte, 5)}, {5, make([]byte, 4)}, {2, nil}, {13, []byte{1}}, {9, []byte{0x30, 1}}} {
		if err := wellFormed(ID{Type(x.typ), string(x.data)}); err == nil {
			t.Errorf("type %d, %x was taken", x.typ, x.data)
		}
	}
	dn := []byte(parse(t, "C=CH, O=Lab, CN=moon").Data)
	for n := range dn {
		if err := wellFormed(FromDN(dn[:n])); err == nil {
			t.Errorf("a prefix of %d octets was taken", n)
		}
	}
	if err := wellFormed(FromDN(append(dn[:len(dn):len(dn)], 0))); err == nil {
		t.Error("an octet after the name was taken")
	}
}

// What a peer sends cannot break a log line.
func TestStringIsHarmless(t *testing.T) {
	for _, id := range []ID{{FQDN, "a\nb\x1b[2J"}, {KeyID, "\x00\x01"}, {RFC822, "\xff"}, {Type(77), "x\n"}, {IPv4, "abc"}, {DERDN, "junk\n"}} {
		for _, r := range id.String() {
			if r < 0x20 || r > 0x7e {
				t.Errorf("%q", id.String())
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "moon", "@#0102", "C=CH, O=Lab, CN=moon", "/C=CH/CN=x", "10.0.0.0/8", "::1-::2", "fqdn:^a$", "{9}:#3000", "CN=\"a, b\" + O=x\\,y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := Parse(s)
		if err != nil {
			return
		}
		_ = id.String()
		_ = id.IsPattern()
		if !id.IsAny() && !(id.IsPattern() && id.Type != DERDN) && Match(id, id) != Exact {
			t.Errorf("%q does not match itself", s)
		}
	})
}

func FuzzDN(f *testing.F) {
	for _, s := range []string{"C=CH, O=Lab, CN=moon", "CN=a + O=b", "CN=#0c046d6f6f6e", "E=a@b"} {
		der, err := ParseDN(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		s, err := FormatDN(der)
		if err != nil {
			return
		}
		back, err := ParseDN(s)
		if err != nil || s == "" {
			return // an empty name, or a value without DER inside
		}
		if again, err := FormatDN(back); err != nil || len(again) == 0 {
			t.Errorf("%q does not print again: %v", s, err)
		}
		_ = Match(FromDN(der), FromDN(der))
	})
}
