package xfrm

import (
	"net/netip"

	"iked/spd"
	"iked/xfrm/wire"
)

// Protocols whose port fields hold a message type (RFC 4301, Section 4.4.1.1).
const (
	ipICMP   uint8 = 1
	ipICMPv6 uint8 = 58
	ipMH     uint8 = 135
)

// ported are the protocols with two ports that the kernel looks at.
var ported = [...]uint8{6, 17, 33, 132, 136}

func typed(proto uint8) bool { return proto == ipICMP || proto == ipICMPv6 || proto == ipMH }

// wireSelector is a selector in the form of the kernel.
func wireSelector(k spd.KernelSelector) wire.Selector {
	return wire.Selector{
		Src: wire.AddressOf(k.Src.Addr()), SrcLen: uint8(k.Src.Bits()), Dst: wire.AddressOf(k.Dst.Addr()), DstLen: uint8(k.Dst.Bits()),
		Family: wire.FamilyOf(k.Dst.Addr()), Proto: k.Proto,
		SrcPort: k.SrcPort, SrcPortMask: k.SrcMask, DstPort: k.DstPort, DstPortMask: k.DstMask,
	}
}

// kernelSelector is the reverse of wireSelector.
func kernelSelector(s *wire.Selector) spd.KernelSelector {
	return spd.KernelSelector{
		Src: netip.PrefixFrom(s.Src.Addr(s.Family), int(s.SrcLen)).Masked(), Dst: netip.PrefixFrom(s.Dst.Addr(s.Family), int(s.DstLen)).Masked(), Proto: s.Proto,
		SrcPort: s.SrcPort, SrcMask: s.SrcPortMask, DstPort: s.DstPort, DstMask: s.DstPortMask,
	}
}

// untyped is a selector without the type of the mobility header. Of packets that arrive
// or are forwarded the kernel reads it behind the end of that header: a policy or an SA
// with a type has none of them.
func untyped(s wire.Selector) wire.Selector {
	if s.Proto == ipMH {
		s.SrcPort, s.SrcPortMask = 0, 0
	}
	return s
}

// single is the one selector of an SA: that of its traffic, or where that would need
// several, that of all traffic between the same addresses, so that who has the SA sends
// from no other ones. False: there is none, or one that the kernel cannot tell.
func single(local, remote []spd.TS, dir spd.Dirs) (wire.Selector, bool) {
	list, err := spd.KernelSelectors(&spd.Policy{Local: local, Remote: remote}, dir, 1)
	if err != nil || len(list) != 1 {
		l, r := sameAddresses(local), sameAddresses(remote)
		if l == nil || r == nil {
			return wire.Selector{}, false
		}
		if list, err = spd.KernelSelectors(&spd.Policy{Local: l, Remote: r}, dir, 1); err != nil || len(list) != 1 {
			return wire.Selector{}, false
		}
	}
	s := wireSelector(list[0])
	if dir == spd.Inbound {
		s = untyped(s)
	}
	return s, true
}

// sameAddresses is a selector of all traffic of the addresses that every selector of a
// list has; nil: they have different ones.
func sameAddresses(list []spd.TS) []spd.TS {
	if len(list) == 0 {
		return nil
	}
	for _, t := range list[1:] {
		if t.From != list[0].From || t.To != list[0].To {
			return nil
		}
	}
	return []spd.TS{{From: list[0].From, To: list[0].To, PortTo: 65535}}
}
