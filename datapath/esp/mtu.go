package esp

import (
	"net/netip"

	"iked/datapath/ip"
)

func floor(dst netip.Addr) int {
	if dst.Is4() {
		return floorMTU4
	}
	return floorMTU6
}

// outerLen is the length of what Encapsulate writes.
func outerLen(p *Path) int {
	n := ip.IPv6HeaderLen
	if p.Dst.Is4() {
		n = ip.IPv4HeaderLen
	}
	if p.Encap != nil {
		n += UDPHeaderLen
	}
	return n
}

// innerMTU is the largest payload whose ESP packet fits mtu: what is left after
// the headers, rounded down to the padding, without the trailer.
func innerMTU(mtu, outer, iv, icv, align int) int {
	return max((mtu-outer-HeaderLen-iv-icv)&^(align-1)-trailerLen, 0)
}

// InnerMTU is the largest inner packet that fits the path MTU.
func (o *Outbound) InnerMTU() int { return o.path.Load().inner }

// Fit is what must be done with a packet because of its size.
type Fit uint8

// Fits.
const (
	// Send: it fits.
	Send Fit = iota
	// FragmentInner: cut it to the MTU with ip.Fragment4 before Seal.
	FragmentInner
	// FragmentOuter: seal it whole and cut the outer packet.
	FragmentOuter
	// Reply: drop it and answer ip.TooBig with the MTU.
	Reply
)

// Fit holds a packet against the path MTU (RFC 4301, Section 8.2):
//
//	IPv4, DF set      ICMP 3/4 with the inner MTU
//	IPv4, DF clear    fragments before ESP
//	IPv6              ICMPv6 2/0 with the inner MTU; but nobody needs to go below
//	                  1280 (RFC 8200, Section 5): up to that, fragments after ESP
func (o *Outbound) Fit(info *ip.Info) (f Fit, mtu int) {
	mtu = o.path.Load().inner
	switch {
	case info.TotalLen <= mtu:
		return Send, mtu
	case info.Version == 6 && mtu >= ip.MinMTU6:
		return Reply, mtu
	case info.Version == 6 && info.TotalLen > ip.MinMTU6:
		return Reply, ip.MinMTU6
	case info.Version == 6:
		return FragmentOuter, mtu
	case info.DF:
		return Reply, mtu
	}
	return FragmentInner, mtu
}
