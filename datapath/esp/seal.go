package esp

import (
	"encoding/binary"

	"iked/crypto/aead"
	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

// Seal protects the packet at buf[off:] in place; info is what ip.Parse said of
// it. There must be Headroom octets before and Tailroom behind it; with less
// room behind, TFC padding is shortened. The size is not held against the path
// MTU: Fit does that. After a Drop nothing must be sent.
func (o *Outbound) Seal(w *Scratch, buf []byte, off int, info *ip.Info, out *Sealed) Drop {
	if off < Headroom || len(buf)-off < info.TotalLen+Tailroom {
		return NoRoom
	}
	*out = Sealed{}
	p := o.path.Load()
	pl, drop := o.wrap(p, buf, off, info, out)
	if drop != Pass {
		return drop
	}
	if o.auth != nil {
		return o.sealAH(w, buf, p, pl, out)
	}
	return o.seal(w, buf, p, pl, out)
}

// SealDummy makes a dummy packet with n random octets (RFC 4303, Section 2.6);
// the ESP header starts so that Encapsulate has its room. AH has no such packets.
func (o *Outbound) SealDummy(w *Scratch, buf []byte, n int, out *Sealed) Drop {
	if n < 0 || len(buf) < Headroom+n+Tailroom {
		return NoRoom
	}
	if o.auth != nil {
		return OutboundInvalid
	}
	w.fill(buf[Headroom : Headroom+n])
	*out = Sealed{TTL: o.ttl}
	return o.seal(w, buf, o.path.Load(), payload{off: Headroom, n: n, nextHeader: ip.ProtoNoNext}, out)
}

// seal is RFC 4303, Section 3.3.2 to 3.3.4: padding, number, encryption, ICV.
func (o *Outbound) seal(w *Scratch, buf []byte, p *Path, pl payload, out *Sealed) Drop {
	if o.sa.CPI != 0 && pl.nextHeader != ip.ProtoNoNext {
		pl = o.compress(w, buf, pl)
	}
	iv, icv := o.cipher.IVLen(), o.cipher.ICVLen()
	n := pl.n
	if pl.most > 0 && o.sa.TFCPadding != 0 {
		n = o.tfc(buf, pl)
	}
	pad := -(n + trailerLen) & (o.align - 1)
	text := n + pad + trailerLen
	start := pl.off - iv - HeaderLen
	size := HeaderLen + iv + text + icv
	if size+max(outerLen(p), out.Header+UDPHeaderLen) > 65535 {
		return TooBig
	}
	// Bytes are what the algorithm processes, padding included (RFC 4301,
	// Section 4.4.2.1).
	out.Expiry = o.meter.Add(text)
	if out.Expiry.Hard() {
		return LifetimeOver
	}
	seq, ok := o.seq.Next()
	if !ok {
		return SequenceOverflow
	}
	b := buf[start : start+size]
	binary.BigEndian.PutUint32(b, o.sa.SPI)
	binary.BigEndian.PutUint32(b[4:], uint32(seq))
	if o.cipher.RandomIV() {
		w.fill(b[HeaderLen : HeaderLen+iv])
	} else {
		aead.PutIV(b[HeaderLen:HeaderLen+iv], seq)
	}
	t := b[HeaderLen+iv+n : HeaderLen+iv+text]
	for i := range pad {
		t[i] = byte(i + 1) // RFC 4303, Section 2.4
	}
	t[pad], t[pad+1] = byte(pad), pl.nextHeader
	o.cipher.Seal(&w.aead, b, HeaderLen, uint32(seq>>32), o.sa.ESN)
	out.Off, out.Len, out.Seq = start, size, seq
	if out.id == 0 && !(out.DF && o.sa.Mode == spd.BEET) {
		// All fragments must have the same, and the kernel fills in zeros.
		out.id = max(uint16(seq)^uint16(o.sa.SPI), 1)
	}
	return Pass
}

// tfc zeroes the traffic flow confidentiality padding behind the payload and
// gives the padded length (RFC 4303, Section 2.7).
func (o *Outbound) tfc(buf []byte, pl payload) int {
	n := pl.most
	if o.sa.TFCPadding != sad.TFCToMTU {
		n = min(n, int(o.sa.TFCPadding))
	}
	n = min(n, len(buf)-pl.off-Tailroom)
	if n <= pl.n {
		return pl.n
	}
	clear(buf[pl.off+pl.n : pl.off+n])
	return n
}
