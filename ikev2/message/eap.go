package message

import "encoding/binary"

// EAP is an Extensible Authentication Protocol payload (RFC 7296, Section
// 3.16): one whole EAP message (RFC 3748, Section 4), not looked into further
// than its length.
type EAP struct {
	Data []byte // code, identifier, length (2), …
}

// Type is TypeEAP.
func (*EAP) Type() PayloadType { return TypeEAP }

// Append appends the body.
func (p *EAP) Append(b []byte) []byte { return append(b, p.Data...) }

func parseEAP(b []byte) (*EAP, error) {
	if len(b) < 4 {
		return nil, short(TypeEAP, 4, len(b))
	}
	if n := int(binary.BigEndian.Uint16(b[2:])); n != len(b) {
		return nil, syntax(ReasonPayloadSyntax, "the EAP message gives its length as %d, the payload has %d", n, len(b))
	}
	return &EAP{Data: b}, nil
}
