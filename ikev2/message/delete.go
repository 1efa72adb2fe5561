package message

import (
	"encoding/binary"

	"iked/crypto/suite"
)

// Delete is a Delete payload (RFC 7296, Section 3.11).
//
//	+---------------+---------------+-------------------------------+
//	| Protocol ID   |   SPI Size    |          Num of SPIs          |
//	~               Security Parameter Index(es) (SPI)              ~
//	+---------------+---------------+-------------------------------+
type Delete struct {
	Protocol suite.Protocol
	SPIs     []uint32 // the sender's inbound SPIs; none with ProtoIKE
}

// Type is TypeDelete.
func (*Delete) Type() PayloadType { return TypeDelete }

// Append appends the body.
func (p *Delete) Append(b []byte) []byte {
	if p.Protocol == suite.ProtoIKE {
		return append(b, byte(p.Protocol), 0, 0, 0)
	}
	b = append(b, byte(p.Protocol), 4)
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.SPIs)))
	for _, s := range p.SPIs {
		b = binary.BigEndian.AppendUint32(b, s)
	}
	return b
}

func parseDelete(b []byte) (*Delete, error) {
	if len(b) < 4 {
		return nil, short(TypeDelete, 4, len(b))
	}
	p := &Delete{Protocol: suite.Protocol(b[0])}
	size, num := int(b[1]), int(binary.BigEndian.Uint16(b[2:]))
	b = b[4:]
	if size*num != len(b) {
		return nil, syntax(ReasonPayloadSyntax, "D announces %d SPIs of %d octets, %d octets follow", num, size, len(b))
	}
	switch p.Protocol {
	case suite.ProtoIKE:
		if size != 0 || num != 0 {
			return nil, syntax(ReasonPayloadSyntax, "D of the IKE SA has no SPI, found %d of %d octets", num, size)
		}
	case suite.ProtoAH, suite.ProtoESP:
		if size != 4 {
			return nil, syntax(ReasonPayloadSyntax, "an SPI of AH and ESP has 4 octets, D gives %d", size)
		}
		p.SPIs = make([]uint32, num)
		for i := range p.SPIs {
			p.SPIs[i] = binary.BigEndian.Uint32(b[4*i:])
		}
	default:
		return nil, syntax(ReasonPayloadSyntax, "D is for IKE (1), AH (2) or ESP (3), found protocol %d", p.Protocol)
	}
	return p, nil
}
