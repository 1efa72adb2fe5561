package ikev2

import (
	"net/netip"

	"iked/spd"
)

// Selectors that a CHILD_SA takes from a packet (RFC 4301, Section 4.4.1.2). On
// the wire a packet is the first selector of TSi and of TSr (RFC 7296, Section
// 2.9).

// pfpSide are the flags of one side: of its address, of the protocol and of its
// port.
type pfpSide struct{ addr, proto, port bool }

func localPFP(f spd.PFP) pfpSide {
	return pfpSide{f&spd.PFPLocalAddr != 0, f&spd.PFPProtocol != 0, f&spd.PFPLocalPort != 0}
}

func remotePFP(f spd.PFP) pfpSide {
	return pfpSide{f&spd.PFPRemoteAddr != 0, f&spd.PFPProtocol != 0, f&spd.PFPRemotePort != 0}
}

// specific tells whether the first selector of an offer has one value of each
// selector that is flagged, as one that stands for a packet has.
func (s pfpSide) specific(t spd.TS) bool {
	onePort := t.PortFrom == t.PortTo || t.Opaque() || t.AnyPort() && t.Proto != 0 && !hasPorts(t.Proto)
	return (!s.addr || t.IsHost()) && (!s.proto || t.Proto != 0) && (!s.port || t.Proto != 0 && onePort)
}

// hasPorts tells whether packets of a protocol have ports, or a message type in
// their place (RFC 4301, Section 4.4.1.1).
func hasPorts(proto uint8) bool {
	switch proto {
	case 1, 6, 17, 33, 58, 132, 135, 136: // ICMP, TCP, UDP, DCCP, ICMPv6, SCTP, MH, UDP-Lite
		return true
	}
	return false
}

// populate is the part of a list that has the packet's values of what is flagged.
// A port means nothing without its protocol, so it brings that along.
func (s pfpSide) populate(list []spd.TS, packet spd.TS) []spd.TS {
	if s == (pfpSide{}) {
		return list
	}
	bits := 128
	all := netip.IPv6Unspecified()
	if packet.Is4() {
		bits, all = 32, netip.IPv4Unspecified()
	}
	m := spd.FromPrefix(netip.PrefixFrom(all, 0))
	if s.addr {
		m = spd.FromPrefix(netip.PrefixFrom(packet.From, bits))
	}
	if s.proto || s.port {
		m.Proto = packet.Proto
	}
	if s.port {
		m.PortFrom, m.PortTo = packet.PortFrom, packet.PortTo
	}
	return spd.IntersectLists(list, []spd.TS{m})
}

// theirType is the selector of the peer's side of a packet that is sent. Where a list of
// the peer's selectors has messages of another type than the packet's, which the peer
// sends, it is one of these: the packet cannot tell it (RFC 4301, Section 4.4.1.3).
func theirType(f *spd.Flow, local spd.TS, list []spd.TS) spd.TS {
	r := f.RemoteTS()
	if spd.Subset([]spd.TS{r}, list) {
		return r
	}
	anyType := r
	anyType.PortFrom, anyType.PortTo = 0, 65535
	for _, t := range list {
		if i, ok := spd.Intersect(anyType, t); ok && f.Match([]spd.TS{local}, []spd.TS{i}) {
			return i
		}
	}
	return r
}
