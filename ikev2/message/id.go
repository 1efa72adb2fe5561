package message

import "iked/internal/ident"

// ID is an Identification payload, IDi or IDr (RFC 7296, Section 3.5).
//
//	+---------------+-----------------------------------------------+
//	|    ID Type    |                   RESERVED                    |
//	~                      Identification Data                      ~
//	+---------------+-----------------------------------------------+
type ID struct {
	Responder bool // IDr
	Value     ident.ID
	// Reserved are the three reserved octets. They are zero when sent and
	// ignored when received, except that AUTH covers them as they came.
	Reserved [3]byte
}

// MaxID is the longest identity that is read, in octets. The RFC has no limit;
// names and distinguished names are far shorter, and what a stranger sends ends
// up in logs.
const MaxID = 2048

// Type is TypeIDi or TypeIDr.
func (p *ID) Type() PayloadType {
	if p.Responder {
		return TypeIDr
	}
	return TypeIDi
}

// Append appends the body: exactly the octets that AUTH covers (RFC 7296,
// Section 2.15: IDi' and IDr').
func (p *ID) Append(b []byte) []byte {
	b = append(b, byte(p.Value.Type))
	b = append(b, p.Reserved[:]...)
	return append(b, p.Value.Data...)
}

// Body is the body as it stood on the wire, for prf(SK_px, IDx').
func (p *ID) Body() []byte { return p.Append(nil) }

func parseID(b []byte, responder bool) (*ID, error) {
	t := TypeIDi
	if responder {
		t = TypeIDr
	}
	if len(b) < 4 {
		return nil, short(t, 4, len(b))
	}
	p := &ID{
		Responder: responder,
		Value:     ident.ID{Type: ident.Type(b[0]), Data: string(b[4:])},
		Reserved:  [3]byte(b[1:4]),
	}
	if len(b)-4 > MaxID {
		return nil, syntax(ReasonPayloadSyntax, "%v has %d octets of identity, at most %d are read", t, len(b)-4, MaxID)
	}
	want := -1
	switch p.Value.Type {
	case ident.Any, ident.IPv4Subnet, ident.IPv6Subnet, ident.IPv4Range, ident.IPv6Range:
		// Reserved: here they are patterns, and no peer may claim to be one.
		return nil, syntax(ReasonPayloadSyntax, "%v has the reserved ID type %d", t, b[0])
	case ident.IPv4:
		want = 4
	case ident.IPv6:
		want = 16
	}
	if want >= 0 && len(b)-4 != want {
		return nil, syntax(ReasonPayloadSyntax, "%v of ID type %d has %d octets of address, found %d", t, b[0], want, len(b)-4)
	}
	return p, nil
}
