package spd

import (
	"fmt"
	"net/netip"
)

// Protocols whose port fields hold a message type (RFC 4301, Section 4.4.1.1).
const (
	protoICMP   = 1
	protoICMPv6 = 58
	protoMH     = 135
)

// FromPrefix is the selector of all traffic of p, any protocol and port. Host
// bits are cleared and an IPv4-mapped address is unmapped.
func FromPrefix(p netip.Prefix) TS {
	a, bits := p.Addr().WithZone(""), p.Bits()
	if a.Is4In6() && bits >= 96 {
		a, bits = a.Unmap(), bits-96
	}
	p = netip.PrefixFrom(a, bits).Masked()
	return TS{From: p.Addr(), To: lastAddr(p), PortTo: 65535}
}

// Host is the selector of all traffic of one address.
func Host(a netip.Addr) TS {
	a = a.Unmap().WithZone("")
	return TS{From: a, To: a, PortTo: 65535}
}

// Check tells whether the selector is well-formed (RFC 7296, Section 3.13.1).
// A dynamic selector is not: it has no address yet.
func (t TS) Check() error {
	switch {
	case !t.From.IsValid() || !t.To.IsValid():
		return fmt.Errorf("traffic selector: has no address range (dynamic and not resolved)")
	case t.From.Is4() != t.To.Is4() || t.From.Is4In6() || t.To.Is4In6() || t.From.Zone() != "" || t.To.Zone() != "":
		return fmt.Errorf("traffic selector: range %s to %s, expected two plain addresses of one family", t.From, t.To)
	case t.To.Less(t.From):
		return fmt.Errorf("traffic selector: range starts at %s behind its end %s", t.From, t.To)
	case t.PortTo < t.PortFrom && !t.Opaque():
		return fmt.Errorf("traffic selector: ports start at %d behind their end %d", t.PortFrom, t.PortTo)
	}
	return nil
}

// Dynamic tells whether the selector still waits for an address.
func (t TS) Dynamic() bool { return !t.From.IsValid() }

// Is4 tells whether it selects IPv4.
func (t TS) Is4() bool { return t.From.Is4() }

// AnyPort tells whether all ports match, and packets without ports.
func (t TS) AnyPort() bool { return t.PortFrom == 0 && t.PortTo == 65535 }

// Opaque tells whether only packets without ports match.
func (t TS) Opaque() bool { return t.PortFrom == OpaqueStart && t.PortTo == OpaqueEnd }

// IsHost tells whether it selects a single address, which transport mode needs
// behind a NAT (RFC 7296, Section 2.23.1).
func (t TS) IsHost() bool { return t.From.IsValid() && t.From == t.To }

// Contains tells whether an address is in the range.
func (t TS) Contains(a netip.Addr) bool {
	return t.From.Compare(a) <= 0 && a.Compare(t.To) <= 0 && a.Is4() == t.From.Is4()
}

// limited tells whether a selector of any protocol has a list of ports: it then
// means protocols with real ports, not message types.
func (t TS) limited() bool { return t.Proto == 0 && !t.AnyPort() && !t.Opaque() }

func typed(proto uint8) bool {
	return proto == protoICMP || proto == protoICMPv6 || proto == protoMH
}

// Covers tells whether all traffic of u is traffic of t.
func (t TS) Covers(u TS) bool {
	i, ok := Intersect(t, u)
	return ok && i == u
}

// Intersect is the traffic that both selectors have.
func Intersect(t, u TS) (TS, bool) {
	if t.From.Is4() != u.From.Is4() || t.Dynamic() || u.Dynamic() {
		return TS{}, false
	}
	r := t
	if r.From.Less(u.From) {
		r.From = u.From
	}
	if u.To.Less(r.To) {
		r.To = u.To
	}
	if r.To.Less(r.From) {
		return TS{}, false
	}
	switch {
	case t.Proto == u.Proto:
	case t.Proto == 0 && !(t.limited() && typed(u.Proto)):
		r.Proto = u.Proto
	case u.Proto == 0 && !(u.limited() && typed(t.Proto)):
	default:
		return TS{}, false
	}
	// ANY has all ports and OPAQUE; OPAQUE has no port (RFC 4301, Section 4.4.1.1).
	switch {
	case t.AnyPort():
		r.PortFrom, r.PortTo = u.PortFrom, u.PortTo
	case u.AnyPort():
	case t.Opaque() || u.Opaque():
		if t.Opaque() != u.Opaque() {
			return TS{}, false
		}
	default:
		r.PortFrom, r.PortTo = max(t.PortFrom, u.PortFrom), min(t.PortTo, u.PortTo)
		if r.PortTo < r.PortFrom {
			return TS{}, false
		}
	}
	return r, true
}

// value says what a packet has for a selector of ports.
type value uint8

const (
	unavailable value = iota // a fragment, or a protocol without ports
	available
	foreign // the selector is about packets of the other direction
)

// sides is what the packet has for the local and the remote selector.
func (f *Flow) sides() (local, remote value) {
	if f.HasPorts {
		local, remote = available, available
	}
	if f.Proto == protoMH {
		// RFC 4301, Section 4.4.1.1.
		if f.Inbound {
			local = foreign
		} else {
			remote = foreign
		}
	}
	return local, remote
}

// match tells whether one side of a flow is selected.
func (t *TS) match(a netip.Addr, proto uint8, port uint16, v value) bool {
	if t.Proto != 0 && t.Proto != proto {
		return false
	}
	if t.PortFrom != 0 || t.PortTo != 65535 {
		switch {
		case t.PortFrom == OpaqueStart && t.PortTo == OpaqueEnd:
			if v == available {
				return false
			}
		case t.Proto == 0 && typed(proto):
			return false
		case v == foreign:
		case v == unavailable || port < t.PortFrom || port > t.PortTo:
			return false
		}
	}
	return t.Contains(a)
}

// MatchLocal and MatchRemote tell whether one selector of a list has that side
// of the flow.
func (f *Flow) MatchLocal(list []TS) bool {
	v, _ := f.sides()
	for i := range list {
		if list[i].match(f.Local, f.Proto, f.LocalPort, v) {
			return true
		}
	}
	return false
}

// MatchRemote is MatchLocal for the other side.
func (f *Flow) MatchRemote(list []TS) bool {
	_, v := f.sides()
	for i := range list {
		if list[i].match(f.Remote, f.Proto, f.RemotePort, v) {
			return true
		}
	}
	return false
}

// Match tells whether the flow has a selector in each list.
func (f *Flow) Match(local, remote []TS) bool {
	if f.MatchRemote(remote) && f.MatchLocal(local) {
		return true
	}
	if f.Proto != protoICMP && f.Proto != protoICMPv6 {
		return false
	}
	for i := range remote {
		for j := range local {
			if f.matchApart(&local[j], &remote[i]) {
				return true
			}
		}
	}
	return false
}

// Apart tells whether a pair of selectors has ICMP messages of one type one way and of
// another type the other way, as a solicitation and its advertisement. Each side's is
// what it sends then, as with mobility headers (RFC 4301, Section 4.4.1.3; RFC 4877,
// Section 5.3). No message has both types.
func Apart(local, remote TS) bool {
	return (local.Proto == protoICMP || local.Proto == protoICMPv6) && remote.Proto == local.Proto && !local.AnyPort() && !remote.AnyPort() &&
		!local.Opaque() && !remote.Opaque() && (local.PortTo < remote.PortFrom || remote.PortTo < local.PortFrom)
}

// matchApart tells whether a flow of ICMP is of a pair that is apart.
func (f *Flow) matchApart(local, remote *TS) bool {
	if !Apart(*local, *remote) {
		return false
	}
	l, r := f.sides()
	if f.Inbound {
		l = foreign
	} else {
		r = foreign
	}
	return remote.match(f.Remote, f.Proto, f.RemotePort, r) && local.match(f.Local, f.Proto, f.LocalPort, l)
}

// LocalTS and RemoteTS are the selectors of exactly this packet, the very
// specific first ones of RFC 7296, Section 2.9. What the packet does not have
// gives ports ANY.
func (f *Flow) LocalTS() TS {
	v, _ := f.sides()
	return f.side(f.Local, f.LocalPort, v)
}

// RemoteTS is LocalTS for the other side.
func (f *Flow) RemoteTS() TS {
	_, v := f.sides()
	return f.side(f.Remote, f.RemotePort, v)
}

func (f *Flow) side(a netip.Addr, port uint16, v value) TS {
	t := Host(a)
	t.Proto = f.Proto
	if v == available {
		t.PortFrom, t.PortTo = port, port
	}
	return t
}
