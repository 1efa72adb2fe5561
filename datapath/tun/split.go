package tun

import (
	"encoding/binary"
	"errors"

	"iked/datapath/ip"
)

// Errors of Splitter.Start.
var (
	errHeader = errors.New("virtio-net header does not fit the packet")
	errGSO    = errors.New("unknown kind of segmentation")
)

// Splitter cuts one frame into packets (TCP and UDP segmentation) and completes
// their checksums. It does not allocate. The zero value is ready for Start.
type Splitter struct {
	h       Header
	pkt     []byte
	v6      bool
	l4, hdr int // offsets: next layer header, payload
	at      int // next payload octet
	no      int
	single  bool
	done    bool
}

// Start takes a frame's header and packet. info is what ip.Parse said of the
// packet. The packet must stay until the last Next; it is changed.
func (s *Splitter) Start(h Header, pkt []byte, info *ip.Info) error {
	*s = Splitter{h: h, pkt: pkt[:info.TotalLen], v6: info.Version == 6, l4: int(h.CsumStart)}
	kind := h.GSOType &^ gsoECN
	if kind == gsoNone {
		s.single = true
		return s.complete()
	}
	if h.GSOSize == 0 || h.Flags&flagNeedsCsum == 0 || s.l4 != info.HeaderLen {
		return errHeader
	}
	switch kind {
	case gsoTCPv4, gsoTCPv6:
		if info.Proto != ip.ProtoTCP || (kind == gsoTCPv6) != s.v6 || s.l4+20 > len(s.pkt) {
			return errHeader
		}
		n := int(s.pkt[s.l4+12]>>4) * 4
		if n < 20 {
			return errHeader
		}
		s.hdr = s.l4 + n
	case gsoUDPL4:
		if info.Proto != ip.ProtoUDP {
			return errHeader
		}
		s.hdr = s.l4 + 8
	default:
		return errGSO
	}
	if s.hdr > len(s.pkt) {
		return errHeader
	}
	s.at = s.hdr
	return nil
}

// complete finishes the checksum of a packet that is not cut: the field holds
// the pseudo header's sum.
func (s *Splitter) complete() error {
	if s.h.Flags&flagNeedsCsum == 0 {
		return nil
	}
	field := s.l4 + int(s.h.CsumOffset)
	if s.l4 == 0 || field+2 > len(s.pkt) {
		return errHeader
	}
	sum := ip.Checksum(s.pkt[s.l4:], 0)
	if sum == 0 && s.h.CsumOffset == 6 {
		sum = 0xffff // UDP: 0 is "no checksum" (RFC 768)
	}
	binary.BigEndian.PutUint16(s.pkt[field:], sum)
	return nil
}

// Max is an upper bound for the length of the packets that Next gives.
func (s *Splitter) Max() int {
	if s.single {
		return len(s.pkt)
	}
	return min(len(s.pkt), s.hdr+int(s.h.GSOSize))
}

// Next copies the next packet to dst, which has Max octets, and tells its
// length; 0: there is none left.
func (s *Splitter) Next(dst []byte) int {
	if s.done {
		return 0
	}
	if s.single {
		s.done = true
		return copy(dst, s.pkt)
	}
	n := min(int(s.h.GSOSize), len(s.pkt)-s.at)
	last := s.at+n == len(s.pkt)
	s.done = last
	total := s.hdr + n
	copy(dst, s.pkt[:s.hdr])
	copy(dst[s.hdr:], s.pkt[s.at:s.at+n])
	p := dst[:total]
	if s.v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(total-ip.IPv6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(total))
		binary.BigEndian.PutUint16(p[4:], binary.BigEndian.Uint16(p[4:])+uint16(s.no))
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ip.Checksum(p[:int(p[0]&15)*4], 0))
	}
	l := p[s.l4:]
	if s.h.GSOType&^gsoECN == gsoUDPL4 {
		binary.BigEndian.PutUint16(l[4:], uint16(len(l)))
		l[6], l[7] = 0, 0
		sum := s.checksum(p, ip.ProtoUDP)
		if sum == 0 {
			sum = 0xffff
		}
		binary.BigEndian.PutUint16(l[6:], sum)
	} else {
		binary.BigEndian.PutUint32(l[4:], binary.BigEndian.Uint32(l[4:])+uint32(s.at-s.hdr))
		if !last {
			l[13] &^= tcpFIN | tcpPSH
		}
		if s.no > 0 {
			l[13] &^= tcpCWR // RFC 3168, Section 6.1.2: on one segment only
		}
		l[16], l[17] = 0, 0
		binary.BigEndian.PutUint16(l[16:], s.checksum(p, ip.ProtoTCP))
	}
	s.at += n
	s.no++
	return total
}

func (s *Splitter) checksum(p []byte, proto uint8) uint16 {
	return checksum(p, s.l4, s.v6, proto)
}

// checksum is that of the next layer header at l4 and what follows.
func checksum(p []byte, l4 int, v6 bool, proto uint8) uint16 {
	return ip.Checksum(p[l4:], pseudo(p, v6, proto, len(p)-l4))
}

// pseudo is the pseudo header's sum for n octets. With a routing header the
// final destination would count; GSO never has one.
func pseudo(p []byte, v6 bool, proto uint8, n int) uint64 {
	if v6 {
		return ip.PseudoSum(p[8:24], p[24:40], proto, n)
	}
	return ip.PseudoSum(p[12:16], p[16:20], proto, n)
}
