package guard

import (
	"testing"

	"github.com/google/nftables/expr"

	"iked/spd"
)

// verdictOf runs the comparisons of a rule over a packet, an IP header of 20 or 40
// octets and what follows.
func verdictOf(t *testing.T, rule []expr.Any, packet []byte) bool {
	t.Helper()
	head, family, proto := 20, byte(2), packet[9]
	if packet[0]>>4 == 6 {
		head, family, proto = 40, 10, packet[6]
	}
	var reg []byte
	for _, e := range rule {
		switch e := e.(type) {
		case *expr.Meta:
			reg = []byte{family}
			if e.Key == expr.MetaKeyL4PROTO {
				reg = []byte{proto}
			}
		case *expr.Payload:
			from := int(e.Offset)
			if e.Base == expr.PayloadBaseTransportHeader {
				from += head
			}
			reg = packet[from : from+int(e.Len)]
		case *expr.Cmp:
			c := string(reg)
			ok := map[expr.CmpOp]bool{expr.CmpOpEq: c == string(e.Data), expr.CmpOpGte: c >= string(e.Data), expr.CmpOpLte: c <= string(e.Data)}[e.Op]
			if !ok {
				return false
			}
		default:
			t.Fatalf("unknown expression %T", e)
		}
	}
	return true
}

// udp4 is a datagram between addresses of 10.0.0.0/24.
func udp4(src, dst byte, sport, dport uint16) []byte {
	p := make([]byte, 28)
	p[0], p[9] = 0x45, 17
	copy(p[12:], []byte{10, 0, 0, src, 10, 0, 0, dst})
	copy(p[20:], []byte{byte(sport >> 8), byte(sport), byte(dport >> 8), byte(dport)})
	return p
}

// icmp6 is a message between fe80::src and fe80::dst.
func icmp6(src, dst, typ byte) []byte {
	p := make([]byte, 48)
	p[0], p[6], p[8], p[9], p[24], p[25], p[23], p[39], p[40] = 0x60, 58, 0xfe, 0x80, 0xfe, 0x80, src, dst, typ
	return p
}

// What passes is told by addresses, protocol, ports and message types in the
// direction of its arrival; what headers cannot tell is not let through.
func TestMatch(t *testing.T) {
	one := func(s string) spd.TS { return selectors(t, s)[0] }
	dhcp := Pass{Local: one("10.0.0.1/32[udp/68]"), Remote: one("0.0.0.0/0[udp/67]")}
	nd := Pass{Local: one("fe80::1/128[ipv6-icmp/133-137]"), Remote: one("::/0[ipv6-icmp/133-137]")}
	nd.Local.PortTo, nd.Remote.PortTo = 137<<8|255, 137<<8|255
	apart := Pass{Local: one("fe80::1/128[ipv6-icmp/146]"), Remote: one("fe80::2/128[ipv6-icmp/147]")}
	for _, x := range []struct {
		name string
		pass Pass
		pkt  []byte
		want bool
	}{
		{"answer of the server", dhcp, udp4(9, 1, 67, 68), true},
		{"the other way round", dhcp, udp4(1, 9, 68, 67), false},
		{"for another host", dhcp, udp4(9, 2, 67, 68), false},
		{"from another port", dhcp, udp4(9, 1, 66, 68), false},
		{"to another port", dhcp, udp4(9, 1, 67, 69), false},
		{"of another family", dhcp, icmp6(2, 1, 135), false},
		{"neighbour advertisement", nd, icmp6(2, 1, 136), true},
		{"redirect", nd, icmp6(2, 1, 137), true},
		{"echo request", nd, icmp6(2, 1, 128), false},
		{"type 138", nd, icmp6(2, 1, 138), false},
		{"advertisement to another", nd, icmp6(2, 3, 136), false},
		{"any protocol", Pass{Local: one("10.0.0.1/32"), Remote: one("10.0.0.0/24")}, udp4(9, 1, 1, 2), true},
		{"advertisement, where the other side solicits", apart, icmp6(2, 1, 147), true},
		{"solicitation, where this side solicits", apart, icmp6(2, 1, 146), false},
	} {
		rule := match(x.pass)
		if rule == nil {
			t.Fatalf("%s: no rule", x.name)
		}
		if got := verdictOf(t, rule, x.pkt); got != x.want {
			t.Errorf("%s: passes %v, expected %v", x.name, got, x.want)
		}
	}
	opaque := one("10.0.0.1/32[udp/opaque]")
	for _, p := range []Pass{{Local: opaque, Remote: one("0.0.0.0/0")}, {Local: one("10.0.0.1/32"), Remote: one("::/0")}, {Local: one("10.0.0.1/32[udp]"), Remote: one("0.0.0.0/0[tcp]")},
		{Local: spd.TS{From: opaque.From, To: opaque.To, Proto: 135, PortFrom: 256, PortTo: 511}, Remote: one("0.0.0.0/0")}} {
		if match(p) != nil {
			t.Errorf("%+v is let through", p)
		}
	}
}

// What must not pass is refused in full: ports of any protocol are those of each
// that has some, and a type of the mobility header is all of it. OPAQUE is no
// whole packet of a protocol with ports.
func TestRefusals(t *testing.T) {
	one := func(s string) spd.TS { return selectors(t, s)[0] }
	refused := func(p Pass, pkt []byte) bool {
		for _, q := range refusals(p) {
			if verdictOf(t, match(q), pkt) {
				return true
			}
		}
		return false
	}
	port := one("10.0.0.1/32")
	port.PortFrom, port.PortTo = 80, 80
	dns := one("10.0.0.1/32[udp/53]")
	for _, x := range []struct {
		name          string
		local, remote spd.TS
		pkt           []byte
		want          bool
	}{
		{"the port", dns, one("10.0.0.9/32"), udp4(9, 1, 4000, 53), true},
		{"another port", dns, one("10.0.0.9/32"), udp4(9, 1, 4000, 54), false},
		{"another host", dns, one("10.0.0.9/32"), udp4(8, 1, 4000, 53), false},
		{"a port of any protocol", port, one("10.0.0.9/32"), udp4(9, 1, 4000, 80), true},
		{"another port of any protocol", port, one("10.0.0.9/32"), udp4(9, 1, 4000, 81), false},
		{"all", one("10.0.0.1/32"), one("10.0.0.9/32"), udp4(9, 1, 4000, 81), true},
		{"of another family", one("10.0.0.1/32"), one("::/0"), udp4(9, 1, 4000, 81), false},
	} {
		if got := refused(Pass{Local: x.local, Remote: x.remote, Drop: true}, x.pkt); got != x.want {
			t.Errorf("%s: refused %v, expected %v", x.name, got, x.want)
		}
	}
	mh := spd.TS{From: one("fe80::1/128").From, To: one("fe80::1/128").To, Proto: 135, PortFrom: 256, PortTo: 511}
	if refusals(Pass{Local: mh, Remote: one("::/0"), Drop: true}) == nil {
		t.Error("a type of the mobility header is not refused")
	}
	if refusals(Pass{Local: one("10.0.0.1/32[udp/opaque]"), Remote: one("0.0.0.0/0"), Drop: true}) != nil {
		t.Error("whole packets of UDP are refused for OPAQUE")
	}
}
