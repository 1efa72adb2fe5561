package isakmp

import "encoding/binary"

// PayloadHeaderLen is the length of a generic payload header in octets.
const PayloadHeaderLen = 4

// NoNext in a Next Payload field says that no payload follows.
const NoNext = 0

// Limits bound the work that a chain of payloads may cause. A zero field
// takes its default.
type Limits struct {
	Payloads int // most payloads in a chain; default 64
	Octets   int // most octets in a chain; default 65,535
	// Last are payload types that end a chain although their Next Payload
	// field is not zero, because the field speaks of something else: IKEv2's
	// SK and SKF (RFC 7296, Section 3.14; RFC 7383, Section 2.5).
	Last [2]uint8
	// Align is the boundary, in octets, at which each payload starts; 0 is 1.
	// KINK pads payloads to 4 outside of their length (RFC 4430, Section 4.2).
	Align int
	// Trailing lets octets stand behind the last payload, as the padding of an
	// encrypted IKEv1 message does (RFC 2409, Appendix B); see Rest.
	Trailing bool
}

// Defaults of Limits.
const (
	DefaultPayloads = 64
	DefaultOctets   = 65535
)

// Payload is one payload of a chain.
type Payload struct {
	Type     uint8
	Next     uint8 // Next Payload field, the type of the payload behind this one
	Critical bool
	Offset   int    // of the generic header from the start of the chain
	Body     []byte // behind the generic header; aliases the octets given to NewChain
}

// Chain walks a chain of payloads once, front to back, without allocation:
//
//	c := NewChain(h.NextPayload, b[HeaderLen:], Limits{})
//	for p, ok := c.Next(); ok; p, ok = c.Next() { … }
//	if err := c.Err(); err != nil { … }
//
// The chain must end exactly where the octets end.
//
//	+-------------------------------+-------------------------------+
//	| Next Payload  |C|  RESERVED   |         Payload Length        |
//	+-------------------------------+-------------------------------+
type Chain struct {
	rest  []byte
	next  uint8
	off   int
	count int
	lim   Limits
	err   error
}

// NewChain starts at the payload of type first at b[0]. With first NoNext, b
// must be empty.
func NewChain(first uint8, b []byte, lim Limits) Chain {
	if lim.Payloads == 0 {
		lim.Payloads = DefaultPayloads
	}
	if lim.Octets == 0 {
		lim.Octets = DefaultOctets
	}
	c := Chain{rest: b, next: first, lim: lim}
	if len(b) > lim.Octets {
		c.err = fault(TooLong, 0, "at most %d octets of payloads are read, found %d", lim.Octets, len(b))
	}
	return c
}

// Next returns the next payload; false at the end and at the first fault.
func (c *Chain) Next() (Payload, bool) {
	if c.err != nil {
		return Payload{}, false
	}
	if c.next == NoNext {
		if len(c.rest) != 0 && !c.lim.Trailing {
			c.err = fault(TrailingOctets, c.off, "no payload is announced, yet %d octets follow", len(c.rest))
		}
		return Payload{}, false
	}
	if c.count == c.lim.Payloads {
		c.err = fault(TooManyPayloads, c.off, "at most %d payloads are read", c.lim.Payloads)
		return Payload{}, false
	}
	if len(c.rest) < PayloadHeaderLen {
		c.err = fault(TruncatedPayload, c.off, "a payload of type %d is announced, only %d octets are left", c.next, len(c.rest))
		return Payload{}, false
	}
	n := int(binary.BigEndian.Uint16(c.rest[2:]))
	if n < PayloadHeaderLen {
		c.err = fault(PayloadLength, c.off, "payload of type %d gives its length as %d, at least %d are needed", c.next, n, PayloadHeaderLen)
		return Payload{}, false
	}
	if n > len(c.rest) {
		c.err = fault(TruncatedPayload, c.off, "payload of type %d has %d octets, only %d are left", c.next, n, len(c.rest))
		return Payload{}, false
	}
	p := Payload{
		Type:     c.next,
		Next:     c.rest[0],
		Critical: c.rest[1]&0x80 != 0,
		Offset:   c.off,
		Body:     c.rest[PayloadHeaderLen:n:n],
	}
	c.next = p.Next
	if p.Type == c.lim.Last[0] || p.Type == c.lim.Last[1] {
		c.next = NoNext
	}
	if a := c.lim.Align; a > 1 {
		// The last payload of a chain may lack its padding.
		n = min((n+a-1)/a*a, len(c.rest))
	}
	c.rest = c.rest[n:]
	c.off += n
	c.count++
	return p, true
}

// Err is the fault that ended the walk; nil at a proper end.
func (c *Chain) Err() error { return c.err }

// Rest is what has not been walked; with Limits.Trailing and after a proper end
// it is the padding.
func (c *Chain) Rest() []byte { return c.rest }

// Count is the number of payloads walked so far.
func (c *Chain) Count() int { return c.count }

// AppendPayloadHeader appends a generic header with the length field zero.
// PutPayloadLength fills it when the body is written.
func AppendPayloadHeader(b []byte, next uint8, critical bool) []byte {
	var c uint8
	if critical {
		c = 0x80
	}
	return append(b, next, c, 0, 0)
}

// PutPayloadLength sets the length field of the payload that starts at
// b[start] and ends at the end of b. It reports false, and writes nothing, if
// the payload is longer than 65,535 octets.
func PutPayloadLength(b []byte, start int) bool {
	n := len(b) - start
	if n > 0xffff {
		return false
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(n))
	return true
}
