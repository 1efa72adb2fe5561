package ah

import (
	"encoding/binary"

	"iked/datapath/ip"
)

// Options and routing headers of IPv6 that are more than their mutability.
const (
	optPad1        = 0
	optHomeAddress = 0xc9 // RFC 6275, Section 6.3
	// optMutable is the bit of an option's type that says that its data may
	// change on the way (RFC 8200, Section 4.2).
	optMutable = 0x20

	routingSource = 0 // RFC 2460, Section 4.4; deprecated by RFC 5095
	routingHome   = 2 // RFC 6275, Section 6.4
)

// mutable6 makes IPv6 header and extension headers, all that h has, what the ICV
// sees (RFC 4302, Section 3.3.3.1.2). out tells that the packet is still to be
// sent.
//
//	|Version|                         zero                          |
//	|         Payload Length        |  Next Header  |     zero      |
//	|                     Source Address (16)                       |
//	|                   Destination Address (16)                    |
func mutable6(h []byte, out bool) Fault {
	if len(h) < ip.IPv6HeaderLen {
		return BadOption
	}
	binary.BigEndian.PutUint32(h, 6<<28) // DSCP, ECN, flow label
	h[7] = 0                             // hop limit
	next, home := h[6], false
	for at := ip.IPv6HeaderLen; at < len(h); {
		if len(h)-at < 8 {
			return BadOption
		}
		size := 8 + int(h[at+1])*8
		if at+size > len(h) {
			return BadOption
		}
		ext := h[at : at+size]
		f := OK
		switch next {
		case ip.ProtoHopByHop:
			f = options6(h, ext, nil)
		case ip.ProtoDestOpts:
			f = options6(h, ext, &home)
		case ip.ProtoRouting:
			f = routing6(h, ext, out)
		case ip.ProtoFragment:
			// AH is over whole packets (RFC 4302, Section 3.4.1).
			f = Fragmented
		default:
			f = BadOption
		}
		if f != OK {
			return f
		}
		next, at = ext[0], at+size
	}
	if next != ip.ProtoAH {
		return BadOption
	}
	return OK
}

// options6 zeroes the data of options that may change; types and lengths stay
// (RFC 4302, Section 3.3.3.1.2.2). home, of destination options only, tells whether
// a Home Address was seen.
func options6(h, ext []byte, home *bool) Fault {
	for o := ext[2:]; len(o) > 0; {
		if o[0] == optPad1 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || 2+int(o[1]) > len(o) {
			return BadOption
		}
		data := o[2 : 2+int(o[1])]
		switch {
		case o[0]&optMutable != 0:
			clear(data)
		case o[0] == optHomeAddress && home != nil:
			// RFC 6275, Section 11.3.2: as if the source were the home address, and
			// the option had the care-of address.
			if *home || len(data) != 16 {
				return BadOption
			}
			*home = true
			swap(h[8:24], data)
		}
		o = o[2+len(data):]
	}
	return OK
}

// routing6 makes a routing header, and the destination, what they will be on
// arrival (RFC 4302, Appendix A2): no segment is left, each address of the route
// has moved one place on, and the last one is the destination.
//
//	| Next Header | Hdr Ext Len | Routing Type | Segments Left |
//	|                       Reserved                           |
//	| Address[1] (16) ... Address[n] (16)                      |
func routing6(h, ext []byte, out bool) Fault {
	left := int(ext[3])
	switch {
	case ext[2] == routingSource && ext[1]%2 == 0:
	case ext[2] == routingHome && ext[1] == 2:
	default:
		return BadOption
	}
	n := int(ext[1]) / 2
	if left > n {
		return BadOption
	}
	if left == 0 {
		return OK
	}
	if !out {
		// It has not arrived: the next hop is somewhere else.
		return BadOption
	}
	dst, todo := h[24:40], ext[8+16*(n-left):]
	var first [16]byte
	copy(first[:], dst)
	copy(dst, todo[len(todo)-16:])
	copy(todo[16:], todo[:len(todo)-16])
	copy(todo, first[:])
	ext[3] = 0
	return OK
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}
