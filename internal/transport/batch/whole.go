package batch

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A raw IPv6 socket gives what follows the headers, and tells of the headers in
// control messages. What of them the kernel has used up, the fragment header, or
// does not keep, the flow label, is zero or missing in what is put together.
const (
	sizeIPv6 = 40
	// wholeExt is how long the extension headers of one packet may be. Longer chains
	// are delivered as empty packets.
	wholeExt = 2048
	// wholeRoom is what lies free before the payload.
	wholeRoom = sizeIPv6 + wholeExt
	// wholeOOB holds them as control messages: at most eight headers.
	wholeOOB = oobSize + wholeExt + 8*cmsgHdrLen*2
)

// wholeOpts ask for extension headers.
var wholeOpts = [][2]int{{unix.IPV6_RECVHOPOPTS, 1}, {unix.IPV6_RECVRTHDR, 1}, {unix.IPV6_RECVDSTOPTS, 1}}

// whole6 puts an IPv6 header and the extension headers of oob before the payload
// buf[at:], which is of protocol proto, and returns the packet; nil: they do not
// fit, or do not make a chain that ends in proto.
func whole6(buf []byte, at int, oob []byte, ctl *control, src netip.Addr, proto uint8) []byte {
	ext := 0
	eachHeader(oob, func(_ uint8, h []byte) { ext += len(h) })
	payload := ext + len(buf) - at
	if sizeIPv6+ext > at || payload > 65535 || !src.Is6() || !ctl.local.Is6() {
		return nil
	}
	start := at - ext - sizeIPv6
	b := buf[start:]
	binary.BigEndian.PutUint32(b, 6<<28|uint32(ctl.tos)<<20)
	binary.BigEndian.PutUint16(b[4:], uint16(payload))
	b[7] = ctl.ttl
	s, d := src.As16(), ctl.local.As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	// Each header names the next one; the first of the chain is named by the kind
	// of the first message.
	next, to, ok := &b[6], sizeIPv6, true
	*next = proto
	first := true
	eachHeader(oob, func(kind uint8, h []byte) {
		if first {
			*next, first = kind, false
		} else if *next != kind {
			ok = false
		}
		next = &b[to]
		to += copy(b[to:], h)
	})
	if !ok || *next != proto {
		return nil
	}
	return b
}

// eachHeader calls f for each extension header in the control messages, in the
// order of the packet, with its protocol number.
func eachHeader(b []byte, f func(kind uint8, header []byte)) {
	for len(b) >= cmsgHdrLen {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < cmsgHdrLen || n > len(b) {
			return
		}
		if d := b[align(cmsgHdrLen):n]; h.Level == unix.IPPROTO_IPV6 && len(d) >= 8 {
			switch h.Type {
			case unix.IPV6_HOPOPTS:
				f(unix.IPPROTO_HOPOPTS, d)
			case unix.IPV6_RTHDR:
				f(unix.IPPROTO_ROUTING, d)
			case unix.IPV6_DSTOPTS:
				f(unix.IPPROTO_DSTOPTS, d)
			}
		}
		step := align(n)
		if step >= len(b) {
			return
		}
		b = b[step:]
	}
}
