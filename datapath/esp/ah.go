package esp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"iked/crypto/suite"
	"iked/datapath/ah"
	"iked/datapath/ip"
	"iked/sad"
	"iked/spd"
)

// An SA of AH has the number, the window, the lifetimes, the path and the modes
// of one of ESP. What differs is here: the header stands between the outer header
// and the payload, nothing follows, and the ICV covers the outer header, so that
// Seal makes that too. The ICV itself is the matter of package ah.

// initAH checks what AH cannot have and makes its algorithm.
func (c *common) initAH(sa *sad.SA) (err error) {
	switch {
	case sa.Mode == spd.BEET:
		return errors.New("BEET is a mode of ESP: use transport or tunnel mode with AH")
	case sa.Encap != nil:
		// RFC 3948, Section 1: a NAT changes what the ICV covers.
		return errors.New("AH covers the addresses and cannot pass a NAT: use ESP")
	case sa.Encr != suite.Transform{}:
		return fmt.Errorf("AH does not encrypt, the SA has %v: use ESP", sa.Encr)
	}
	c.auth, err = ah.NewAuth(sa.Integ, sa.IntegKey.Reveal())
	return err
}

// front is the number of octets between the outer header, UDP's included, and the
// payload.
func (c *common) front(p *Path) int {
	if c.auth != nil {
		return c.authLen(p)
	}
	return HeaderLen + c.cipher.IVLen()
}

func (c *common) authLen(p *Path) int {
	if p.Dst.Is4() {
		return c.auth.Len(4)
	}
	return c.auth.Len(6)
}

// sealAH is RFC 4302, Section 3.3.2 to 3.3.4: outer header, number, ICV.
func (o *Outbound) sealAH(w *Scratch, buf []byte, p *Path, pl payload, out *Sealed) Drop {
	n := o.authLen(p)
	size, hl := n+pl.n, out.Header
	if hl == 0 {
		hl = headerLen(p)
	}
	if hl+size > 65535 {
		return TooBig
	}
	// Bytes are what the algorithm processes: the whole packet.
	out.Expiry = o.meter.Add(hl + size)
	if out.Expiry.Hard() {
		return LifetimeOver
	}
	seq, ok := o.seq.Next()
	if !ok {
		return SequenceOverflow
	}
	start := pl.off - n
	pkt := buf[start-hl : start+size]
	// The kernel puts a number of its own in place of an IPv4 identification of 0,
	// which the ICV covers.
	id := max(uint16(seq), 1)
	if out.Header > 0 {
		if pkt[0]>>4 == 4 && binary.BigEndian.Uint16(pkt[4:]) == 0 {
			binary.BigEndian.PutUint16(pkt[4:], id)
		}
		complete(pkt, hl)
	} else {
		h := ip.Outer{Src: p.Src, Dst: p.Dst, Proto: ip.ProtoAH, TOS: out.TOS, TTL: out.TTL, DF: out.DF, ID: id}
		h.Put(pkt, size)
	}
	ah.Put(pkt[hl:], n, pl.nextHeader, o.sa.SPI, seq)
	if f := o.auth.Seal(&w.ah, pkt, hl, seq, o.sa.ESN); f != ah.OK {
		return authDrop(f)
	}
	out.Off, out.Len, out.Seq, out.Header = start, size, seq, hl
	return Pass
}

// OpenAH authenticates the AH packet in pkt, from its IP header on, and takes the
// header out, in place; outer is what ip.Parse said of it. The order is that of
// RFC 4302, Section 3.4: fragment, number, ICV, window; then RFC 4301, Section
// 5.2, as for ESP. After a Drop the packet must not be used.
func (i *Inbound) OpenAH(w *Scratch, pkt []byte, outer *ip.Info, out *Opened) Drop {
	*out = Opened{}
	if outer.Fragmented || outer.FragStart > outer.HeaderLen {
		return OuterFragment
	}
	at, pkt := outer.HeaderLen, pkt[:outer.TotalLen]
	n, f := i.auth.Check(pkt, at)
	if f != ah.OK {
		return authDrop(f)
	}
	seq, v := i.replay.Check(binary.BigEndian.Uint32(pkt[at+8:]))
	if v != sad.Fresh {
		return i.replayed(v)
	}
	if f := i.auth.Verify(&w.ah, pkt, at, n, seq, i.sa.ESN); f != ah.OK {
		if f == ah.BadICV {
			i.badICV.Add(1)
		}
		return authDrop(f)
	}
	out.Seq = seq
	if v, out.Newest = i.replay.Update(seq); v != sad.Fresh {
		return i.replayed(v)
	}
	if out.Expiry = i.meter.Add(len(pkt)); out.Expiry.Hard() {
		return LifetimeOver
	}
	next := pkt[at]
	if i.sa.Mode == spd.Tunnel {
		return i.unwrapTunnel(pkt[at+n:], next, outer.TOS, out)
	}
	// Transport mode: the headers before AH move up to what it protected.
	copy(pkt[n:], pkt[:at])
	b := pkt[n:]
	b[ip.NextField(b, at)] = next
	complete(b, at)
	return i.rebuilt(b, out)
}

// authDrop is the reason of a drop for a fault of an AH packet.
func authDrop(f ah.Fault) Drop {
	switch f {
	case ah.TooShort:
		return AHTooShort
	case ah.BadLength:
		return AHBadLength
	case ah.Fragmented:
		return OuterFragment
	case ah.BadOption:
		return BadOption
	}
	return BadICV
}
