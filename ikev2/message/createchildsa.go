package message

import "iked/crypto/suite"

// ChildKind tells the three uses of CREATE_CHILD_SA apart.
type ChildKind uint8

const (
	NewChild   ChildKind = iota + 1 // RFC 7296, Section 1.3.1
	RekeyIKE                        // Section 1.3.2
	RekeyChild                      // Section 1.3.3
)

func (c ChildKind) String() string {
	switch c {
	case NewChild:
		return "new Child SA"
	case RekeyIKE:
		return "IKE SA rekey"
	case RekeyChild:
		return "Child SA rekey"
	}
	return "none"
}

// CreateChildSARequest is a request of CREATE_CHILD_SA.
//
//	NewChild    HDR, SK {SA, Ni, [KEi,] TSi, TSr, [N+]}
//	RekeyChild  HDR, SK {N(REKEY_SA), SA, Ni, [KEi,] TSi, TSr, [N+]}
//	RekeyIKE    HDR, SK {SA, Ni, KEi}
//
// SA and Nonce are never nil. KE is never nil with RekeyIKE; TSi and TSr are
// never nil with the other two.
type CreateChildSARequest struct {
	Header Header
	Kind   ChildKind
	// RekeyProtocol and RekeySPI name the Child SA to be replaced, with
	// RekeyChild: ESP or AH and the SPI that the sender receives on.
	RekeyProtocol suite.Protocol
	RekeySPI      uint32
	SA            *SA
	Nonce         *Nonce
	KE            *KE
	TSi, TSr      *TrafficSelectors
	Notifies      Notifies
}

// ParseCreateChildSARequest is the view of a CREATE_CHILD_SA request.
func ParseCreateChildSARequest(m *Message) (*CreateChildSARequest, error) {
	if err := expect(m, ExchangeCreateChildSA, false); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &CreateChildSARequest{
		Header: m.Header,
		SA:     pick[*SA](k, TypeSA), Nonce: pick[*Nonce](k, TypeNonce), KE: pick[*KE](k, TypeKE),
		TSi: pick[*TrafficSelectors](k, TypeTSi), TSr: pick[*TrafficSelectors](k, TypeTSr),
		Notifies: m.Notifies(),
	}
	k.need(v.SA != nil, TypeSA)
	k.need(v.Nonce != nil, TypeNonce)
	if k.err != nil {
		return finished(v, k)
	}
	k.offer(v.SA)
	if v.SA.Proposals[0].Protocol == suite.ProtoIKE {
		v.Kind = RekeyIKE
		k.need(v.KE != nil, TypeKE)
		k.protocols(v.SA, false, 8)
		return finished(v, k)
	}
	v.Kind = NewChild
	k.child(v.SA, v.TSi, v.TSr)
	for n := range v.Notifies.All(RekeySA) {
		if v.Kind == RekeyChild {
			k.fail(syntax(ReasonDuplicatePayload, "REKEY_SA stands twice in CREATE_CHILD_SA"))
			break
		}
		// RFC 7296, Section 1.3.3.
		spi, ok := n.ChildSPI()
		if !ok {
			k.fail(syntax(ReasonPayloadSyntax, "REKEY_SA names AH or ESP and an SPI of 4 octets, found protocol %d and %d octets", n.Protocol, len(n.SPI)))
			break
		}
		v.Kind, v.RekeyProtocol, v.RekeySPI = RekeyChild, n.Protocol, spi
	}
	return finished(v, k)
}

// CreateChildSAResponse is a response of CREATE_CHILD_SA.
//
//	HDR, SK {SA, Nr, [KEr,] [TSi, TSr,] [N+]}     or     HDR, SK {N(error)}
//
// SA and Nonce are both there (Accepted) or both nil; then Notifies has an error.
// KE is never nil with Kind RekeyIKE; TSi and TSr are never nil with NewChild,
// which stands for RekeyChild as well: a response does not tell them apart.
type CreateChildSAResponse struct {
	Header   Header
	Kind     ChildKind // 0 when not accepted
	SA       *SA       // one proposal, one transform per type
	Nonce    *Nonce
	KE       *KE
	TSi, TSr *TrafficSelectors
	Notifies Notifies
}

// Accepted reports whether the peer agreed.
func (v *CreateChildSAResponse) Accepted() bool { return v.SA != nil }

// ParseCreateChildSAResponse is the view of a CREATE_CHILD_SA response.
func ParseCreateChildSAResponse(m *Message) (*CreateChildSAResponse, error) {
	if err := expect(m, ExchangeCreateChildSA, true); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &CreateChildSAResponse{
		Header: m.Header,
		SA:     pick[*SA](k, TypeSA), Nonce: pick[*Nonce](k, TypeNonce), KE: pick[*KE](k, TypeKE),
		TSi: pick[*TrafficSelectors](k, TypeTSi), TSr: pick[*TrafficSelectors](k, TypeTSr),
		Notifies: m.Notifies(),
	}
	if k.err == nil && v.SA == nil && v.Nonce == nil && v.Notifies.Error() != nil {
		return v, nil
	}
	k.need(v.SA != nil, TypeSA)
	k.need(v.Nonce != nil, TypeNonce)
	if k.err != nil {
		return finished(v, k)
	}
	k.choice(v.SA)
	if v.SA.Proposals[0].Protocol == suite.ProtoIKE {
		v.Kind = RekeyIKE
		k.need(v.KE != nil, TypeKE)
		k.protocols(v.SA, false, 8)
		return finished(v, k)
	}
	v.Kind = NewChild
	k.child(v.SA, v.TSi, v.TSr)
	return finished(v, k)
}
