package ikev1

import (
	"fmt"

	"iked/ikev1/message"
	"iked/internal/ident"
)

// idPayload is the ID payload of phase 1: protocol and port are zero, as
// everybody accepts them (RFC 2407, Section 4.6.2).
func idPayload(id ident.ID) *message.ID {
	return &message.ID{Kind: uint8(id.Type), Data: []byte(id.Data)}
}

// identity reads the ID payload of phase 1 (RFC 2407, Section 4.6.2; with NAT
// traversal the port may be the floated one, RFC 3947, Section 4).
func identity(p *message.ID) (ident.ID, error) {
	if !(p.Proto == 0 && p.Port == 0) && !(p.Proto == 17 && (p.Port == 0 || p.Port == portIKE || p.Port == portNATT)) {
		return ident.ID{}, fmt.Errorf("the ID of phase 1 has protocol %d and port %d, expected 0 and 0, or 17 and 500", p.Proto, p.Port)
	}
	id := ident.ID{Type: ident.Type(p.Kind), Data: string(p.Data)}
	switch id.Type {
	case ident.IPv4, ident.IPv6:
		if from, _, err := p.Range(); err != nil {
			return ident.ID{}, err
		} else {
			return ident.FromAddr(from), nil
		}
	case ident.FQDN, ident.RFC822, ident.DERDN, ident.DERGN, ident.KeyID:
		if len(p.Data) == 0 {
			return ident.ID{}, fmt.Errorf("the ID of type %d is empty", p.Kind)
		}
		return id, nil
	}
	// Subnets and ranges are nobody's identity: taken as one, they would match
	// patterns that they merely resemble.
	return ident.ID{}, fmt.Errorf("ID type %d is no identity of a peer", p.Kind)
}
