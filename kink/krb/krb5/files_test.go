package krb5

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/kink"
)

func name(t testing.TB, s string) kink.Principal {
	t.Helper()
	p, err := kink.ParsePrincipal(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// entry is an entry of a keytab, written by hand.
func entry(realm string, parts []string, kvno8 byte, id uint16, key []byte, tail ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(len(parts)))
	for _, s := range append([]string{realm}, parts...) {
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	b = append(b, 0, 0, 0, 1, 0x60, 0, 0, 0, kvno8)
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(key))), key...)
	b = append(b, tail...)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// The keytabs of MIT's ktadd are read: of racoon2's hosts, and with versions, holes
// that ktremove leaves, and the long version behind an entry.
func TestKeytab(t *testing.T) {
	for host, p := range map[string]string{"a": "kink/a.kink.test@KINK.TEST", "b": "kink/b.kink.test@KINK.TEST"} {
		b, err := os.ReadFile(filepath.Join("testdata", "racoon2", "kink-"+host+".keytab"))
		if err != nil {
			t.Fatal(err)
		}
		kt, err := ParseKeytab(b)
		if err != nil || len(kt.Versions(name(t, p))) == 0 || len(kt.Others) != 0 {
			t.Fatalf("%+v %v", kt, err)
		}
		if types := kt.ETypes(name(t, p)); !slices.Contains(types, int32(AES256)) {
			t.Errorf("types %v", types)
		}
	}
	aes := bytes.Repeat([]byte{7}, 16)
	b := []byte{5, 2}
	b = append(b, entry("R", []string{"kink", "a"}, 3, AES128, aes)...)
	b = append(b, 0xff, 0xff, 0xff, 0xfb, 1, 2, 3, 4, 5) // a hole of five octets
	b = append(b, entry("R", []string{"kink", "a"}, 0x2c, AES128, bytes.Repeat([]byte{8}, 16), 0, 0, 1, 0x2c)...)
	b = append(b, entry("R", []string{"kink", "a"}, 4, AES256, bytes.Repeat([]byte{9}, 32), 0, 0, 0, 0)...)
	b = append(b, entry("R", []string{"kink", "b"}, 1, 23, aes)...)
	b = append(b, entry("R", []string{"kink\x1b", "b"}, 1, AES128, aes)...)
	kt, err := ParseKeytab(b)
	if err != nil || len(kt.Entries) != 3 || len(kt.Others) != 2 {
		t.Fatalf("%+v %v", kt, err)
	}
	a := name(t, "kink/a@R")
	n := func(v uint32) *uint32 { return &v }
	for _, c := range []struct {
		id   int32
		kvno *uint32
		key  byte // 0: none
	}{{AES128, nil, 8}, {AES128, n(300), 8}, {AES128, n(3), 7}, {AES128, n(4), 0}, {AES256, n(4), 9}, {AES256, n(260), 9}, {AES256, nil, 9}, {SHA256, nil, 0}} {
		e, ok := kt.Find(a, c.id, c.kvno)
		if ok != (c.key != 0) || ok && e.Key.Reveal()[0] != c.key {
			t.Errorf("%+v: %v %v", c, e.KVNO, ok)
		}
	}
	if v := kt.Versions(a); len(v) != 3 || !strings.Contains(v[1], "kvno 300") {
		t.Errorf("%q", v)
	}
	if len(kt.Versions(name(t, "kink/b@R"))) != 0 || len(kt.ETypes(name(t, "kink/b@R"))) != 0 {
		t.Error("a key of a type that is not supported")
	}
}

// A keytab that is cut is refused wherever it is, but between its entries.
func TestKeytabRefused(t *testing.T) {
	whole := append([]byte{5, 2}, entry("R", []string{"kink", "a"}, 3, AES128, make([]byte, 16))...)
	for n := range whole {
		kt, err := ParseKeytab(whole[:n])
		if (err == nil) != (n == 2) || err == nil && len(kt.Entries) != 0 {
			t.Errorf("the first %d octets are read", n)
		}
	}
	for what, b := range map[string][]byte{
		"version 1":            {5, 1, 0, 0},
		"no keytab":            []byte("hello"),
		"a huge entry":         {5, 2, 0x7f, 0xff, 0xff, 0xff, 0},
		"a huge hole":          {5, 2, 0x80, 0, 0, 0, 0},
		"no components":        append([]byte{5, 2}, entry("R", nil, 1, AES128, make([]byte, 16))...),
		"many components":      append([]byte{5, 2}, entry("R", make([]string, 17), 1, AES128, make([]byte, 16))...),
		"a name beyond":        {5, 2, 0, 0, 0, 4, 0, 1, 0xff, 0xff},
		"more than is allowed": make([]byte, MaxFile+1),
	} {
		if _, err := ParseKeytab(b); err == nil {
			t.Errorf("%s is read", what)
		}
	}
	if kt, err := ParseKeytab([]byte{5, 2, 0, 0, 0, 0, 1, 2, 3}); err != nil || len(kt.Entries) != 0 {
		t.Errorf("what follows the end is read: %v", err)
	}
}

// kinit's credential cache is read: its ticket is that of its client, and settings are
// no tickets. A cache that is cut between entries lacks the last, cut elsewhere it is
// refused.
func TestCCacheOfMIT(t *testing.T) {
	r, keys := mit(t)
	c, err := ParseCCache(r.CCache)
	if err != nil || c.Principal != name(t, "kink/a.example@A.EXAMPLE") || len(c.Credentials) != 1 {
		t.Fatalf("%+v %v", c, err)
	}
	cred := c.Credentials[0]
	part := ticketPart(t, keys, cred.Ticket)
	if cred.Server != name(t, "krbtgt/A.EXAMPLE@A.EXAMPLE") || cred.Client != c.Principal || !cred.Key.Equal(part.Key) || !cred.EndTime.Equal(part.EndTime) || !cred.AuthTime.Equal(part.AuthTime) || cred.Flags != part.Flags || cred.UserToUser {
		t.Errorf("%+v, the ticket has %+v", cred, part)
	}
	read := 0
	for n := range r.CCache {
		c, err := ParseCCache(r.CCache[:n])
		if err == nil {
			read++
			if len(c.Credentials) > 1 {
				t.Errorf("cut after %d octets it has %d tickets", n, len(c.Credentials))
			}
		}
	}
	if read > 4 {
		t.Errorf("%d prefixes are read", read)
	}
	// Version 3 has no header, and the type twice.
	v3 := append([]byte{5, 3}, r.CCache[16:]...)
	if _, err := ParseCCache(v3); err == nil {
		t.Error("entries of version 4 are read as of version 3")
	}
	for what, b := range map[string][]byte{
		"version 1": {5, 1}, "nothing": nil, "something": []byte("hello"), "a header beyond": {5, 4, 0xff, 0xff, 0},
		"a principal beyond": {5, 4, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff}, "many components": {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0},
		"no principal": {5, 4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, "more than is allowed": make([]byte, MaxFile+1),
	} {
		if _, err := ParseCCache(b); err == nil {
			t.Errorf("%s is read", what)
		}
	}
	if _, err := ParseCCache(bytes.Clone(r.CCache)); err != nil || time.Unix(0, 0).After(r.Time) {
		t.Error(err)
	}
}

// Any file is read or refused, in bounded memory.
func FuzzFiles(f *testing.F) {
	r, _ := mit(f)
	f.Add([]byte(r.Keytab))
	f.Add([]byte(r.CCache))
	f.Add(append([]byte{5, 2}, entry("R", []string{"kink", "a"}, 3, AES128, make([]byte, 16))...))
	f.Add([]byte{5, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if kt, err := ParseKeytab(b); err == nil {
			for _, e := range kt.Entries {
				if got, ok := kt.Find(e.Principal, e.Key.EType(), &e.KVNO); !ok || got.KVNO != e.KVNO {
					t.Errorf("%s, kvno %d is not found", e.Principal, e.KVNO)
				}
				kt.ETypes(e.Principal)
				kt.Versions(e.Principal)
			}
		}
		if c, err := ParseCCache(b); err == nil && c.Principal.IsZero() {
			t.Error("no principal")
		}
	})
}
