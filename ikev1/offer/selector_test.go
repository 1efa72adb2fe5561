package offer

import (
	"strings"
	"testing"

	"iked/ikev1/message"
	"iked/spd"
)

// RFC 2407, Section 4.6.2: one protocol and one port, or all. A type of a mobility
// header or of ICMP stands plainly in the place of the port; type<<8, as IKEv2 has it, is
// read as well. What cannot be said is refused, and never widened.
func TestMessageTypesInIdentities(t *testing.T) {
	for _, x := range []struct {
		ts   string
		port uint16
	}{
		{"2001:db8::1[135/5]", 5}, {"2001:db8::1[135/255]", 255}, {"2001:db8::1[135]", 0}, {"2001:db8::1[ipv6-icmp/146]", 146},
		{"2001:db8::1[ipv6-icmp/128(1)]", 128<<8 | 1}, {"192.0.2.1[icmp/8]", 8}, {"192.0.2.1[icmp/8(0)]", 8 << 8}, {"192.0.2.1[udp/500]", 500}, {"192.0.2.1[udp/5]", 5},
	} {
		ts, _, err := spd.Parse(x.ts)
		if err != nil {
			t.Fatal(err)
		}
		id, err := IDOf(ts)
		if err != nil || id.Port != x.port || id.Proto != ts.Proto {
			t.Errorf("%s: %+v, %v, expected port %d", x.ts, id, err, x.port)
			continue
		}
		if back, err := TSOf(id); err != nil || back != ts {
			t.Errorf("%s: read back as %v, %v", x.ts, back, err)
		}
	}
	for _, s := range []string{"2001:db8::1[135/0]", "2001:db8::1[135/5-6]", "2001:db8::1[135/opaque]", "192.0.2.1[icmp/0]", "192.0.2.1[icmp/0(0)]", "192.0.2.1[icmp/0(7)]", "192.0.2.1[icmp/3-4]", "192.0.2.1[tcp/1-2]", "192.0.2.1[tcp/0]"} {
		ts, _, err := spd.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := IDOf(ts); err == nil || !strings.Contains(err.Error(), "IKEv1 cannot say") {
			t.Errorf("%s is said as %+v, %v", s, id, err)
		}
	}
	from := spd.Host(mustTS(t, "2001:db8::1").From).From
	if ts, err := TSOf(message.RangeID(from, from, 135, 5<<8)); err != nil || ts != mustTS(t, "2001:db8::1[135/5]") {
		t.Errorf("type<<8 is %v, %v", ts, err)
	}
	if ts, err := TSOf(message.RangeID(from, from, 135, 5<<8|1)); err == nil {
		t.Errorf("a mobility header type with a code is %v", ts)
	}
}

func mustTS(t *testing.T, s string) spd.TS {
	t.Helper()
	ts, _, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}
