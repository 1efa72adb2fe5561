package esp

import (
	"encoding/binary"

	"iked/datapath/ip"
	"iked/spd"
)

// payload is what a mode gives to ESP: the octets that are protected and what
// the header around them must say.
type payload struct {
	off, n     int
	nextHeader uint8
	// most is how long the payload may become with TFC padding; 0: it does not state
	// its own length, so that nothing may follow it (RFC 4303, Section 2.7).
	most int
}

// wrap makes the payload of a packet, as the mode of the SA says.
func (o *Outbound) wrap(p *Path, buf []byte, off int, info *ip.Info, out *Sealed) (payload, Drop) {
	switch o.sa.Mode {
	case spd.Transport:
		return o.wrapTransport(p, buf, off, info, out)
	case spd.BEET:
		return o.wrapBEET(p, buf, off, info, out)
	}
	return o.wrapTunnel(p, off, info, out), Pass
}

// unwrap makes the packet of a payload: text without ESP's padding, which lies
// at buf[at:], espAt is where ESP began.
func (i *Inbound) unwrap(buf []byte, espAt, at, n int, nextHeader uint8, outer *Outer, out *Opened) Drop {
	switch i.sa.Mode {
	case spd.Transport:
		return i.unwrapTransport(buf, espAt, at, n, nextHeader, outer, out)
	case spd.BEET:
		return i.unwrapBEET(buf, at, n, nextHeader, outer, out)
	}
	return i.unwrapTunnel(buf[at:at+n], nextHeader, outer.TOS, out)
}

// selects tells whether the SA may carry the packet (RFC 4301, Section 5.2, step
// 4). An ICMP error that does not fit by itself may belong to traffic that does:
// the packet it quotes, which went the other way (Section 6.2).
func (i *Inbound) selects(out *Opened) bool {
	if out.Flow.Match(i.sa.Local, i.sa.Remote) {
		return true
	}
	if out.Info.Proto != ip.ProtoICMP && out.Info.Proto != ip.ProtoICMPv6 {
		return false
	}
	var e ip.Embedded
	if !ip.ParseICMPError(out.Packet, &out.Info, &e) {
		return false
	}
	quoted := e.Info.Outbound()
	return quoted.Match(i.sa.Local, i.sa.Remote)
}

// Encapsulate writes the outer IP header and, when the path has it, the UDP
// header (RFC 3948, Section 2.1) in front of a sealed packet, for a socket that
// takes whole packets. Of AH it only tells where that header is. start is the first octet of the outer header, inside is
// that of the UDP header or, without one, of ESP.
func (o *Outbound) Encapsulate(buf []byte, s *Sealed) (start, inside int) {
	p := o.path.Load()
	inside = s.Off
	if o.auth != nil {
		// The ICV covers the header: it is there.
		return inside - s.Header, inside
	}
	n := s.Len
	proto := uint8(ip.ProtoESP)
	if p.Encap != nil {
		inside -= UDPHeaderLen
		n += UDPHeaderLen
		proto = ip.ProtoUDP
	}
	if s.Header > 0 {
		start = inside - s.Header
		complete(buf[start:inside+n], s.Header)
	} else {
		h := ip.Outer{Src: p.Src, Dst: p.Dst, Proto: proto, TOS: s.TOS, TTL: s.TTL, DF: s.DF, ID: s.id, FlowLabel: s.flowLabel}
		start = inside - h.Len()
		h.Put(buf[start:], n)
	}
	if p.Encap != nil {
		u := buf[inside : inside+n]
		binary.BigEndian.PutUint16(u, p.Encap.SrcPort)
		binary.BigEndian.PutUint16(u[2:], p.Encap.DstPort)
		binary.BigEndian.PutUint16(u[4:], uint16(n))
		u[6], u[7] = 0, 0
		// IPv4 sends no checksum (RFC 3948, Section 2.1), IPv6 must.
		if !p.Dst.Is4() {
			ph := buf[start:inside]
			sum := ip.Checksum(u, ip.PseudoSum(ph[8:24], ph[24:40], ip.ProtoUDP, n))
			if sum == 0 {
				sum = 0xffff
			}
			binary.BigEndian.PutUint16(u[6:], sum)
		}
	}
	return start, inside
}
