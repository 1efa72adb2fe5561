package ah

import "iked/datapath/ip"

// IPv4 options that AH knows (RFC 4302, Appendix A1), whole type octets.
const (
	optEnd          = 0   // End of Options List
	optNop          = 1   // No Operation
	optSecurity     = 130 // RFC 1108
	optLSRR         = 131 // Loose Source Route
	optExtSecurity  = 133 // RFC 1108
	optCommercial   = 134 // Commercial Security
	optSSRR         = 137 // Strict Source Route
	optRouterAlert  = 148 // RFC 2113
	optMultiDestDel = 149 // Sender Directed Multi-Destination Delivery, RFC 1770
)

// mutable4 makes the IPv4 header h what the ICV sees: fields that may change on
// the way are zero, the destination is the last one (RFC 4302, Section
// 3.3.3.1.1). out tells that the packet is still to be sent.
//
//	|Version|  IHL  |   zero        |          Total Length         |
//	|         Identification        |            zero               |
//	|     zero      |    Protocol   |            zero               |
//	|                         Source Address                        |
//	|                      Destination Address                      |
func mutable4(h []byte, out bool) Fault {
	if len(h) < ip.IPv4HeaderLen {
		return BadOption
	}
	h[1] = 0            // DSCP and ECN
	h[6], h[7] = 0, 0   // flags, DF among them, and fragment offset
	h[8] = 0            // TTL
	h[10], h[11] = 0, 0 // checksum
	routed := false
	for at := ip.IPv4HeaderLen; at < len(h); {
		switch h[at] {
		case optEnd:
			// Immutable, and so is the padding behind it.
			return OK
		case optNop:
			at++
			continue
		}
		if at+1 >= len(h) || h[at+1] < 2 || at+int(h[at+1]) > len(h) {
			return BadOption
		}
		opt := h[at : at+int(h[at+1])]
		at += len(opt)
		switch opt[0] {
		case optSecurity, optExtSecurity, optCommercial, optRouterAlert, optMultiDestDel:
			continue
		case optLSRR, optSSRR:
			// RFC 791, Section 3.1: at most one source route in a packet, and its pointer
			// is 4 or more.
			if routed || len(opt) < 3 || (len(opt)-3)%4 != 0 || opt[2] < 4 {
				return BadOption
			}
			routed = true
			if out {
				lastHop4(h, opt)
			}
		}
		// Mutable, and so is what is not known: the option counts as a whole, type
		// and length included (RFC 4302, Section 3.3.3.1.1.2).
		clear(opt)
	}
	return OK
}

// lastHop4 replaces the destination by the last address of a source route that
// is not used up yet: the destination changes on the way, but foreseeably.
//
//	| type | length | pointer, from 4 on | route data |
func lastHop4(h, opt []byte) {
	if pointer := int(opt[2]); pointer+3 <= len(opt) {
		copy(h[16:20], opt[len(opt)-4:])
	}
}
