package ikev2_test

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// RFC 7296, Sections 1.4 and 2.7 to 2.25: proposals, CHILD_SAs, configuration
// payloads, errors.

// RFC 7296, Sections 2.7 and 3.3: of several proposals and transforms one of each
// is chosen, in the responder's order; what is not understood is passed over; the
// answer has the number of the chosen proposal.
func TestProposalsInAnyOrder(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Proposals = proposals(t, suite.ProtoIKE,
		"aes256-sha512-prfsha512-ecp384-ecp521", "3des-sha1-prfsha1-modp1024", "aes128gcm16-aes256gcm16-prfsha384-prfsha256-ecp256-x25519")
	m, q := firstRequest(t, p)
	for _, pl := range m.Payloads {
		if ke, ok := pl.(*message.KE); ok {
			ke.Group, ke.Data = suite.KEX25519, append([]byte{9}, make([]byte, 31)...)
		}
		sa, ok := pl.(*message.SA)
		if !ok {
			continue
		}
		last := &sa.Proposals[2].Proposal
		last.Transforms = append([]suite.Transform{{Type: suite.ENCR, ID: 999}, {Type: suite.PRF, ID: 77}, {Type: suite.KE, ID: 60000}}, last.Transforms...)
		// A transform type that is not defined spoils its proposal only.
		sa.Proposals[0].Transforms = append(sa.Proposals[0].Transforms, suite.Transform{Type: 200, ID: 1})
	}
	r := initAnswer(t, p, q, encode(t, m))
	v, err := message.ParseIKESAInitResponse(r)
	if err != nil || !v.Accepted() {
		t.Fatalf("%v: %v", err, types(r))
	}
	got := v.SA.Proposals[0]
	want := []suite.Transform{{Type: suite.ENCR, ID: suite.EncrAESGCM16, KeyBits: 128}, {Type: suite.PRF, ID: suite.PRFHMACSHA256}, {Type: suite.KE, ID: suite.KEX25519}}
	if got.Number != 3 || !slices.Equal(got.Transforms, want) {
		t.Errorf("chosen %d: %v, expected 3: %v", got.Number, got.Transforms, want)
	}
}

// The suites of 2008 are spoken when they are named, and are in no default.
func TestOldSuitesByName(t *testing.T) {
	p := newPair(t, 1)
	old := proposals(t, suite.ProtoIKE, "3des-sha1-modp1024")
	p.ca.Proposals, p.cb.Proposals = old, old
	e := proposals(t, suite.ProtoESP, "3des-sha1")
	p.cha.Proposals, p.chb.Proposals = e, e
	p.up(t)
	rekeyIKE(p.a)
	rekeyChild(p.b)
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	for _, proto := range []suite.Protocol{suite.ProtoIKE, suite.ProtoESP} {
		for _, d := range suite.Defaults(proto) {
			for _, tr := range d.Transforms {
				if slices.ContainsFunc(append(old, e...), func(o suite.Proposal) bool { return tr.ID != 0 && o.Has(tr) }) {
					t.Errorf("%v is offered by default", tr)
				}
			}
		}
	}
	p = newPair(t, 1)
	p.ca.Proposals, p.cb.Proposals = old, suite.Defaults(suite.ProtoIKE)
	m, q := firstRequest(t, p)
	only(t, initAnswer(t, p, q, encode(t, m)), message.NoProposalChosen)
}

// RFC 7296, Section 1.4.1: the response to a Delete names the other halves; the
// Delete of an SPI that is not known is answered without; the Delete of the IKE SA
// is answered with nothing and takes its CHILD_SAs along.
func TestDeleteAnswers(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	c := a.Children()[0]
	unknown := &message.Delete{Protocol: suite.ProtoESP, SPIs: []uint32{0x99999999}}
	if m := p.ask(t, a, message.ExchangeInformational, 2, unknown); m == nil || len(m.Payloads) != 0 {
		t.Error("an unknown SPI is not answered with an empty response")
	}
	m := p.ask(t, a, message.ExchangeInformational, 3, &message.Delete{Protocol: suite.ProtoESP, SPIs: []uint32{c.SPIIn}})
	if m == nil || len(m.Payloads) != 1 {
		t.Fatal("no Delete in the response")
	}
	if d, ok := m.Payloads[0].(*message.Delete); !ok || d.Protocol != suite.ProtoESP || !slices.Equal(d.SPIs, []uint32{c.SPIOut}) {
		t.Errorf("the response has %+v, expected the SPI %08x", m.Payloads[0], c.SPIOut)
	}
	if len(p.b.In)+len(p.b.Out) != 0 {
		t.Error("b still has SAs")
	}
	p = newPair(t, 1)
	a = p.up(t)
	if m := p.ask(t, a, message.ExchangeInformational, 2, &message.Delete{Protocol: suite.ProtoIKE}); m == nil || len(m.Payloads) != 0 {
		t.Error("the Delete of the IKE SA is not answered with an empty response")
	}
	if len(p.b.SAs)+len(p.b.In)+len(p.b.Out) != 0 {
		t.Error("b still has SAs")
	}
}

// RFC 7296, Section 2.25.1: the rekeying of a CHILD_SA that is not there is
// answered with CHILD_SA_NOT_FOUND, which names it.
func TestRekeyOfUnknownChild(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	ps := append([]message.Payload{message.NewChildNotify(message.RekeySA, suite.ProtoESP, 0x77777777)}, p.childRequest(1)...)
	n := only(t, p.ask(t, a, message.ExchangeCreateChildSA, 2, ps...), message.ChildSANotFound)
	if spi, ok := n.ChildSPI(); !ok || spi != 0x77777777 || n.Protocol != suite.ProtoESP {
		t.Errorf("it names %+v", n)
	}
}

// RFC 7296, Section 1.3: a CHILD_SA that cannot be had for want of room is
// NO_ADDITIONAL_SAS, and those that are there stay.
func TestNoAdditionalSAs(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	b := p.b.SA()
	var last *message.Message
	for id := uint32(2); id < 1100; id++ {
		ps := p.childRequest(1)
		ps[0] = &message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{1, 0, byte(id >> 8), byte(id)}, Proposal: p.cha.Proposals[0]}}}
		if last = p.ask(t, a, message.ExchangeCreateChildSA, id, ps...); last == nil {
			t.Fatalf("request %d is not answered", id)
		}
		if last.Notifies().Error() != nil {
			break
		}
	}
	only(t, last, message.NoAdditionalSAs)
	if n := len(b.Children()); n != 1024 {
		t.Errorf("%d CHILD_SAs, expected 1024", n)
	}
}

// RFC 7296, Section 2.12: each exchange has a key pair and nonces of its own, so
// that no two SAs share keys, with or without a key exchange for the CHILD_SA.
func TestFreshKeysForEverySA(t *testing.T) {
	for _, item := range []string{"aes128gcm16", "aes128gcm16-x25519"} {
		p := newPair(t, 1)
		p.cha.Proposals = proposals(t, suite.ProtoESP, item)
		p.chb.Proposals = p.cha.Proposals
		p.up(t)
		seen := map[string]bool{}
		for range 4 {
			c := p.a.SA().Children()[0]
			for _, k := range []string{string(c.EncrIn.Reveal()), string(c.EncrOut.Reveal())} {
				if seen[k] {
					t.Fatalf("%s: a key came twice", item)
				}
				seen[k] = true
			}
			rekeyChild(p.b)
			p.net.Run(20 * time.Second)
			p.consistent(t, 1)
		}
	}
	p := newPair(t, 1)
	public := map[string]bool{}
	for range 5 {
		m, _ := firstRequest(t, p)
		for _, pl := range m.Payloads {
			if k, ok := pl.(*message.KE); ok && public[string(k.Data)] {
				t.Error("a public value came twice")
			} else if ok {
				public[string(k.Data)] = true
			}
		}
	}
}

// RFC 7296, Section 2.21.3: INVALID_SYNTAX ends the IKE SA on both sides, without
// a Delete, whether it is sent or received.
func TestInvalidSyntaxIsFatal(t *testing.T) {
	for name, start := range map[string]func(p *pair){
		"new child":   func(p *pair) { p.a.Start(p.a.SAs[0], ikev2.CreateChild{Child: p.cha}) },
		"rekey child": func(p *pair) { rekeyChild(p.a) },
		"rekey IKE":   func(p *pair) { rekeyIKE(p.a) },
		"liveness":    func(p *pair) { p.a.Start(p.a.SAs[0], ikev2.Liveness{}) },
		"delete":      func(p *pair) { deleteChild(p.a) },
	} {
		p := newPair(t, 1)
		p.up(t)
		deletes := 0
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if isResponse(q) {
				m := p.read(t, q)
				q.Data = ikev2.SealForTest(p.holder(q, true), m.Header.Exchange, m.Header.MessageID, true, message.NewNotify(message.InvalidSyntax, nil)).Data
			} else if q.Header().MessageID > 2 {
				deletes++
			}
			return ikev2test.Deliver
		}
		start(p)
		p.net.Run(time.Second)
		if c := closedBy(t, p.a); c.Reason != ikev2.CloseFailed || c.Failure == nil || len(p.a.SAs)+len(p.a.In)+len(p.a.Out)+len(p.a.Reserved) != 0 {
			t.Errorf("%s: %+v", name, c)
		}
		if deletes != 0 {
			t.Errorf("%s: %d more requests", name, deletes)
		}
	}
	// Public values that RFC 6989 forbids.
	for name, ps := range map[string]func(p *pair) []message.Payload{
		"new child": func(p *pair) []message.Payload {
			return append(p.childRequest(1), &message.KE{Group: suite.KEX25519, Data: make([]byte, 32)})
		},
		"rekey IKE": func(p *pair) []message.Payload {
			return []message.Payload{&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Proposal: p.ca.Proposals[0]}}},
				&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, &message.KE{Group: suite.KEX25519, Data: make([]byte, 32)}}
		},
	} {
		p := newPair(t, 1)
		p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16-x25519")
		p.chb.Proposals = p.cha.Proposals
		a := p.up(t)
		only(t, p.ask(t, a, message.ExchangeCreateChildSA, 2, ps(p)...), message.InvalidSyntax)
		if len(p.b.SAs)+len(p.b.In)+len(p.b.Out)+len(p.b.Reserved) != 0 {
			t.Errorf("%s: b still has something", name)
		}
	}
}

// RFC 7296, Section 2.19: pools serve who asks. A gateway that asks for no
// virtual address gets its CHILD_SA all the same, and none is assigned.
func TestPoolsDemandNothing(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Pools = []string{"pool"}
	p.b.Pool = []netip.Addr{netip.MustParseAddr("10.9.0.7")}
	n := p.rewrite(t, message.ExchangeIKEAuth, true, func(ps []message.Payload) []message.Payload {
		for _, pl := range ps {
			if cp, ok := pl.(*message.CP); ok {
				t.Errorf("the response has %v though nothing was asked", cp)
			}
		}
		return ps
	})
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	if *n != 1 {
		t.Errorf("%d responses", *n)
	}
}

// RFC 7296, Sections 2.20 and 3.15.1: the version is not given out, which an
// empty string says, in IKE_AUTH and INFORMATIONAL; the supported attributes are.
func TestVersionQuery(t *testing.T) {
	query := &message.CP{Kind: message.CFGRequest, Attributes: []message.CPAttribute{{Type: message.ApplicationVersion}, {Type: message.SupportedAttributes}, {Type: 9999}}}
	check := func(m *message.Message) {
		t.Helper()
		for _, pl := range m.Payloads {
			if cp, ok := pl.(*message.CP); ok {
				v, ok1 := cp.Find(message.ApplicationVersion)
				s, ok2 := cp.Find(message.SupportedAttributes)
				if cp.Kind != message.CFGReply || !ok1 || len(v.Value) != 0 || !ok2 || len(s.Value) == 0 || len(s.Value)%2 != 0 || len(cp.Attributes) != 2 {
					t.Errorf("the answer is %+v", cp)
				}
				return
			}
		}
		t.Errorf("no CP payload in %v", types(m))
	}
	p := newPair(t, 1)
	a := p.up(t)
	m := p.ask(t, a, message.ExchangeInformational, 2, query)
	if m == nil {
		t.Fatal("no answer")
	}
	check(m)

	p = newPair(t, 1)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange == message.ExchangeIKEAuth {
			m := p.read(t, q)
			if isResponse(q) {
				check(m)
			} else {
				q.Data = ikev2.SealForTest(p.holder(q, true), message.ExchangeIKEAuth, 1, false, append(m.Payloads, query)...).Data
			}
		}
		return ikev2test.Deliver
	}
	p.up(t)
}

// RFC 7296, Sections 1.3.1, 2.22 and 3.10.1: abilities that are not there are not
// confirmed: IPComp, fragments beyond the first; TFC padding is left out for a
// peer that cannot take it.
func TestAbilitiesOfChildren(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	m := p.ask(t, a, message.ExchangeCreateChildSA, 2, append(p.childRequest(1),
		message.NewNotify(message.IPCompSupported, []byte{0x12, 0x34, 2}), message.NewNotify(message.NonFirstFragmentsAlso, nil),
		message.NewNotify(message.ESPTFCPaddingNotSupported, nil), message.NewNotify(message.UseWESPMode, []byte{0, 0}))...)
	if m == nil || len(m.Notifies()) != 0 || len(m.Payloads) != 4 {
		t.Fatalf("the answer has %v", types(m))
	}
	cs := p.b.SA().Children()
	if len(cs) != 2 || cs[0].NoTFC || !cs[1].NoTFC {
		t.Error("ESP_TFC_PADDING_NOT_SUPPORTED is not noted for its CHILD_SA alone")
	}
	// The responder may say it, too.
	p = newPair(t, 1)
	p.rewrite(t, message.ExchangeIKEAuth, true, also(message.NewNotify(message.ESPTFCPaddingNotSupported, nil)))
	p.up(t)
	if !p.a.SA().Children()[0].NoTFC {
		t.Error("a does not note ESP_TFC_PADDING_NOT_SUPPORTED")
	}
}

// RFC 7296, Section 2.9: an answer that is wider than the offer is refused, and
// what the peer made is deleted.
func TestWiderAnswerIsRefused(t *testing.T) {
	p := newPair(t, 1)
	n := p.rewrite(t, message.ExchangeIKEAuth, true, func(ps []message.Payload) []message.Payload {
		for _, pl := range ps {
			if ts, ok := pl.(*message.TrafficSelectors); ok && ts.Responder {
				ts.TS[0].Start, ts.TS[0].End = netip.MustParseAddr("10.0.0.0"), netip.MustParseAddr("10.255.255.255")
			}
		}
		return ps
	})
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(10 * time.Second)
	if *n != 1 {
		t.Fatalf("%d responses", *n)
	}
	p.consistent(t, 0)
}

// RFC 7296, Section 2.21.2: errors that concern the CHILD_SA only leave the IKE
// SA; AUTHENTICATION_FAILED ends it, and so does it in the INFORMATIONAL exchange
// that follows.
func TestErrorsInIKEAuth(t *testing.T) {
	for kind, stays := range map[message.NotifyType]bool{
		message.NoProposalChosen: true, message.TSUnacceptable: true, message.SinglePairRequired: true,
		message.InternalAddressFailure: true, message.FailedCPRequired: true,
		message.AuthenticationFailed: false, message.InvalidSyntax: false,
	} {
		p := newPair(t, 1)
		p.chb.Local = []ikev2.Selector{net4("10.99.0.0/16")} // no child: the answer has a notify in its place
		p.rewrite(t, message.ExchangeIKEAuth, true, func(ps []message.Payload) []message.Payload {
			if !stays {
				return []message.Payload{message.NewNotify(kind, nil)}
			}
			for i, pl := range ps {
				if _, ok := pl.(*message.Notify); ok {
					ps[i] = message.NewNotify(kind, nil)
				}
			}
			return ps
		})
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(time.Second)
		if (len(p.a.SAs) == 1) != stays {
			t.Errorf("%v: the IKE SA stays: %t, expected %t", kind, len(p.a.SAs) == 1, stays)
		}
	}
	p := newPair(t, 1)
	a := p.up(t)
	if m := p.ask(t, a, message.ExchangeInformational, 2, message.NewNotify(message.AuthenticationFailed, nil)); m == nil || len(m.Payloads) != 0 {
		t.Error("AUTHENTICATION_FAILED is not acknowledged")
	}
	if len(p.b.SAs)+len(p.b.In) != 0 {
		t.Error("b keeps an IKE SA that its peer refused")
	}
}

// RFC 7296, Section 2.9.2: rekeying asks for and grants what is in force, also
// when the configuration would give less by now.
func TestRekeyDoesNotNarrow(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	was := p.a.SA().Children()[0]
	p.chb.Remote = []ikev2.Selector{net4("10.1.7.0/24")}
	p.cha.Local = []ikev2.Selector{net4("10.1.7.0/24")}
	rekeyChild(p.a)
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
	if c := p.a.SA().Children()[0]; c.SPIIn == was.SPIIn || !slices.Equal(c.Local, was.Local) || !slices.Equal(c.Remote, was.Remote) {
		t.Errorf("the new selectors are %v === %v, before %v === %v", c.Local, c.Remote, was.Local, was.Remote)
	}
}
