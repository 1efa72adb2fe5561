package ikev1

import (
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Main Mode as responder; the drawing stands in main_initiator.go.

// main1 chooses a transform.
func (p *phase1) main1(now time.Time, in *incoming) {
	sa := p.sa
	offer, ok := one[*message.SA](in.Message, message.TypeSA)
	if !ok {
		sa.dropped(now, "missing-payload", "an SA payload is expected once")
		return
	}
	in.accept()
	p.candidates = v1Only(sa.env.Candidates(sa.local.Addr(), sa.remote.Addr()))
	if !p.choose(now, offer) {
		return
	}
	sa.state = keyex.Connecting
	sa.takeVendors(in.Message)
	p.x.next = p.main3
	p.send(now, false, append([]message.Payload{p.choice(offer)}, sa.vendorIDs()...)...)
}

// v1Only are the configurations of IKEv1.
func v1Only(list []*keyex.Config) []*keyex.Config {
	return slices.DeleteFunc(slices.Clone(list), func(c *keyex.Config) bool { return c.Version != 1 })
}

// choose takes the first configuration that accepts a transform of the offer. It
// decides among them again when the identity is known; those with other
// algorithms or another method are out from now on.
func (p *phase1) choose(now time.Time, offer *message.SA) bool {
	sa := p.sa
	if len(p.candidates) == 0 {
		p.fail(now, message.NoProposalChosen, sa.failure(now, trace.StageConfig, "no IKEv1 connection is configured between "+sa.local.Addr().String()+" and "+sa.remote.Addr().String(),
			"add a connection with version: 1 and this peer in remote_addrs"))
		return false
	}
	// RFC 2409, Section 5: one proposal for ISAKMP.
	if len(offer.Proposals) != 1 || offer.Proposals[0].Protocol != message.ProtoISAKMP {
		p.fail(now, message.BadProposalSyntax, sa.failure(now, trace.StageProposal, "the peer's offer has more than one proposal, or is not for ISAKMP", "this is a fault of the peer's implementation"))
		return false
	}
	theirs := offer.Proposals[0].Transforms
	var first *trace.Failure
	for i, cfg := range p.candidates {
		sa.cfg = cfg
		c, index, m, why := choosePhase1(cfg.Proposals, methods(cfg, -1), theirs, acceptLife1(cfg))
		if m == nil && why == "" {
			if !p.chosen(now, c) {
				return false
			}
			if cfg.HalfOpen > 0 {
				sa.timers.halfOpen = now.Add(cfg.HalfOpen)
			}
			p.sai, p.offered = offer.Append(nil), theirs[index:index+1]
			p.candidates = p.sameChoice(p.candidates[i:], theirs, c)
			return true
		}
		if first == nil {
			if m != nil {
				first = sa.mismatch(now, trace.StageProposal, m)
			} else {
				first = sa.failure(now, trace.StageProposal, why, "make one proposal of both sides agree in every algorithm, and use the same authentication")
			}
		}
	}
	sa.cfg = p.candidates[0]
	p.fail(now, message.NoProposalChosen, first)
	return false
}

// sameChoice are the candidates that accept what was chosen.
func (p *phase1) sameChoice(list []*keyex.Config, theirs []message.Transform, c transform1) []*keyex.Config {
	return slices.DeleteFunc(slices.Clone(list), func(cfg *keyex.Config) bool {
		if !slices.Contains(methods(cfg, -1), c.auth) || acceptLife1(cfg)(c) != "" {
			return true
		}
		_, m := suite.Select(cfg.Proposals, []suite.Proposal{c.proposal}, suite.Options{})
		return m != nil
	})
}

// choice is the SA payload of the answer: the chosen transform as it was offered
// (RFC 2408, Section 4.2).
func (p *phase1) choice(offer *message.SA) *message.SA {
	prop := offer.Proposals[0]
	prop.Transforms = p.offered
	return &message.SA{Proposals: []message.Proposal{prop}}
}

// main3 does the Diffie-Hellman exchange.
func (p *phase1) main3(now time.Time, in *incoming) {
	sa := p.sa
	public, nonce, ok := p.takeKE(now, in.Message)
	if !ok {
		return
	}
	in.accept()
	p.gxi, p.ni = public, nonce
	p.takeCertificates(in.Message)
	sa.detectNAT(in.Message, in.from)
	p.flow.Run(now, p.agree, func(now time.Time) {
		p.gxr, p.nr = p.pair.Public(), sa.nonce()
		if !p.derive(now) {
			return
		}
		list := append([]message.Payload{&message.Opaque{Kind: message.TypeKE, Data: p.gxr}, &message.Opaque{Kind: message.TypeNonce, Data: p.nr}}, p.certRequest()...)
		p.x.next = p.main5
		p.send(now, false, append(list, sa.natPayloads()...)...)
	})
}

// main5 takes the initiator's proof and answers with ours.
func (p *phase1) main5(now time.Time, in *incoming) {
	p.takeProof(now, in, func(now time.Time) {
		p.flow.Run(now, p.chooseIdentity, p.prove, func(now time.Time) {
			p.send(now, true, p.proofPayloads()...)
			p.established(now)
		})
	})
}
