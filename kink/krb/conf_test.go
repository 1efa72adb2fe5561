package krb

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"iked/kink/krb/krb5"
)

// memFiles is a file system of a test.
type memFiles map[string]string

func (m memFiles) Read(name string, limit int) ([]byte, error) {
	s, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(s[:min(len(s), limit)]), nil
}

func (m memFiles) List(dir string) (names []string, err error) {
	for n := range m {
		if filepath.Dir(n) == dir {
			names = append(names, filepath.Base(n))
		}
	}
	return names, nil
}

// A krb5.conf as sites have it: of MIT and Heimdal, with what is not honoured.
func TestConf(t *testing.T) {
	c, err := loadConf("/etc/krb5.conf", memFiles{
		"/etc/krb5.conf": `
# a comment
; another
module /lib/x.so:init
includedir /etc/krb5.conf.d
[libdefaults]
	default_realm = EXAMPLE.ORG
	default_keytab_name = FILE:/etc/kink.keytab
	clockskew = 2m
	ticket_lifetime = 1d 2h
	udp_preference_limit = 1
	kdc_timesync = 0
	dns_lookup_kdc = no
	permitted_enctypes = aes256-cts AES128-SHA1, des3-cbc-sha1 arcfour-hmac -des3
	default_tgs_enctypes = aes128-cts des3
	forwardable = true
[realms]
	EXAMPLE.ORG = {
		kdc = kerberos.example.org
		kdc = tcp/[2001:db8::1]:750
		kdc = "192.0.2.1:88"
		admin_server = kerberos.example.org
		primary_kdc = primary.example.org
		auth_to_local = {
			x = y
		}
	}
	OTHER.ORG = {
		kdc = https://proxy.example.org/KdcProxy
	}
[domain_realm]
	.example.org = EXAMPLE.ORG
	special.example.org = OTHER.ORG
	host.net = NET
[capaths]
	A = {
		C = B
		C = B2
		D = .
	}
`,
		"/etc/krb5.conf.d/one":         "[libdefaults]\nclockskew = 60\n",
		"/etc/krb5.conf.d/two.conf":    "[libdefaults]\n\tkdc_timeout = 2\n",
		"/etc/krb5.conf.d/three.bak~":  "[libdefaults]\nclockskew = 1\n",
		"/etc/krb5.conf.d/.hidden":     "[libdefaults]\nclockskew = 1\n",
		"/etc/krb5.conf.d/four.rpmnew": "garbage",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.DefaultKeytab != "FILE:/etc/kink.keytab" || c.ClockSkew != time.Minute || c.TicketLifetime != 26*time.Hour || c.UDPLimit != 1 || c.TimeSync || c.LookupKDC || c.Timeout != 2*time.Second {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(c.Permitted, []int32{krb5.AES256, krb5.AES128}) || !slices.Equal(c.TGSETypes, []int32{krb5.AES128}) || !slices.Equal(c.TktETypes, c.Permitted) {
		t.Errorf("types %v, %v, %v", c.Permitted, c.TktETypes, c.TGSETypes)
	}
	if len(c.Notes) != 1 || !strings.Contains(c.Notes[0], "line 4: modules are not loaded") {
		t.Errorf("notes %q", c.Notes)
	}
	list, err := c.servers("EXAMPLE.ORG")
	if d := cmp.Diff([]server{{"kerberos.example.org", "88", false}, {"2001:db8::1", "750", true}, {"192.0.2.1", "88", false}, {"primary.example.org", "88", false}}, list, cmp.AllowUnexported(server{})); d != "" || err != nil {
		t.Error(d, err)
	}
	if list, err := c.servers("OTHER.ORG"); len(list) != 0 || err == nil || !strings.Contains(err.Error(), "MS-KKDCP") {
		t.Errorf("%v, %v", list, err)
	}
	for host, want := range map[string]string{
		"a.example.org": "EXAMPLE.ORG", "A.Example.ORG.": "EXAMPLE.ORG", "x.a.example.org": "EXAMPLE.ORG", "special.example.org": "OTHER.ORG",
		"example.org": "", "host.net": "NET", "a.host.net": "NET", "": "", "org": "", strings.Repeat("a.", 200): "",
	} {
		if got := c.RealmOf(host); got != want {
			t.Errorf("the realm of %q is %q, expected %q", host, got, want)
		}
	}
	for _, x := range []struct {
		client, server string
		want           []string
	}{
		{"A", "C", []string{"B", "B2"}}, {"A", "D", nil}, {"A.EX", "B.EX", []string{"EX"}}, {"A.B.EX", "C.D.EX", []string{"B.EX", "EX", "D.EX"}},
		{"EX", "A.B.EX", []string{"B.EX"}}, {"A.B.EX", "EX", []string{"B.EX"}}, {"X", "Y", nil},
	} {
		if got := c.path(x.client, x.server); !slices.Equal(got, x.want) {
			t.Errorf("from %s to %s by %v, expected %v", x.client, x.server, got, x.want)
		}
	}
}

// No file, or one without anything, has the defaults; a final section is closed to
// files that come later, and of two files the first counts.
func TestConfDefaultsAndOrder(t *testing.T) {
	c, err := loadConf("/none:", memFiles{})
	if err != nil {
		t.Fatal(err)
	}
	if c.ClockSkew != 5*time.Minute || !c.TimeSync || !c.LookupKDC || !slices.Equal(c.Permitted, strong) || slices.Contains(c.Permitted, krb5.DES3) || c.DefaultKeytab != "/etc/krb5.keytab" {
		t.Errorf("%+v", c)
	}
	c, err = loadConf("/a:/none:/b", memFiles{"/a": "[libdefaults]\nclockskew = 62\n", "/b": "[libdefaults]\nclockskew = 61\nkdc_timeout = 4\n"})
	if err != nil || c.Timeout != 4*time.Second || c.ClockSkew != 62*time.Second {
		t.Errorf("%+v %v", c, err)
	}
	if _, err = loadConf("/a:/b", memFiles{"/a": "[libdefaults]*\nclockskew = 62\n", "/b": "[libdefaults]\nclockskew=61\n"}); err == nil || !strings.Contains(err.Error(), "final") {
		t.Errorf("%v", err)
	}
	path := filepath.Join(t.TempDir(), "krb5.conf")
	if err := os.WriteFile(path, []byte("[libdefaults]\nclockskew = 63\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := LoadConf(path); err != nil || c.ClockSkew != 63*time.Second {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := LoadConf(t.TempDir()); err == nil {
		t.Error("a folder is read")
	}
}

// What cannot be meant is an error with its place.
func TestConfRefused(t *testing.T) {
	loop := memFiles{"/etc/krb5.conf": "include /etc/krb5.conf\n"}
	deep := "[a]\n" + strings.Repeat("x = {\n", 20)
	for text, want := range map[string]string{
		"[libdefaults":                      "line 1",
		"x = y":                             "line 1",
		"[a]\nhello\n":                      "line 2",
		"[a]\nx = {\n":                      "has no }",
		"[a]\n}\n":                          "without its {",
		"[a]\nx = {\n[b]\n":                 "is no section",
		"[libdefaults]\nclockskew = soon\n": "clockskew",
		"[libdefaults]\nclockskew = 30d\n":  "is not between",
		"[libdefaults]\nclockskew = 99999999999d\n":                "is no time",
		"[libdefaults]\npermitted_enctypes = rc4\n":                "no encryption type that is supported",
		"[libdefaults]\npermitted_enctypes = aes512\n":             "is no encryption type",
		"[libdefaults]\ndefault_tkt_enctypes = des3-cbc-sha1\n":    "no encryption type that is supported",
		"[libdefaults]\nkdc_timesync = perhaps\n":                  "neither true nor false",
		"[libdefaults]\nudp_preference_limit = -1\n":               "is no number",
		"include relative\n":                                       "absolute path",
		"includedir relative\n":                                    "absolute path",
		deep:                                                       "deep",
		"[a]\n" + strings.Repeat("x=y\n", maxProfileNodes):         "more than",
		"include /none\n[libdefaults]\npermitted_enctypes = x y\n": "",
	} {
		_, err := loadConf("/etc/krb5.conf", memFiles{"/etc/krb5.conf": text})
		if want == "" {
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, expected %q", clip(text), err, want)
		}
	}
	if _, err := loadConf("/etc/krb5.conf", loop); err == nil || !strings.Contains(err.Error(), "are included") {
		t.Errorf("a loop: %v", err)
	}
	for _, bad := range []string{"http/a", "/run/kdc.sock", "a:0", "a:99999", "a:x", "", ":88", "[]"} {
		if s, err := parseServer(bad); err == nil {
			t.Errorf("the KDC %q is %+v", bad, s)
		}
	}
	for _, bad := range []string{"", "rc4", "nonsense"} {
		if list, err := ETypes(bad); err == nil {
			t.Errorf("%q is %v", bad, list)
		}
	}
	if list, err := ETypes("des3 default"); err != nil || !slices.Equal(list, append([]int32{krb5.DES3}, strong...)) {
		t.Errorf("%v %v", list, err)
	}
}

// Any text is read or refused, in bounded time, and what is read answers questions.
func FuzzConf(f *testing.F) {
	f.Add("[libdefaults]\n default_realm = A\n clockskew = 1h2m3s\n[realms]\n A = {\n kdc = a:88 b\n }\n[domain_realm]\n .a = A\n[capaths]\n A = {\n B = C\n }\n")
	f.Add("include /x\nincludedir /d\n[a]*\nx = \"a\\n\\\"b\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := loadConf("/x", memFiles{"/x": text, "/d/a": text})
		if err != nil {
			return
		}
		c.servers("A")
		c.RealmOf("host.a.b.c")
		c.path("A", "B")
		c.path("A.B.C", "D.B.C")
		if len(c.Permitted) == 0 || c.ClockSkew <= 0 || c.Retries <= 0 || c.Timeout <= 0 {
			t.Errorf("%+v", c)
		}
	})
}
