package beet

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv4Len   = 20
	ipv6Len   = 40
	protoFrag = 44
)

// ProtoBEETPH is the protocol number of the pseudo header (IANA).
const ProtoBEETPH = 94

// The pseudo header carries the options of an inner IPv4 header (Linux, struct
// ip_beet_phdr). Its length is (HdrLen+1)*8 octets.
//
//	| Next Header | Hdr Len | Pad Len | Reserved |
//	| NOP, Pad Len of them ...                   |
//	| IPv4 options ...                           |
const (
	phLen      = 4
	maxOptions = 40
	optionNOP  = 1
)

// PseudoLen is what the pseudo header adds to options of so many octets.
func PseudoLen(options int) int {
	if options == 0 {
		return 0
	}
	return phLen + padding(options)
}

// padding makes the pseudo header with its options a multiple of eight octets.
func padding(options int) int { return 4 - options&4 }

// Strip takes the header off the inner packet b, which must be exactly one
// packet. off is where in b the payload of ESP begins and next its protocol; what
// is before off may be overwritten. out gets what the outer header must say.
func (in Inner) Strip(b []byte, out *Carried) (off int, next uint8, f Fault) {
	if len(b) == 0 {
		return 0, 0, Malformed
	}
	if in.Dst.Is4() {
		return in.strip4(b, out)
	}
	return in.strip6(b, out)
}

func (in Inner) strip4(b []byte, out *Carried) (off int, next uint8, f Fault) {
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return 0, 0, Malformed
	}
	hl := int(b[0]&15) * 4
	if hl < ipv4Len || hl > len(b) || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return 0, 0, Malformed
	}
	if netip.AddrFrom4([4]byte(b[12:16])) != in.Src || netip.AddrFrom4([4]byte(b[16:20])) != in.Dst {
		return 0, 0, OtherHosts
	}
	flags := binary.BigEndian.Uint16(b[6:])
	if flags&0x3fff != 0 {
		return 0, 0, Fragment
	}
	*out = Carried{TOS: b[1], TTL: b[8], DF: flags&0x4000 != 0, ID: binary.BigEndian.Uint16(b[4:])}
	next = b[9]
	options := hl - ipv4Len
	if options == 0 {
		return ipv4Len, next, OK
	}
	pad := padding(options)
	off = ipv4Len - phLen - pad
	b[off], b[off+1], b[off+2], b[off+3] = next, byte(options/8), byte(pad), 0
	for i := off + phLen; i < ipv4Len; i++ {
		b[i] = optionNOP
	}
	return off, ProtoBEETPH, OK
}

func (in Inner) strip6(b []byte, out *Carried) (off int, next uint8, f Fault) {
	if len(b) < ipv6Len || b[0]>>4 != 6 || int(binary.BigEndian.Uint16(b[4:])) != len(b)-ipv6Len {
		return 0, 0, Malformed
	}
	if netip.AddrFrom16([16]byte(b[8:24])) != in.Src || netip.AddrFrom16([16]byte(b[24:40])) != in.Dst {
		return 0, 0, OtherHosts
	}
	if fragmented6(b) {
		return 0, 0, Fragment
	}
	w := binary.BigEndian.Uint32(b)
	*out = Carried{TOS: uint8(w >> 20), TTL: b[7], FlowLabel: w & 0xfffff}
	// Extension headers are part of the payload: the outer header has none.
	return ipv6Len, b[6], OK
}

// fragmented6 tells whether a fragment header says that b is a part of a packet.
// One that says it is the whole (RFC 6946) does not count.
func fragmented6(b []byte) bool {
	next, at := b[6], ipv6Len
	for at+8 <= len(b) {
		switch next {
		case protoFrag:
			return binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0
		case 0, 43, 60: // hop-by-hop, routing, destination options
			next, at = b[at], at+8+int(b[at+1])*8
		default:
			return false
		}
	}
	return false
}

// Restore writes the inner header before the payload, which is buf[off:] and
// whose protocol is next; h is what the outer header said. start is where in buf
// the inner packet begins. HeaderLen octets before off are enough.
//
// An inner IPv4 header behind an outer IPv6 one, or behind a UDP socket that does
// not tell, should be given DF and the identification 0: its packet was whole
// (RFC 6864, Section 4.1).
func (in Inner) Restore(buf []byte, off int, next uint8, h *Carried) (start int, f Fault) {
	if !in.Dst.Is4() {
		return in.restore6(buf, off, next, h)
	}
	options := 0
	if next == ProtoBEETPH {
		var skip int
		if next, skip, options, f = pseudo(buf[off:]); f != OK {
			return 0, f
		}
		off += skip // to the options
	}
	start = off - ipv4Len
	total := len(buf) - start
	switch {
	case start < 0:
		return 0, NoRoom
	case total > 65535:
		return 0, Malformed
	}
	b := buf[start:]
	b[0], b[1] = 0x40|byte((ipv4Len+options)/4), h.TOS
	binary.BigEndian.PutUint16(b[2:], uint16(total))
	binary.BigEndian.PutUint16(b[4:], h.ID)
	b[6], b[7] = 0, 0
	if h.DF {
		b[6] = 0x40
	}
	b[8], b[9], b[10], b[11] = h.TTL, next, 0, 0
	src, dst := in.Src.As4(), in.Dst.As4()
	copy(b[12:], src[:])
	copy(b[16:], dst[:])
	binary.BigEndian.PutUint16(b[10:], headerChecksum(b[:ipv4Len+options]))
	return start, OK
}

// pseudo reads a pseudo header: the protocol behind it, where the options begin,
// and their length.
func pseudo(b []byte) (next uint8, skip, options int, f Fault) {
	if len(b) < 8 {
		return 0, 0, 0, PseudoHeader
	}
	total, pad := (int(b[1])+1)*8, int(b[2])
	skip = phLen + pad
	options = total - skip
	if pad != 0 && pad != 4 || options < 0 || options > maxOptions || total > len(b) || b[0] == ProtoBEETPH {
		return 0, 0, 0, PseudoHeader
	}
	for _, c := range b[phLen:skip] {
		if c != optionNOP {
			return 0, 0, 0, PseudoHeader
		}
	}
	return b[0], skip, options, OK
}

func (in Inner) restore6(buf []byte, off int, next uint8, h *Carried) (start int, f Fault) {
	start = off - ipv6Len
	switch {
	case next == ProtoBEETPH:
		// IPv6 has no options of that kind.
		return 0, PseudoHeader
	case start < 0:
		return 0, NoRoom
	case len(buf)-off > 65535:
		return 0, Malformed
	}
	b := buf[start:]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(h.TOS)<<20|h.FlowLabel&0xfffff)
	binary.BigEndian.PutUint16(b[4:], uint16(len(buf)-off))
	b[6], b[7] = next, h.TTL
	src, dst := in.Src.As16(), in.Dst.As16()
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	return start, OK
}

// headerChecksum is the Internet checksum (RFC 1071) of an IPv4 header.
func headerChecksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}
