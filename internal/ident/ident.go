// Package ident is the identity of a peer: the ID payload of RFC 7296, Section
// 3.5, the text that people write for it, and the matching of one against a
// pattern (the PAD look-up of RFC 4301, Section 4.4.3.1).
package ident

// Type is the "ID Type" of RFC 7296, Section 3.5. 0 is "any", never sent.
type Type uint8

// ID types.
const (
	Any    Type = 0
	IPv4   Type = 1
	FQDN   Type = 2
	RFC822 Type = 3
	IPv6   Type = 5
	DERDN  Type = 9
	DERGN  Type = 10
	KeyID  Type = 11
	NullID Type = 13
)

// ID is an identity. Data holds the raw octets of the ID payload's
// "Identification Data". It is comparable; the zero value is %any.
type ID struct {
	Type Type
	Data string
}

// Body is the ID payload body: type, three zero octets, data. It is what the
// AUTH calculation covers (RFC 7296, Section 2.15).
func (id ID) Body() []byte {
	return append([]byte{byte(id.Type), 0, 0, 0}, id.Data...)
}
