package spd

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Parse reads one traffic selector as swanctl writes it:
//
//	net[proto/port]
//
// net is "dynamic", an address, a prefix (host bits are cleared), or a range
// written a-b or a..b. The part in brackets may be missing; proto is a name, a
// number, "any" or empty; port is a service name, a number, a range n-m, "any"
// or "opaque". For icmp and ipv6-icmp a value below 256 is a type with any code,
// a higher one type<<8|code, and type(code) names both; for the mobility header
// it is the type. A dynamic selector has no address: dynamic is true and
// Resolve completes it.
func Parse(text string) (ts TS, dynamic bool, err error) {
	fail := func(format string, args ...any) (TS, bool, error) {
		return TS{}, false, fmt.Errorf("traffic selector %q: "+format, append([]any{text}, args...)...)
	}
	net, sel, bracket := strings.Cut(strings.TrimSpace(text), "[")
	net = strings.TrimSpace(net)
	if bracket {
		var ok bool
		if sel, ok = strings.CutSuffix(sel, "]"); !ok {
			return fail("expected ] at the end")
		}
	}
	switch {
	case net == "dynamic":
		dynamic = true
	case net == "%any" || net == "%any6":
		return fail("%s selects nothing; write 0.0.0.0/0 or ::/0 for all addresses, dynamic for the peer's own", net)
	default:
		if ts.From, ts.To, err = parseNet(net); err != nil {
			return fail("%w", err)
		}
	}
	ts.PortTo = 65535
	if bracket {
		proto, port, hasPort := strings.Cut(sel, "/")
		if ts.Proto, err = parseProto(strings.ToLower(strings.TrimSpace(proto))); err != nil {
			return fail("%w", err)
		}
		if hasPort {
			if ts.PortFrom, ts.PortTo, err = parsePorts(ts.Proto, strings.ToLower(strings.TrimSpace(port))); err != nil {
				return fail("%w", err)
			}
		}
	}
	return ts, dynamic, nil
}

func parseNet(s string) (from, to netip.Addr, err error) {
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return from, to, fmt.Errorf("%q is not a prefix (address/length)", s)
		}
		t := FromPrefix(p)
		return t.From, t.To, nil
	}
	a, b, isRange := strings.Cut(s, "..")
	if !isRange {
		a, b, isRange = strings.Cut(s, "-")
	}
	if from, err = parseAddr(a); err != nil || !isRange {
		return from, from, err
	}
	if to, err = parseAddr(b); err != nil {
		return from, to, err
	}
	if from.Is4() != to.Is4() {
		return from, to, fmt.Errorf("range from %s to %s mixes IPv4 and IPv6", from, to)
	}
	if to.Less(from) {
		return from, to, fmt.Errorf("range starts at %s, behind its end %s", from, to)
	}
	return from, to, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil {
		return a, fmt.Errorf("%q is not an address, a prefix, a range or dynamic (names are not resolved here)", s)
	}
	if a.Zone() != "" {
		return a, fmt.Errorf("%q has a zone, which a selector cannot express", s)
	}
	return a.Unmap(), nil
}

func parseProto(s string) (uint8, error) {
	if n, ok := protocolNumber(s); ok {
		return n, nil
	}
	n, err := strconv.ParseUint(s, 0, 8)
	if err != nil {
		return 0, fmt.Errorf("protocol %q is neither a known name nor a number up to 255", s)
	}
	return uint8(n), nil
}

func parsePorts(proto uint8, s string) (from, to uint16, err error) {
	switch s {
	case "any", "":
		return 0, 65535, nil
	case "opaque":
		return OpaqueStart, OpaqueEnd, nil
	}
	if n, ok := servicePort(proto, s); ok {
		return n, n, nil
	}
	a, b, isRange := strings.Cut(s, "-")
	if from, to, err = parsePort(proto, strings.TrimSpace(a)); err != nil || !isRange {
		return from, to, err
	}
	if _, to, err = parsePort(proto, strings.TrimSpace(b)); err != nil {
		return 0, 0, err
	}
	if to < from {
		return 0, 0, fmt.Errorf("ports %q start behind their end", s)
	}
	return from, to, nil
}

// parsePort gives the first and last port value that one number stands for.
func parsePort(proto uint8, s string) (from, to uint16, err error) {
	if typed(proto) {
		if t, c, ok := strings.Cut(s, "("); ok {
			typ, err1 := strconv.ParseUint(t, 0, 8)
			code, err2 := strconv.ParseUint(strings.TrimSuffix(c, ")"), 0, 8)
			if err1 != nil || err2 != nil || !strings.HasSuffix(c, ")") {
				return 0, 0, fmt.Errorf("%q is not a type(code), each up to 255", s)
			}
			v := uint16(typ)<<8 | uint16(code)
			return v, v, nil
		}
	}
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q is neither a known service name nor a number up to 65535", s)
	}
	v := uint16(n)
	if proto == protoMH && v >= 256 {
		return 0, 0, fmt.Errorf("%q is no type of message of the mobility header, which is up to 255", s)
	}
	if typed(proto) && v < 256 {
		if proto == protoMH {
			return v << 8, v << 8, nil
		}
		return v << 8, v<<8 | 0xff, nil
	}
	return v, v, nil
}

// String is the print form of swanctl: a range that is a prefix as a prefix,
// other ranges with "..", "dynamic" without an address, then protocol and ports
// in brackets unless both are ANY.
func (t TS) String() string {
	var b strings.Builder
	switch p := commonRange(t); {
	case t.Dynamic():
		b.WriteString("dynamic")
	case p.IsValid():
		b.WriteString(p.String())
	default:
		b.WriteString(t.From.String() + ".." + t.To.String())
	}
	if t.Proto == 0 && t.AnyPort() {
		return b.String()
	}
	b.WriteByte('[')
	if name, ok := protocolNames[t.Proto]; ok {
		b.WriteString(name)
	} else {
		b.WriteString(strconv.Itoa(int(t.Proto)))
	}
	if !t.AnyPort() {
		b.WriteByte('/')
		b.WriteString(t.portText())
	}
	b.WriteByte(']')
	return b.String()
}

// ListText is the print form of several selectors.
func ListText(list []TS) string {
	if len(list) == 0 {
		return "nothing"
	}
	parts := make([]string, len(list))
	for i, t := range list {
		parts[i] = t.String()
	}
	return strings.Join(parts, " ")
}

// commonRange is the prefix that the range is, or the zero Prefix.
func commonRange(t TS) netip.Prefix {
	if t.Dynamic() || t.From.Is4() != t.To.Is4() {
		return netip.Prefix{}
	}
	if p := commonPrefix(t.From, t.To); p.Addr() == t.From && lastAddr(p) == t.To {
		return p
	}
	return netip.Prefix{}
}

func (t TS) portText() string {
	from, to := t.PortFrom, t.PortTo
	switch {
	case t.Opaque():
		return "OPAQUE"
	case t.Proto == protoICMP || t.Proto == protoICMPv6:
		switch {
		case from == to:
			return icmpText(from)
		case from&0xff == 0 && to == from|0xff:
			return strconv.Itoa(int(from >> 8))
		case from&0xff == 0 && to&0xff == 0xff:
			return strconv.Itoa(int(from>>8)) + "-" + strconv.Itoa(int(to>>8))
		}
		return icmpText(from) + "-" + icmpText(to)
	case t.Proto == protoMH:
		// The type alone is in the high octet (RFC 4301, Section 4.4.1.1).
		switch {
		case (from|to)&0xff != 0:
			return icmpText(from) + "-" + icmpText(to)
		case from == to:
			return strconv.Itoa(int(from >> 8))
		}
		return strconv.Itoa(int(from>>8)) + "-" + strconv.Itoa(int(to>>8))
	case from == to:
		if name, ok := serviceName(t.Proto, from); ok {
			return name
		}
		return strconv.Itoa(int(from))
	}
	return strconv.Itoa(int(from)) + "-" + strconv.Itoa(int(to))
}

func icmpText(v uint16) string { return fmt.Sprintf("%d(%d)", v>>8, v&0xff) }
