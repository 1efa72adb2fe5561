package spd

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func list(texts ...string) []TS {
	out := []TS{}
	for _, s := range texts {
		ts, _, err := Parse(s)
		if err != nil {
			panic(err)
		}
		out = append(out, ts)
	}
	return out
}

func show(l []TS) []string {
	out := []string{}
	for _, t := range l {
		out = append(out, t.String())
	}
	return out
}

func expect(t *testing.T, what string, got []TS, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if d := cmp.Diff(want, show(got)); d != "" {
		t.Errorf("%s (-expected +got):\n%s", what, d)
	}
}

// RFC 7296, Section 2.9: the responder answers with the intersection, the part
// with the initiator's first choice first, and never with more.
func TestNarrow(t *testing.T) {
	expect(t, "the whole offer is allowed", Narrow(list("10.0.0.0/8"), list("10.1.0.0/16")), "10.1.0.0/16")
	expect(t, "the offer is wider than the policy", Narrow(list("10.1.0.0/16[tcp]"), list("0.0.0.0/0")), "10.1.0.0/16[tcp]")
	// The RFC's example: the initiator's packet is to 198.51.100.43, its policy
	// 198.51.100.0/24; the responder's allows two separate halves.
	expect(t, "first specific selector decides the order",
		Narrow(list("198.51.100.0-198.51.100.9", "198.51.100.40-198.51.100.50"), list("198.51.100.43[tcp/80]", "198.51.100.0/24")),
		"198.51.100.40..198.51.100.50", "198.51.100.0..198.51.100.9")
	expect(t, "first choice not allowed", Narrow(list("198.51.100.0/28"), list("198.51.100.43", "198.51.100.0/24")), "198.51.100.0/28")
	expect(t, "nothing in common", Narrow(list("10.0.0.0/8"), list("192.0.2.0/24")))
	expect(t, "families apart", Narrow(list("10.0.0.0/8", "2001:db8::/32"), list("::/0")), "2001:db8::/32")
	expect(t, "OPAQUE is within ANY, not within a list of ports", Narrow(list("10.0.0.0/8[tcp/80]", "10.0.0.0/8[udp]"), list("10.0.0.0/8[0/opaque]")), "10.0.0.0/8[udp/OPAQUE]")
	expect(t, "a port list of any protocol has no ICMP types", Narrow(list("10.0.0.0/8[/0-1024]"), list("10.0.0.1[icmp/8(0)]")))
}

// The answer of a responder must be inside the offer; pieces of the offer that join count as one.
func TestSubset(t *testing.T) {
	for _, c := range []struct {
		sub, super []TS
		want       bool
	}{
		{list("10.0.0.0/24"), list("10.0.0.0/25", "10.0.0.128/25"), true},
		{list("10.0.0.0/24"), list("10.0.0.128/25", "10.0.0.0-10.0.0.130"), true},
		{list("10.0.0.0/24"), list("10.0.0.0/25", "10.0.0.129-10.0.0.255"), false},
		{list("10.0.0.0/24[tcp]"), list("10.0.0.0/24"), true},
		{list("10.0.0.0/24"), list("10.0.0.0/24[tcp]"), false},
		{list("10.0.0.0/24[tcp/80]"), list("10.0.0.0/24[tcp/1-100]"), true},
		{list("0.0.0.0/0"), list("0.0.0.0/1", "128.0.0.0/1"), true},
		{list("10.0.0.0/24", "10.0.2.0/24"), list("10.0.0.0/24"), false},
		{nil, list("10.0.0.0/24"), false},
		{list("::1"), list("0.0.0.0/0"), false},
	} {
		if got := Subset(c.sub, c.super); got != c.want {
			t.Errorf("%v of %v: subset %v, expected %v", c.sub, c.super, got, c.want)
		}
	}
}

// Selectors contained in another of the list are dropped, of equal ones the first stays.
func TestMinimizeResolve(t *testing.T) {
	expect(t, "minimized", Minimize(list("10.0.0.1", "10.0.0.0/24", "10.0.0.0/24", "10.0.0.0/24[tcp]", "10.0.1.0/24")), "10.0.0.0/24", "10.0.1.0/24")
	expect(t, "dynamic resolved", Resolve(list("dynamic[tcp/22]", "10.9.0.0/16"), netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("2001:db8::5")),
		"10.0.0.5/32[tcp/ssh]", "2001:db8::5/128[tcp/ssh]", "10.9.0.0/16")
	if AllHosts(list("10.0.0.1", "10.0.0.0/24")) || !AllHosts(list("10.0.0.1[udp/l2f]")) || AllHosts(nil) {
		t.Error("transport mode behind a NAT needs single addresses")
	}
}

// A range becomes the fewest prefixes that have exactly its addresses.
func TestPrefixes(t *testing.T) {
	for in, want := range map[string][]string{
		"10.0.0.1-10.0.0.9":                          {"10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/30", "10.0.0.8/31"},
		"0.0.0.0-255.255.255.255":                    {"0.0.0.0/0"},
		"255.255.255.255":                            {"255.255.255.255/32"},
		"0.0.0.1-0.0.0.1":                            {"0.0.0.1/32"},
		"9.255.255.255-10.0.0.0":                     {"9.255.255.255/32", "10.0.0.0/32"},
		"2001:db8::1-2001:db8::2":                    {"2001:db8::1/128", "2001:db8::2/128"},
		"::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff": {"::/0"},
	} {
		var got []string
		for _, p := range list(in)[0].AppendPrefixes(nil) {
			got = append(got, p.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, expected %v", in, got, want)
		}
	}
	var got []string
	for _, p := range Prefixes(list("10.0.0.0/8", "10.1.0.0/16", "0.0.0.0-9.255.255.255")) {
		got = append(got, p.String())
	}
	if want := []string{"0.0.0.0/5", "8.0.0.0/7", "10.0.0.0/8"}; !slices.Equal(got, want) {
		t.Errorf("union: %v, expected %v", got, want)
	}
}

// A flow is in the intersection exactly when it is in both; Covers and Subset
// never allow a flow that is outside.
func TestAlgebraAgreesWithMatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := genTS(t, "a"), genTS(t, "b")
		f := genFlow(t)
		in := func(ts TS) bool { return f.MatchRemote([]TS{ts}) }
		i, ok := Intersect(a, b)
		if both := in(a) && in(b); both != (ok && in(i)) {
			t.Fatalf("flow %+v: in both %v, in intersection %v of %v and %v: %v", f, both, ok && in(i), a, b, i)
		}
		if ok && i.Check() != nil {
			t.Fatalf("intersection of %v and %v is malformed: %v", a, b, i.Check())
		}
		if j, ok2 := Intersect(b, a); ok2 != ok || j != i {
			t.Fatalf("intersection of %v and %v depends on the order: %v, %v", a, b, i, j)
		}
		if a.Covers(b) && in(b) && !in(a) {
			t.Fatalf("%v covers %v but not flow %+v", a, b, f)
		}
		offered := []TS{a, b}
		policy := []TS{genTS(t, "c"), genTS(t, "d")}
		for _, n := range Narrow(policy, offered) {
			if !Subset([]TS{n}, offered) || !Subset([]TS{n}, policy) {
				t.Fatalf("narrowed %v is outside of the offer %v or policy %v", n, offered, policy)
			}
		}
		if was, is := slices.ContainsFunc(policy, in) && slices.ContainsFunc(offered, in), slices.ContainsFunc(Narrow(policy, offered), in); was != is {
			t.Fatalf("flow %+v: allowed by both %v, narrowed %v", f, was, is)
		}
	})
}
