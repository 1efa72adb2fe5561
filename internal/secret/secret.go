// Package secret holds key material so that it cannot be printed or compared
// by accident.
package secret

import (
	"crypto/subtle"
	"fmt"
	"unsafe"
)

const redacted = "[redacted]"

// Bytes is secret key material. It prints as "[redacted]" with every verb and
// encoder, and cannot be compared with ==. The zero value is empty.
//
// The octets hang on a pointer: where fmt calls no method, as with a wrong verb
// for a struct around it, an address appears and not the octets.
type Bytes struct {
	_ [0]func() // not comparable
	p *byte
	n int
}

// New takes ownership of b.
func New(b []byte) Bytes { return Bytes{p: unsafe.SliceData(b), n: len(b)} }

// Reveal returns the octets; the caller must not keep them longer than needed.
func (s Bytes) Reveal() []byte { return unsafe.Slice(s.p, s.n) }

// Len is the length in octets.
func (s Bytes) Len() int { return s.n }

// Equal compares in constant time.
func (s Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(s.Reveal(), o.Reveal()) == 1 }

// Clone returns an independent copy.
func (s Bytes) Clone() Bytes { return New(append([]byte(nil), s.Reveal()...)) }

// Destroy overwrites the octets with zeros.
func (s Bytes) Destroy() { clear(s.Reveal()) }

// String implements fmt.Stringer.
func (Bytes) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Bytes) GoString() string { return redacted }

// Format implements fmt.Formatter, for every verb.
func (Bytes) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
