package message

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Payload is one payload of a message.
type Payload interface {
	Type() PayloadType
	// Append appends the body, without the generic header.
	Append(b []byte) []byte
}

// Opaque is a payload whose body has no structure: KE, HASH, SIG, NONCE, VID,
// NAT-D, and what is not understood.
type Opaque struct {
	Kind PayloadType
	Data []byte
}

// Type is the kind.
func (p *Opaque) Type() PayloadType { return p.Kind }

// Append appends the body.
func (p *Opaque) Append(b []byte) []byte { return append(b, p.Data...) }

// ID is an Identification payload of the IPsec DOI (RFC 2407, Section 4.6.2).
//
//	+---------------+---------------+-------------------------------+
//	|    ID Type    |  Protocol ID  |             Port              |
//	~                     Identification Data                       ~
type ID struct {
	Kind  uint8 // ID type; see internal/ident
	Proto uint8
	Port  uint16
	Data  []byte
}

// ID types that carry addresses (RFC 2407, Section 4.6.2.1).
const (
	IDIPv4Addr   uint8 = 1
	IDIPv4Subnet uint8 = 4
	IDIPv6Addr   uint8 = 5
	IDIPv6Subnet uint8 = 6
	IDIPv4Range  uint8 = 7
	IDIPv6Range  uint8 = 8
)

// Type is TypeID.
func (*ID) Type() PayloadType { return TypeID }

// Append appends the body, which is also what HASH_I and HASH_R cover.
func (p *ID) Append(b []byte) []byte {
	b = append(b, p.Kind, p.Proto)
	return append(binary.BigEndian.AppendUint16(b, p.Port), p.Data...)
}

// Range is the addresses that an ID of an address type stands for; an error for
// other types, for a length that is not the type's, a mask with holes and a
// range that ends before it starts.
func (p *ID) Range() (from, to netip.Addr, err error) {
	bad := func(format string, args ...any) (netip.Addr, netip.Addr, error) {
		return netip.Addr{}, netip.Addr{}, fault(InvalidIDInformation, ReasonPayloadSyntax, format, args...)
	}
	n := 4
	if p.Kind == IDIPv6Addr || p.Kind == IDIPv6Subnet || p.Kind == IDIPv6Range {
		n = 16
	}
	switch p.Kind {
	case IDIPv4Addr, IDIPv6Addr:
		if len(p.Data) != n {
			return bad("an ID of type %d has %d octets, found %d", p.Kind, n, len(p.Data))
		}
		from, _ = netip.AddrFromSlice(p.Data)
		return from, from, nil
	case IDIPv4Subnet, IDIPv6Subnet, IDIPv4Range, IDIPv6Range:
		if len(p.Data) != 2*n {
			return bad("an ID of type %d has %d octets, found %d", p.Kind, 2*n, len(p.Data))
		}
	default:
		return bad("an ID of type %d is no address", p.Kind)
	}
	from, _ = netip.AddrFromSlice(p.Data[:n])
	to, _ = netip.AddrFromSlice(p.Data[n:])
	if p.Kind == IDIPv4Range || p.Kind == IDIPv6Range {
		if to.Less(from) {
			return bad("the range from %v to %v ends before it starts", from, to)
		}
		return from, to, nil
	}
	bits, ok := maskBits(p.Data[n:])
	if !ok {
		return bad("the mask %v has holes", to)
	}
	prefix := netip.PrefixFrom(from, bits).Masked()
	last := prefix.Addr().AsSlice()
	for i, m := range p.Data[n:] {
		last[i] |= ^m
	}
	to, _ = netip.AddrFromSlice(last)
	return prefix.Addr(), to, nil
}

func maskBits(m []byte) (bits int, ok bool) {
	end := false
	for _, x := range m {
		for i := 7; i >= 0; i-- {
			one := x>>i&1 == 1
			if one && end {
				return 0, false
			}
			if one {
				bits++
			} else {
				end = true
			}
		}
	}
	return bits, true
}

// RangeID is the ID for an address range, in the shortest type: an address, a
// subnet, or a range.
func RangeID(from, to netip.Addr, proto uint8, port uint16) *ID {
	p := &ID{Proto: proto, Port: port}
	v6 := uint8(0)
	if from.Is6() {
		v6 = 1
	}
	if from == to {
		p.Kind, p.Data = IDIPv4Addr+4*v6, from.AsSlice()
		return p
	}
	a, b := from.AsSlice(), to.AsSlice()
	mask := make([]byte, len(a))
	subnet := true
	for i := range a {
		mask[i] = ^(a[i] ^ b[i])
		subnet = subnet && a[i]&^mask[i] == 0
	}
	if _, ok := maskBits(mask); ok && subnet {
		p.Kind, p.Data = IDIPv4Subnet+2*v6, append(a, mask...)
		return p
	}
	p.Kind, p.Data = IDIPv4Range+v6, append(a, b...)
	return p
}

// Cert is a Certificate or Certificate Request payload (RFC 2408, Sections 3.9
// and 3.10): the encoding, then the certificate or the name of a CA in DER.
type Cert struct {
	Request  bool
	Encoding uint8
	Data     []byte
}

// CertX509Signature is the encoding of an X.509 certificate for signatures.
const CertX509Signature uint8 = 4

// Type is TypeCert or TypeCertRequest.
func (p *Cert) Type() PayloadType {
	if p.Request {
		return TypeCertRequest
	}
	return TypeCert
}

// Append appends the body.
func (p *Cert) Append(b []byte) []byte { return append(append(b, p.Encoding), p.Data...) }

// NATOA is an original address (RFC 3947, Section 5.2).
type NATOA struct {
	Draft bool
	Addr  netip.Addr
}

// Type is TypeNATOA, or the drafts' number.
func (p *NATOA) Type() PayloadType {
	if p.Draft {
		return TypeNATOADraft
	}
	return TypeNATOA
}

// Append appends the body.
func (p *NATOA) Append(b []byte) []byte {
	kind := IDIPv4Addr
	if p.Addr.Is6() {
		kind = IDIPv6Addr
	}
	return append(append(b, kind, 0, 0, 0), p.Addr.AsSlice()...)
}

// Notify is a Notification payload (RFC 2408, Section 3.14).
//
//	+---------------------------------------------------------------+
//	|              Domain of Interpretation  (DOI)                  |
//	|  Protocol-ID  |   SPI Size    |      Notify Message Type      |
//	~                Security Parameter Index (SPI)                 ~
//	~                       Notification Data                       ~
type Notify struct {
	DOI      uint32
	Protocol Protocol
	SPI      []byte // ISAKMP: the two cookies, or nothing
	Kind     NotifyType
	Data     []byte
}

// Type is TypeNotify.
func (*Notify) Type() PayloadType { return TypeNotify }

// Append appends the body.
func (p *Notify) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, p.DOI)
	b = append(b, byte(p.Protocol), byte(len(p.SPI)))
	b = binary.BigEndian.AppendUint16(b, uint16(p.Kind))
	return append(append(b, p.SPI...), p.Data...)
}

func (p *Notify) check() error {
	if len(p.SPI) > 255 {
		return fmt.Errorf("%v has an SPI of %d octets, at most 255 can be written", p.Kind, len(p.SPI))
	}
	return nil
}

// Delete is a Delete payload (RFC 2408, Section 3.15).
//
//	+---------------------------------------------------------------+
//	|              Domain of Interpretation  (DOI)                  |
//	|  Protocol-Id  |   SPI Size    |           # of SPIs           |
//	~               Security Parameter Index(es) (SPI)              ~
type Delete struct {
	Protocol Protocol
	SPIs     [][]byte // all of one length: 16 with ISAKMP, 4 with AH and ESP
}

// Type is TypeDelete.
func (*Delete) Type() PayloadType { return TypeDelete }

// Append appends the body.
func (p *Delete) Append(b []byte) []byte {
	size := 0
	if len(p.SPIs) > 0 {
		size = len(p.SPIs[0])
	}
	b = binary.BigEndian.AppendUint32(b, DOIIPsec)
	b = append(b, byte(p.Protocol), byte(size))
	b = binary.BigEndian.AppendUint16(b, uint16(len(p.SPIs)))
	for _, s := range p.SPIs {
		b = append(b, s...)
	}
	return b
}

func (p *Delete) check() error {
	for _, s := range p.SPIs {
		if len(s) != len(p.SPIs[0]) || len(s) > 255 || len(p.SPIs) > 65535 {
			return fmt.Errorf("the SPIs of a delete have one length, found %d and %d octets", len(p.SPIs[0]), len(s))
		}
	}
	return nil
}

// Attributes is the Attribute payload of Mode Config and XAuth.
//
//	+---------------+---------------+-------------------------------+
//	|     Type      |   RESERVED    |           Identifier          |
//	~                        Attributes                             ~
type Attributes struct {
	Kind       CfgType
	Identifier uint16
	List       []Attribute
}

// CfgType is the type of an Attribute payload.
type CfgType uint8

// Types of an Attribute payload.
const (
	CfgRequest CfgType = 1
	CfgReply   CfgType = 2
	CfgSet     CfgType = 3
	CfgAck     CfgType = 4
)

// Type is TypeAttributes.
func (*Attributes) Type() PayloadType { return TypeAttributes }

// Append appends the body.
func (p *Attributes) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(append(b, byte(p.Kind), 0), p.Identifier)
	for _, a := range p.List {
		b = a.append(b)
	}
	return b
}
