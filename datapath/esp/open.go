package esp

import (
	"encoding/binary"
	"errors"

	"iked/beet"
	"iked/crypto/aead"
	"iked/datapath/ip"
	"iked/datapath/ipcomp"
	"iked/sad"
)

// Open is OpenAt for a packet of which only DSCP and ECN of the outer header are
// known, which is enough in tunnel mode.
func (i *Inbound) Open(w *Scratch, b []byte, tos uint8, out *Opened) Drop {
	outer := Outer{Carried: beet.Carried{TOS: tos}}
	return i.OpenAt(w, b, 0, &outer, out)
}

// OpenAt authenticates and decrypts the ESP packet in buf[at:], SPI to ICV, in
// place. The order is that of RFC 4303, Section 3.4: replay check, ICV, window,
// decryption; then RFC 4301, Section 5.2: next header, version, selectors. After
// a Drop the packet must not be used. The modes that make a header need Room
// octets before it.
func (i *Inbound) OpenAt(w *Scratch, buf []byte, at int, outer *Outer, out *Opened) Drop {
	*out = Opened{}
	b := buf[at:]
	iv, icv := i.cipher.IVLen(), i.cipher.ICVLen()
	if len(b) < HeaderLen+iv+trailerLen+icv {
		return ESPTooShort
	}
	seq, v := i.replay.Check(binary.BigEndian.Uint32(b[4:]))
	if v != sad.Fresh {
		return i.replayed(v)
	}
	text, err := i.cipher.Open(&w.aead, b, HeaderLen, uint32(seq>>32), i.sa.ESN)
	if err != nil {
		if errors.Is(err, aead.ErrLength) {
			return ESPBadLength
		}
		i.badICV.Add(1)
		return BadICV
	}
	out.Seq = seq
	if v, out.Newest = i.replay.Update(seq); v != sad.Fresh {
		return i.replayed(v)
	}
	if out.Expiry = i.meter.Add(len(text)); out.Expiry.Hard() {
		return LifetimeOver
	}
	text, next, ok := trim(text)
	switch {
	case !ok:
		return BadPadding
	case next == ip.ProtoNoNext:
		return Dummy
	case next == ipcomp.Proto && i.sa.CPI != 0:
		return i.restore(w, buf, at, text, outer, out)
	}
	return i.unwrap(buf, at, at+HeaderLen+iv, len(text), next, outer, out)
}

// replayed counts what the window refuses.
func (i *Inbound) replayed(v sad.Verdict) Drop {
	i.refused.Add(1)
	switch v {
	case sad.Old:
		return ReplayOld
	case sad.Duplicate:
		return ReplayDuplicate
	}
	return ReplayInvalid
}

// trim takes padding, pad length and next header off a plaintext of at least
// two octets. The padding must be 1, 2, 3 ... (RFC 4303, Section 2.4): a packet
// with another one is authentic, but its sender is not a right implementation.
func trim(text []byte) (payload []byte, nextHeader uint8, ok bool) {
	end := len(text) - trailerLen
	pad := int(text[end])
	if pad > end {
		return nil, 0, false
	}
	for i, c := range text[end-pad : end] {
		if c != byte(i+1) {
			return nil, 0, false
		}
	}
	return text[:end-pad], text[end+1], true
}
