// Package ip reads and writes IPv4 and IPv6 headers in place: the one validity
// gate for packets of either side of a tunnel, the walk to the next layer
// protocol that selectors need, checksums, fragments, ICMP errors and the
// tunnel header rules of RFC 4301, Section 5.1.2. It has no I/O and no clock.
package ip

import (
	"encoding/binary"
	"net/netip"

	"iked/spd"
)

// Next layer protocols that the package itself looks at (IANA).
const (
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoIPv4     = 4
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoDCCP     = 33
	ProtoIPv6     = 41
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoESP      = 50
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNoNext   = 59
	ProtoDestOpts = 60
	ProtoSCTP     = 132
	ProtoMH       = 135
	ProtoUDPLite  = 136
)

// Header sizes in octets.
const (
	IPv4HeaderLen = 20
	IPv6HeaderLen = 40
	FragHeaderLen = 8
	// MinMTU4 and MinMTU6 are the smallest link MTUs (RFC 791; RFC 8200, Section 5).
	MinMTU4 = 68
	MinMTU6 = 1280
)

// maxExtHeaders bounds the walk of IPv6 extension headers: RFC 8200, Section
// 4.1 knows at most seven in one packet, repeated destination options included.
const maxExtHeaders = 8

// Fault says why a packet is not a valid IP packet. The zero value is none.
type Fault uint8

// Faults.
const (
	OK Fault = iota
	TooShort
	BadVersion
	BadHeaderLength
	BadTotalLength
	BadChecksum
	BadFragment
	BadExtensionHeader
	TooManyExtensionHeaders
	numFaults
)

var faultNames = [numFaults]string{
	"ok", "too_short", "bad_version", "bad_header_length", "bad_total_length",
	"bad_checksum", "bad_fragment", "bad_extension_header", "too_many_extension_headers",
}

// String is the counter label of the fault.
func (f Fault) String() string {
	if f < numFaults {
		return faultNames[f]
	}
	return "unknown"
}

// Faults lists all faults, OK not among them.
func Faults() []Fault {
	out := make([]Fault, 0, numFaults-1)
	for f := OK + 1; f < numFaults; f++ {
		out = append(out, f)
	}
	return out
}

// Info is what one pass over the headers of a packet found. Offsets count from
// the first octet of the packet.
type Info struct {
	Version  uint8 // 4 or 6
	TOS      uint8 // IPv4 TOS, IPv6 traffic class: DSCP<<2 | ECN
	TTL      uint8 // or hop limit
	Proto    uint8 // next layer protocol, behind the extension headers
	DF       bool  // IPv4
	MoreFrag bool
	// Fragmented tells that the packet is a fragment; FragOffset is the offset
	// in octets and FragID the identification.
	Fragmented bool
	HasPorts   bool // SrcPort and DstPort are valid
	FragOffset uint16
	FragID     uint32
	FlowLabel  uint32 // IPv6
	// TotalLen is the length of the packet that its header states; what follows
	// in the buffer is padding.
	TotalLen int
	// HeaderLen is the offset of the next layer header.
	HeaderLen int
	// FragStart is the offset of the data that was cut into fragments: behind
	// the IPv4 header, or behind the fragment header of IPv6, 0 without one.
	FragStart int
	Src, Dst  netip.Addr
	// SrcPort and DstPort are ports; for ICMP both hold type<<8|code, for the
	// mobility header type<<8, as in spd.Flow.
	SrcPort, DstPort uint16
}

// Parse is the validity gate: it fills info from the packet in b, which may be
// longer than the packet. It checks every length and the IPv4 header checksum.
// The buffer is not kept.
func Parse(b []byte, info *Info) Fault {
	if len(b) == 0 {
		return TooShort
	}
	switch b[0] >> 4 {
	case 4:
		return parse4(b, info)
	case 6:
		return parse6(b, info)
	}
	return BadVersion
}

// parse4 reads an IPv4 header (RFC 791, Section 3.1).
//
//	|Version|  IHL  |      TOS      |          Total Length         |
//	|         Identification        |0|D|M|     Fragment Offset     |
//	|      TTL      |    Protocol   |        Header Checksum        |
//	|                         Source Address                        |
//	|                      Destination Address                      |
func parse4(b []byte, info *Info) Fault {
	if len(b) < IPv4HeaderLen {
		return TooShort
	}
	hl := int(b[0]&0x0f) * 4
	if hl < IPv4HeaderLen || hl > len(b) {
		return BadHeaderLength
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < hl || total > len(b) {
		return BadTotalLength
	}
	if Checksum(b[:hl], 0) != 0 {
		return BadChecksum
	}
	frag := binary.BigEndian.Uint16(b[6:])
	off := (frag & 0x1fff) * 8
	more := frag&0x2000 != 0
	// A fragment beyond 65,535 octets is the "ping of death"; all but the last
	// fragment carry a multiple of 8 octets (RFC 791, Section 3.2).
	if int(off)+total-hl > 65535 || more && (total-hl)%8 != 0 || (more || off != 0) && total == hl {
		return BadFragment
	}
	*info = Info{
		Version: 4, TOS: b[1], TTL: b[8], Proto: b[9],
		DF: frag&0x4000 != 0, MoreFrag: more, Fragmented: more || off != 0,
		FragOffset: off, FragID: uint32(binary.BigEndian.Uint16(b[4:])),
		TotalLen: total, HeaderLen: hl, FragStart: hl,
		Src: netip.AddrFrom4([4]byte(b[12:16])), Dst: netip.AddrFrom4([4]byte(b[16:20])),
	}
	info.ports(b[hl:total])
	return OK
}

// parse6 reads an IPv6 header and walks its extension headers (RFC 8200,
// Sections 3 and 4).
//
//	|Version| Traffic Class |           Flow Label                  |
//	|         Payload Length        |  Next Header  |   Hop Limit   |
//	|                     Source Address (16)                       |
//	|                   Destination Address (16)                    |
func parse6(b []byte, info *Info) Fault {
	if len(b) < IPv6HeaderLen {
		return TooShort
	}
	total := IPv6HeaderLen + int(binary.BigEndian.Uint16(b[4:]))
	if total > len(b) {
		return BadTotalLength
	}
	return walk6(b[:total], total, true, info)
}

// walk6 reads the headers of b, total octets of a packet. whole is false for
// the start of a packet that an ICMP error quotes: the payload's length is then
// not known.
func walk6(b []byte, total int, whole bool, info *Info) Fault {
	w := binary.BigEndian.Uint32(b)
	*info = Info{
		Version: 6, TOS: uint8(w >> 20), TTL: b[7], Proto: b[6], FlowLabel: w & 0xfffff,
		TotalLen: total, HeaderLen: IPv6HeaderLen,
		Src: netip.AddrFrom16([16]byte(b[8:24])), Dst: netip.AddrFrom16([16]byte(b[24:40])),
	}
	fragment := false
	for n := 0; ; n++ {
		at := info.HeaderLen
		var size int
		switch info.Proto {
		case ProtoHopByHop, ProtoRouting, ProtoDestOpts:
			// A hop-by-hop header comes first or not at all (RFC 8200, Section 4.3).
			if info.Proto == ProtoHopByHop && n != 0 || at+8 > total {
				return BadExtensionHeader
			}
			size = 8 + int(b[at+1])*8
		case ProtoFragment:
			if at+FragHeaderLen > total || fragment {
				return BadExtensionHeader
			}
			fragment = true
			size = FragHeaderLen
			info.FragStart = at + size
			f := binary.BigEndian.Uint16(b[at+2:])
			info.FragOffset, info.MoreFrag = f&^7, f&1 != 0
			info.FragID = binary.BigEndian.Uint32(b[at+4:])
			// Offset 0 without more fragments is an atomic fragment: a whole
			// datagram (RFC 6946).
			info.Fragmented = info.FragOffset != 0 || info.MoreFrag
			payload := total - at - size
			if whole && (int(info.FragOffset)+payload > 65535 || info.MoreFrag && payload%8 != 0 || info.Fragmented && payload == 0) {
				return BadFragment
			}
		default:
			info.ports(b[at:])
			return OK
		}
		if n == maxExtHeaders {
			return TooManyExtensionHeaders
		}
		if at+size > total {
			return BadExtensionHeader
		}
		info.Proto, info.HeaderLen = b[at], at+size
		if info.FragOffset != 0 {
			// What follows a non-initial fragment header is data, whatever its type.
			return OK
		}
	}
}

// ports finds the port-like values of the next layer header in l (RFC 4301,
// Section 4.4.1.1). A non-initial fragment has none.
func (i *Info) ports(l []byte) {
	if i.FragOffset != 0 {
		return
	}
	switch i.Proto {
	case ProtoTCP, ProtoUDP, ProtoDCCP, ProtoSCTP, ProtoUDPLite:
		if len(l) >= 4 {
			i.SrcPort, i.DstPort = binary.BigEndian.Uint16(l), binary.BigEndian.Uint16(l[2:])
			i.HasPorts = true
		}
	case ProtoICMP, ProtoICMPv6:
		if (i.Proto == ProtoICMP) == (i.Version == 4) && len(l) >= 2 {
			i.SrcPort = binary.BigEndian.Uint16(l)
			i.DstPort, i.HasPorts = i.SrcPort, true
		}
	case ProtoMH:
		if i.Version == 6 && len(l) >= 3 {
			i.SrcPort = uint16(l[2]) << 8
			i.DstPort, i.HasPorts = i.SrcPort, true
		}
	}
}

// Outbound is the flow of a packet that leaves this system: its source is local.
func (i *Info) Outbound() spd.Flow {
	return spd.Flow{Local: i.Src, Remote: i.Dst, Proto: i.Proto, LocalPort: i.SrcPort, RemotePort: i.DstPort, HasPorts: i.HasPorts}
}

// Inbound is the flow of a packet that arrives: its destination is local.
func (i *Info) Inbound() spd.Flow {
	return spd.Flow{Local: i.Dst, Remote: i.Src, Proto: i.Proto, Inbound: true, LocalPort: i.DstPort, RemotePort: i.SrcPort, HasPorts: i.HasPorts}
}
