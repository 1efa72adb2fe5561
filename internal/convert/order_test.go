package convert_test

import (
	"strings"
	"testing"

	"iked/internal/convert"
)

// Traffic that was protected by the order of policies, and would pass in clear here,
// is told; what the order does not change is not.
func TestPolicyOrder(t *testing.T) {
	const (
		wide = "spdadd 10.1.0.0/16 10.0.0.0/8 any -P out %ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;spdadd 10.0.0.0/8 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;"
		pass = "spdadd 10.1.0.0/16 10.9.0.0/16 any -P out %none;spdadd 10.9.0.0/16 10.1.0.0/16 any -P in none;"
		far  = "spdadd 10.1.0.0/16 192.168.0.0/16 any -P out none;spdadd 192.168.0.0/16 10.1.0.0/16 any -P in none;"
	)
	plain := func(s string) string { return strings.ReplaceAll(s, "%", "") }
	prio := func(s string) string { return strings.ReplaceAll(s, "%", "prio 100 ") }
	for _, c := range []struct {
		text string
		told bool
	}{
		{plain(pass + wide), false},
		{plain(wide + pass), true},
		{plain(pass) + prio(wide), true},
		{prio(pass) + plain(wide), true},
		{plain(wide + far), false},
	} {
		r, err := convert.Convert(one(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if r.Insecure() != c.told {
			t.Errorf("%s: told %v: %v", c.text, r.Insecure(), r.Notes)
		}
	}
}

// What comes in must be protected as what goes out, since a child is for both ways.
func TestPolicyMirror(t *testing.T) {
	const out = "spdadd 10.1.0.0/16 10.2.0.0/16 any -P out ipsec esp/tunnel/192.0.2.1-192.0.2.2/require;"
	for in, told := range map[string]bool{
		"": false,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;":                                                                                  false,
		"spdadd 10.2.0.0/16[any] 10.1.0.0/16[any] any -P fwd ipsec esp/tunnel/192.0.2.2-192.0.2.1/unique:3;":                                                                      false,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in none;":                                                                                                                          true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in discard;":                                                                                                                       true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec ah/tunnel/192.0.2.2-192.0.2.1/require;":                                                                                   true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.3-192.0.2.1/require;":                                                                                  true,
		"spdadd 10.3.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;":                                                                                  true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;spdadd 10.1.0.0/16 10.3.0.0/16 any -P out ipsec esp/tunnel/a-b/require;":           true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;spdadd 10.1.0.0/16 10.3.0.0/16 icmp 8,0 -P out discard;":                           true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;spdadd 10.1.0.0/16 10.3.0.0/16 any -P out ipsec esp/transport//require;":           true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;spdadd 10.1.0.1 10.3.0.1 any -P out ipsec ipcomp/transport//require;":              true,
		"spdadd 10.2.0.0/16 10.1.0.0/16 any -P in ipsec esp/tunnel/192.0.2.2-192.0.2.1/require;spdadd 10.1.0.1 10.3.0.1[53] any -P out ipsec esp/tunnel/1.1.1.1-2.2.2.2/require;": true,
	} {
		r, err := convert.Convert(one(out + in))
		if err != nil {
			t.Fatal(err)
		}
		if r.Insecure() != told {
			t.Errorf("%s: told %v: %v", in, r.Insecure(), r.Notes)
		}
	}
}
