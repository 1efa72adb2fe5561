package message

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Traffic selector types (RFC 7296, Section 3.13.1; RFC 9478).
const (
	TSIPv4     uint8 = 7
	TSIPv6     uint8 = 8
	TSFC       uint8 = 9
	TSSecLabel uint8 = 10
)

// TS is one traffic selector: an address range, a protocol and a port range.
// Ports are as on the wire: 0 to 65535 is any, 65535 to 0 is OPAQUE, for ICMP
// type<<8|code.
//
//	+---------------+---------------+-------------------------------+
//	|   TS Type     |IP Protocol ID*|       Selector Length         |
//	|           Start Port*         |           End Port*           |
//	~                         Starting Address*                     ~
//	~                         Ending Address*                       ~
//	+---------------+---------------+-------------------------------+
type TS struct {
	Type      uint8 // TSIPv4 or TSIPv6
	Proto     uint8 // 0: any
	StartPort uint16
	EndPort   uint16
	Start     netip.Addr
	End       netip.Addr
}

// UnknownTS is a selector of a type that is not understood.
type UnknownTS struct {
	Type  uint8
	Proto uint8  // the octet behind the type
	Body  []byte // behind type, protocol and length
}

// TrafficSelectors is a TSi or TSr payload (RFC 7296, Section 3.13).
type TrafficSelectors struct {
	Responder bool // TSr
	TS        []TS // in the order of the wire
	// Unknown are selectors of other types. They are skipped: an offer that
	// holds nothing else has an empty TS, which no policy can accept.
	Unknown []UnknownTS
}

// Type is TypeTSi or TypeTSr.
func (p *TrafficSelectors) Type() PayloadType {
	if p.Responder {
		return TypeTSr
	}
	return TypeTSi
}

// Append appends the body: the selectors of TS, then those of Unknown. At most
// 255 of both fit into a payload.
func (p *TrafficSelectors) Append(b []byte) []byte {
	b = append(b, byte(len(p.TS)+len(p.Unknown)), 0, 0, 0)
	for _, t := range p.TS {
		start, end := t.Start.AsSlice(), t.End.AsSlice()
		b = append(b, t.Type, t.Proto)
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(start)+len(end)))
		b = binary.BigEndian.AppendUint16(b, t.StartPort)
		b = binary.BigEndian.AppendUint16(b, t.EndPort)
		b = append(append(b, start...), end...)
	}
	for _, u := range p.Unknown {
		b = append(b, u.Type, u.Proto)
		b = binary.BigEndian.AppendUint16(b, uint16(4+len(u.Body)))
		b = append(b, u.Body...)
	}
	return b
}

// check is for the octet that counts selectors, and for addresses that are not
// of the type.
func (p *TrafficSelectors) check() error {
	if n := len(p.TS) + len(p.Unknown); n == 0 || n > 255 {
		return fmt.Errorf("%v has 1 to 255 selectors, found %d: propose fewer, wider ones", p.Type(), n)
	}
	for i, t := range p.TS {
		is4, is6 := t.Start.Is4() && t.End.Is4(), t.Start.Is6() && t.End.Is6()
		if !(t.Type == TSIPv4 && is4 || t.Type == TSIPv6 && is6) {
			return fmt.Errorf("selector %d of %v has type %d and addresses %v to %v: the family is another", i+1, p.Type(), t.Type, t.Start, t.End)
		}
	}
	return nil
}

func parseTrafficSelectors(b []byte, responder bool) (*TrafficSelectors, error) {
	p := &TrafficSelectors{Responder: responder}
	if len(b) < 4 {
		return nil, short(p.Type(), 4, len(b))
	}
	n := int(b[0])
	if n == 0 {
		return nil, syntax(ReasonPayloadSyntax, "%v has no selector", p.Type())
	}
	b = b[4:]
	for i := range n {
		if len(b) < 4 {
			return nil, syntax(ReasonPayloadSyntax, "%v announces %d selectors, ends in number %d", p.Type(), n, i+1)
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < 4 || size > len(b) {
			return nil, syntax(ReasonPayloadSyntax, "selector %d of %v gives its length as %d, %d octets are left", i+1, p.Type(), size, len(b))
		}
		one := b[:size:size]
		b = b[size:]
		if one[0] != TSIPv4 && one[0] != TSIPv6 {
			p.Unknown = append(p.Unknown, UnknownTS{Type: one[0], Proto: one[1], Body: one[4:]})
			continue
		}
		t, err := parseTS(one)
		if err != nil {
			return nil, err
		}
		p.TS = append(p.TS, t)
	}
	if len(b) != 0 {
		return nil, syntax(ReasonPayloadSyntax, "%v announces %d selectors, %d octets follow them", p.Type(), n, len(b))
	}
	return p, nil
}

// parseTS reads one whole IPv4 or IPv6 selector.
func parseTS(b []byte) (TS, error) {
	size := 4
	if b[0] == TSIPv6 {
		size = 16
	}
	if len(b) != 8+2*size {
		return TS{}, syntax(ReasonPayloadSyntax, "a selector of type %d has %d octets, found %d", b[0], 8+2*size, len(b))
	}
	start, _ := netip.AddrFromSlice(b[8 : 8+size])
	end, _ := netip.AddrFromSlice(b[8+size:])
	t := TS{
		Type: b[0], Proto: b[1],
		StartPort: binary.BigEndian.Uint16(b[4:]),
		EndPort:   binary.BigEndian.Uint16(b[6:]),
		Start:     start, End: end,
	}
	if t.End.Less(t.Start) {
		return TS{}, syntax(ReasonPayloadSyntax, "a selector's addresses run backwards, from %v to %v", t.Start, t.End)
	}
	// RFC 7296, Section 3.13.1: 65535 to 0 is OPAQUE.
	if t.StartPort > t.EndPort && !(t.StartPort == 65535 && t.EndPort == 0) {
		return TS{}, syntax(ReasonPayloadSyntax, "a selector's ports run backwards, from %d to %d", t.StartPort, t.EndPort)
	}
	return t, nil
}
