package keyex

import (
	"net/netip"
	"testing"

	"iked/internal/ident"
	"iked/spd"
)

func ts(t *testing.T, s string) spd.TS {
	t.Helper()
	x, _, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// RFC 4877, Section 6.1; RFC 4301, Section 4.4.3: an identity has the addresses of the
// entries that match it best, and nobody else has any; what is for many nodes each has
// one by one.
func TestPermittedHomeAddresses(t *testing.T) {
	id := func(s string) ident.ID {
		x, err := ident.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	c := &Config{Role: RoleAgent, Homes: []Home{
		{ID: id("*.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:1::/64")}},
		{ID: id("mn1.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:1::5")}},
		{ID: id("mn1.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:2::/64")}},
	}}
	lease := []netip.Prefix{netip.MustParsePrefix("2001:db8:9::9/128")}
	for _, x := range []struct {
		who, what string
		leased    []netip.Prefix
		want      bool
	}{
		{"mn1.example.org", "2001:db8:1::5", nil, true},
		{"mn1.example.org", "2001:db8:2::/64", nil, true}, // a mobile network of its own
		{"mn1.example.org", "2001:db8:1::6", nil, false},  // of the generic entry, which the exact one replaces
		{"mn2.example.org", "2001:db8:1::6[135/5]", nil, true},
		{"mn2.example.org", "2001:db8:1::5", nil, false}, // bound to mn1, here or not
		{"mn2.example.org", "2001:db8:1::/64", nil, false},
		{"mn2.example.org", "2001:db8:1::6-2001:db8:1::7", nil, false},
		{"mn2.example.com", "2001:db8:1::6", nil, false},
		{"mn2.example.com", "2001:db8:9::9", nil, false},
		{"mn2.example.com", "2001:db8:9::9", lease, true},
		{"mn2.example.com", "2001:db8:9::8-2001:db8:9::9", lease, false},
	} {
		if got := c.MayHave([]spd.TS{ts(t, x.what)}, id(x.who), x.leased); got != x.want {
			t.Errorf("%s may have %s: %t", x.who, x.what, got)
		}
	}
	if c.MayHave([]spd.TS{ts(t, "2001:db8:1::6"), ts(t, "2001:db8:1::7")}, id("mn2.example.org"), nil) {
		t.Error("one of many nodes has two addresses")
	}
	bu := []Selector{{TS: spd.TS{Proto: 135, PortFrom: 5 << 8, PortTo: 5 << 8}, Dynamic: true}, {TS: ts(t, "2001:db8:2::7")}}
	got := c.PeerTraffic(bu, id("mn1.example.org"), nil)
	want := []spd.TS{ts(t, "2001:db8:1::5[135/5]"), ts(t, "2001:db8:2::/64[135/5]"), ts(t, "2001:db8:2::7")}
	if !spd.Subset(got, want) || !spd.Subset(want, got) {
		t.Errorf("the traffic of mn1 is %v, expected %v", got, want)
	}
	if got := c.PeerTraffic(bu, id("mn1.example.com"), nil); len(got) != 0 {
		t.Errorf("a stranger has %v", got)
	}
}
