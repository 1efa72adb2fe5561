package xfrm

import (
	"math/bits"
	"net/netip"

	"iked/spd"
	"iked/xfrm/wire"
)

// ported are the protocols of a selector that has ports and leaves the protocol
// open: TCP, UDP, DCCP, SCTP and UDP-Lite.
var ported = [...]uint8{6, 17, 33, 132, 136}

const (
	ipICMP   uint8 = 1
	ipICMPv6 uint8 = 58
	ipMH     uint8 = 135
)

func typed(proto uint8) bool { return proto == ipICMP || proto == ipICMPv6 || proto == ipMH }

// masked is a set of 16-bit numbers that share the bits under a mask.
type masked struct{ value, mask uint16 }

// splitRange cuts a range of numbers into the fewest masked sets, because the
// kernel compares ports under a mask.
func splitRange(from, to uint16) []masked {
	var list []masked
	for at := uint32(from); at <= uint32(to); {
		size := uint32(1) << min(bits.TrailingZeros32(at|1<<16), 16)
		for size > uint32(to)-at+1 {
			size /= 2
		}
		list = append(list, masked{uint16(at), uint16(^(size - 1))})
		at += size
	}
	return list
}

// pair is a selector of the kernel as this system sees it. The ports of ICMP and
// the mobility header are type and code and have no sides.
type pair struct {
	local, remote netip.Prefix
	proto         uint8
	lport, rport  masked
}

// in turns it into the direction of a policy or an SA.
func (p *pair) in(dir uint8) wire.Selector {
	src, dst, sport, dport := p.local, p.remote, p.lport, p.rport
	if dir != wire.DirOut {
		src, dst = dst, src
		if !typed(p.proto) {
			sport, dport = dport, sport
		}
	}
	return wire.Selector{
		Src: wire.AddressOf(src.Addr()), SrcLen: uint8(src.Bits()), Dst: wire.AddressOf(dst.Addr()), DstLen: uint8(dst.Bits()),
		Family: wire.FamilyOf(dst.Addr()), Proto: p.proto,
		SrcPort: sport.value, SrcPortMask: sport.mask, DstPort: dport.value, DstPortMask: dport.mask,
	}
}

// selectors are those of the kernel that together are one selector of each side:
// ranges of addresses become prefixes, ranges of ports become values under masks.
// addressesOnly leaves out protocol and ports. There are none for two that no
// packet can match, nor for OPAQUE ports, which the kernel cannot tell.
func selectors(l, r spd.TS, addressesOnly bool) []pair {
	if l.Is4() != r.Is4() {
		return nil
	}
	protos, ports := []uint8{0}, [][2]masked{{}}
	if !addressesOnly {
		protos, ports = upper(l, r)
	}
	var list []pair
	remote := r.AppendPrefixes(nil)
	for _, lp := range l.AppendPrefixes(nil) {
		for _, rp := range remote {
			for _, proto := range protos {
				for _, x := range ports {
					list = append(list, pair{lp, rp, proto, x[0], x[1]})
				}
			}
		}
	}
	return list
}

// upper are the protocols and the pairs of ports, local and remote, of two
// selectors; none when no packet can match.
func upper(l, r spd.TS) (protos []uint8, ports [][2]masked) {
	proto := l.Proto
	if proto == 0 {
		proto = r.Proto
	}
	if l.Opaque() || r.Opaque() || r.Proto != 0 && r.Proto != proto {
		return nil, nil
	}
	if typed(proto) {
		for _, t := range []spd.TS{l, r} {
			if t.Proto == 0 && !t.AnyPort() {
				return nil, nil // ports of a selector of any protocol mean protocols that have ports
			}
		}
		return []uint8{proto}, typesAndCodes(max(l.PortFrom, r.PortFrom), min(l.PortTo, r.PortTo))
	}
	protos = []uint8{proto}
	if proto == 0 && (!l.AnyPort() || !r.AnyPort()) {
		protos = ported[:]
	}
	for _, x := range splitRange(l.PortFrom, l.PortTo) {
		for _, y := range splitRange(r.PortFrom, r.PortTo) {
			ports = append(ports, [2]masked{x, y})
		}
	}
	return protos, ports
}

// typesAndCodes splits a range of type<<8|code (RFC 4301, Section 4.4.1.1): each
// part is one type with a masked code, or a masked type with every code.
func typesAndCodes(from, to uint16) (parts [][2]masked) {
	for _, p := range splitRange(from, to) {
		both := [2]masked{{p.value >> 8, p.mask >> 8}, {p.value & 0xff, p.mask & 0xff}}
		// The kernel's numbers have sixteen bits, of which the upper eight are zero.
		for i := range both {
			if both[i].mask != 0 {
				both[i].mask |= 0xff00
			}
		}
		parts = append(parts, both)
	}
	return parts
}
