// Package ident is the identity of a peer: the ID payload of RFC 7296, Section
// 3.5, the text that people write for it, and the matching of one against a
// pattern (the PAD look-up of RFC 4301, Section 4.4.3.1).
package ident

import "strings"

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

// Types that are patterns only and never sent in IKEv2; the numbers and the
// layout of the data are those of the IPsec DOI (RFC 2407, Section 4.6.2): address
// and mask, or first and last address.
const (
	IPv4Subnet Type = 4
	IPv6Subnet Type = 6
	IPv4Range  Type = 7
	IPv6Range  Type = 8
)

// Kerberos is a principal in text form, or a pattern for principals, of KINK (RFC 4430).
// It is a private number, never sent in IKE.
const Kerberos Type = 201

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

// IsAny tells whether this is %any.
func (id ID) IsAny() bool { return id.Type == Any }

// IsPattern tells whether the identity matches more than itself, so that it
// cannot be an own identity.
func (id ID) IsPattern() bool {
	switch id.Type {
	case Any, IPv4Subnet, IPv6Subnet, IPv4Range, IPv6Range:
		return true
	case Kerberos:
		return strings.Contains(strings.ReplaceAll(strings.ReplaceAll(id.Data, `\\`, ""), `\*`, ""), "*")
	case FQDN, RFC822:
		return wildcard(id.Data) || isRegexp(id.Data)
	case DERDN:
		rdns, err := decodeDN([]byte(id.Data))
		if err != nil {
			return false
		}
		for _, rdn := range rdns {
			for _, a := range rdn {
				if a.wildcard() {
					return true
				}
			}
		}
	}
	return false
}
