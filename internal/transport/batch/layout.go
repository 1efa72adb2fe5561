package batch

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of the kernel.
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// oobSize holds packet info, TOS, TTL and segment size of either family.
const oobSize = 160

// sockaddrSize is that of the larger family.
const sockaddrSize = unix.SizeofSockaddrInet6

// putSockaddr writes a sockaddr into b and tells its length.
//
//	IPv4: family(2, host order) port(2) address(4) zero(8)
//	IPv6: family(2, host order) port(2) flow(4) address(16) scope(4, host order)
func putSockaddr(b []byte, a netip.AddrPort, port uint16) int {
	if a.Addr().Is4() {
		clear(b[:unix.SizeofSockaddrInet4])
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		binary.BigEndian.PutUint16(b[2:], port)
		v := a.Addr().As4()
		copy(b[4:], v[:])
		return unix.SizeofSockaddrInet4
	}
	clear(b[:unix.SizeofSockaddrInet6])
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	binary.BigEndian.PutUint16(b[2:], port)
	v := a.Addr().As16()
	copy(b[8:], v[:])
	binary.NativeEndian.PutUint32(b[24:], zoneID(a.Addr()))
	return unix.SizeofSockaddrInet6
}

// putLinkaddr writes a struct sockaddr_ll into b and tells its length.
//
//	family(2, host order) protocol(2) ifindex(4, host order) hatype(2) pkttype(1) halen(1) addr(8)
func putLinkaddr(b []byte, hop *Hop, is4 bool) int {
	clear(b[:unix.SizeofSockaddrLinklayer])
	binary.NativeEndian.PutUint16(b, unix.AF_PACKET)
	proto := uint16(unix.ETH_P_IPV6)
	if is4 {
		proto = unix.ETH_P_IP
	}
	binary.BigEndian.PutUint16(b[2:], proto)
	binary.NativeEndian.PutUint32(b[4:], uint32(hop.Index))
	b[11] = byte(copy(b[12:], hop.Addr[:]))
	return unix.SizeofSockaddrLinklayer
}

// sockaddr reads what the kernel wrote.
func sockaddr(b []byte) netip.AddrPort {
	switch binary.NativeEndian.Uint16(b) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:]))
	case unix.AF_INET6:
		a := netip.AddrFrom16([16]byte(b[8:24]))
		if scope := binary.NativeEndian.Uint32(b[24:]); scope != 0 {
			// Link-local addresses only; a raw socket's port is its protocol.
			a = a.WithZone(strconv.FormatUint(uint64(scope), 10))
		}
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[2:]))
	}
	return netip.AddrPort{}
}

// zoneID is the interface index that the zone of a link-local address names.
func zoneID(a netip.Addr) uint32 {
	z := a.Zone()
	if z == "" {
		return 0
	}
	if n, err := strconv.ParseUint(z, 10, 32); err == nil {
		return uint32(n)
	}
	if i, err := net.InterfaceByName(z); err == nil {
		return uint32(i.Index)
	}
	return 0
}

// control is what control messages tell of a received datagram.
type control struct {
	local   netip.Addr
	tos     uint8
	ttl     uint8
	segment int // UDP_GRO: size of each datagram in the buffer, 0 only one
}

const cmsgHdrLen = unix.SizeofCmsghdr

// align is CMSG_ALIGN.
func align(n int) int {
	return (n + int(unsafe.Sizeof(uintptr(0))) - 1) &^ (int(unsafe.Sizeof(uintptr(0))) - 1)
}

// parseControl walks the control messages in b.
func parseControl(b []byte) (c control) {
	for len(b) >= cmsgHdrLen {
		h := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
		n := int(h.Len)
		if n < cmsgHdrLen || n > len(b) {
			return c
		}
		d := b[align(cmsgHdrLen):n]
		switch {
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(d) >= 12:
			// ifindex(4) spec_dst(4) addr(4): spec_dst is the local address.
			c.local = netip.AddrFrom4([4]byte(d[4:8]))
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_PKTINFO && len(d) >= 20:
			c.local = netip.AddrFrom16([16]byte(d[:16]))
			if c.local.IsLinkLocalUnicast() {
				c.local = c.local.WithZone(strconv.FormatUint(uint64(binary.NativeEndian.Uint32(d[16:])), 10))
			}
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TOS && len(d) >= 1:
			c.tos = d[0]
		case h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_TCLASS && len(d) >= 4:
			c.tos = uint8(binary.NativeEndian.Uint32(d))
		case h.Level == unix.IPPROTO_IP && h.Type == unix.IP_TTL && len(d) >= 4,
			h.Level == unix.IPPROTO_IPV6 && h.Type == unix.IPV6_HOPLIMIT && len(d) >= 4:
			c.ttl = uint8(binary.NativeEndian.Uint32(d))
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && len(d) >= 4:
			c.segment = int(int32(binary.NativeEndian.Uint32(d)))
		}
		if step := align(n); step < len(b) {
			b = b[step:]
		} else {
			return c
		}
	}
	return c
}

// cmsgs appends control messages to a fixed buffer.
type cmsgs struct {
	b *[oobSize]byte
	n int
}

// add makes room for one message of n octets and returns it, zeroed.
func (c *cmsgs) add(level, typ, n int) []byte {
	at := c.n
	c.n += align(cmsgHdrLen) + align(n)
	clear(c.b[at:c.n])
	h := (*unix.Cmsghdr)(unsafe.Pointer(&c.b[at]))
	h.Level, h.Type = int32(level), int32(typ)
	h.SetLen(align(cmsgHdrLen) + n)
	at += align(cmsgHdrLen)
	return c.b[at : at+n]
}

// fill writes what the packet asks for; segment 0 is no segmentation.
func (c *cmsgs) fill(p *Packet, raw bool, segment int) {
	if p.Remote.Addr().Is4() {
		if p.Local.Addr().Is4() && !p.Local.Addr().IsUnspecified() {
			a := p.Local.Addr().As4()
			copy(c.add(unix.IPPROTO_IP, unix.IP_PKTINFO, 12)[4:], a[:])
		}
		if !raw {
			if p.TOS != 0 {
				binary.NativeEndian.PutUint32(c.add(unix.IPPROTO_IP, unix.IP_TOS, 4), uint32(p.TOS))
			}
			if p.TTL != 0 {
				binary.NativeEndian.PutUint32(c.add(unix.IPPROTO_IP, unix.IP_TTL, 4), uint32(p.TTL))
			}
		}
	} else {
		if p.Local.Addr().Is6() && !p.Local.Addr().IsUnspecified() {
			a := p.Local.Addr().As16()
			d := c.add(unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, 20)
			copy(d, a[:])
			binary.NativeEndian.PutUint32(d[16:], zoneID(p.Local.Addr()))
		}
		if !raw {
			if p.TOS != 0 {
				binary.NativeEndian.PutUint32(c.add(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4), uint32(p.TOS))
			}
			if p.TTL != 0 {
				binary.NativeEndian.PutUint32(c.add(unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT, 4), uint32(p.TTL))
			}
		}
	}
	if segment != 0 {
		binary.NativeEndian.PutUint16(c.add(unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2), uint16(segment))
	}
}
