package message

import (
	"encoding/binary"
	"fmt"

	"iked/internal/isakmp"
)

// Limits of an SA payload.
const (
	MaxProposals  = 128
	MaxTransforms = 1024 // in all proposals together
)

// SA is a Security Association payload of the IPsec DOI (RFC 2408, Section 3.4;
// RFC 2407, Section 4.6.1).
//
//	+---------------------------------------------------------------+
//	|              Domain of Interpretation (DOI) = 1               |
//	|                Situation = SIT_IDENTITY_ONLY                  |
//	~                         <Proposals>                           ~
//	+---------------------------------------------------------------+
type SA struct {
	// Proposals in the order of the wire. Those of one number belong together
	// (AH and ESP and IPCOMP); those of another number are an alternative.
	Proposals []Proposal
	// Raw is the body as it was received, which HASH_I and HASH_R cover (RFC
	// 2409, Section 5); nil for one that was made here.
	Raw []byte
}

// Proposal is a Proposal payload (RFC 2408, Section 3.5).
//
//	+---------------+---------------+---------------+---------------+
//	|  Proposal #   |  Protocol-Id  |    SPI Size   |# of Transforms|
//	~                        SPI (variable)                         ~
type Proposal struct {
	Number     uint8
	Protocol   Protocol
	SPI        []byte // phase 1: 0 to 16 octets that mean nothing; AH, ESP: 4; IPCOMP: 2 or 4
	Transforms []Transform
}

// Transform is a Transform payload (RFC 2408, Section 3.6).
//
//	+---------------+---------------+-------------------------------+
//	|  Transform #  |  Transform-Id |           RESERVED2           |
//	~                        SA Attributes                          ~
type Transform struct {
	Number     uint8
	ID         uint8
	Attributes []Attribute
}

// Attribute is the first of a type.
func (t *Transform) Attribute(typ uint16) (Attribute, bool) {
	for _, a := range t.Attributes {
		if a.Type == typ {
			return a, true
		}
	}
	return Attribute{}, false
}

// SPI32 is the SPI of AH or ESP; false when it does not have four octets. An
// IPCOMP CPI in four octets has two zero ones before it (RFC 2407, Section
// 4.6.1).
func (p *Proposal) SPI32() (uint32, bool) {
	switch {
	case len(p.SPI) == 4:
		return binary.BigEndian.Uint32(p.SPI), true
	case p.Protocol == ProtoIPComp && len(p.SPI) == 2:
		return uint32(binary.BigEndian.Uint16(p.SPI)), true
	}
	return 0, false
}

// Type is TypeSA.
func (*SA) Type() PayloadType { return TypeSA }

// Append appends the body: Raw if there is one.
func (p *SA) Append(b []byte) []byte {
	if p.Raw != nil {
		return append(b, p.Raw...)
	}
	b = binary.BigEndian.AppendUint32(b, DOIIPsec)
	b = binary.BigEndian.AppendUint32(b, SituationIdentityOnly)
	for i := range p.Proposals {
		b = p.Proposals[i].append(b, i == len(p.Proposals)-1)
	}
	return b
}

func (p *SA) check() error {
	if len(p.Proposals) == 0 {
		return fmt.Errorf("an SA payload has at least one proposal, found none")
	}
	for i := range p.Proposals {
		if x := &p.Proposals[i]; len(x.SPI) > 255 || len(x.Transforms) > 255 || len(x.Transforms) == 0 {
			return fmt.Errorf("proposal %d has an SPI of %d octets and %d transforms, 1 to 255 can be written: offer less", x.Number, len(x.SPI), len(x.Transforms))
		}
	}
	return nil
}

func (p *Proposal) append(b []byte, last bool) []byte {
	start := len(b)
	b = isakmp.AppendPayloadHeader(b, uint8(nextOf(last, TypeProposal)), false)
	b = append(b, p.Number, byte(p.Protocol), byte(len(p.SPI)), byte(len(p.Transforms)))
	b = append(b, p.SPI...)
	for i := range p.Transforms {
		t := &p.Transforms[i]
		at := len(b)
		b = isakmp.AppendPayloadHeader(b, uint8(nextOf(i == len(p.Transforms)-1, TypeTransform)), false)
		b = append(b, t.Number, t.ID, 0, 0)
		for _, a := range t.Attributes {
			b = a.append(b)
		}
		isakmp.PutPayloadLength(b, at)
	}
	isakmp.PutPayloadLength(b, start)
	return b
}

func nextOf(last bool, t PayloadType) PayloadType {
	if last {
		return TypeNone
	}
	return t
}

func parseSA(b []byte) (*SA, error) {
	if len(b) < 8 {
		return nil, short(TypeSA, 8, len(b))
	}
	// RFC 2407, Sections 4.2 and 4.6.1.
	if d := binary.BigEndian.Uint32(b); d != DOIIPsec {
		return nil, fault(DOINotSupported, ReasonDOI, "the DOI is %d, expected IPsec, %d", d, DOIIPsec)
	}
	if s := binary.BigEndian.Uint32(b[4:]); s != SituationIdentityOnly {
		return nil, fault(SituationNotSupported, ReasonSituation, "the situation is 0x%x, expected identity only, 1", s)
	}
	p := &SA{Raw: b}
	budget := MaxTransforms
	c := isakmp.NewChain(uint8(TypeProposal), b[8:], isakmp.Limits{Payloads: MaxProposals})
	for one, ok := c.Next(); ok; one, ok = c.Next() {
		if PayloadType(one.Type) != TypeProposal {
			return nil, fault(BadProposalSyntax, ReasonProposal, "%v stands among the proposals", PayloadType(one.Type))
		}
		prop, err := parseProposal(one.Body, &budget)
		if err != nil {
			return nil, err
		}
		p.Proposals = append(p.Proposals, prop)
	}
	return p, badProposal(c.Err())
}

func parseProposal(b []byte, budget *int) (Proposal, error) {
	var p Proposal
	if len(b) < 4 {
		return p, fault(BadProposalSyntax, ReasonProposal, "a proposal has at least 8 octets, found %d", len(b)+4)
	}
	size, num := int(b[2]), int(b[3])
	p = Proposal{Number: b[0], Protocol: Protocol(b[1])}
	b = b[4:]
	if size > len(b) {
		return p, fault(BadProposalSyntax, ReasonProposal, "proposal %d announces an SPI of %d octets, %d are left", p.Number, size, len(b))
	}
	if size > 0 {
		p.SPI = b[:size:size]
	}
	if *budget -= num; *budget < 0 {
		return p, fault(BadProposalSyntax, ReasonTooManyProposals, "at most %d transforms are read", MaxTransforms)
	}
	if num == 0 {
		return p, fault(BadProposalSyntax, ReasonProposal, "proposal %d has no transform", p.Number)
	}
	c := isakmp.NewChain(uint8(TypeTransform), b[size:], isakmp.Limits{Payloads: 255})
	for one, ok := c.Next(); ok; one, ok = c.Next() {
		if PayloadType(one.Type) != TypeTransform {
			return p, fault(BadProposalSyntax, ReasonProposal, "%v stands among the transforms of proposal %d", PayloadType(one.Type), p.Number)
		}
		t, err := parseTransform(one.Body)
		if err != nil {
			return p, err
		}
		p.Transforms = append(p.Transforms, t)
	}
	if err := badProposal(c.Err()); err != nil {
		return p, err
	}
	if len(p.Transforms) != num {
		return p, fault(BadProposalSyntax, ReasonProposal, "proposal %d announces %d transforms, found %d", p.Number, num, len(p.Transforms))
	}
	return p, nil
}

func parseTransform(b []byte) (Transform, error) {
	if len(b) < 4 {
		return Transform{}, fault(BadProposalSyntax, ReasonProposal, "a transform has at least 8 octets, found %d", len(b)+4)
	}
	attrs, err := ParseAttributes(b[4:])
	return Transform{Number: b[0], ID: b[1], Attributes: attrs}, err
}

// badProposal is a fault of the inner chains, as the notify that is about them.
func badProposal(err error) error {
	if err == nil {
		return nil
	}
	e := asError(err).(*Error)
	e.Notify = BadProposalSyntax
	return e
}
