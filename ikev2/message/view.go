package message

import "iked/crypto/suite"

// The views share three rules (RFC 7296, Section 2.5 and Appendix C): payloads
// may come in any order; a payload that the exchange has no use for is ignored;
// one that may be there once must not be there twice.

// picker takes the singletons out of a message and keeps the first fault.
type picker struct {
	m   *Message
	err error
}

// pick is the only payload of type t; nil when there is none.
func pick[P Payload](k *picker, t PayloadType) (found P) {
	n := 0
	for _, p := range k.m.Payloads {
		if p.Type() != t {
			continue
		}
		if n++; n > 1 {
			k.fail(syntax(ReasonDuplicatePayload, "%v stands twice in %s", t, ExchangeName(k.m.Header.Exchange)))
			return found
		}
		found = p.(P)
	}
	return found
}

// need faults the message when a payload of type t is missing.
func (k *picker) need(ok bool, t PayloadType) {
	if !ok {
		k.fail(syntax(ReasonMissingPayload, "%v is missing in %s", t, ExchangeName(k.m.Header.Exchange)))
	}
}

func (k *picker) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

// finished is the view, or the first fault with the action that the message's
// protection allows.
func finished[V any](v *V, k *picker) (*V, error) {
	if k.err != nil {
		return nil, finish(k.err, k.m.Protected)
	}
	return v, nil
}

// expect checks that the message is what the view reads. The fault is the
// caller's or the peer's state machine; nothing is answered.
func expect(m *Message, x Exchange, response bool) error {
	if m.Header.Exchange != x {
		return drop(ReasonExchange, "expected %s, found %s", ExchangeName(x), ExchangeName(m.Header.Exchange))
	}
	if m.IsResponse() != response {
		return drop(ReasonDirection, "expected Response flag %t, found %t", response, m.IsResponse())
	}
	// RFC 7296, Section 2.1: all but IKE_SA_INIT are protected. What is said in
	// clear about unknown SPIs is read through Message, not through a view.
	if protected := x != ExchangeIKESAInit; m.Protected != protected {
		return drop(ReasonNotEncrypted, "%s has encryption %t, found %t", ExchangeName(x), protected, m.Protected)
	}
	return nil
}

// offer checks the proposals of a request: numbers rise (RFC 7296, Section
// 3.3.1), so that the number in the response means one of them.
func (k *picker) offer(sa *SA) {
	if sa == nil {
		return
	}
	for i := range sa.Proposals {
		if i > 0 && sa.Proposals[i].Number <= sa.Proposals[i-1].Number || sa.Proposals[i].Number == 0 {
			k.fail(syntax(ReasonProposal, "proposal numbers rise from 1, number %d stands at place %d", sa.Proposals[i].Number, i+1))
			return
		}
	}
}

// choice checks the SA payload of a response: one proposal and in it one
// transform of each type (RFC 7296, Section 2.7).
func (k *picker) choice(sa *SA) {
	if sa == nil {
		return
	}
	if len(sa.Proposals) != 1 {
		k.fail(syntax(ReasonProposal, "a response chooses one proposal, found %d", len(sa.Proposals)))
		return
	}
	p := &sa.Proposals[0]
	if p.Unusable != "" {
		k.fail(syntax(ReasonProposal, "the proposal of the response cannot be used: %s", p.Unusable))
	}
	var seen [256]bool
	for _, t := range p.Transforms {
		if seen[t.Type] {
			k.fail(syntax(ReasonProposal, "a response chooses one transform of each type, type %d stands twice", t.Type))
			return
		}
		seen[t.Type] = true
	}
}

// protocols checks that every proposal that can be used is of protocol IKE with
// SPIs of that size, or, with child, of AH or ESP.
func (k *picker) protocols(sa *SA, child bool, ikeSPI int) {
	if sa == nil {
		return
	}
	for i := range sa.Proposals {
		p := &sa.Proposals[i]
		switch {
		case p.Protocol == suite.ProtoIKE && child:
			k.fail(syntax(ReasonProposal, "proposal %d is for IKE where AH or ESP is negotiated", p.Number))
		case p.Protocol == suite.ProtoIKE && len(p.SPI) != ikeSPI:
			// RFC 7296, Section 3.3.1.
			k.fail(syntax(ReasonProposal, "an SPI of IKE has %d octets here, proposal %d has %d", ikeSPI, p.Number, len(p.SPI)))
		case (p.Protocol == suite.ProtoAH || p.Protocol == suite.ProtoESP) && !child:
			k.fail(syntax(ReasonProposal, "proposal %d is for AH or ESP where IKE is negotiated", p.Number))
		}
	}
}
