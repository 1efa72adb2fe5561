package message

// IKESAInitRequest is the first message of all (RFC 7296, Section 1.2).
//
//	HDR, [N(COOKIE),] SAi1, KEi, Ni, [N+,] [V+]
//
// SA, KE and Nonce are never nil.
type IKESAInitRequest struct {
	Header    Header
	SA        *SA // at least one proposal; all without SPI
	KE        *KE
	Nonce     *Nonce
	Notifies  Notifies
	VendorIDs []*VendorID
}

// ParseIKESAInitRequest is the view of an IKE_SA_INIT request. Faults are
// Drop, but for a critical payload.
func ParseIKESAInitRequest(m *Message) (*IKESAInitRequest, error) {
	if err := expect(m, ExchangeIKESAInit, false); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &IKESAInitRequest{
		Header: m.Header,
		SA:     pick[*SA](k, TypeSA), KE: pick[*KE](k, TypeKE), Nonce: pick[*Nonce](k, TypeNonce),
		Notifies: m.Notifies(), VendorIDs: collect[*VendorID](m.Payloads),
	}
	k.need(v.SA != nil, TypeSA)
	k.need(v.KE != nil, TypeKE)
	k.need(v.Nonce != nil, TypeNonce)
	k.offer(v.SA)
	k.protocols(v.SA, false, 0)
	return finished(v, k)
}

// IKESAInitResponse is the second message.
//
//	HDR, SAr1, KEr, Nr, [CERTREQ+,] [N+,] [V+]     or     HDR, N+
//
// SA, KE and Nonce are all there (Accepted) or all nil; then Notifies holds
// COOKIE, INVALID_KE_PAYLOAD or another error.
type IKESAInitResponse struct {
	Header    Header
	SA        *SA // one proposal, one transform per type
	KE        *KE
	Nonce     *Nonce
	CertReqs  []*CertReq
	Notifies  Notifies
	VendorIDs []*VendorID
}

// Accepted reports whether the responder went on.
func (v *IKESAInitResponse) Accepted() bool { return v.SA != nil }

// ParseIKESAInitResponse is the view of an IKE_SA_INIT response. Faults are
// Drop: the message may be forged, the right one may still come.
func ParseIKESAInitResponse(m *Message) (*IKESAInitResponse, error) {
	if err := expect(m, ExchangeIKESAInit, true); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &IKESAInitResponse{
		Header: m.Header,
		SA:     pick[*SA](k, TypeSA), KE: pick[*KE](k, TypeKE), Nonce: pick[*Nonce](k, TypeNonce),
		CertReqs: collect[*CertReq](m.Payloads), Notifies: m.Notifies(), VendorIDs: collect[*VendorID](m.Payloads),
	}
	refused := v.SA == nil && v.KE == nil && v.Nonce == nil && (v.Notifies.Error() != nil || v.Notifies.Has(Cookie))
	if !refused {
		k.need(v.SA != nil, TypeSA)
		k.need(v.KE != nil, TypeKE)
		k.need(v.Nonce != nil, TypeNonce)
		if k.err == nil && m.Header.SPIr.IsZero() {
			k.fail(drop(ReasonZeroSPI, "the responder that accepts gives an SPI"))
		}
	}
	k.choice(v.SA)
	k.protocols(v.SA, false, 0)
	return finished(v, k)
}
