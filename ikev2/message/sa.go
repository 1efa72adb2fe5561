package message

import (
	"encoding/binary"
	"fmt"

	"iked/crypto/suite"
)

// Limits of a Security Association payload.
const (
	MaxProposals  = 128
	MaxTransforms = 2048 // in all proposals together
)

// attrKeyLength is the only attribute of RFC 7296, Section 3.3.5, in its TV
// form: AF bit and type 14.
const attrKeyLength = 0x8000 | 14

// SA is a Security Association payload (RFC 7296, Section 3.3).
type SA struct {
	Proposals []Proposal // in the order of the wire
}

// Proposal is one proposal of an SA payload.
//
//	+---------------+---------------+-------------------------------+
//	| Last Substruc |   RESERVED    |         Proposal Length       |
//	| Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
//	~                        SPI (variable)                         ~
//	~                        <Transforms>                           ~
//	+---------------+---------------+-------------------------------+
type Proposal struct {
	Number uint8
	SPI    []byte // 0 or 8 octets with ProtoIKE, 4 with AH and ESP
	suite.Proposal
	// Unusable says in words why this proposal must not be chosen; empty when
	// it may be (RFC 7296, Section 3.3.6). Transforms with an attribute that is
	// not understood are not in Proposal.Transforms; when that left a transform
	// type without any, the proposal is unusable.
	Unusable string
}

// ChildSPI is the SPI of AH or ESP; false when it does not have four octets.
func (p *Proposal) ChildSPI() (uint32, bool) {
	if len(p.SPI) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(p.SPI), true
}

// IKESPI is the SPI of an IKE SA that is rekeyed; false when it does not have
// eight octets.
func (p *Proposal) IKESPI() (SPI, bool) {
	if len(p.SPI) != 8 {
		return SPI{}, false
	}
	return SPI(p.SPI), true
}

// Type is TypeSA.
func (*SA) Type() PayloadType { return TypeSA }

// Append appends the body.
func (p *SA) Append(b []byte) []byte {
	for i := range p.Proposals {
		b = p.Proposals[i].append(b, i == len(p.Proposals)-1)
	}
	return b
}

// check is for the octets that count transforms and the SPI.
func (p *SA) check() error {
	if len(p.Proposals) == 0 {
		return fmt.Errorf("an SA payload has at least one proposal, found none")
	}
	for i := range p.Proposals {
		if x := &p.Proposals[i]; len(x.SPI) > 255 || len(x.Transforms) > 255 {
			return fmt.Errorf("proposal %d has an SPI of %d octets and %d transforms, at most 255 of each can be written: offer less", x.Number, len(x.SPI), len(x.Transforms))
		}
	}
	return nil
}

func (p *Proposal) append(b []byte, last bool) []byte {
	start := len(b)
	b = append(b, more(last, 2), 0, 0, 0, p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i, t := range p.Transforms {
		b = appendTransform(b, t, i == len(p.Transforms)-1)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

func appendTransform(b []byte, t suite.Transform, last bool) []byte {
	n := byte(8)
	if t.KeyBits != 0 {
		n = 12
	}
	b = append(b, more(last, 3), 0, 0, n, byte(t.Type), 0)
	b = binary.BigEndian.AppendUint16(b, t.ID)
	if t.KeyBits != 0 {
		b = binary.BigEndian.AppendUint16(b, attrKeyLength)
		b = binary.BigEndian.AppendUint16(b, t.KeyBits)
	}
	return b
}

// more is the Last Substruc octet.
func more(last bool, v byte) byte {
	if last {
		return 0
	}
	return v
}

func parseSA(b []byte) (*SA, error) {
	p := new(SA)
	budget := MaxTransforms
	for last := false; !last; {
		if len(p.Proposals) == MaxProposals {
			return nil, syntax(ReasonTooManyProposals, "at most %d proposals are read", MaxProposals)
		}
		one, l, rest, err := substructure(b, "proposal", 2, 8)
		if err != nil {
			return nil, err
		}
		prop, err := parseProposal(one, &budget)
		if err != nil {
			return nil, err
		}
		p.Proposals = append(p.Proposals, prop)
		b, last = rest, l
	}
	if len(b) != 0 {
		return nil, syntax(ReasonProposal, "%d octets follow the last proposal", len(b))
	}
	return p, nil
}

// substructure cuts the first proposal or transform off b: more is the value
// of its first octet when another follows, least its shortest length.
func substructure(b []byte, what string, more byte, least int) (one []byte, last bool, rest []byte, err error) {
	if len(b) < least {
		return nil, false, nil, syntax(ReasonProposal, "a %s has at least %d octets, %d are left", what, least, len(b))
	}
	if b[0] != 0 && b[0] != more {
		return nil, false, nil, syntax(ReasonProposal, "the first octet of a %s is 0 or %d, found %d", what, more, b[0])
	}
	n := int(binary.BigEndian.Uint16(b[2:]))
	if n < least || n > len(b) {
		return nil, false, nil, syntax(ReasonProposal, "a %s gives its length as %d, %d octets are left", what, n, len(b))
	}
	return b[:n:n], b[0] == 0, b[n:], nil
}

func parseProposal(b []byte, budget *int) (Proposal, error) {
	p := Proposal{Number: b[4], Proposal: suite.Proposal{Protocol: suite.Protocol(b[5])}}
	size, num := int(b[6]), int(b[7])
	b = b[8:]
	if size > len(b) {
		return p, syntax(ReasonProposal, "proposal %d announces an SPI of %d octets, %d are left", p.Number, size, len(b))
	}
	if size > 0 {
		p.SPI = b[:size:size]
	}
	b = b[size:]
	if num == 0 {
		p.Unusable = "it has no transform"
		if len(b) != 0 {
			return p, syntax(ReasonProposal, "proposal %d has no transform, yet %d octets follow", p.Number, len(b))
		}
		return p, p.checkSPI()
	}
	if *budget -= num; *budget < 0 {
		return p, syntax(ReasonTooManyProposals, "at most %d transforms are read", MaxTransforms)
	}
	p.Transforms = make([]suite.Transform, 0, num)
	var refused []suite.TransformType
	for i := range num {
		one, last, rest, err := substructure(b, "transform", 3, 8)
		if err != nil {
			return p, err
		}
		if last != (i == num-1) {
			return p, syntax(ReasonProposal, "proposal %d announces %d transforms, the last mark is wrong at number %d", p.Number, num, i+1)
		}
		t, understood, err := parseTransform(one)
		if err != nil {
			return p, err
		}
		if understood {
			p.Transforms = append(p.Transforms, t)
		} else {
			refused = append(refused, t.Type)
		}
		b = rest
	}
	if len(b) != 0 {
		return p, syntax(ReasonProposal, "%d octets follow the last transform of proposal %d", len(b), p.Number)
	}
	for _, r := range refused {
		if !p.has(r) {
			p.Unusable = "no transform of one type has only attributes that are understood"
		}
	}
	return p, p.checkSPI()
}

// checkSPI holds the SPI's size against the protocol (RFC 7296, Section
// 3.3.1). What protocols that are not known do is their affair.
func (p *Proposal) checkSPI() error {
	n := len(p.SPI)
	switch p.Protocol {
	case suite.ProtoIKE:
		if n != 0 && n != 8 {
			return syntax(ReasonProposal, "an SPI of IKE has 0 or 8 octets, proposal %d has %d", p.Number, n)
		}
	case suite.ProtoAH, suite.ProtoESP:
		if n != 4 {
			return syntax(ReasonProposal, "an SPI of AH and ESP has 4 octets, proposal %d has %d", p.Number, n)
		}
	default:
		p.Unusable = "its protocol is not IKE, AH or ESP"
	}
	return nil
}

func (p *Proposal) has(t suite.TransformType) bool {
	for _, x := range p.Transforms {
		if x.Type == t {
			return true
		}
	}
	return false
}

// parseTransform reads one whole transform. understood is false when it has an
// attribute other than one Key Length: such a transform is not acceptable
// (RFC 7296, Section 3.3.6).
//
//	+---------------+---------------+-------------------------------+
//	| Last Substruc |   RESERVED    |        Transform Length       |
//	|Transform Type |   RESERVED    |          Transform ID         |
//	~                      Transform Attributes                     ~
//	+---------------+---------------+-------------------------------+
func parseTransform(b []byte) (t suite.Transform, understood bool, err error) {
	t.Type = suite.TransformType(b[4])
	t.ID = binary.BigEndian.Uint16(b[6:])
	understood = true
	for b = b[8:]; len(b) > 0; {
		if len(b) < 4 {
			return t, false, syntax(ReasonProposal, "an attribute has at least 4 octets, %d are left", len(b))
		}
		typ, val := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
		b = b[4:]
		if typ&0x8000 == 0 {
			if int(val) > len(b) {
				return t, false, syntax(ReasonProposal, "attribute %d announces %d octets, %d are left", typ, val, len(b))
			}
			b = b[val:]
		}
		if typ != attrKeyLength || t.KeyBits != 0 || val == 0 {
			understood = false
			continue
		}
		t.KeyBits = val
	}
	return t, understood, nil
}
