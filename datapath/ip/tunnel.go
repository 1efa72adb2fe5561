package ip

import (
	"encoding/binary"
	"net/netip"
)

// ECN code points (RFC 3168, Section 5), the low two bits of the TOS octet.
const (
	NotECT = 0
	ECT1   = 1
	ECT0   = 2
	CE     = 3
)

// OuterTOS is DSCP and ECN of a tunnel header for a packet with the octet inner
// (RFC 4301, Section 5.1.2; normal mode of RFC 6040, Section 4.1): the DSCP is
// copied or 0, the ECN field is copied, or Not-ECT in compatibility mode.
func OuterTOS(inner uint8, copyDSCP, ecn bool) uint8 {
	var tos uint8
	if copyDSCP {
		tos = inner &^ 3
	}
	if ecn {
		tos |= inner & 3
	}
	return tos
}

// decapECN is RFC 6040, Section 4.2, Figure 4: row inner, column outer field.
var decapECN = [4][4]uint8{
	//         Not-ECT ECT(1) ECT(0) CE
	NotECT: {NotECT, NotECT, NotECT, dropECN},
	ECT1:   {ECT1, ECT1, ECT1, CE},
	ECT0:   {ECT0, ECT1, ECT0, CE},
	CE:     {CE, CE, CE, CE},
}

const dropECN = 4

// InnerTOS is DSCP and ECN of a packet that leaves a tunnel (RFC 6040, Section
// 4.2). With copyDSCP the outer DSCP is taken over. Without ecn the inner ECN
// field stays as it is (compatibility mode). ok is false for a packet that must
// be dropped: congestion was signalled to a transport that does not understand.
func InnerTOS(inner, outer uint8, copyDSCP, ecn bool) (tos uint8, ok bool) {
	tos = inner
	if copyDSCP {
		tos = outer&^3 | tos&3
	}
	if !ecn {
		return tos, true
	}
	e := decapECN[inner&3][outer&3]
	if e == dropECN {
		return 0, false
	}
	return tos&^3 | e, true
}

// SetTOS replaces TOS or traffic class of a valid packet; the IPv4 header
// checksum follows (RFC 1624).
func SetTOS(b []byte, tos uint8) {
	if b[0]>>4 == 4 {
		old := binary.BigEndian.Uint16(b)
		b[1] = tos
		fixChecksum4(b, old, binary.BigEndian.Uint16(b))
		return
	}
	w := binary.BigEndian.Uint16(b)
	binary.BigEndian.PutUint16(b, w&0xf00f|uint16(tos)<<4)
}

// DecrementTTL does what a forwarder does (RFC 1812, Section 5.3.1; RFC 8200,
// Section 3). ok is false when the packet must not be forwarded: its TTL or hop
// limit is used up, and the packet is unchanged.
func DecrementTTL(b []byte) (ok bool) {
	if b[0]>>4 == 4 {
		if b[8] <= 1 {
			return false
		}
		old := binary.BigEndian.Uint16(b[8:])
		b[8]--
		fixChecksum4(b, old, binary.BigEndian.Uint16(b[8:]))
		return true
	}
	if b[7] <= 1 {
		return false
	}
	b[7]--
	return true
}

func fixChecksum4(b []byte, old, new uint16) {
	binary.BigEndian.PutUint16(b[10:], Adjust(binary.BigEndian.Uint16(b[10:]), old, new))
}

// Outer is what a tunnel header says beside its lengths.
type Outer struct {
	Src, Dst netip.Addr // of one family, unmapped
	Proto    uint8
	TOS, TTL uint8
	DF       bool   // IPv4
	ID       uint16 // IPv4; may be anything with DF (RFC 6864, Section 4.1)
	// FlowLabel is that of IPv6 (RFC 6438 makes it from the inner flow).
	FlowLabel uint32
}

// Len is the length of the header.
func (o *Outer) Len() int {
	if o.Dst.Is4() {
		return IPv4HeaderLen
	}
	return IPv6HeaderLen
}

// Put writes the header to b[:o.Len()] for payload octets behind it: five words
// of IPv4, or IPv6 without extension headers; options are never copied (RFC
// 4301, Section 5.1.2).
func (o *Outer) Put(b []byte, payload int) {
	if o.Dst.Is4() {
		b = b[:IPv4HeaderLen]
		b[0], b[1] = 0x45, o.TOS
		binary.BigEndian.PutUint16(b[2:], uint16(IPv4HeaderLen+payload))
		binary.BigEndian.PutUint16(b[4:], o.ID)
		b[6], b[7] = 0, 0
		if o.DF {
			b[6] = 0x40
		}
		b[8], b[9], b[10], b[11] = o.TTL, o.Proto, 0, 0
		src, dst := o.Src.As4(), o.Dst.As4()
		copy(b[12:], src[:])
		copy(b[16:], dst[:])
		binary.BigEndian.PutUint16(b[10:], Checksum(b, 0))
		return
	}
	b = b[:IPv6HeaderLen]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(o.TOS)<<20|o.FlowLabel&0xfffff)
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	b[6], b[7] = o.Proto, o.TTL
	src, dst := o.Src.As16(), o.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
}
