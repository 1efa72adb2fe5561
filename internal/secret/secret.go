// Package secret holds key material so that it cannot be printed or compared
// by accident.
package secret

import (
	"crypto/subtle"
	"fmt"
)

const redacted = "[redacted]"

// Bytes is secret key material. It prints as "[redacted]" with every verb and
// encoder, and cannot be compared with ==. The zero value is empty.
type Bytes struct {
	_ [0]func() // not comparable
	b []byte
}

// New takes ownership of b.
func New(b []byte) Bytes { return Bytes{b: b} }

// Reveal returns the octets; the caller must not keep them longer than needed.
func (s Bytes) Reveal() []byte { return s.b }

// Len is the length in octets.
func (s Bytes) Len() int { return len(s.b) }

// Equal compares in constant time.
func (s Bytes) Equal(o Bytes) bool { return subtle.ConstantTimeCompare(s.b, o.b) == 1 }

// Clone returns an independent copy.
func (s Bytes) Clone() Bytes { return Bytes{b: append([]byte(nil), s.b...)} }

// Destroy overwrites the octets with zeros.
func (s Bytes) Destroy() { clear(s.b) }

// String implements fmt.Stringer.
func (Bytes) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Bytes) GoString() string { return redacted }

// Format implements fmt.Formatter, for every verb.
func (Bytes) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// MarshalText implements encoding.TextMarshaler.
func (Bytes) MarshalText() ([]byte, error) { return []byte(redacted), nil }
