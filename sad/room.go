package sad

import (
	"net/netip"

	"iked/crypto/aead"
	"iked/crypto/integ"
	"iked/crypto/suite"
	"iked/spd"
)

// Lengths in octets of headers without options.
const (
	ipv4Len = 20
	ipv6Len = 40
	udpLen  = 8 // RFC 3948, Section 2.1
	espLen  = 8 // SPI and sequence number (RFC 4303, Section 2)
	endLen  = 2 // pad length and next header (RFC 4303, Section 2.4, 2.6)
)

// Room is what an SA takes of the packets that it protects. It is a value that
// does not change with the SA's outer addresses.
type Room struct {
	proto suite.Protocol
	mode  spd.Mode
	icv   int // with AES-GMAC's IV in AH
	iv    int
	align int        // of the plaintext (RFC 4303, Section 2.4)
	inner netip.Addr // of BEET mode
}

// Room tells what an SA takes; the error says which algorithm is not known.
func (sa *SA) Room() (r Room, err error) {
	r = Room{proto: sa.Proto, mode: sa.Mode}
	if sa.Proto == suite.ProtoAH {
		_, r.icv, err = integ.LensAH(sa.Integ.ID)
		return r, err
	}
	if sa.Mode == spd.BEET && len(sa.Remote) > 0 {
		r.inner = sa.Remote[0].From
	}
	var block int
	r.iv, r.icv, block, err = aead.Sizes(sa.Encr, sa.Integ)
	r.align = max(block, 4)
	return r, err
}

// BEET is an address of the packets of BEET mode, which are all of one family;
// invalid in other modes.
func (r *Room) BEET() netip.Addr { return r.inner }

// Inner is the largest packet without options or extension headers that fits a
// path of mtu octets to dst, in UDP or not: what is left after the headers,
// rounded down to the padding, without the trailer.
func (r *Room) Inner(mtu int, dst netip.Addr, udp bool) int {
	outer := headerLen(dst)
	if r.proto == suite.ProtoAH {
		n := mtu - integ.HeaderAH(r.icv, dst.Is6())
		if r.mode == spd.Tunnel {
			n -= outer
		}
		return max(n, 0)
	}
	left := mtu - outer - espLen - r.iv - r.icv
	if udp {
		left -= udpLen
	}
	n := max(left&^(r.align-1)-endLen, 0)
	switch r.mode {
	case spd.Transport:
		n += outer // its own header is the outer one
	case spd.BEET:
		n += headerLen(r.inner)
	}
	return n
}

func headerLen(a netip.Addr) int {
	if a.Is4() {
		return ipv4Len
	}
	return ipv6Len
}
