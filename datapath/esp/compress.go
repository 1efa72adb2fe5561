package esp

import (
	"errors"
	"sync/atomic"

	"iked/datapath/ip"
	"iked/datapath/ipcomp"
)

// Compression inside of ESP (RFC 3173): what ESP would protect is made shorter first,
// the whole packet in tunnel mode, and what is behind the IP header in transport mode.
//
//	| SPI Seq IV | IPComp | compressed payload | pad | 2 | ICV |
//
// A payload that does not shrink is sent as it is, without the header, so that the
// receiver takes both. Sizes are held against the path MTU as if nothing shrank.

// gain is the adaptive part (RFC 3173, Section 2.2): when payloads do not shrink, the
// next ones are not tried, the more the longer that goes on. Workers that meet in it
// lose nothing but an attempt.
type gain struct{ failed, skip atomic.Uint32 }

// patience is how many payloads in a row may fail before some are skipped, mostSkips
// how many that becomes.
const (
	patience  = 4
	mostSkips = 256
)

// try tells whether the next payload is tried.
func (g *gain) try() bool {
	if n := g.skip.Load(); n > 0 {
		g.skip.CompareAndSwap(n, n-1)
		return false
	}
	return true
}

func (g *gain) result(ok bool) {
	if ok {
		if g.failed.Load() != 0 {
			g.failed.Store(0)
		}
		return
	}
	if n := g.failed.Add(1); n >= patience {
		g.skip.Store(min(uint32(1)<<min(n-patience+1, 16), mostSkips))
	}
}

// coder is the memory of compression; most workers need none.
func (w *Scratch) coder() *ipcomp.Coder {
	if w.comp == nil {
		w.comp = new(ipcomp.Coder)
	}
	return w.comp
}

// compress makes a payload shorter in place, if it can.
func (o *Outbound) compress(w *Scratch, buf []byte, pl payload) payload {
	if pl.n < ipcomp.Threshold || !o.gain.try() {
		return pl
	}
	// With its header it must be shorter than before.
	text := buf[pl.off : pl.off+pl.n]
	n, ok := w.coder().Compress(text[ipcomp.HeaderLen:], text)
	o.gain.result(ok)
	if !ok {
		return pl
	}
	ipcomp.Put(text, pl.nextHeader, o.sa.CPI)
	// Padding behind it would be taken for a part of what was compressed.
	return payload{off: pl.off, n: ipcomp.HeaderLen + n, nextHeader: ipcomp.Proto}
}

// CPIs are the Compression Parameter Indexes that this host gave out. All stand for
// the same algorithm, so that a packet may come under that of another SA: during a
// rekeying both are in use. The zero value is ready.
type CPIs struct{ bits [1 << 16 / 32]atomic.Uint32 }

// Set takes one in.
func (c *CPIs) Set(cpi uint16) { c.bits[cpi/32].Or(1 << (cpi % 32)) }

// Clear takes it out.
func (c *CPIs) Clear(cpi uint16) { c.bits[cpi/32].And(^uint32(1 << (cpi % 32))) }

// Has tells whether it is there; a nil set is empty.
func (c *CPIs) Has(cpi uint16) bool {
	return c != nil && c.bits[cpi/32].Load()&(1<<(cpi%32)) != 0
}

// SetCPIs tells the SA what else than its own CPI it may meet.
func (i *Inbound) SetCPIs(c *CPIs) { i.cpis = c }

// Memory gives room for restored payloads: they are longer than the buffer that they
// came in.
type Memory interface {
	// Take is room for RestoreRoom octets, until the packet in it was used.
	Take() []byte
	// Used tells how many of these octets the last Take needed.
	Used(n int)
}

// RestoreRoom is the room for a payload and the header that it gets: the outer one
// that was received, the one that is made, and the longest payload.
const (
	maxIPv4Header = 60
	restoreFront  = 2 * maxIPv4Header
	RestoreRoom   = restoreFront + ipcomp.MaxLen
)

// restore opens a compressed payload, text, of the packet in buf[at:].
func (i *Inbound) restore(w *Scratch, buf []byte, at int, text []byte, outer *Outer, out *Opened) Drop {
	next, cpi, packed, ok := ipcomp.Parse(text)
	switch {
	case !ok || next == ipcomp.Proto || next == ip.ProtoNoNext:
		return BadCompression
	case cpi != i.sa.CPI && !i.cpis.Has(cpi):
		return UnknownCPI
	case w.Memory == nil || outer.Header > maxIPv4Header:
		return NoRoom
	}
	room := w.Memory.Take()
	n, err := w.coder().Restore(room[restoreFront:], packed)
	switch {
	case errors.Is(err, ipcomp.ErrTooLong):
		return InflatedTooBig
	case err != nil:
		return BadCompression
	}
	w.Memory.Used(restoreFront + n)
	copy(room, buf[at-outer.Header:at])
	return i.unwrap(room, outer.Header, restoreFront, n, next, outer, out)
}
