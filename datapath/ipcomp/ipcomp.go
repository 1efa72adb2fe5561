// Package ipcomp compresses and restores the payloads of IP packets (RFC 3173) with
// DEFLATE (RFC 2394). It is pure: it takes octets and gives back octets, and does
// not allocate once a Coder has worked. The header before compressed octets is
//
//	+---------------+---------------+---------------+---------------+
//	|  Next Header  |     Flags     | Compression Parameter Index   |
//	+---------------+---------------+---------------+---------------+
package ipcomp

import (
	"compress/flate"
	"encoding/binary"
	"errors"
)

// HeaderLen is the length of the header.
const HeaderLen = 4

// Proto is the number of IPComp in a next header field.
const Proto = 108

// Threshold is the length of a payload below which compression is not tried: that
// of Linux, for DEFLATE with its own header gains nothing there (RFC 3173, Section
// 2.2).
const Threshold = 90

// MaxLen is the longest payload that is restored; no IP packet holds more.
const MaxLen = 65535

// Put writes the header into the first octets of b.
func Put(b []byte, next uint8, cpi uint16) {
	b[0], b[1] = next, 0
	binary.BigEndian.PutUint16(b[2:], cpi)
}

// Parse reads it; rest is what was compressed. Flags are ignored (RFC 3173, Section
// 3.3).
func Parse(b []byte) (next uint8, cpi uint16, rest []byte, ok bool) {
	if len(b) < HeaderLen {
		return 0, 0, nil, false
	}
	return b[0], binary.BigEndian.Uint16(b[2:]), b[HeaderLen:], true
}

// window is how far back what we write refers. RFC 2394 allows 32 KiB, but Linux
// restores with a window of 2 KiB since it does so page by page, and older systems
// have as little; so each piece of that length is compressed by itself.
const window = 2048

// Coder is the memory of compression, of one goroutine. The zero value is ready;
// the parts are made when they are needed, about 700 KiB for compression and 12 KiB
// for the other way.
type Coder struct {
	w   *flate.Writer
	out full
	buf [MaxLen]byte
	in  *inflater
}

// full is a writer into a fixed buffer.
type full struct {
	b []byte
	n int
}

var errFull = errors.New("no gain")

// Write implements io.Writer.
func (f *full) Write(p []byte) (int, error) {
	if len(p) > len(f.b)-f.n {
		return 0, errFull
	}
	f.n += copy(f.b[f.n:], p)
	return len(p), nil
}

// Compress puts what src becomes, without a header, at the start of dst; false: that
// is not shorter than dst, which is then untouched. dst may be a part of src.
func (c *Coder) Compress(dst, src []byte) (n int, ok bool) {
	if c.w == nil {
		// A level that the package has: no error.
		c.w, _ = flate.NewWriter(&c.out, flate.BestSpeed)
	}
	c.out.b, c.out.n = c.buf[:min(len(dst), len(c.buf))], 0
	for len(src) > 0 {
		piece := src[:min(len(src), window)]
		src = src[len(piece):]
		c.w.Reset(&c.out)
		if _, err := c.w.Write(piece); err != nil {
			return 0, false
		}
		end := c.w.Flush // ends at an octet, so that the next piece may follow
		if len(src) == 0 {
			end = c.w.Close
		}
		if end() != nil {
			return 0, false
		}
	}
	if c.out.n == 0 || c.out.n >= len(dst) {
		return 0, false // dst may be part of src, which is sent as it is
	}
	return copy(dst, c.out.b[:c.out.n]), true
}

// Errors of Restore.
var (
	// ErrCorrupt: no right compressor makes such a stream, or it is cut.
	ErrCorrupt = errors.New("corrupt DEFLATE stream")
	// ErrTooLong: it becomes longer than dst.
	ErrTooLong = errors.New("longer than a packet may be")
)

// Restore puts what src was before compression at the start of dst. It writes no
// more than dst has, however much src stands for. Octets behind the end of the
// stream are ignored: they are padding.
func (c *Coder) Restore(dst, src []byte) (n int, err error) {
	if c.in == nil {
		c.in = new(inflater)
	}
	return c.in.inflate(dst, src)
}
