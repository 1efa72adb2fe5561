package message

import (
	"encoding/binary"
	"net/netip"
)

// parsePayload reads the body of a payload of type t. The result aliases b.
func parsePayload(t PayloadType, b []byte) (Payload, error) {
	switch t {
	case TypeSA:
		return parseSA(b)
	case TypeID:
		return parseID(b)
	case TypeCert, TypeCertRequest:
		if len(b) < 1 {
			return nil, short(t, 1, len(b))
		}
		return &Cert{Request: t == TypeCertRequest, Encoding: b[0], Data: b[1:]}, nil
	case TypeNotify:
		return parseNotify(b)
	case TypeDelete:
		return parseDelete(b)
	case TypeAttributes:
		return parseAttributePayload(b)
	case TypeNATOA, TypeNATOADraft:
		return parseNATOA(t, b)
	case TypeFragment:
		return parseFragment(b)
	case TypeNonce:
		// RFC 2409, Section 5.
		if len(b) < 8 || len(b) > 256 {
			return nil, fault(PayloadMalformed, ReasonPayloadSyntax, "a nonce has 8 to 256 octets, found %d", len(b))
		}
	case TypeKE, TypeHash, TypeSignature, TypeNATD, TypeNATDDraft:
		if len(b) == 0 {
			return nil, short(t, 1, 0)
		}
	case TypeProposal, TypeTransform:
		return nil, fault(InvalidPayloadType, ReasonPayloadType, "%v stands outside of an SA payload", t)
	case TypeVendorID:
	default:
		// RFC 2408, Section 5.3: the type must be recognised. Private ones are the
		// business of peers that announced them, and are passed over.
		if t < firstPrivateType && t > lastAssignedISAKM {
			return nil, fault(InvalidPayloadType, ReasonPayloadType, "%v is not assigned", t)
		}
	}
	return &Opaque{Kind: t, Data: b}, nil
}

func parseID(b []byte) (*ID, error) {
	if len(b) < 4 {
		return nil, short(TypeID, 4, len(b))
	}
	return &ID{Kind: b[0], Proto: b[1], Port: binary.BigEndian.Uint16(b[2:]), Data: b[4:]}, nil
}

func parseNotify(b []byte) (*Notify, error) {
	if len(b) < 8 {
		return nil, short(TypeNotify, 8, len(b))
	}
	p := &Notify{DOI: binary.BigEndian.Uint32(b), Protocol: Protocol(b[4]), Kind: NotifyType(binary.BigEndian.Uint16(b[6:]))}
	size := int(b[5])
	if b = b[8:]; size > len(b) {
		return nil, fault(PayloadMalformed, ReasonPayloadSyntax, "%v announces an SPI of %d octets, %d are left", p.Kind, size, len(b))
	}
	if p.DOI > DOIIPsec {
		return nil, fault(DOINotSupported, ReasonDOI, "the DOI of a notify is %d, expected 0 or %d", p.DOI, DOIIPsec)
	}
	p.SPI, p.Data = b[:size:size], b[size:]
	return p, nil
}

func parseDelete(b []byte) (*Delete, error) {
	if len(b) < 8 {
		return nil, short(TypeDelete, 8, len(b))
	}
	if d := binary.BigEndian.Uint32(b); d > DOIIPsec {
		return nil, fault(DOINotSupported, ReasonDOI, "the DOI of a delete is %d, expected 0 or %d", d, DOIIPsec)
	}
	p := &Delete{Protocol: Protocol(b[4])}
	size, n := int(b[5]), int(binary.BigEndian.Uint16(b[6:]))
	b = b[8:]
	// RFC 2408, Section 3.15. A size of nothing would make any count fit.
	if size == 0 && n != 0 || size*n != len(b) {
		return nil, fault(PayloadMalformed, ReasonPayloadSyntax, "a delete announces %d SPIs of %d octets, found %d octets", n, size, len(b))
	}
	for ; len(b) > 0; b = b[size:] {
		p.SPIs = append(p.SPIs, b[:size:size])
	}
	return p, nil
}

func parseAttributePayload(b []byte) (*Attributes, error) {
	if len(b) < 4 {
		return nil, short(TypeAttributes, 4, len(b))
	}
	list, err := ParseAttributes(b[4:])
	if err != nil {
		return nil, err
	}
	return &Attributes{Kind: CfgType(b[0]), Identifier: binary.BigEndian.Uint16(b[2:]), List: list}, nil
}

func parseNATOA(t PayloadType, b []byte) (*NATOA, error) {
	if len(b) < 4 {
		return nil, short(t, 4, len(b))
	}
	a, ok := netip.AddrFromSlice(b[4:])
	if !ok || b[0] != IDIPv4Addr && b[0] != IDIPv6Addr || a.Is4() != (b[0] == IDIPv4Addr) {
		return nil, fault(PayloadMalformed, ReasonPayloadSyntax, "%v is of type %d with %d octets, expected an IPv4 or IPv6 address", t, b[0], len(b)-4)
	}
	return &NATOA{Draft: t == TypeNATOADraft, Addr: a}, nil
}
