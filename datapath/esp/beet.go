package esp

import (
	"iked/beet"
	"iked/datapath/ip"
	"iked/sad"
)

// wrapBEET takes the inner header off the packet (draft-nikander-esp-beet-mode; RFC
// 7402, Appendix B): what of it differs from packet to packet goes into the outer
// header. Nothing in the payload states its length, so that no TFC padding may
// follow.
func (o *Outbound) wrapBEET(p *Path, buf []byte, off int, info *ip.Info, out *Sealed) (payload, Drop) {
	var c beet.Carried
	at, next, f := o.inner.Strip(buf[off:off+info.TotalLen], &c)
	if f != beet.OK {
		return payload{}, outboundFault(f)
	}
	out.TOS, out.TTL, out.id, out.flowLabel = c.TOS, c.TTL, c.ID, c.FlowLabel
	out.DF = outerDF(sad.DFCopy, info, p.inner)
	return payload{off: off + at, n: info.TotalLen - at, nextHeader: next}, Pass
}

func outboundFault(f beet.Fault) Drop {
	switch f {
	case beet.Fragment:
		return InnerFragment
	case beet.OtherHosts:
		return SelectorMismatch
	}
	return OutboundInvalid
}

// unwrapBEET writes the inner header before the payload: its addresses are those
// of the SA, the rest is what the outer header said.
func (i *Inbound) unwrapBEET(buf []byte, at, n int, nextHeader uint8, outer *Outer, out *Opened) Drop {
	start, f := i.inner.Restore(buf[:at+n], at, nextHeader, &outer.Carried)
	switch f {
	case beet.OK:
		return i.rebuilt(buf[start:at+n], out)
	case beet.PseudoHeader:
		return BadPseudoHeader
	case beet.NoRoom:
		return NoRoom
	}
	return InnerInvalid
}
