package keyex

import "net/netip"

// WantsAddress tells whether an address that the peer gives is one more of those
// that were asked for (RFC 7296, Section 3.15.1), beside those that it gave
// already, and may be an own one.
func WantsAddress(asked []netip.Addr, given []netip.Prefix, a netip.Addr) bool {
	if !a.IsGlobalUnicast() && !a.IsLinkLocalUnicast() || a.Is4In6() {
		return false
	}
	left := 0
	for _, v := range asked {
		if v.Unmap().Is4() == a.Is4() {
			left++
		}
	}
	for _, p := range given {
		if p.Addr() == a {
			return false
		}
		if p.Addr().Is4() == a.Is4() {
			left--
		}
	}
	return left > 0
}
