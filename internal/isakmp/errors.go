package isakmp

import "fmt"

// Reason names a fault in a few stable, lower-case words. It is fit to be the
// label of a counter: the set is closed and no peer can add to it.
type Reason string

// Reasons of this package.
const (
	TruncatedHeader  Reason = "truncated-header"  // fewer octets than the fixed header
	LengthMismatch   Reason = "length-mismatch"   // header Length differs from the octets received
	TruncatedPayload Reason = "truncated-payload" // a payload is longer than what is left
	PayloadLength    Reason = "payload-length"    // a payload length below 4
	TrailingOctets   Reason = "trailing-octets"   // octets behind the last payload
	TooManyPayloads  Reason = "too-many-payloads" // more payloads than Limits.Payloads
	TooLong          Reason = "too-long"          // more octets than Limits.Octets
)

// Error is a fault in the header or in the chain of payloads.
type Error struct {
	Reason Reason
	Offset int    // octets from the start of what was parsed
	Detail string // what was expected and what was found
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s at octet %d: %s", e.Reason, e.Offset, e.Detail)
}

func fault(r Reason, off int, format string, args ...any) error {
	return &Error{Reason: r, Offset: off, Detail: fmt.Sprintf(format, args...)}
}
