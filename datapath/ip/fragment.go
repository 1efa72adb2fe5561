package ip

import "encoding/binary"

// Fragment4 cuts an IPv4 packet without DF into fragments of at most mtu octets
// and calls emit for each with a buffer that is reused (RFC 791, Section 3.2).
// Options that are not to be copied stay in the first fragment only. The packet
// may be a fragment itself. ok is false when it may not or cannot be cut: DF is
// set, or mtu has no room for 8 octets. buf must have mtu octets; nothing is
// allocated.
func Fragment4(b []byte, info *Info, mtu int, buf []byte, emit func(frag []byte)) (ok bool) {
	b = b[:info.TotalLen]
	if info.Version != 4 || info.DF || len(buf) < mtu {
		return false
	}
	if len(b) <= mtu {
		emit(b)
		return true
	}
	if mtu < info.HeaderLen+8 {
		return false
	}
	data := b[info.HeaderLen:]
	hdr := b[:info.HeaderLen]
	for off := 0; off < len(data); {
		copy(buf, hdr)
		hl := len(hdr)
		if off > 0 {
			hl = copiedOptions(buf[:hl])
		}
		n := min(len(data)-off, mtu-hl)
		last := off+n == len(data)
		if !last {
			n &^= 7
		}
		f := buf[:hl+n]
		copy(f[hl:], data[off:off+n])
		field := uint16(int(info.FragOffset)+off) / 8
		if !last || info.MoreFrag {
			field |= 0x2000
		}
		f[0] = 0x40 | byte(hl/4)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		binary.BigEndian.PutUint16(f[6:], field)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], Checksum(f[:hl], 0))
		emit(f)
		off += n
	}
	return true
}

// copiedOptions keeps of an IPv4 header the options with the copied flag (RFC
// 791, Section 3.1) and gives the new header length. Malformed options go.
func copiedOptions(h []byte) int {
	to := IPv4HeaderLen
	for at := IPv4HeaderLen; at < len(h) && h[at] != 0; {
		if h[at] == 1 { // no-operation
			at++
			continue
		}
		if at+1 >= len(h) || h[at+1] < 2 || at+int(h[at+1]) > len(h) {
			break
		}
		n := int(h[at+1])
		if h[at]&0x80 != 0 {
			to += copy(h[to:], h[at:at+n])
		}
		at += n
	}
	for to%4 != 0 {
		h[to] = 0
		to++
	}
	return to
}

// Unfragmentable is the length of the headers that stay before ESP in transport
// mode and before a fragment header, and the offset of the field in them that
// names what follows: the IPv4 header with its options; the IPv6 header with
// hop-by-hop options, destination options before a routing header, a routing
// header, and a fragment header (RFC 8200, Section 4.5; RFC 4303, Section 3.1.1).
// b is a packet that Parse found valid.
func Unfragmentable(b []byte) (n, field int) {
	if b[0]>>4 == 4 {
		return int(b[0]&15) * 4, 9
	}
	n, field = IPv6HeaderLen, 6
	next, at, last := b[6], IPv6HeaderLen, 6
	for at+8 <= len(b) {
		size := 8
		switch next {
		case ProtoHopByHop, ProtoRouting, ProtoDestOpts:
			size += int(b[at+1]) * 8
		case ProtoFragment:
		default:
			return n, field
		}
		if at+size > len(b) {
			return n, field
		}
		kind := next
		next, last, at = b[at], at, at+size
		// Destination options belong here only when a routing header follows.
		if kind != ProtoDestOpts {
			n, field = at, last
		}
	}
	return n, field
}

// Fragment6 cuts an IPv6 packet of this system's own making into fragments of at
// most mtu octets with identification id (RFC 8200, Section 4.5); a router must
// not. It has no fragment header yet. Otherwise as Fragment4.
func Fragment6(b []byte, id uint32, mtu int, buf []byte, emit func(frag []byte)) (ok bool) {
	if len(b) < IPv6HeaderLen || len(buf) < mtu {
		return false
	}
	if len(b) <= mtu {
		emit(b)
		return true
	}
	start, field := Unfragmentable(b)
	hl := start + FragHeaderLen
	if mtu < hl+8 {
		return false
	}
	data := b[start:]
	for off := 0; off < len(data); {
		n := min(len(data)-off, mtu-hl)
		last := off+n == len(data)
		if !last {
			n &^= 7
		}
		f := buf[:hl+n]
		copy(f, b[:start])
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-IPv6HeaderLen))
		f[field] = ProtoFragment
		h := f[start:]
		h[0], h[1] = b[field], 0
		flags := uint16(off)
		if !last {
			flags |= 1
		}
		binary.BigEndian.PutUint16(h[2:], flags)
		binary.BigEndian.PutUint32(h[4:], id)
		copy(f[hl:], data[off:off+n])
		emit(f)
		off += n
	}
	return true
}
