package esp

import (
	"encoding/binary"
	"net/netip"

	"iked/datapath/ip"
	"iked/spd"
)

// wrapTransport leaves the IP header in front of ESP (RFC 4303, Section 3.1.1):
//
//	IPv4   | IP, options |                                  ESP | next layer ... |
//	IPv6   | IP, hop-by-hop, routing, whole-packet fragment | ESP | dest. options, next layer ... |
//
// The header is moved to where Encapsulate needs it, and names ESP. Only whole
// packets between the two ends are taken (RFC 4303, Section 3.3.4; RFC 4301,
// Section 4.1).
func (o *Outbound) wrapTransport(p *Path, buf []byte, off int, info *ip.Info, out *Sealed) (payload, Drop) {
	switch {
	case info.Fragmented:
		return payload{}, InnerFragment
	case info.Src != p.Src.WithZone("") || info.Dst != p.Dst.WithZone(""):
		return payload{}, SelectorMismatch
	}
	b := buf[off : off+info.TotalLen]
	split, field := ip.Unfragmentable(b)
	next := b[field]
	out.TOS, out.TTL, out.DF = info.TOS, info.TTL, info.DF
	out.Header, out.Special = split, split != headerLen(p)
	to := off - o.front(p)
	proto := byte(ip.ProtoESP)
	if o.auth != nil {
		proto = ip.ProtoAH
	}
	if p.Encap != nil {
		to -= UDPHeaderLen
		proto = ip.ProtoUDP
	}
	// The header ends where UDP or ESP will begin; what is behind it moves not.
	copy(buf[to:], b[:split])
	buf[to+field] = proto
	pl := payload{off: off + split, n: info.TotalLen - split, nextHeader: next}
	if next == ip.ProtoUDP && udpLen(b[split:]) == pl.n {
		// RFC 4303, Section 2.7: the length of UDP tells where TFC padding begins.
		pl.most = p.inner - o.special(info) - split
	}
	return pl, Pass
}

// udpLen is what a UDP header states, 0 when there is none.
func udpLen(b []byte) int {
	if len(b) < UDPHeaderLen {
		return 0
	}
	return int(binary.BigEndian.Uint16(b[4:]))
}

// complete writes the lengths and the checksum of a header of n octets that was
// moved.
func complete(b []byte, n int) {
	if b[0]>>4 == 4 {
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:n], 0))
		return
	}
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)-ip.IPv6HeaderLen))
}

// Room is how many octets OpenAt needs before ESP for the header that it makes:
// that of the rebuilt packet, which covers the ESP header and the IV. 0: none, as
// in tunnel mode.
func (i *Inbound) Room() int {
	n := 0
	switch i.sa.Mode {
	case spd.Transport:
		n = headerLen(i.path.Load())
	case spd.BEET:
		n = i.inner.HeaderLen()
	}
	return max(n-i.front(i.path.Load()), 0)
}

// Rebuilds tells whether OpenAt makes a header, for which it must know more of the
// outer one than its TOS.
func (i *Inbound) Rebuilds() bool { return i.sa.Mode != spd.Tunnel }

// unwrapTransport puts the outer header back before what ESP protected, with its
// options when they are there. IPv6 extension headers were used up by the system
// that received the packet.
func (i *Inbound) unwrapTransport(buf []byte, espAt, at, n int, nextHeader uint8, outer *Outer, out *Opened) Drop {
	if nextHeader == ip.ProtoUDP {
		if l := udpLen(buf[at : at+n]); l >= UDPHeaderLen && l < n {
			n = l // what follows is TFC padding (RFC 4303, Section 2.7)
		}
	}
	hl := outer.Header
	if hl == 0 {
		hl = ip.IPv6HeaderLen
		if outer.Dst.Is4() {
			hl = ip.IPv4HeaderLen
		}
	}
	start := at - hl
	if start < 0 || hl+n > 65535 {
		return NoRoom
	}
	b := buf[start : at+n]
	if outer.Header > 0 {
		copy(b, buf[espAt-hl:espAt])
		b[9] = nextHeader
		// The kernel put fragments together before it gave them to the socket.
		b[6] &= 0x40
		b[7] = 0
		complete(b, hl)
	} else {
		h := ip.Outer{Src: outer.Src.WithZone(""), Dst: outer.Dst.WithZone(""), Proto: nextHeader, TOS: outer.TOS, TTL: outer.TTL,
			DF: outer.DF, ID: outer.ID, FlowLabel: outer.FlowLabel}
		h.Put(b, n)
	}
	d := i.rebuilt(b, out)
	if d == Pass && i.translated() {
		i.translate(out)
	}
	return d
}

// rebuilt checks a packet whose header was made here: it is valid, and the SA may
// carry it.
func (i *Inbound) rebuilt(b []byte, out *Opened) Drop {
	if ip.Parse(b, &out.Info) != ip.OK {
		return InnerInvalid
	}
	out.Packet = b[:out.Info.TotalLen]
	out.Flow = out.Info.Inbound()
	if !i.selects(out) {
		if out.Info.FragOffset != 0 {
			return InnerFragment
		}
		return SelectorMismatch
	}
	return Pass
}

// translated tells whether an address translator stands between the ends, so that
// checksums of the next layer were made with other addresses.
func (i *Inbound) translated() bool { return i.sa.NATLocal.IsValid() || i.sa.NATRemote.IsValid() }

// translate corrects the checksum of TCP, UDP and their like: the addresses that
// it was made with are replaced by those of the packet (RFC 3948, Section 3.1.2,
// method 1, incremental).
func (i *Inbound) translate(out *Opened) {
	at, zero := checksumField(out.Info.Proto)
	l := out.Packet[out.Info.HeaderLen:]
	if at < 0 || len(l) < at+2 || out.Info.Fragmented {
		return
	}
	old := binary.BigEndian.Uint16(l[at:])
	if zero && old == 0 {
		return // UDP without a checksum
	}
	sum := adjust(old, i.sa.NATRemote, out.Info.Src)
	sum = adjust(sum, i.sa.NATLocal, out.Info.Dst)
	if zero && sum == 0 {
		sum = 0xffff // RFC 768
	}
	binary.BigEndian.PutUint16(l[at:], sum)
}

// checksumField is where the checksum is in a next layer header that covers the
// addresses, -1: it has none; zero tells that 0 means "no checksum".
func checksumField(proto uint8) (at int, zero bool) {
	switch proto {
	case ip.ProtoTCP:
		return 16, false
	case ip.ProtoUDP:
		return 6, true
	case ip.ProtoUDPLite:
		return 6, false
	case ip.ProtoDCCP:
		return 6, false
	case ip.ProtoMH:
		return 4, false
	case ip.ProtoICMPv6:
		return 2, false
	}
	return -1, false
}

// adjust is a checksum after one address was replaced by another; an old one that
// is not valid was not replaced.
func adjust(sum uint16, old, new netip.Addr) uint16 {
	if !old.IsValid() || old == new || old.Is4() != new.Is4() {
		return sum
	}
	if old.Is4() {
		a, b := old.As4(), new.As4()
		return adjustBytes(sum, a[:], b[:])
	}
	a, b := old.As16(), new.As16()
	return adjustBytes(sum, a[:], b[:])
}

func adjustBytes(sum uint16, old, new []byte) uint16 {
	for i := 0; i < len(old); i += 2 {
		sum = ip.Adjust(sum, binary.BigEndian.Uint16(old[i:]), binary.BigEndian.Uint16(new[i:]))
	}
	return sum
}
