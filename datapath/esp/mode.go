package esp

import (
	"encoding/binary"

	"iked/datapath/ip"
	"iked/sad"
)

// payload is what a mode gives to ESP: the octets that are protected and what
// the header around them must say.
type payload struct {
	off, n     int
	nextHeader uint8
	// pad tells that the payload states its own length, so that TFC padding may
	// follow it (RFC 4303, Section 2.7).
	pad bool
}

// wrapTunnel makes the whole packet the payload and chooses the fields of the
// outer header (RFC 4301, Section 5.1.2).
func (o *Outbound) wrapTunnel(p *Path, off int, info *ip.Info, out *Sealed) payload {
	sa := o.sa
	out.TOS = ip.OuterTOS(info.TOS, sa.DSCP == sad.DSCPOut || sa.DSCP == sad.DSCPBoth, !sa.NoECN)
	out.TTL = o.ttl
	out.DF = outerDF(sa.DF, info, p.inner)
	nh := uint8(ip.ProtoIPv4)
	if info.Version == 6 {
		nh = ip.ProtoIPv6
	}
	return payload{off: off, n: info.TotalLen, nextHeader: nh, pad: true}
}

// outerDF is the DF bit of an IPv4 tunnel header (RFC 4301, Section 8.1). IPv6
// has none to copy: its packets are never fragmented on the way, so it counts as
// set, except up to the minimum MTU, where no smaller packet can be asked for.
func outerDF(df sad.DF, info *ip.Info, inner int) bool {
	switch {
	case info.TotalLen > inner || df == sad.DFClear:
		// Bigger than the path: it will be fragmented behind ESP.
		return false
	case df == sad.DFSet:
		return true
	case info.Version == 4:
		return info.DF
	}
	return info.TotalLen > ip.MinMTU6
}

// unwrapTunnel takes the inner packet out of the payload (RFC 4301, Section
// 5.2, steps 3 and 4): text without ESP's padding, tos from the outer header.
func (i *Inbound) unwrapTunnel(text []byte, nextHeader, tos uint8, out *Opened) Drop {
	var version uint8
	switch nextHeader {
	case ip.ProtoIPv4:
		version = 4
	case ip.ProtoIPv6:
		version = 6
	default:
		return BadNextHeader
	}
	if len(text) > 0 && text[0]>>4 != version {
		return InnerVersion
	}
	// What is behind the stated length is TFC padding (RFC 4303, Section 2.7).
	if ip.Parse(text, &out.Info) != ip.OK {
		return InnerInvalid
	}
	out.Packet = text[:out.Info.TotalLen]
	out.Flow = out.Info.Inbound()
	if !i.selects(out) {
		if out.Info.FragOffset != 0 {
			return InnerFragment
		}
		return SelectorMismatch
	}
	sa := i.sa
	inner, ok := ip.InnerTOS(out.Info.TOS, tos, sa.DSCP == sad.DSCPIn || sa.DSCP == sad.DSCPBoth, !sa.NoECN)
	if !ok {
		return InnerECN
	}
	if inner != out.Info.TOS {
		ip.SetTOS(out.Packet, inner)
		out.Info.TOS = inner
	}
	return Pass
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
// takes whole packets. start is the first octet of the outer header, inside is
// that of the UDP header or, without one, of ESP.
func (o *Outbound) Encapsulate(buf []byte, s *Sealed) (start, inside int) {
	p := o.path.Load()
	h := ip.Outer{Src: p.Src, Dst: p.Dst, Proto: ip.ProtoESP, TOS: s.TOS, TTL: s.TTL, DF: s.DF, ID: uint16(s.Seq) ^ uint16(o.sa.SPI)}
	inside = s.Off
	n := s.Len
	if p.Encap != nil {
		inside -= UDPHeaderLen
		n += UDPHeaderLen
		h.Proto = ip.ProtoUDP
	}
	start = inside - h.Len()
	h.Put(buf[start:], n)
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
