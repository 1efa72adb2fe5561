package datapath

import (
	"encoding/binary"

	"iked/crypto/suite"
	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/internal/transport/batch"
	"iked/sad"
	"iked/spd"
)

// authenticated takes a packet with AH, whole from its IP header on.
func (w *inWorker) authenticated(p *batch.Packet) {
	b := p.Data
	if len(b) >= ip.IPv4HeaderLen && b[0]>>4 == 4 {
		// The kernel has checked the checksum. It may have filled in options since,
		// and left it as it was.
		if n := int(b[0]&15) * 4; n >= ip.IPv4HeaderLen && n <= len(b) {
			b[10], b[11] = 0, 0
			binary.BigEndian.PutUint16(b[10:], ip.Checksum(b[:n], 0))
		}
	}
	if ip.Parse(b, &w.head) != ip.OK || w.head.Proto != ip.ProtoAH {
		w.c.n[inRunt].Add(1)
		return
	}
	sa, ok := w.named(b[:w.head.TotalLen])
	switch {
	case !ok:
		w.c.n[inRunt].Add(1)
	case sa == nil:
		w.c.n[inNoSA].Add(1)
	case w.usable(sa):
		w.passOn(sa, sa.OpenAH(&w.scratch, b, &w.head, &w.opened), p, false)
	}
}

// named is the inbound SA that the ESP or AH header of a packet names, whose
// headers are in w.head; nil: there is none. False: the header is not whole.
func (w *inWorker) named(b []byte) (sa *inSA, ok bool) {
	at, proto := w.head.HeaderLen, suite.ProtoESP
	if w.head.Proto == ip.ProtoAH {
		at, proto = at+4, suite.ProtoAH
	}
	if len(b) < at+8 {
		return nil, false
	}
	return w.d.space(proto).find(binary.BigEndian.Uint32(b[at:]), w.head.Dst, w.head.Src), true
}

func (w *inWorker) usable(sa *inSA) bool {
	w.current = sa
	if sa.dead.Load() {
		w.c.inDrop[esp.LifetimeOver].Add(1)
		return false
	}
	return true
}

// maxNested is the number of SAs that one packet may have come through.
const maxNested = 1 + maxTemplates

// nested are the SAs that a packet came through so far, the outermost first (RFC
// 4301, Section 4.1 and Appendix E).
type nested struct {
	sas [maxNested]*inSA
	n   int
	// late are those whose selectors are not about the IPsec packet that they
	// carried, so that they must be about the packet that comes out at the end.
	late [maxNested]bool
}

// passOn goes on with what an SA made of a packet that p is or brought: a packet
// for the device, or one of the next SA of a bundle.
func (w *inWorker) passOn(sa *inSA, drop esp.Drop, p *batch.Packet, udp bool) {
	w.nest.n = 0
	for {
		o := &w.opened
		next := w.inner(drop)
		late := drop == esp.SelectorMismatch && next != nil
		if drop != esp.Pass && !late {
			w.dropped(sa, drop, p.Remote, udp)
			return
		}
		if sa != w.touched {
			sa.Touch(w.d.now())
			w.touched = sa
		}
		if o.Expiry != sad.Alive {
			w.d.expired(*sa.id.Load(), sa.owner, &sa.soft, &sa.dead, o.Expiry)
		}
		if udp && o.Newest && w.nest.n == 0 {
			w.mapping(sa, p.Remote)
		}
		w.nest.sas[w.nest.n], w.nest.late[w.nest.n] = sa, late
		w.nest.n++
		if next == nil {
			break
		}
		if w.nest.n == maxNested {
			w.c.n[inNested].Add(1)
			return
		}
		if !w.usable(next) {
			return
		}
		sa, drop = next, w.openInner(next)
	}
	o := &w.opened
	for i := range w.nest.n {
		if s := w.nest.sas[i].SA(); w.nest.late[i] && !o.Flow.Match(s.Local, s.Remote) {
			w.dropped(w.nest.sas[i], esp.SelectorMismatch, p.Remote, udp)
			return
		}
	}
	if w.d.bundles.Load() > 0 && !w.demanded(&o.Flow) {
		w.c.n[inBundle].Add(1)
		return
	}
	w.c.n[inPackets].Add(1)
	w.c.n[inBytes].Add(uint64(len(o.Packet)))
	w.join.Add(o.Packet, &o.Info)
}

// inner is the SA for the ESP or AH header inside of what was opened, when the
// packet is for this host: nil for all else, which is for the device. An SA that is
// unknown, or of another destination, is none.
func (w *inWorker) inner(drop esp.Drop) *inSA {
	o := &w.opened
	if drop != esp.Pass && drop != esp.SelectorMismatch || o.Info.Proto != ip.ProtoESP && o.Info.Proto != ip.ProtoAH || o.Info.Fragmented {
		return nil
	}
	w.head = o.Info
	sa, _ := w.named(o.Packet)
	if sa == nil || sa.Path().Dst.WithZone("") != o.Info.Dst || sa.Path().Encap != nil {
		return nil
	}
	return sa
}

// openInner opens the packet of w.opened, whose headers are in w.head, with the
// next SA.
func (w *inWorker) openInner(sa *inSA) esp.Drop {
	pkt, h := w.opened.Packet, &w.head
	if h.Proto == ip.ProtoAH {
		return sa.OpenAH(&w.scratch, pkt, h, &w.opened)
	}
	out := &w.outer
	*out = esp.Outer{Src: h.Src, Dst: h.Dst}
	out.TOS, out.TTL, out.DF, out.FlowLabel = h.TOS, h.TTL, h.DF, h.FlowLabel
	if h.Version == 4 {
		out.Header, out.ID = h.HeaderLen, uint16(h.FragID)
	}
	return sa.OpenAt(&w.scratch, pkt, h.HeaderLen, out, &w.opened)
}

// demanded tells whether a packet came through the SAs that its policy demands, in
// their order (RFC 4301, Section 5.2, and Appendix E). Policies without a bundle
// demand what the selectors of the SA say, which were looked at.
func (w *inWorker) demanded(f *spd.Flow) bool {
	p := w.d.table.Lookup(f)
	if p.Action != spd.Protect || len(p.Bundle) == 0 {
		return true
	}
	if w.nest.n != len(p.Bundle)+1 {
		return false
	}
	for i, t := range p.Bundle {
		if w.nest.sas[len(p.Bundle)-1-i].SA().ReqID != t.ReqID {
			return false
		}
	}
	return w.nest.sas[len(p.Bundle)].SA().ReqID == p.ReqID
}
