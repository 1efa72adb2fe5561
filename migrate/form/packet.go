package form

import (
	"encoding/binary"
	"net/netip"
)

// extPacket is SADB_X_EXT_PACKET of draft-sugimoto-mip6-pfkey-migrate: the beginning
// of the packet that asks for SAs, in an ACQUIRE. Linux never had it.
const extPacket = 27

// Headers and options of a Binding Update (RFC 8200, Section 4; RFC 6275, Sections
// 6.1.7 and 6.3).
const (
	ip6Header    = 40
	nextHopByHop = 0
	nextRouting  = 43
	nextFragment = 44
	nextAH       = 51
	nextMobility = 135
	nextDestOpts = 60

	optPad1        = 0
	optHomeAddress = 0xc9
	mhBindingUp    = 5
	bindingHome    = 0x4000 // the H flag
)

// ParsePacket reads the extension SADB_X_EXT_PACKET and gives the packet in it; it is
// a part of x.
//
//	uint16 length, uint16 type, uint32 octets of the packet, packet
func ParsePacket(x []byte) ([]byte, error) {
	e, rest, err := extension(x)
	if err != nil {
		return nil, err
	}
	n := binary.NativeEndian.Uint32(e[4:])
	if t := binary.NativeEndian.Uint16(e[2:]); t != extPacket || len(rest) != 0 || uint64(n) > uint64(len(e)-8) {
		return nil, malformed("extension %d of %d octets with a packet of %d", t, len(e), n)
	}
	return e[8 : 8+n], nil
}

// CareOf finds the addresses of a mobile node in the Binding Update by which it
// registers at its home agent: the packet's source is the care-of address, from where
// IKE must negotiate, and the Home Address option has the home address (RFC 6275,
// Section 11.7.1). False: the packet is another one, or the beginning of it that is
// there does not tell.
func CareOf(p []byte) (careOf, home netip.Addr, ok bool) {
	if len(p) < ip6Header || p[0]>>4 != 6 {
		return careOf, home, false
	}
	careOf = netip.AddrFrom16([16]byte(p[8:24]))
	next, p := p[6], p[ip6Header:]
	for {
		if len(p) < 8 {
			return careOf, home, false
		}
		size := 8 * (int(p[1]) + 1)
		switch next {
		case nextHopByHop, nextRouting:
		case nextDestOpts:
			if a, found := homeAddress(p[2:min(size, len(p))]); found {
				home = a
			}
		case nextFragment:
			size = 8
			if binary.BigEndian.Uint16(p[2:])&0xfff8 != 0 {
				return careOf, home, false // not the first one
			}
		case nextAH:
			size = 4 * (int(p[1]) + 2)
		case nextMobility:
			// RFC 6275, Section 6.1.1: type at 2, checksum at 4; Section 6.1.7: sequence
			// number at 6, flags at 8.
			ok = len(p) >= 10 && p[2] == mhBindingUp && binary.BigEndian.Uint16(p[8:])&bindingHome != 0 && home.IsValid()
			return careOf, home, ok
		default:
			return careOf, home, false
		}
		if size > len(p) {
			return careOf, home, false
		}
		next, p = p[0], p[size:]
	}
}

// homeAddress finds the Home Address option (RFC 6275, Section 6.3).
func homeAddress(b []byte) (netip.Addr, bool) {
	for len(b) > 0 {
		if b[0] == optPad1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			break
		}
		if b[0] == optHomeAddress && b[1] >= 16 {
			return netip.AddrFrom16([16]byte(b[2:18])), true
		}
		b = b[2+int(b[1]):]
	}
	return netip.Addr{}, false
}
