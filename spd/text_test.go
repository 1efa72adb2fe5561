package spd

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

// Every text that swanctl accepts is read, and printed in swanctl's form.
func TestParsePrintForm(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"10.0.0.1", "10.0.0.1/32"},
		{"10.0.0.77/24", "10.0.0.0/24"},
		{"::ffff:10.0.0.1", "10.0.0.1/32"},
		{"10.0.0.0-10.0.0.9", "10.0.0.0..10.0.0.9"},
		{"10.0.0.0..10.0.0.9", "10.0.0.0..10.0.0.9"},
		{"10.0.0.0 - 10.0.0.255", "10.0.0.0/24"},
		{"2001:db8::/32", "2001:db8::/32"},
		{"2001:db8::1-2001:db8::2", "2001:db8::1..2001:db8::2"},
		{"0.0.0.0/0", "0.0.0.0/0"},
		{"dynamic", "dynamic"},
		{"dynamic[tcp/http]", "dynamic[tcp/http]"},
		{"10.0.0.0/8[tcp/80]", "10.0.0.0/8[tcp/http]"},
		{"10.0.0.0/8[6/80-90]", "10.0.0.0/8[tcp/80-90]"},
		{"10.0.0.0/8[/80]", "10.0.0.0/8[0/http]"},
		{"10.0.0.0/8[any/http]", "10.0.0.0/8[0/http]"},
		{"10.0.0.0/8[any/any]", "10.0.0.0/8"},
		{"10.0.0.0/8[UDP/opaque]", "10.0.0.0/8[udp/OPAQUE]"},
		{"10.0.0.0/8[udp/500]", "10.0.0.0/8[udp/isakmp]"},
		{"10.0.0.0/8[udp/1701]", "10.0.0.0/8[udp/l2f]"},
		{"10.0.0.0/8[icmp/8]", "10.0.0.0/8[icmp/8]"},
		{"10.0.0.0/8[icmp/769]", "10.0.0.0/8[icmp/3(1)]"},
		{"10.0.0.0/8[icmp/3(1)]", "10.0.0.0/8[icmp/3(1)]"},
		{"10.0.0.0/8[icmp/1-2]", "10.0.0.0/8[icmp/1-2]"},
		{"::/0[icmpv6/128-129]", "::/0[ipv6-icmp/128-129]"},
		{"::/0[mh/5]", "::/0[mobility-header/5]"},
		{"10.0.0.0/8[gre]", "10.0.0.0/8[gre]"},
		{"10.0.0.0/8[253]", "10.0.0.0/8[253]"},
		{"10.0.0.0/8[tcp/]", "10.0.0.0/8[tcp]"},
	} {
		ts, dynamic, err := Parse(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := ts.String(); got != c.out || dynamic != ts.Dynamic() {
			t.Errorf("%s: printed as %s, expected %s (dynamic %v)", c.in, got, c.out, dynamic)
		}
		again, _, err := Parse(c.out)
		if err != nil || again != ts {
			t.Errorf("%s: its print form reads as %v, %v, expected %v", c.out, again, err, ts)
		}
	}
}

// What is no selector is an error: names, mixed families, reversed ranges, values out of range.
func TestParseRejects(t *testing.T) {
	for _, s := range []string{
		"", "sun.example.org", "10.0.0.0/33", "10.0.0.0/8[tcp", "10.0.0.9-10.0.0.1", "10.0.0.1-::1", "%any",
		"10.0.0.0/8[tcp/http-x]", "10.0.0.0/8[tcp/70000]", "10.0.0.0/8[300]", "10.0.0.0/8[tcp/9-5]",
		"fe80::1%eth0", "10.0.0.0/8[icmp/3(1]", "10.0.0.0/8[icmp/300(1)]", "10.0.0.0/8[nosuch]", "10.0.0.0/8[tcp/80]x",
		"10.0.0.0/-1", "[tcp]", "10.0.0.0/8[udp/http]",
	} {
		if ts, _, err := Parse(s); err == nil {
			t.Errorf("%q was read as %v, expected an error", s, ts)
		}
	}
}

// Whatever can be printed is read back as the same selector.
func TestPrintRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ts := genTS(t, "ts")
		got, _, err := Parse(ts.String())
		if err != nil || got != ts {
			t.Fatalf("%+v prints as %s, which reads as %+v, %v", ts, ts, got, err)
		}
	})
}

// genTS draws selectors from few values, so that two of them often overlap.
func genTS(t *rapid.T, name string) TS {
	var ts TS
	addr := func(n string) netip.Addr {
		v := rapid.IntRange(0, 40).Draw(t, n)
		return netip.AddrFrom4([4]byte{10, 0, byte(v / 8), byte(v % 8 * 32)})
	}
	if rapid.IntRange(0, 3).Draw(t, name+".v6") == 0 {
		addr = func(n string) netip.Addr {
			v := rapid.IntRange(0, 40).Draw(t, n)
			return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(v / 8), 15: byte(v % 8 * 32)})
		}
	}
	ts.From, ts.To = addr(name+".from"), addr(name+".to")
	if ts.To.Less(ts.From) {
		ts.From, ts.To = ts.To, ts.From
	}
	if rapid.IntRange(0, 4).Draw(t, name+".all") == 0 {
		p, _ := ts.From.Prefix(rapid.IntRange(0, 24).Draw(t, name+".bits"))
		ts = FromPrefix(p)
	}
	ts.PortTo = 65535
	ts.Proto = rapid.SampledFrom([]uint8{0, 0, 6, 17, 1, 58, 135, 47}).Draw(t, name+".proto")
	switch rapid.IntRange(0, 3).Draw(t, name+".ports") {
	case 0:
		ts.PortFrom, ts.PortTo = OpaqueStart, OpaqueEnd
	case 1:
		a, b := rapid.Uint16Range(0, 600).Draw(t, name+".p1"), rapid.Uint16Range(0, 600).Draw(t, name+".p2")
		ts.PortFrom, ts.PortTo = min(a, b), max(a, b)
	}
	return ts
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8[tcp/80-90]", "dynamic[icmp/3(1)]", "2001:db8::1-2001:db8::9[udp/opaque]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ts, dynamic, err := Parse(s)
		if err != nil {
			return
		}
		if !dynamic {
			if err := ts.Check(); err != nil {
				t.Fatalf("%q was read as a malformed selector: %v", s, err)
			}
		}
		if got, _, err := Parse(ts.String()); err != nil || got != ts {
			t.Fatalf("%q prints as %s, which reads as %v, %v", s, ts, got, err)
		}
	})
}
