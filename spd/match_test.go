package spd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
)

// flowOf reads "local remote proto/values [in]": values are "-" for none, a port
// pair a:b, or a type(code).
func flowOf(t testing.TB, text string) Flow {
	t.Helper()
	w := strings.Fields(text)
	proto, values, _ := strings.Cut(w[2], "/")
	n, ok := protocolNumber(proto)
	if !ok {
		t.Fatalf("flow %q: protocol", text)
	}
	f := Flow{Local: netip.MustParseAddr(w[0]), Remote: netip.MustParseAddr(w[1]), Proto: n, Inbound: len(w) == 4 && w[3] == "in"}
	if values == "-" {
		return f
	}
	f.HasPorts = true
	if a, b, two := strings.Cut(values, ":"); two {
		l, err1 := strconv.ParseUint(a, 10, 16)
		r, err2 := strconv.ParseUint(b, 10, 16)
		if err1 != nil || err2 != nil {
			t.Fatalf("flow %q: ports", text)
		}
		f.LocalPort, f.RemotePort = uint16(l), uint16(r)
		return f
	}
	var typ, code uint16
	if _, err := fmt.Sscanf(values, "%d(%d)", &typ, &code); err != nil {
		t.Fatalf("flow %q: %v", text, err)
	}
	f.LocalPort = typ<<8 | code
	f.RemotePort = f.LocalPort
	return f
}

// RFC 4301, Section 4.4.1.1, selector by selector: what a packet has is compared
// with ranges; what it does not have matches ANY and OPAQUE only; ANY encompasses
// OPAQUE.
func TestSelectorsMatch(t *testing.T) {
	const any4, any6 = "0.0.0.0/0", "::/0"
	for _, c := range []struct {
		rule          string
		local, remote string
		yes, no       []string
	}{
		{"addresses: lists of ranges, both ends in it", "10.0.0.5-10.0.0.9", "192.0.2.0-192.0.2.1",
			[]string{"10.0.0.5 192.0.2.0 tcp/1:2", "10.0.0.9 192.0.2.1 gre/-"},
			[]string{"10.0.0.4 192.0.2.0 tcp/1:2", "10.0.0.10 192.0.2.0 tcp/1:2", "10.0.0.5 192.0.2.2 tcp/1:2", "2001:db8::1 2001:db8::2 tcp/1:2"}},
		{"protocol ANY has every protocol and every fragment", any4, any4,
			[]string{"10.0.0.1 10.0.0.2 tcp/1:2", "10.0.0.1 10.0.0.2 udp/-", "10.0.0.1 10.0.0.2 icmp/8(0)", "10.0.0.1 10.0.0.2 gre/-"}, nil},
		{"ports: local is the source on the way out and the destination on the way in, remote the other one", any4 + "[tcp/1000-2000]", any4 + "[tcp/80]",
			[]string{"10.0.0.1 10.0.0.2 tcp/1000:80", "10.0.0.1 10.0.0.2 tcp/2000:80", "10.0.0.1 10.0.0.2 tcp/1500:80 in"},
			[]string{"10.0.0.1 10.0.0.2 tcp/999:80", "10.0.0.1 10.0.0.2 tcp/2001:80", "10.0.0.1 10.0.0.2 tcp/80:1500 in", "10.0.0.1 10.0.0.2 udp/1000:80"}},
		{"ports that are not available match no list of ports, not the whole one but for port 0 either", any4 + "[tcp/1-65535]", any4,
			[]string{"10.0.0.1 10.0.0.2 tcp/1:2"}, []string{"10.0.0.1 10.0.0.2 tcp/-"}},
		{"ports ANY have what is not available", any4 + "[tcp]", any4, []string{"10.0.0.1 10.0.0.2 tcp/-", "10.0.0.1 10.0.0.2 tcp/1:2"}, nil},
		{"OPAQUE has only what is not available", any4 + "[udp/opaque]", any4 + "[udp/opaque]",
			[]string{"10.0.0.1 10.0.0.2 udp/-"}, []string{"10.0.0.1 10.0.0.2 udp/1:2", "10.0.0.1 10.0.0.2 tcp/-"}},
		{"OPAQUE of any protocol: fragments, and protocols without ports", any4 + "[any/opaque]", any4,
			[]string{"10.0.0.1 10.0.0.2 udp/-", "10.0.0.1 10.0.0.2 gre/-"}, []string{"10.0.0.1 10.0.0.2 udp/1:2", "10.0.0.1 10.0.0.2 icmp/8(0)"}},
		{"a list of ports of any protocol has no message types", any4 + "[any/0-60000]", any4,
			[]string{"10.0.0.1 10.0.0.2 tcp/1:2"}, []string{"10.0.0.1 10.0.0.2 icmp/8(0)", "10.0.0.1 10.0.0.2 gre/-"}},
		{"ICMP: a single type and ANY code", any4 + "[icmp/3]", any4 + "[icmp/3]",
			[]string{"10.0.0.1 10.0.0.2 icmp/3(0)", "10.0.0.1 10.0.0.2 icmp/3(255)", "10.0.0.1 10.0.0.2 icmp/3(1) in"},
			[]string{"10.0.0.1 10.0.0.2 icmp/2(255)", "10.0.0.1 10.0.0.2 icmp/4(0)", "10.0.0.1 10.0.0.2 icmp/-"}},
		// (T-start*256) + C-start <= (t*256) + c <= (T-end*256) + C-end
		{"ICMP: ranges of types and codes are one range of type*256+code", any4 + "[icmp/3(2)-5(1)]", any4,
			[]string{"10.0.0.1 10.0.0.2 icmp/3(2)", "10.0.0.1 10.0.0.2 icmp/4(200)", "10.0.0.1 10.0.0.2 icmp/5(1)"},
			[]string{"10.0.0.1 10.0.0.2 icmp/3(1)", "10.0.0.1 10.0.0.2 icmp/5(2)"}},
		{"ICMP types of IPv6 are another protocol's", any6 + "[ipv6-icmp/128]", any6,
			[]string{"2001:db8::1 2001:db8::2 ipv6-icmp/128(0)"}, []string{"2001:db8::1 2001:db8::2 icmp/128(0)"}},
		// RFC 4301, Section 4.4.1.1; RFC 4877, Section 5.2: Binding Updates out, Acknowledgements in.
		{"mobility header: the type is the sender's", any6 + "[mobility-header/5]", any6 + "[mobility-header/6]",
			[]string{"2001:db8::1 2001:db8::2 mobility-header/5(0)", "2001:db8::1 2001:db8::2 mobility-header/6(0) in"},
			[]string{"2001:db8::1 2001:db8::2 mobility-header/6(0)", "2001:db8::1 2001:db8::2 mobility-header/5(0) in", "2001:db8::1 2001:db8::2 mobility-header/-"}},
		{"mobility header: ANY has every type and its fragments", any6 + "[mobility-header]", any6 + "[mobility-header/6]",
			[]string{"2001:db8::1 2001:db8::2 mobility-header/9(0)", "2001:db8::1 2001:db8::2 mobility-header/-"},
			[]string{"2001:db8::1 2001:db8::2 mobility-header/9(0) in"}},
		// RFC 4301, Section 4.4.1.3; RFC 4877, Section 5.3: solicitations out, advertisements in.
		{"ICMP: types that differ are the sender's", any6 + "[ipv6-icmp/146]", any6 + "[ipv6-icmp/147]",
			[]string{"2001:db8::1 2001:db8::2 ipv6-icmp/146(0)", "2001:db8::1 2001:db8::2 ipv6-icmp/147(3) in"},
			[]string{"2001:db8::1 2001:db8::2 ipv6-icmp/147(0)", "2001:db8::1 2001:db8::2 ipv6-icmp/146(0) in", "2001:db8::1 2001:db8::2 ipv6-icmp/-", "2001:db8::1 2001:db8::2 ipv6-icmp/148(0) in"}},
		{"ICMP: a type that one side alone names is both ways", any6 + "[ipv6-icmp/146]", any6,
			[]string{"2001:db8::1 2001:db8::2 ipv6-icmp/146(0)", "2001:db8::1 2001:db8::2 ipv6-icmp/146(0) in"}, []string{"2001:db8::1 2001:db8::2 ipv6-icmp/147(0) in"}},
		{"ICMP: types that overlap are both ways", any4 + "[icmp/8-10]", any4 + "[icmp/10-12]",
			[]string{"10.0.0.1 10.0.0.2 icmp/10(0)", "10.0.0.1 10.0.0.2 icmp/10(1) in"}, []string{"10.0.0.1 10.0.0.2 icmp/8(0)", "10.0.0.1 10.0.0.2 icmp/12(0) in"}},
	} {
		local, remote := list(c.local), list(c.remote)
		for i, set := range [][]string{c.no, c.yes} {
			for _, text := range set {
				f := flowOf(t, text)
				if got := f.Match(local, remote); got != (i == 1) {
					t.Errorf("%s: local %v remote %v, flow %s: %v, expected %v", c.rule, show(local), show(remote), text, got, i == 1)
				}
				tab := NewTable(Discard)
				if err := tab.Apply(nil, []Policy{{ID: 1, Local: local, Remote: remote}}); err != nil {
					t.Fatal(err)
				}
				if got := tab.Lookup(&f).ID; (got == 1) != (i == 1) {
					t.Errorf("%s: flow %s: the table says policy %d", c.rule, text, got)
				}
			}
		}
	}
}

// RFC 4301, Section 4.4.1: SPD-O has what is bypassed or discarded on the way out
// and SPD-I on the way in; SPD-S is part of both.
func TestDirections(t *testing.T) {
	tab := NewTable(Discard)
	net, host := list("10.0.0.0/8"), list("10.2.0.1")
	err := tab.Apply(nil, []Policy{
		{ID: 1, Action: Bypass, Dirs: Outbound, Local: net, Remote: host, Priority: 1},
		{ID: 2, Action: Bypass, Dirs: Inbound, Local: net, Remote: list("10.2.0.2"), Priority: 1},
		{ID: 3, Action: Protect, Local: net, Remote: net, Priority: 2},
	})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]uint64{
		"10.1.0.1 10.2.0.1 tcp/1:2": 1, "10.1.0.1 10.2.0.1 tcp/1:2 in": 3,
		"10.1.0.1 10.2.0.2 tcp/1:2": 3, "10.1.0.1 10.2.0.2 tcp/1:2 in": 2,
		"10.1.0.1 10.2.0.3 tcp/1:2": 3, "10.1.0.1 10.2.0.3 tcp/1:2 in": 3,
	} {
		f := flowOf(t, text)
		if got := tab.Lookup(&f).ID; got != want {
			t.Errorf("flow %s: policy %d, expected %d", text, got, want)
		}
	}
}

// The selectors of a packet have that packet (RFC 7296, Section 2.9); for a
// mobility header the type stands on the sender's side.
func TestSelectorsOfAPacket(t *testing.T) {
	for text, want := range map[string][2]string{
		"10.0.0.1 10.0.0.2 tcp/1:80":                      {"10.0.0.1/32[tcp/1]", "10.0.0.2/32[tcp/http]"},
		"10.0.0.1 10.0.0.2 tcp/-":                         {"10.0.0.1/32[tcp]", "10.0.0.2/32[tcp]"},
		"10.0.0.1 10.0.0.2 icmp/8(0)":                     {"10.0.0.1/32[icmp/8(0)]", "10.0.0.2/32[icmp/8(0)]"},
		"2001:db8::1 2001:db8::2 mobility-header/5(0)":    {"2001:db8::1/128[mobility-header/5]", "2001:db8::2/128[mobility-header]"},
		"2001:db8::1 2001:db8::2 mobility-header/5(0) in": {"2001:db8::1/128[mobility-header]", "2001:db8::2/128[mobility-header/5]"},
	} {
		f := flowOf(t, text)
		l, r := f.LocalTS(), f.RemoteTS()
		if l.String() != want[0] || r.String() != want[1] {
			t.Errorf("flow %s: %v and %v, expected %v", text, l, r, want)
		}
		if !f.Match([]TS{l}, []TS{r}) {
			t.Errorf("flow %s is not in its own selectors %v and %v", text, l, r)
		}
	}
}
