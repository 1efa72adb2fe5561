package message

import (
	"fmt"
	"net/netip"
	"testing"

	"iked/crypto/suite"
	"iked/internal/ident"
)

func ikeSA(spi ...byte) *SA {
	return &SA{Proposals: []Proposal{{Number: 1, SPI: spi, Proposal: suite.Proposal{Protocol: suite.ProtoIKE, Transforms: []suite.Transform{
		{Type: suite.ENCR, ID: 20, KeyBits: 256}, {Type: suite.PRF, ID: 5}, {Type: suite.KE, ID: 31},
	}}}}}
}

func espSA() *SA {
	return &SA{Proposals: []Proposal{{Number: 1, SPI: []byte{1, 2, 3, 4}, Proposal: suite.Proposal{Protocol: suite.ProtoESP, Transforms: []suite.Transform{
		{Type: suite.ENCR, ID: 20, KeyBits: 256}, {Type: suite.SN, ID: 0},
	}}}}}
}

func selectors(responder bool) *TrafficSelectors {
	a := netip.MustParseAddr("10.0.0.1")
	return &TrafficSelectors{Responder: responder, TS: []TS{{Type: TSIPv4, EndPort: 65535, Start: a, End: a}}}
}

// Payloads of the messages below.
var (
	pKE    = &KE{Group: 31, Data: make([]byte, 32)}
	pNonce = &Nonce{Data: make([]byte, 32)}
	pIDi   = &ID{Value: ident.ID{Type: ident.FQDN, Data: "a"}}
	pIDr   = &ID{Responder: true, Value: ident.ID{Type: ident.FQDN, Data: "b"}}
	pAuth  = &Auth{Method: AuthPSK, Data: make([]byte, 32)}
	pEAP   = &EAP{Data: []byte{1, 1, 0, 5, 1}}
	pCP    = &CP{Kind: CFGRequest}
	pRekey = NewChildNotify(RekeySA, suite.ProtoESP, 7)
	newSPI = []byte{1, 2, 3, 4, 5, 6, 7, 8}
)

// view reads a message with the view of its exchange and direction and says
// which kind it found.
func view(m *Message) (kind string, err error) {
	switch x := m.Header.Exchange; {
	case x == ExchangeIKESAInit && !m.IsResponse():
		_, err = ParseIKESAInitRequest(m)
	case x == ExchangeIKESAInit:
		v, e := ParseIKESAInitResponse(m)
		if err = e; e == nil {
			kind = fmt.Sprintf("accepted %t", v.Accepted())
		}
	case x == ExchangeIKEAuth && !m.IsResponse():
		v, e := ParseIKEAuthRequest(m)
		if err = e; e == nil {
			kind = v.Stage.String()
		}
	case x == ExchangeIKEAuth:
		v, e := ParseIKEAuthResponse(m)
		if err = e; e == nil {
			kind = v.Stage.String()
		}
	case x == ExchangeCreateChildSA && !m.IsResponse():
		v, e := ParseCreateChildSARequest(m)
		if err = e; e == nil {
			kind = v.Kind.String()
		}
	case x == ExchangeCreateChildSA:
		v, e := ParseCreateChildSAResponse(m)
		if err = e; e == nil {
			kind = v.Kind.String()
		}
	default:
		_, err = ParseInformational(m)
	}
	return kind, err
}

var messages = []struct {
	name     string
	x        Exchange
	response bool
	ps       []Payload
	required []PayloadType // without one of these it is no message
	kind     string
}{
	{"IKE_SA_INIT request", ExchangeIKESAInit, false, []Payload{ikeSA(), pKE, pNonce}, []PayloadType{TypeSA, TypeKE, TypeNonce}, ""},
	{"IKE_SA_INIT response", ExchangeIKESAInit, true, []Payload{ikeSA(), pKE, pNonce}, []PayloadType{TypeSA, TypeKE, TypeNonce}, "accepted true"},
	{"IKE_SA_INIT cookie", ExchangeIKESAInit, true, []Payload{NewNotify(Cookie, []byte("c"))}, []PayloadType{TypeNotify}, "accepted false"},
	{"IKE_SA_INIT refusal", ExchangeIKESAInit, true, []Payload{NewInvalidKE(19)}, []PayloadType{TypeNotify}, "accepted false"},
	{"IKE_AUTH request", ExchangeIKEAuth, false, []Payload{pIDi, pAuth, espSA(), selectors(false), selectors(true), pCP}, []PayloadType{TypeSA, TypeTSi, TypeTSr}, "first"},
	{"IKE_AUTH request for EAP", ExchangeIKEAuth, false, []Payload{pIDi, espSA(), selectors(false), selectors(true)}, []PayloadType{TypeIDi, TypeSA, TypeTSi, TypeTSr}, "first"},
	{"IKE_AUTH request childless", ExchangeIKEAuth, false, []Payload{pIDi, pAuth}, nil, "first"},
	{"IKE_AUTH request EAP", ExchangeIKEAuth, false, []Payload{pEAP}, []PayloadType{TypeEAP}, "EAP"},
	{"IKE_AUTH request final", ExchangeIKEAuth, false, []Payload{pAuth}, []PayloadType{TypeAuth}, "final"},
	{"IKE_AUTH response", ExchangeIKEAuth, true, []Payload{pIDr, pAuth, espSA(), selectors(false), selectors(true)}, []PayloadType{TypeSA, TypeTSi, TypeTSr}, "first"},
	{"IKE_AUTH response without child", ExchangeIKEAuth, true, []Payload{pIDr, pAuth, NewNotify(TSUnacceptable, nil)}, nil, "first"},
	{"IKE_AUTH response EAP begins", ExchangeIKEAuth, true, []Payload{pIDr, pEAP}, []PayloadType{TypeEAP}, "first"},
	{"IKE_AUTH response EAP", ExchangeIKEAuth, true, []Payload{pEAP}, []PayloadType{TypeEAP}, "EAP"},
	{"IKE_AUTH response final", ExchangeIKEAuth, true, []Payload{pAuth, espSA(), selectors(false), selectors(true)}, []PayloadType{TypeAuth, TypeSA, TypeTSi, TypeTSr}, "final"},
	{"IKE_AUTH response refusal", ExchangeIKEAuth, true, []Payload{NewNotify(AuthenticationFailed, nil)}, []PayloadType{TypeNotify}, "refused"},
	{"CREATE_CHILD_SA new", ExchangeCreateChildSA, false, []Payload{espSA(), pNonce, pKE, selectors(false), selectors(true)}, []PayloadType{TypeSA, TypeNonce, TypeTSi, TypeTSr}, "new Child SA"},
	{"CREATE_CHILD_SA rekey", ExchangeCreateChildSA, false, []Payload{pRekey, espSA(), pNonce, selectors(false), selectors(true)}, []PayloadType{TypeSA, TypeNonce, TypeTSi, TypeTSr}, "Child SA rekey"},
	{"CREATE_CHILD_SA IKE rekey", ExchangeCreateChildSA, false, []Payload{ikeSA(newSPI...), pNonce, pKE}, []PayloadType{TypeSA, TypeNonce, TypeKE}, "IKE SA rekey"},
	{"CREATE_CHILD_SA response", ExchangeCreateChildSA, true, []Payload{espSA(), pNonce, selectors(false), selectors(true)}, []PayloadType{TypeSA, TypeNonce, TypeTSi, TypeTSr}, "new Child SA"},
	{"CREATE_CHILD_SA IKE response", ExchangeCreateChildSA, true, []Payload{ikeSA(newSPI...), pNonce, pKE}, []PayloadType{TypeSA, TypeNonce, TypeKE}, "IKE SA rekey"},
	{"CREATE_CHILD_SA refusal", ExchangeCreateChildSA, true, []Payload{NewNotify(TemporaryFailure, nil)}, []PayloadType{TypeNotify}, "none"},
	{"INFORMATIONAL empty", ExchangeInformational, false, nil, nil, ""},
	{"INFORMATIONAL", ExchangeInformational, true, []Payload{&Delete{Protocol: suite.ProtoESP, SPIs: []uint32{1}}, &Delete{Protocol: suite.ProtoIKE}, pCP}, nil, ""},
}

func messageOf(x Exchange, response bool, ps []Payload) *Message {
	m := protected(x, response, ps...)
	m.Protected = x != ExchangeIKESAInit
	return m
}

// wantSyntax: INVALID_SYNTAX and the end of the IKE SA where the message was
// protected, silence where it was not (RFC 7296, Section 3.10.1).
func wantSyntax(t testing.TB, m *Message, err error, r Reason) {
	t.Helper()
	if m.Protected {
		wantError(t, err, Fatal, InvalidSyntax, r)
	} else {
		wantError(t, err, Drop, NoNotify, r)
	}
}

// Every kind of message is recognised, in whatever order its payloads come
// (RFC 7296, Section 2.5), and with payloads that it has no use for.
func TestViews(t *testing.T) {
	for _, c := range messages {
		ps := c.ps
		for range max(1, len(ps)) {
			m := messageOf(c.x, c.response, ps)
			if kind, err := view(m); err != nil || kind != c.kind {
				t.Errorf("%s: kind %q, %v, want %q", c.name, kind, err, c.kind)
			}
			if len(ps) > 0 {
				ps = append(ps[1:len(ps):len(ps)], ps[0])
			}
		}
		more := append(ps[:len(ps):len(ps)], &VendorID{}, NewNotify(50000, nil))
		if kind, err := view(messageOf(c.x, c.response, more)); err != nil || kind != c.kind {
			t.Errorf("%s with V and unknown status: kind %q, %v", c.name, kind, err)
		}
	}
}

// Without a payload that it requires a message is refused. CVE-2013-6467 and
// the missing TSi, TSr, KE, Ni of Orange Labs 2009.
func TestViewsMissingPayload(t *testing.T) {
	for _, c := range messages {
		for _, drop := range c.required {
			var ps []Payload
			for _, p := range c.ps {
				if p.Type() != drop {
					ps = append(ps, p)
				}
			}
			m := messageOf(c.x, c.response, ps)
			_, err := view(m)
			t.Run(c.name+" without "+drop.String(), func(t *testing.T) { wantSyntax(t, m, err, ReasonMissingPayload) })
		}
	}
}

// A payload that may stand once and stands twice is refused; CERT, CERTREQ, N,
// V and D may stand often.
func TestViewsDuplicatePayload(t *testing.T) {
	for _, c := range messages {
		for _, p := range c.ps {
			m := messageOf(c.x, c.response, append(c.ps[:len(c.ps):len(c.ps)], p))
			_, err := view(m)
			t.Run(c.name+" with two "+p.Type().String(), func(t *testing.T) {
				switch {
				case p == Payload(pRekey):
					wantSyntax(t, m, err, ReasonDuplicatePayload)
				case p.Type() == TypeNotify || p.Type() == TypeDelete:
					if err != nil {
						t.Error(err)
					}
				default:
					wantSyntax(t, m, err, ReasonDuplicatePayload)
				}
			})
		}
	}
	m := protected(ExchangeIKEAuth, false, pIDi, pAuth, &Cert{Data: []byte{1}}, &Cert{Data: []byte{2}}, &CertReq{}, &CertReq{})
	if v, err := ParseIKEAuthRequest(m); err != nil || len(v.Certs) != 2 || len(v.CertReqs) != 2 {
		t.Errorf("two CERT and two CERTREQ: %v", err)
	}
}

// A view refuses a message of another exchange, of the other direction, and one
// that is not protected as the exchange requires; nothing is answered.
// CVE-2019-12312: INFORMATIONAL in place of IKE_AUTH.
func TestViewsRefuseOtherMessages(t *testing.T) {
	all := []func(*Message) error{
		func(m *Message) error { _, err := ParseIKESAInitRequest(m); return err },
		func(m *Message) error { _, err := ParseIKESAInitResponse(m); return err },
		func(m *Message) error { _, err := ParseIKEAuthRequest(m); return err },
		func(m *Message) error { _, err := ParseIKEAuthResponse(m); return err },
		func(m *Message) error { _, err := ParseCreateChildSARequest(m); return err },
		func(m *Message) error { _, err := ParseCreateChildSAResponse(m); return err },
		func(m *Message) error { _, err := ParseInformational(m); return err },
	}
	for _, c := range messages {
		accepted := 0
		for _, parse := range all {
			if err := parse(messageOf(c.x, c.response, c.ps)); err == nil {
				accepted++
			} else {
				wantDrop(t, err)
			}
			m := messageOf(c.x, c.response, c.ps)
			m.Protected = !m.Protected
			wantDrop(t, parse(m))
		}
		if accepted != 1 {
			t.Errorf("%s is read by %d views", c.name, accepted)
		}
	}
}

// RFC 7296, Sections 2.7 and 3.3.1: a response chooses one proposal with one
// transform of each type; SPI sizes and protocols fit the exchange; numbers of
// an offer rise.
func TestViewsProposals(t *testing.T) {
	change := func(sa *SA, f func(sa *SA)) *SA { f(sa); return sa }
	two := func(a, b uint8) *SA {
		sa := espSA()
		sa.Proposals = append(sa.Proposals, sa.Proposals[0])
		sa.Proposals[0].Number, sa.Proposals[1].Number = a, b
		return sa
	}
	child := func(sa *SA) []Payload { return []Payload{sa, pNonce, selectors(false), selectors(true)} }
	for _, c := range []struct {
		name     string
		x        Exchange
		response bool
		ps       []Payload
		ok       bool
	}{
		{"IKE_SA_INIT with an SPI", ExchangeIKESAInit, false, []Payload{ikeSA(newSPI...), pKE, pNonce}, false},
		{"IKE_SA_INIT for ESP", ExchangeIKESAInit, false, []Payload{espSA(), pKE, pNonce}, false},
		{"IKE rekey without SPI", ExchangeCreateChildSA, false, []Payload{ikeSA(), pKE, pNonce}, false},
		{"IKE_AUTH for IKE", ExchangeIKEAuth, false, []Payload{pIDi, pAuth, ikeSA(newSPI...), selectors(false), selectors(true)}, false},
		{"numbers 1, 2", ExchangeCreateChildSA, false, child(two(1, 2)), true},
		{"numbers 1, 3", ExchangeCreateChildSA, false, child(two(1, 3)), true},
		{"numbers 1, 1", ExchangeCreateChildSA, false, child(two(1, 1)), false},
		{"numbers 2, 1", ExchangeCreateChildSA, false, child(two(2, 1)), false},
		{"numbers 0, 1", ExchangeCreateChildSA, false, child(two(0, 1)), false},
		{"a response with two", ExchangeCreateChildSA, true, child(two(1, 2)), false},
		{"a response with number 5", ExchangeCreateChildSA, true, child(change(espSA(), func(sa *SA) { sa.Proposals[0].Number = 5 })), true},
		{"a response with two of a type", ExchangeCreateChildSA, true, child(change(espSA(), func(sa *SA) {
			p := &sa.Proposals[0]
			p.Transforms = append(p.Transforms, p.Transforms[0])
		})), false},
		{"a response that cannot be used", ExchangeCreateChildSA, true, child(change(espSA(), func(sa *SA) { sa.Proposals[0].Unusable = "x" })), false},
		{"ESP and IKE together", ExchangeCreateChildSA, false, child(change(two(1, 2), func(sa *SA) {
			sa.Proposals[1].Protocol, sa.Proposals[1].SPI = suite.ProtoIKE, newSPI
		})), false},
	} {
		m := messageOf(c.x, c.response, c.ps)
		_, err := view(m)
		switch {
		case c.ok && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case !c.ok:
			t.Run(c.name, func(t *testing.T) { wantSyntax(t, m, err, ReasonProposal) })
		}
	}
}

// The responder that accepts must have given its SPI.
func TestIKESAInitResponseSPI(t *testing.T) {
	m := messageOf(ExchangeIKESAInit, true, []Payload{ikeSA(), pKE, pNonce})
	m.Header.SPIr = SPI{}
	_, err := ParseIKESAInitResponse(m)
	wantError(t, err, Drop, NoNotify, ReasonZeroSPI)
}

// RFC 7296, Section 2.5: a payload that is not understood is skipped, unless it
// is critical; then the request is answered with its type. Types that are
// understood may have the bit, it means nothing.
func TestCriticalPayload(t *testing.T) {
	for typ := range 256 {
		if typ == 0 || typ == int(TypeSK) || typ == int(TypeSKF) {
			continue
		}
		body := []byte{0, 0, 0, 0, 0, 0, 0, 0}
		_, known, _ := parsePayload(PayloadType(typ), body)
		if known != understood(PayloadType(typ)) {
			t.Errorf("type %d: read %t, understood %t", typ, known, understood(PayloadType(typ)))
		}
		if known {
			continue
		}
		chain := func(critical byte) []byte { return append([]byte{0, critical, 0, 12}, body...) }
		request, response := head(ExchangeInformational, 1, false), head(ExchangeInformational, 1, true)
		if m, err := ParseInner(request, PayloadType(typ), chain(0x7f)); err != nil || len(m.Payloads) != 0 {
			t.Errorf("type %d, not critical: %v", typ, err)
		}
		_, err := ParseInner(request, PayloadType(typ), chain(0x80))
		wantError(t, err, NotifyPeer, UnsupportedCriticalPayload, ReasonCritical)
		if e, ok := err.(*Error); ok && string(e.Data) != string([]byte{byte(typ)}) {
			t.Errorf("type %d: the notify carries %x", typ, e.Data)
		}
		_, err = ParseInner(response, PayloadType(typ), chain(0x80))
		wantError(t, err, Fatal, UnsupportedCriticalPayload, ReasonCritical)
	}
	if m, err := ParseInner(head(ExchangeInformational, 1, false), TypeVendor, []byte{0, 0x80, 0, 4}); err != nil || len(m.Payloads) != 1 {
		t.Errorf("critical V: %v", err)
	}
}
