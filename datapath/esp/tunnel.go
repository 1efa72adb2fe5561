package esp

import (
	"iked/datapath/ip"
	"iked/sad"
)

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
	return payload{off: off, n: info.TotalLen, nextHeader: nh, most: p.inner}
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
