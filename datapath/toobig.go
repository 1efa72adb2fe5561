package datapath

import (
	"net/netip"

	"iked/datapath/esp"
	"iked/datapath/ip"
	"iked/internal/transport/batch"
)

// unfit handles a packet that does not fit the path MTU (RFC 4301, Section 8.2).
// It tells whether the rest of the frame is worth looking at.
func (w *outWorker) unfit(sa *outSA, buf []byte, fit esp.Fit, mtu int) bool {
	pkt := buf[headroom : headroom+w.info.TotalLen]
	if w.whole && (sa.ports || w.info.Version == 6) {
		// It came in fragments: its sender has done its part, and fragments would
		// not fit the selectors of the SA.
		fit = esp.FragmentOuter
	}
	switch fit {
	case esp.FragmentInner:
		w.c.n[outFragments].Add(1)
		if len(w.fragBuf) < mtu {
			w.fragBuf = make([]byte, mtu)
		}
		whole := w.info
		w.fragSA = sa
		// The slot is the source: the fragments go to the next ones.
		src := append([]byte(nil), pkt...)
		if !ip.Fragment4(src, &whole, mtu, w.fragBuf, w.emitIn) {
			w.c.outDrop[esp.TooBig].Add(1)
		}
		w.info = whole
		return true
	case esp.FragmentOuter:
		w.c.n[outFragments].Add(1)
		if w.seal(sa, buf) {
			w.fragmentOuter(buf)
		}
		return true
	}
	w.c.n[outTooBig].Add(1)
	w.answer(ip.TooBig, mtu, pkt)
	return false
}

// innerFragment seals one fragment of an inner packet.
func (w *outWorker) innerFragment(frag []byte) {
	buf := w.slot()
	if len(frag) > len(buf)-headroom-tailroom || ip.Parse(frag, &w.info) != ip.OK {
		w.c.outDrop[esp.OutboundInvalid].Add(1)
		return
	}
	copy(buf[headroom:], frag)
	if w.seal(w.fragSA, buf) {
		w.push(buf)
	}
}

// fragmentOuter cuts a sealed packet. In UDP the kernel does it, because the
// socket sends without DF.
func (w *outWorker) fragmentOuter(buf []byte) {
	sa := w.outer
	p := sa.Path()
	if p.Encap != nil && !w.sealed.Special {
		w.push(buf)
		w.udp[len(w.udp)-1].Cut = true
		return
	}
	start, _ := sa.Encapsulate(buf, &w.sealed)
	outer := append([]byte(nil), buf[start:w.sealed.Off+w.sealed.Len]...)
	w.fragTo = batch.Packet{Local: netip.AddrPortFrom(p.Src, 0), Remote: netip.AddrPortFrom(p.Dst, 0)}
	if len(w.fragBuf) < p.MTU {
		w.fragBuf = make([]byte, p.MTU)
	}
	ok := false
	if p.Dst.Is4() {
		ok = ip.Parse(outer, &w.fragInfo) == ip.OK && ip.Fragment4(outer, &w.fragInfo, p.MTU, w.fragBuf, w.emitOut)
	} else {
		w.fragID++
		ok = ip.Fragment6(outer, w.fragID, p.MTU, w.fragBuf, w.emitOut)
	}
	if !ok {
		w.c.outDrop[esp.TooBig].Add(1)
	}
}

func (w *outWorker) outerFragment(frag []byte) {
	buf := w.slot()
	if len(frag) > len(buf) {
		w.c.outDrop[esp.NoRoom].Add(1)
		return
	}
	w.n++
	out := w.fragTo
	out.Data = buf[:copy(buf, frag)]
	w.raw = append(w.raw, out)
}

// ICMP errors are limited for each worker (RFC 1812, Section 4.3.2.8; RFC 4443,
// Section 2.4).
const (
	icmpPerSecond = 100
	icmpBurst     = 50
)

// tokens is a token bucket on the coarse clock.
type tokens struct {
	n    int
	last int64
}

func (t *tokens) take(now int64) bool {
	if t.last == 0 {
		t.n, t.last = icmpBurst, now
	}
	if more := (now - t.last) * icmpPerSecond / 1e9; more > 0 {
		t.n, t.last = int(min(int64(t.n)+more, icmpBurst)), now
	}
	if t.n == 0 {
		return false
	}
	t.n--
	return true
}

// answer writes an ICMP error about a packet back to the device. Its source is
// the packet's destination: the kernel accepts from the device only what it
// would route to it.
func (w *outWorker) answer(e ip.ICMPError, mtu int, pkt []byte) {
	if !w.icmp.take(w.d.clock.Load()) {
		return
	}
	var hdr [10]byte
	msg, ok := ip.AppendICMP(nil, e, w.info.Dst, mtu, pkt, &w.info)
	if !ok {
		return
	}
	if err := w.q.Write([][]byte{hdr[:], msg}); err != nil {
		w.c.n[inWriteError].Add(1)
		return
	}
	w.c.n[icmpSent].Add(1)
}
