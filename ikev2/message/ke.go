package message

import "encoding/binary"

// KE is a Key Exchange payload (RFC 7296, Section 3.4).
//
//	+-------------------------------+-------------------------------+
//	|   Diffie-Hellman Group Num    |           RESERVED            |
//	~                       Key Exchange Data                       ~
//	+-------------------------------+-------------------------------+
type KE struct {
	Group uint16 // of suite's KE… numbers
	Data  []byte // public value
}

// Type is TypeKE.
func (*KE) Type() PayloadType { return TypeKE }

// Append appends the body.
func (p *KE) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, p.Group)
	return append(append(b, 0, 0), p.Data...)
}

func parseKE(b []byte) (*KE, error) {
	if len(b) < 5 {
		return nil, short(TypeKE, 5, len(b))
	}
	return &KE{Group: binary.BigEndian.Uint16(b), Data: b[4:]}, nil
}
