package offer

import (
	"fmt"
	"net/netip"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

// Protocols whose port field holds the type of a message.
const (
	protoICMP   = 1
	protoICMPv6 = 58
	protoMH     = 135
)

// IDOf is the ID payload for a traffic selector (RFC 2407, Section 4.6.2): one
// range of addresses, one protocol, one port or all. The type of a mobility header or
// of an ICMP message with any code is a plain number in the place of the port, as
// implementations have it whose selectors are those of PF_KEY; no RFC says. A type of
// ICMP with one code is type<<8|code.
func IDOf(t spd.TS) (*message.ID, error) {
	port := uint16(0)
	switch from, typed := t.PortFrom, t.Proto == protoICMP || t.Proto == protoICMPv6; {
	case t.AnyPort():
	case from != 0 && from&0xff == 0 && (t.Proto == protoMH && t.PortTo == from || typed && t.PortTo == from|0xff):
		port = from >> 8
	case t.Proto == protoMH || typed && from < 256:
		return nil, fmt.Errorf("the selector %v has message types that IKEv1 cannot say: it knows one from 1 to 255, or all", t)
	case t.PortFrom == t.PortTo && t.PortFrom != 0:
		port = t.PortFrom
	default:
		return nil, fmt.Errorf("the selector %v has ports or message types that IKEv1 cannot say: it knows one port, or all", t)
	}
	return message.RangeID(t.From, t.To, t.Proto, port), nil
}

// TSOf is the traffic selector of an ID payload of Quick Mode.
func TSOf(p *message.ID) (spd.TS, error) {
	from, to, err := p.Range()
	if err != nil {
		return spd.TS{}, err
	}
	t := spd.TS{From: from, To: to, Proto: p.Proto, PortTo: 65535}
	switch typed := p.Proto == protoICMP || p.Proto == protoICMPv6; {
	case p.Port == 0:
	case typed && p.Port < 256:
		t.PortFrom, t.PortTo = p.Port<<8, p.Port<<8|0xff
	case p.Proto == protoMH && p.Port < 256:
		t.PortFrom, t.PortTo = p.Port<<8, p.Port<<8
	case p.Proto == protoMH && p.Port&0xff != 0:
		return spd.TS{}, fmt.Errorf("mobility header type %d: expected one from 1 to 255", p.Port)
	default:
		t.PortFrom, t.PortTo = p.Port, p.Port
	}
	return t, t.Check()
}

// Resolve puts the virtual addresses, or the host's own, for dynamic selectors.
func Resolve(list []keyex.Selector, host netip.Addr, vips []netip.Prefix) []spd.TS {
	addrs := []netip.Addr{host}
	if len(vips) > 0 {
		addrs = addrs[:0]
		for _, p := range vips {
			addrs = append(addrs, p.Addr())
		}
	}
	out := make([]spd.TS, 0, len(list))
	for _, s := range list {
		t := s.TS
		if s.Dynamic {
			t.From, t.To = netip.Addr{}, netip.Addr{}
			if t.PortFrom == 0 && t.PortTo == 0 {
				t.PortTo = 65535
			}
		}
		out = append(out, t)
	}
	return spd.Resolve(out, addrs...)
}

// Pairs are the selectors of a child as Quick Modes negotiate them: each has one
// of either side (RFC 2409, Section 5.5), of one family and protocol.
func Pairs(local, remote []spd.TS) [][2]spd.TS {
	var out [][2]spd.TS
	for _, l := range local {
		for _, r := range remote {
			if l.Is4() == r.Is4() && (l.Proto == r.Proto || l.Proto == 0 || r.Proto == 0) {
				out = append(out, [2]spd.TS{l, r})
			}
		}
	}
	return out
}

// ModeName is a mode as the configuration names it.
func ModeName(m spd.Mode) string {
	switch m {
	case spd.Transport:
		return "transport"
	case spd.BEET:
		return "beet"
	}
	return "tunnel"
}

// IDPair are IDci and IDcr; nil: there are none.
func IDPair(list []message.Payload) []*message.ID {
	var out []*message.ID
	for _, p := range list {
		if id, ok := p.(*message.ID); ok {
			out = append(out, id)
		}
	}
	if len(out) != 2 {
		return nil
	}
	return out
}
