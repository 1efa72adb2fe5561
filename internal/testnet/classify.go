package testnet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Class is what a captured packet is, as seen from outside.
type Class int

const (
	// Other is everything without a class of its own: clear text.
	Other Class = iota
	ARP
	// ND is IPv6 housekeeping: neighbour discovery (RFC 4861) and multicast
	// listener reports (RFC 3810).
	ND
	// IKE is on port 500, or on port 4500 behind the non-ESP marker
	// (RFC 3948, Section 2.2).
	IKE
	// ESP is IP protocol 50.
	ESP
	// ESPinUDP is on port 4500 without the marker (RFC 3948, Section 2.1).
	ESPinUDP
	// Keepalive is the single byte 0xff on port 4500 (RFC 3948, Section 2.3).
	Keepalive
	AH
	ICMPError
	// KINK is on port 910 (RFC 4430).
	KINK
)

var classNames = [...]string{"other", "ARP", "ND", "IKE", "ESP", "ESP-in-UDP", "NAT-keepalive", "AH", "ICMP-error", "KINK"}

func (c Class) String() string {
	if c < 0 || int(c) >= len(classNames) {
		return fmt.Sprintf("Class(%d)", int(c))
	}
	return classNames[c]
}

// Housekeeping tells whether a packet of the class belongs to the link itself and
// carries nothing of a user.
func (c Class) Housekeeping() bool { return c == ARP || c == ND }

// IPsec tells whether the class is a key exchange or protected traffic.
func (c Class) IPsec() bool {
	return c == IKE || c == ESP || c == ESPinUDP || c == Keepalive || c == AH || c == KINK
}

// Header is what is known about a captured packet.
type Header struct {
	Class            Class
	Src, Dst         netip.Addr
	Proto            uint8 // of IP, after extension headers
	SrcPort, DstPort uint16
	TOS              uint8 // DSCP and ECN
	TTL              uint8
	DF               bool // IPv4 only
	Fragment         bool // first, middle or last one
	FragmentOffset   int  // bytes
	FragmentID       uint32
	SPI              uint32 // ESP and AH
	Payload          []byte // after IP and extension headers
}

// The ports that Classify takes for IKE and for KINK.
const (
	IKEPort  = 500
	KINKPort = 910
	NATTPort = 4500
)

// Classify looks into an Ethernet frame. It trusts no length; what cannot be read
// is Other.
func Classify(frame []byte) Header {
	var h Header
	if len(frame) < 14 {
		return h
	}
	p := frame[14:]
	switch binary.BigEndian.Uint16(frame[12:]) {
	case 0x0806:
		h.Class = ARP
		return h
	case 0x0800:
		if !h.ipv4(p) {
			return h
		}
	case 0x86dd:
		if !h.ipv6(p) {
			return h
		}
	default:
		return h
	}
	h.transport()
	return h
}

func (h *Header) ipv4(p []byte) bool {
	if len(p) < 20 || p[0]>>4 != 4 {
		return false
	}
	ihl, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
	if ihl < 20 || total < ihl || total > len(p) {
		return false
	}
	h.Src, h.Dst = netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20]))
	h.TOS, h.TTL, h.Proto = p[1], p[8], p[9]
	flags := binary.BigEndian.Uint16(p[6:])
	h.DF = flags&0x4000 != 0
	h.Fragment, h.FragmentOffset = flags&0x3fff != 0, int(flags&0x1fff)*8
	h.FragmentID = uint32(binary.BigEndian.Uint16(p[4:]))
	h.Payload = p[ihl:total]
	return true
}

func (h *Header) ipv6(p []byte) bool {
	if len(p) < 40 || p[0]>>4 != 6 {
		return false
	}
	n := int(binary.BigEndian.Uint16(p[4:]))
	if n > len(p)-40 {
		return false
	}
	h.Src, h.Dst = netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40]))
	h.TOS, h.TTL, h.Proto = p[0]<<4|p[1]>>4, p[7], p[6]
	p = p[40 : 40+n]
	for {
		switch h.Proto {
		case 0, 43, 60: // hop-by-hop, routing, destination options
			if len(p) < 8 || len(p) < int(p[1])*8+8 {
				return false
			}
			h.Proto, p = p[0], p[int(p[1])*8+8:]
		case 44: // fragment
			if len(p) < 8 {
				return false
			}
			h.Fragment, h.FragmentOffset = true, int(binary.BigEndian.Uint16(p[2:])&^7)
			h.FragmentID = binary.BigEndian.Uint32(p[4:])
			h.Proto, p = p[0], p[8:]
			if h.FragmentOffset != 0 {
				h.Payload = p
				return true
			}
		default:
			h.Payload = p
			return true
		}
	}
}

func (h *Header) transport() {
	p := h.Payload
	switch h.Proto {
	case 50:
		h.Class = ESP
		if h.FragmentOffset == 0 && len(p) >= 8 {
			h.SPI = binary.BigEndian.Uint32(p)
		}
	case 51:
		h.Class = AH
		if h.FragmentOffset == 0 && len(p) >= 12 {
			h.SPI = binary.BigEndian.Uint32(p[4:])
		}
	case 1:
		if h.FragmentOffset == 0 && len(p) >= 8 && (p[0] == 3 || p[0] == 11 || p[0] == 12) {
			h.Class = ICMPError
		}
	case 58:
		if h.FragmentOffset == 0 && len(p) >= 4 {
			switch t := p[0]; {
			case t >= 1 && t <= 4:
				h.Class = ICMPError
			case t >= 130 && t <= 137, t == 143:
				h.Class = ND
			}
		}
	case 17:
		h.udp(p)
	}
}

func (h *Header) udp(p []byte) {
	if h.FragmentOffset != 0 || len(p) < 8 {
		return
	}
	h.SrcPort, h.DstPort = binary.BigEndian.Uint16(p), binary.BigEndian.Uint16(p[2:])
	data := p[8:]
	switch {
	case h.SrcPort == NATTPort || h.DstPort == NATTPort:
		switch {
		case len(data) == 1 && data[0] == 0xff:
			h.Class = Keepalive
		case len(data) >= 4 && binary.BigEndian.Uint32(data) == 0:
			h.Class = IKE
		case len(data) >= 8:
			h.Class, h.SPI = ESPinUDP, binary.BigEndian.Uint32(data)
		}
	case h.SrcPort == KINKPort || h.DstPort == KINKPort:
		h.Class = KINK
	case h.SrcPort == IKEPort || h.DstPort == IKEPort:
		h.Class = IKE
	}
}
