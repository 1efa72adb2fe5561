// Package ah is Authentication Header packet processing (RFC 4302), pure: it
// takes whole IP packets in buffers and gives back packets in the same buffers,
// without allocation.
//
// The ICV covers the packet from its first octet on, as it will arrive: what may
// change on the way counts as zero, what changes foreseeably counts with the value
// that it will have. Those rules are in mutable4.go and mutable6.go, the
// algorithm and the lengths in auth.go.
package ah

import (
	"encoding/binary"
	"fmt"

	"iked/crypto/integ"
	"iked/crypto/suite"
)

// HeaderLen is the length of what comes before the ICV (RFC 4302, Section 2).
//
//	| Next Header | Payload Len |          Reserved           |
//	|            Security Parameters Index (SPI)              |
//	|                 Sequence Number Field                   |
//	|          Integrity Check Value-ICV (variable)           |
const HeaderLen = 12

// maxICV is the longest ICV, that of HMAC-SHA2-512-256.
const maxICV = 32

// MaxLen is the length of the longest header: in IPv6, with the longest ICV.
const MaxLen = (HeaderLen + maxICV + 7) &^ 7

// Fault says why a packet has no ICV, or not the right one. The zero value is
// none.
type Fault uint8

// Faults.
const (
	OK         Fault = iota
	TooShort         // no room for the header that the SA prescribes
	BadLength        // its Payload Len is not that of the SA's ICV
	Fragmented       // a fragment (RFC 4302, Section 3.4.1)
	BadOption        // an option or extension header is malformed, or of a kind whose mutability nobody knows
	BadICV           // not authentic
)

// Auth is the integrity algorithm of one SA. It is immutable and safe for
// concurrent use, each user with its own Scratch.
type Auth struct {
	mac  *integ.MAC
	gmac *integ.GMAC // in place of mac
	icv  int
}

// Scratch is the working memory of one goroutine. The zero value is ready.
type Scratch struct {
	head []byte
	hi   [4]byte
}

// Lens returns the length of the key, of AES-GMAC with its salt, and of the ICV,
// of AES-GMAC with its IV, in octets.
func Lens(t suite.Transform) (key, icv int, err error) {
	switch {
	case t.Type != suite.INTEG || t.KeyBits != 0:
		return 0, 0, fmt.Errorf("AH needs an integrity algorithm, found %v", t)
	case t.ID == suite.IntegNone:
		return 0, 0, fmt.Errorf("AH without an integrity algorithm protects nothing (RFC 4302, Section 3.2)")
	}
	return integ.LensAH(t.ID)
}

// NewAuth makes an Auth. The key has exactly the length that Lens gives and is
// copied.
func NewAuth(t suite.Transform, key []byte) (*Auth, error) {
	_, icv, err := Lens(t)
	if err != nil {
		return nil, err
	}
	a := &Auth{icv: icv}
	if _, _, ok := integ.GMACLens(t.ID); ok {
		a.gmac, err = integ.NewGMAC(t.ID, key)
	} else {
		a.mac, err = integ.New(t.ID, key)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Len is the length of the header in a packet of an IP version.
func (a *Auth) Len(version uint8) int { return integ.HeaderAH(a.icv, version == 6) }

// Put writes a header of n octets, which Len gives, with an ICV of zero into b.
func Put(b []byte, n int, next uint8, spi uint32, seq uint64) {
	clear(b[:n])
	b[0], b[1] = next, byte(n/4-2)
	binary.BigEndian.PutUint32(b[4:], spi)
	binary.BigEndian.PutUint32(b[8:], uint32(seq))
}

// Seal writes the ICV into the packet, whose header at octet at is complete but
// for it. The packet is as it leaves, and all its lengths are right.
func (a *Auth) Seal(w *Scratch, pkt []byte, at int, seq uint64, esn bool) Fault {
	head, f := w.form(pkt, at, a.Len(pkt[0]>>4), a.icv, true)
	if f != OK {
		return f
	}
	icv, body := pkt[at+HeaderLen:at+HeaderLen+a.icv], pkt[len(head):]
	if a.gmac != nil {
		// RFC 4543, Section 3.1: the number of the packet never repeats.
		binary.BigEndian.PutUint64(icv, seq)
		a.gmac.Sum(icv, head, body, w.tail(seq, esn))
		return OK
	}
	a.mac.Sum(icv, head, body, w.tail(seq, esn))
	return OK
}

// Verify holds the ICV of a packet that has arrived against what it should be. Its
// header of n octets is at octet at, as Check found it; seq is the whole number.
func (a *Auth) Verify(w *Scratch, pkt []byte, at, n int, seq uint64, esn bool) Fault {
	head, f := w.form(pkt, at, n, a.icv, false)
	if f != OK {
		return f
	}
	icv, body := pkt[at+HeaderLen:at+HeaderLen+a.icv], pkt[len(head):]
	ok := false
	if a.gmac != nil {
		ok = a.gmac.Verify(icv, head, body, w.tail(seq, esn))
	} else {
		ok = a.mac.Verify(icv, head, body, w.tail(seq, esn))
	}
	if !ok {
		return BadICV
	}
	return OK
}

// Check finds the length of the header at octet at of a packet that has arrived.
func (a *Auth) Check(pkt []byte, at int) (n int, f Fault) {
	if len(pkt)-at < HeaderLen {
		return 0, TooShort
	}
	version := pkt[0] >> 4
	n = (int(pkt[at+1]) + 2) * 4
	// A sender must not pad IPv4 beyond four octets (RFC 4302, Section
	// 3.3.3.2.1), but older ones, and Linux unless it is told otherwise, pad to
	// eight. The padding is authentic too.
	if n != a.Len(version) && (version != 4 || n != a.Len(6)) {
		return 0, BadLength
	}
	if len(pkt)-at < n {
		return 0, TooShort
	}
	return n, OK
}

// form copies the packet up to the end of an AH header of n octets at octet at
// into working memory, as the ICV sees it (RFC 4302, Section 3.3.3); out tells
// that the packet is still to be sent. What follows is taken as it is: everything
// behind AH is immutable.
func (w *Scratch) form(pkt []byte, at, n, icv int, out bool) ([]byte, Fault) {
	w.head = append(w.head[:0], pkt[:at+n]...)
	h := w.head
	clear(h[at+HeaderLen : at+HeaderLen+icv])
	f := BadOption
	switch h[0] >> 4 {
	case 4:
		f = mutable4(h[:at], out)
	case 6:
		f = mutable6(h[:at], out)
	}
	return h, f
}

// tail is the high half of an extended number, which stands behind the packet in
// the ICV's input and not on the wire (RFC 4302, Section 3.3.3.2.2).
func (w *Scratch) tail(seq uint64, esn bool) []byte {
	if !esn {
		return nil
	}
	binary.BigEndian.PutUint32(w.hi[:], uint32(seq>>32))
	return w.hi[:]
}
