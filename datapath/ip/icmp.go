package ip

import (
	"encoding/binary"
	"net/netip"
)

// ICMPError is an ICMP error that this system sends about a packet.
type ICMPError uint8

// ICMP errors, as types and codes of both families (RFC 792, RFC 1191, RFC
// 1812; RFC 4443). RFC 4301, Section 6 and 8 say when IPsec sends them.
const (
	// TooBig: 3/4 fragmentation needed, 2/0 packet too big.
	TooBig ICMPError = iota
	// Prohibited: 3/13 and 1/1, for traffic that the policy discards.
	Prohibited
	// Unreachable: 3/1 and 1/3, for a peer that does not answer.
	Unreachable
	// TimeExceeded: 11/0 and 3/0, for a TTL that is used up.
	TimeExceeded
)

var (
	icmp4 = [...][2]uint8{TooBig: {3, 4}, Prohibited: {3, 13}, Unreachable: {3, 1}, TimeExceeded: {11, 0}}
	icmp6 = [...][2]uint8{TooBig: {2, 0}, Prohibited: {1, 1}, Unreachable: {1, 3}, TimeExceeded: {3, 0}}
)

const (
	// icmp4Quote is how long an ICMPv4 error may be (RFC 1812, Section 4.3.2.3).
	icmp4MaxLen = 576
	icmpTTL     = 64
)

// AppendICMP appends a whole IP packet with the ICMP error about the packet in
// orig, whose info Parse gave, from this system's address. mtu is the next-hop
// MTU of TooBig. ok is false and nothing appended when no error may be sent
// about the packet: it is an ICMP error or a redirect itself, a non-initial
// fragment, or comes from or goes to an address that is not one host's (RFC
// 1122, Section 3.2.2; RFC 4443, Section 2.4). The caller limits the rate.
func AppendICMP(dst []byte, e ICMPError, from netip.Addr, mtu int, orig []byte, info *Info) (out []byte, ok bool) {
	if !mayAnswer(e, orig, info) || from.Is4() != (info.Version == 4) {
		return dst, false
	}
	orig = orig[:info.TotalLen]
	h := Outer{Src: from, Dst: info.Src, TTL: icmpTTL}
	var kind [2]uint8
	if info.Version == 4 {
		h.Proto, kind = ProtoICMP, icmp4[e]
		h.TOS = 0xc0 // internetwork control (RFC 1812, Section 4.3.2.5)
		orig = orig[:min(len(orig), icmp4MaxLen-IPv4HeaderLen-8)]
	} else {
		h.Proto, kind = ProtoICMPv6, icmp6[e]
		orig = orig[:min(len(orig), MinMTU6-IPv6HeaderLen-8)]
	}
	at, hl := len(dst), h.Len()
	dst = append(dst, make([]byte, hl+8)...)
	dst = append(dst, orig...)
	p := dst[at:]
	h.Put(p, 8+len(orig))
	m := p[hl:]
	m[0], m[1] = kind[0], kind[1]
	var sum uint64
	if info.Version == 4 {
		if e == TooBig {
			binary.BigEndian.PutUint16(m[6:], uint16(min(mtu, 65535)))
		}
	} else {
		if e == TooBig {
			binary.BigEndian.PutUint32(m[4:], uint32(mtu))
		}
		sum = PseudoSum(p[8:24], p[24:40], ProtoICMPv6, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], Checksum(m, sum))
	return dst, true
}

func mayAnswer(e ICMPError, orig []byte, info *Info) bool {
	if info.FragOffset != 0 || !oneHost(info.Src) {
		return false
	}
	// A packet too big may be answered even when sent to a group (RFC 4443,
	// Section 2.4, e.3); in IPv4 nothing to a group is answered.
	if !oneHost(info.Dst) && (info.Version == 4 || e != TooBig) {
		return false
	}
	l := orig[info.HeaderLen:info.TotalLen]
	switch {
	case info.Version == 4 && info.Proto == ProtoICMP:
		if len(l) == 0 {
			return false
		}
		// Queries and replies may be answered, all else is an error.
		switch l[0] {
		case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18:
			return true
		}
		return false
	case info.Version == 6 && info.Proto == ProtoICMPv6:
		// Types below 128 are errors; 137 is the redirect.
		return len(l) > 0 && l[0] >= 128 && l[0] != 137
	}
	return true
}

// oneHost tells whether an address can be that of one host.
func oneHost(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return false
	}
	return !a.Is4() || a.As4()[0] < 240 && a.As4()[0] != 0
}

// Embedded is what an ICMP error says of the packet that it is about: the
// source and destination are those of that packet, so the traffic it returns
// for has them the other way round (RFC 4301, Section 6.2).
type Embedded struct {
	Info Info // of the quoted header; TotalLen may pass the quote
	MTU  int  // of TooBig, 0 if not stated
	Type uint8
	Code uint8
	// Next is the quoted start of the next layer, at least 8 octets for IPv4.
	Next []byte
}

// ParseICMPError reads an ICMP error in the packet b, whose info Parse gave. ok
// is false when it is none, or quotes too little. Next is a slice of b.
func ParseICMPError(b []byte, info *Info, out *Embedded) (ok bool) {
	l := b[info.HeaderLen:info.TotalLen]
	if info.FragOffset != 0 || len(l) < 8 {
		return false
	}
	*out = Embedded{Type: l[0], Code: l[1]}
	switch {
	case info.Version == 4 && info.Proto == ProtoICMP:
		switch l[0] {
		case 3, 4, 11, 12:
		default:
			return false
		}
		if l[0] == 3 && l[1] == 4 {
			out.MTU = int(binary.BigEndian.Uint16(l[6:]))
		}
		return out.quote4(l[8:])
	case info.Version == 6 && info.Proto == ProtoICMPv6:
		if l[0] >= 128 {
			return false
		}
		if l[0] == 2 {
			out.MTU = int(min(binary.BigEndian.Uint32(l[4:]), 1<<16+IPv6HeaderLen))
		}
		return out.quote6(l[8:])
	}
	return false
}

func (e *Embedded) quote4(q []byte) bool {
	if len(q) < IPv4HeaderLen || q[0]>>4 != 4 {
		return false
	}
	hl := int(q[0]&15) * 4
	if hl < IPv4HeaderLen || len(q) < hl+8 {
		return false
	}
	frag := binary.BigEndian.Uint16(q[6:])
	e.Next = q[hl:]
	e.Info = Info{
		Version: 4, TOS: q[1], TTL: q[8], Proto: q[9], DF: frag&0x4000 != 0,
		MoreFrag: frag&0x2000 != 0, Fragmented: frag&0x3fff != 0, FragOffset: frag & 0x1fff * 8,
		FragID: uint32(binary.BigEndian.Uint16(q[4:])), TotalLen: int(binary.BigEndian.Uint16(q[2:])), HeaderLen: hl,
		Src: netip.AddrFrom4([4]byte(q[12:16])), Dst: netip.AddrFrom4([4]byte(q[16:20])),
	}
	e.Info.ports(e.Next)
	return true
}

// quote6 reads the quoted header; the quote may end before the packet, so the
// walk takes what is there for the whole.
func (e *Embedded) quote6(q []byte) bool {
	if len(q) < IPv6HeaderLen || q[0]>>4 != 6 {
		return false
	}
	stated := IPv6HeaderLen + int(binary.BigEndian.Uint16(q[4:]))
	q = q[:min(len(q), stated)]
	if walk6(q, len(q), false, &e.Info) != OK {
		return false
	}
	e.Info.TotalLen = stated
	e.Next = q[e.Info.HeaderLen:]
	return true
}
