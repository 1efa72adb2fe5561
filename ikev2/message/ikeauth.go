package message

// AuthStage tells the messages of IKE_AUTH apart.
type AuthStage uint8

const (
	// AuthFirst: request with IDi, or response with IDr and AUTH and, when the
	// initiator has to authenticate with EAP, the first EAP message.
	AuthFirst AuthStage = iota + 1
	// AuthEAP: an EAP message and no identity, in the middle (RFC 7296, Section 2.16).
	AuthEAP
	// AuthFinal: AUTH and no identity, after EAP.
	AuthFinal
	// AuthRefused: response that is an error notify and nothing else that
	// matters.
	AuthRefused
)

func (s AuthStage) String() string {
	switch s {
	case AuthFirst:
		return "first"
	case AuthEAP:
		return "EAP"
	case AuthFinal:
		return "final"
	case AuthRefused:
		return "refused"
	}
	return "none"
}

// IKEAuthRequest is a request of IKE_AUTH (RFC 7296, Sections 1.2 and 2.16).
//
//	HDR, SK {IDi, [CERT+,] [CERTREQ+,] [IDr,] [AUTH,] [CP,] SAi2, TSi, TSr, [N+]}
//	HDR, SK {EAP}
//	HDR, SK {AUTH}
//
// With Stage AuthFirst IDi is there; AUTH is nil if the initiator wants EAP;
// SA, TSi and TSr are all there or all nil (RFC 6023, childless).
type IKEAuthRequest struct {
	Header    Header
	Stage     AuthStage
	IDi       *ID
	IDr       *ID // which identity the responder should have, a hint
	Certs     []*Cert
	CertReqs  []*CertReq
	Auth      *Auth
	EAP       *EAP
	CP        *CP
	SA        *SA
	TSi, TSr  *TrafficSelectors
	Notifies  Notifies
	VendorIDs []*VendorID
}

// ParseIKEAuthRequest is the view of an IKE_AUTH request.
func ParseIKEAuthRequest(m *Message) (*IKEAuthRequest, error) {
	if err := expect(m, ExchangeIKEAuth, false); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &IKEAuthRequest{
		Header: m.Header,
		IDi:    pick[*ID](k, TypeIDi), IDr: pick[*ID](k, TypeIDr),
		Certs: collect[*Cert](m.Payloads), CertReqs: collect[*CertReq](m.Payloads),
		Auth: pick[*Auth](k, TypeAuth), EAP: pick[*EAP](k, TypeEAP), CP: pick[*CP](k, TypeCP),
		SA: pick[*SA](k, TypeSA), TSi: pick[*TrafficSelectors](k, TypeTSi), TSr: pick[*TrafficSelectors](k, TypeTSr),
		Notifies: m.Notifies(), VendorIDs: collect[*VendorID](m.Payloads),
	}
	switch {
	case v.IDi != nil:
		v.Stage = AuthFirst
		k.child(v.SA, v.TSi, v.TSr)
		k.offer(v.SA)
	case v.EAP != nil:
		v.Stage = AuthEAP
	case v.Auth != nil:
		v.Stage = AuthFinal
	default:
		k.need(false, TypeIDi)
	}
	return finished(v, k)
}

// child checks that SA, TSi and TSr come together, and that they are about a
// Child SA.
func (k *picker) child(sa *SA, tsi, tsr *TrafficSelectors) {
	if sa == nil && tsi == nil && tsr == nil {
		return
	}
	k.need(sa != nil, TypeSA)
	k.need(tsi != nil, TypeTSi)
	k.need(tsr != nil, TypeTSr)
	k.protocols(sa, true, 0)
}

// IKEAuthResponse is a response of IKE_AUTH.
//
//	HDR, SK {IDr, [CERT+,] AUTH, [CP,] SAr2, TSi, TSr, [N+]}
//	HDR, SK {IDr, [CERT+,] AUTH, EAP}
//	HDR, SK {EAP}
//	HDR, SK {AUTH, [CP,] SAr2, TSi, TSr, [N+]}
//	HDR, SK {N(error)}
//
// With Stage AuthFirst IDr is there, and AUTH or EAP or both (RFC 5998 leaves
// AUTH out); an exchange without EAP ends only with IDr and AUTH. SA, TSi and
// TSr are all there or all nil; when nil, Notifies says why the Child SA failed,
// unless none was asked for or EAP goes on.
type IKEAuthResponse struct {
	Header    Header
	Stage     AuthStage
	IDr       *ID
	Certs     []*Cert
	Auth      *Auth
	EAP       *EAP
	CP        *CP
	SA        *SA // one proposal, one transform per type
	TSi, TSr  *TrafficSelectors
	Notifies  Notifies
	VendorIDs []*VendorID
}

// ParseIKEAuthResponse is the view of an IKE_AUTH response.
func ParseIKEAuthResponse(m *Message) (*IKEAuthResponse, error) {
	if err := expect(m, ExchangeIKEAuth, true); err != nil {
		return nil, err
	}
	k := &picker{m: m}
	v := &IKEAuthResponse{
		Header: m.Header,
		IDr:    pick[*ID](k, TypeIDr), Certs: collect[*Cert](m.Payloads),
		Auth: pick[*Auth](k, TypeAuth), EAP: pick[*EAP](k, TypeEAP), CP: pick[*CP](k, TypeCP),
		SA: pick[*SA](k, TypeSA), TSi: pick[*TrafficSelectors](k, TypeTSi), TSr: pick[*TrafficSelectors](k, TypeTSr),
		Notifies: m.Notifies(), VendorIDs: collect[*VendorID](m.Payloads),
	}
	switch {
	case v.IDr != nil && (v.Auth != nil || v.EAP != nil):
		v.Stage = AuthFirst
	case v.EAP != nil:
		v.Stage = AuthEAP
	case v.Auth != nil:
		v.Stage = AuthFinal
	case v.Notifies.Error() != nil:
		v.Stage = AuthRefused
	default:
		k.need(false, TypeAuth)
	}
	k.child(v.SA, v.TSi, v.TSr)
	k.choice(v.SA)
	return finished(v, k)
}
