package esp

import (
	"net/netip"

	"iked/beet"
	"iked/datapath/ip"
	"iked/spd"
)

func floor(dst netip.Addr) int {
	if dst.Is4() {
		return floorMTU4
	}
	return floorMTU6
}

// outerLen is the length of what Encapsulate writes.
func outerLen(p *Path) int {
	n := headerLen(p)
	if p.Encap != nil {
		n += UDPHeaderLen
	}
	return n
}

// headerLen is the length of an IP header without options.
func headerLen(p *Path) int {
	if p.Dst.Is4() {
		return ip.IPv4HeaderLen
	}
	return ip.IPv6HeaderLen
}

// fits is the largest packet without options or extension headers that fits the
// path.
func (o *Outbound) fits(p *Path) int { return o.room.Inner(p.MTU, p.Dst, p.Encap != nil) }

// special is what options and extension headers take from that.
func (o *Outbound) special(info *ip.Info) int {
	switch {
	case o.sa.Mode == spd.Transport && info.HeaderLen > plainLen(info):
		// They are in front of ESP, and the rest goes up to the next block; AH has
		// none.
		return max(o.align-1, 0)
	case o.sa.Mode == spd.BEET && info.Version == 4 && info.HeaderLen > ip.IPv4HeaderLen:
		return beet.PseudoLen(info.HeaderLen - ip.IPv4HeaderLen)
	}
	return 0
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
//	IPv4, DF clear    fragments before ESP; in transport and BEET mode after it
//	IPv6              ICMPv6 2/0 with the inner MTU; but nobody needs to go below
//	                  1280 (RFC 8200, Section 5): up to that, fragments after ESP
func (o *Outbound) Fit(info *ip.Info) (f Fit, mtu int) {
	return o.fit(info, o.path.Load().inner)
}

// FitTo is Fit when the sealed packet may have limit octets only, because it is
// sealed again by another SA.
func (o *Outbound) FitTo(info *ip.Info, limit int) (f Fit, mtu int) {
	return o.fit(info, o.Limit(limit))
}

// Limit is the largest packet that sealed fits both the path and limit octets.
func (o *Outbound) Limit(limit int) int {
	p := *o.path.Load()
	p.MTU = min(p.MTU, limit)
	return o.fits(&p)
}

func (o *Outbound) fit(info *ip.Info, inner int) (f Fit, mtu int) {
	mtu = inner - o.special(info)
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
	case o.sa.Mode != spd.Tunnel:
		// RFC 4303, Section 3.3.4: these modes protect whole packets only.
		return FragmentOuter, mtu
	}
	return FragmentInner, mtu
}

// plainLen is the length of a header without options or extension headers.
func plainLen(info *ip.Info) int {
	if info.Version == 4 {
		return ip.IPv4HeaderLen
	}
	return ip.IPv6HeaderLen
}
