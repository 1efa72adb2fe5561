package ah

import (
	"bytes"
	"errors"
	"slices"
)

// reference is the input of the ICV as RFC 4302 describes it, written down slowly
// and from its tables: the header is cut into fields, each field is named and
// kept, zeroed or predicted, and the result is put together anew. packet has an AH
// header at octet at, with an ICV of icv octets; sent tells that it has not
// arrived yet.
func reference(packet []byte, at, icv int, sent bool, tail []byte) ([]byte, error) {
	var out []byte
	var err error
	if packet[0]>>4 == 4 {
		out, err = reference4(packet[:at], sent)
	} else {
		out, err = reference6(packet[:at], sent)
	}
	if err != nil {
		return nil, err
	}
	out = append(out, packet[at:at+12]...)
	out = append(out, make([]byte, icv)...)
	out = append(out, packet[at+12+icv:]...)
	return append(out, tail...), nil
}

var errReference = errors.New("reference: no ICV for this packet")

// Appendix A1: the table of IPv4 options; what is not in it is mutable.
var immutable4 = []byte{0, 1, 130, 133, 134, 148, 149}

func reference4(h []byte, sent bool) ([]byte, error) {
	// Section 3.3.3.1.1.1.
	dst := slices.Clone(h[16:20])
	var options []byte
	rest := h[20:]
	routes := 0
	for len(rest) > 0 {
		kind := rest[0]
		if kind == 0 {
			options = append(options, rest...)
			break
		}
		if kind == 1 {
			options, rest = append(options, 1), rest[1:]
			continue
		}
		if len(rest) == 1 || rest[1] < 2 || int(rest[1]) > len(rest) {
			return nil, errReference
		}
		opt := rest[:rest[1]]
		rest = rest[rest[1]:]
		if kind == 131 || kind == 137 {
			routes++
			if routes > 1 || len(opt) < 3 || len(opt)%4 != 3 || opt[2] < 4 {
				return nil, errReference
			}
			var addrs [][]byte
			for a := opt[3:]; len(a) > 0; a = a[4:] {
				addrs = append(addrs, a[:4])
			}
			// The pointer counts from 1; a route whose pointer is past its end is used up.
			if sent && int(opt[2])+4-1 <= len(opt) {
				dst = addrs[len(addrs)-1]
			}
		}
		if slices.Contains(immutable4, kind) {
			options = append(options, opt...)
		} else {
			options = append(options, make([]byte, len(opt))...)
		}
	}
	return slices.Concat(h[0:1], // Version, Internet Header Length
		[]byte{0},    // DSCP, ECN
		h[2:4],       // Total Length
		h[4:6],       // Identification
		[]byte{0, 0}, // Flags, Fragment Offset
		[]byte{0},    // TTL
		h[9:10],      // Protocol
		[]byte{0, 0}, // Header Checksum
		h[12:16], dst, options), nil
}

func reference6(h []byte, sent bool) ([]byte, error) {
	// Section 3.3.3.1.2.1.
	src, dst := slices.Clone(h[8:24]), slices.Clone(h[24:40])
	var exts []byte
	next, rest, homes := h[6], h[40:], 0
	for len(rest) > 0 {
		if len(rest) < 8 || len(rest) < 8*(1+int(rest[1])) {
			return nil, errReference
		}
		ext := rest[:8*(1+int(rest[1]))]
		rest = rest[len(ext):]
		switch next {
		case 0, 60:
			opts := slices.Clone(ext[2:])
			for o := opts; len(o) > 0; {
				if o[0] == 0 {
					o = o[1:]
					continue
				}
				if len(o) == 1 || int(o[1]) > len(o)-2 {
					return nil, errReference
				}
				data := o[2 : 2+o[1]]
				if o[0]>>5&1 == 1 {
					copy(data, make([]byte, 255))
				} else if o[0] == 201 && next == 60 {
					if homes++; homes > 1 || len(data) != 16 {
						return nil, errReference
					}
					careOf := slices.Clone(src)
					src = slices.Clone(data)
					copy(data, careOf)
				}
				o = o[2+len(data):]
			}
			exts = append(exts, ext[0], ext[1])
			exts = append(exts, opts...)
		case 43:
			if ext[2] != 0 && ext[2] != 2 || ext[1]%2 != 0 || ext[2] == 2 && ext[1] != 2 {
				return nil, errReference
			}
			var addrs [][]byte
			for a := ext[8:]; len(a) > 0; a = a[16:] {
				addrs = append(addrs, slices.Clone(a[:16]))
			}
			if int(ext[3]) > len(addrs) || ext[3] > 0 && !sent {
				return nil, errReference
			}
			// RFC 2460, Section 4.4: every hop that is left swaps the destination with
			// the next address.
			for left := int(ext[3]); left > 0; left-- {
				i := len(addrs) - left
				dst, addrs[i] = addrs[i], dst
			}
			exts = append(exts, ext[0], ext[1], ext[2], 0)
			exts = append(exts, ext[4:8]...)
			exts = append(exts, bytes.Join(addrs, nil)...)
		default:
			return nil, errReference
		}
		next = ext[0]
	}
	if next != 51 {
		return nil, errReference
	}
	return slices.Concat([]byte{0x60, 0, 0, 0}, // Version, DSCP, ECN, Flow Label
		h[4:6], h[6:7], // Payload Length, Next Header
		[]byte{0}, // Hop Limit
		src, dst, exts), nil
}
