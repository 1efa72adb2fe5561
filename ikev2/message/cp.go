package message

import (
	"encoding/binary"
	"net/netip"
)

// CPType is the type of a Configuration payload (RFC 7296, Section 3.15).
type CPType uint8

// Types of a Configuration payload.
const (
	CFGRequest CPType = 1
	CFGReply   CPType = 2
	CFGSet     CPType = 3
	CFGAck     CPType = 4
)

// CPAttributeType is the type of a configuration attribute (RFC 7296, Section
// 3.15.1), 15 bits.
type CPAttributeType uint16

// Configuration attributes.
const (
	InternalIP4Address   CPAttributeType = 1
	InternalIP4Netmask   CPAttributeType = 2
	InternalIP4DNS       CPAttributeType = 3
	InternalIP4NBNS      CPAttributeType = 4
	InternalIP4DHCP      CPAttributeType = 6
	ApplicationVersion   CPAttributeType = 7
	InternalIP6Address   CPAttributeType = 8
	InternalIP6DNS       CPAttributeType = 10
	InternalIP6DHCP      CPAttributeType = 12
	InternalIP4Subnet    CPAttributeType = 13
	SupportedAttributes  CPAttributeType = 14
	InternalIP6Subnet    CPAttributeType = 15
	MIP6HomePrefix       CPAttributeType = 16
	InternalIP6Link      CPAttributeType = 17
	InternalIP6Prefix    CPAttributeType = 18
	HomeAgentAddress     CPAttributeType = 19
	PCSCFIP4Address      CPAttributeType = 20
	PCSCFIP6Address      CPAttributeType = 21
	FTTKAT               CPAttributeType = 22
	ExternalSourceIP4NAT CPAttributeType = 23
	TimeoutForLiveness   CPAttributeType = 24
	InternalDNSDomain    CPAttributeType = 25
	InternalDNSSECTA     CPAttributeType = 26
	ENCDNSIP4            CPAttributeType = 27
	ENCDNSIP6            CPAttributeType = 28
	ENCDNSDigest         CPAttributeType = 29
)

// CPAttribute is one configuration attribute. An empty Value in a request asks
// for any value.
type CPAttribute struct {
	Type  CPAttributeType
	Value []byte
}

// NewCPAddr is an attribute that holds an address; for InternalIP6Address it
// gets a prefix length of 128.
func NewCPAddr(t CPAttributeType, a netip.Addr) CPAttribute {
	v := a.Unmap().AsSlice()
	if t == InternalIP6Address {
		v = append(v, 128)
	}
	return CPAttribute{Type: t, Value: v}
}

// NewCPSubnet is an attribute that holds a subnet: InternalIP4Subnet (address
// and mask) or InternalIP6Subnet (address and prefix length).
func NewCPSubnet(p netip.Prefix) CPAttribute {
	if p.Addr().Is4() {
		mask := ^uint32(0)
		if p.Bits() < 32 {
			mask = ^(mask >> p.Bits())
		}
		return CPAttribute{Type: InternalIP4Subnet, Value: binary.BigEndian.AppendUint32(p.Addr().AsSlice(), mask)}
	}
	return CPAttribute{Type: InternalIP6Subnet, Value: append(p.Addr().AsSlice(), byte(p.Bits()))}
}

// Addr is the address of a value of 4, 16 or 17 octets (the 17th is a prefix
// length); false for other values, the empty one among them.
func (a CPAttribute) Addr() (netip.Addr, bool) {
	v := a.Value
	if len(v) == 17 {
		v = v[:16]
	}
	return netip.AddrFromSlice(v)
}

// Subnet is the subnet of a value of 8 octets (address and mask) or 17 (address
// and prefix length); false for other values and for masks with holes.
func (a CPAttribute) Subnet() (netip.Prefix, bool) {
	switch v := a.Value; len(v) {
	case 8:
		addr, mask := netip.AddrFrom4([4]byte(v)), binary.BigEndian.Uint32(v[4:])
		for bits := range 33 {
			if uint64(mask) == 1<<32-1<<(32-bits) {
				return netip.PrefixFrom(addr, bits).Masked(), true
			}
		}
	case 17:
		p := netip.PrefixFrom(netip.AddrFrom16([16]byte(v)), int(v[16]))
		return p.Masked(), p.IsValid()
	}
	return netip.Prefix{}, false
}

// CP is a Configuration payload (RFC 7296, Section 3.15).
//
//	+---------------+-----------------------------------------------+
//	|   CFG Type    |                    RESERVED                   |
//	~                   Configuration Attributes                    ~
//	+---------------+-----------------------------------------------+
//	|R|         Attribute Type      |            Length             |
//	~                             Value                             ~
//	+-------------------------------+-------------------------------+
type CP struct {
	Kind       CPType
	Attributes []CPAttribute // in the order of the wire
}

// MaxCPAttributes is the most attributes that one CP payload may hold.
const MaxCPAttributes = 1024

// Type is TypeCP.
func (*CP) Type() PayloadType { return TypeCP }

// Append appends the body.
func (p *CP) Append(b []byte) []byte {
	b = append(b, byte(p.Kind), 0, 0, 0)
	for _, a := range p.Attributes {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Type)&0x7fff)
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Value)))
		b = append(b, a.Value...)
	}
	return b
}

// Find is the first attribute of that type; false when there is none.
func (p *CP) Find(t CPAttributeType) (CPAttribute, bool) {
	for _, a := range p.Attributes {
		if a.Type == t {
			return a, true
		}
	}
	return CPAttribute{}, false
}

func parseCP(b []byte) (*CP, error) {
	if len(b) < 4 {
		return nil, short(TypeCP, 4, len(b))
	}
	p := &CP{Kind: CPType(b[0])}
	for b = b[4:]; len(b) > 0; {
		if len(b) < 4 {
			return nil, syntax(ReasonPayloadSyntax, "a configuration attribute has at least 4 octets, %d are left", len(b))
		}
		if len(p.Attributes) == MaxCPAttributes {
			return nil, syntax(ReasonPayloadSyntax, "at most %d configuration attributes are read", MaxCPAttributes)
		}
		t, n := CPAttributeType(binary.BigEndian.Uint16(b)&0x7fff), int(binary.BigEndian.Uint16(b[2:]))
		b = b[4:]
		if n > len(b) {
			return nil, syntax(ReasonPayloadSyntax, "configuration attribute %d announces %d octets, %d are left", t, n, len(b))
		}
		p.Attributes = append(p.Attributes, CPAttribute{Type: t, Value: b[:n:n]})
		b = b[n:]
	}
	return p, nil
}
