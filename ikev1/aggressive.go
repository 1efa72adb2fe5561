package ikev1

import (
	"fmt"
	"time"

	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// Aggressive Mode (RFC 2409, Sections 5.1 and 5.4; RFC 3947, Section 3).
//
//	HDR, SA, KE, Ni, IDii, VID                 -->
//	        <--  HDR, SA, KE, Nr, IDir, [CERT,] [CERTREQ,] VID, NAT-D, NAT-D, HASH_R or SIG_R
//	HDR*, [CERT,] NAT-D, NAT-D, HASH_I or SIG_I  -->

// offerAggressive sends the first message.
func (p *phase1) offerAggressive(now time.Time) {
	list := p.offer(now, true)
	if list == nil {
		return
	}
	c, why := readPhase1(&p.offered[0])
	if why != "" || !p.chosen(now, c) {
		return
	}
	p.flow.Run(now, p.generate, func(now time.Time) {
		sa := p.sa
		p.gxi, p.ni = p.pair.Public(), sa.nonce()
		all := []message.Payload{list[0], &message.Opaque{Kind: message.TypeKE, Data: p.gxi}, &message.Opaque{Kind: message.TypeNonce, Data: p.ni}, idPayload(sa.localID)}
		all = append(all, p.certRequest()...)
		p.x.next = p.aggressive2
		p.send(now, false, append(all, list[1:]...)...)
	})
}

// aggressive2 takes the responder's proof and sends ours.
func (p *phase1) aggressive2(now time.Time, in *incoming) {
	sa := p.sa
	if !p.takeChoice(now, in.Message) {
		return
	}
	public, nonce, ok := p.takeKE(now, in.Message)
	if !ok || !p.hasProof(now, in.Message) {
		return
	}
	sa.ckyR = in.Header.SPIr
	p.gxr, p.nr = public, nonce
	sa.takeVendors(in.Message)
	p.takeCertificates(in.Message)
	sa.detectNAT(in.Message, in.from)
	in.accept()
	p.flow.Run(now, p.agree, func(now time.Time) {
		if !p.derive(now) {
			return
		}
		p.takeProof(now, in, func(now time.Time) {
			sa.float()
			p.flow.Run(now, p.prove, func(now time.Time) {
				list := append(p.certPayloads(), sa.natPayloads()...)
				list = append(list, p.proof)
				p.x.next = nil
				p.send(now, true, list...)
				sa.settle(now)
				p.established(now)
			})
		})
	})
}

// hasProof tells whether there is an identity and a proof to be checked, before the
// message is accepted: what is accepted is waited for no more.
func (p *phase1) hasProof(now time.Time, m *message.Message) bool {
	kind := message.TypeHash
	if p.sa.auth.signs(!p.sa.initiator) {
		kind = message.TypeSignature
	}
	idp, okID := one[*message.ID](m, message.TypeID)
	if _, ok := one[*message.Opaque](m, kind); !ok || !okID {
		p.sa.dropped(now, "missing-payload", fmt.Sprintf("ID and %v are expected once each", kind))
		return false
	}
	if _, err := identity(idp); err != nil {
		p.sa.dropped(now, "identity", err.Error())
		return false
	}
	return true
}

// aggressive1 answers as responder, with our proof in clear.
func (p *phase1) aggressive1(now time.Time, in *incoming) {
	sa := p.sa
	offer, ok := one[*message.SA](in.Message, message.TypeSA)
	idp, okID := one[*message.ID](in.Message, message.TypeID)
	if !ok || !okID {
		sa.dropped(now, "missing-payload", "SA and ID are expected once each")
		return
	}
	id, err := identity(idp)
	if err != nil {
		sa.dropped(now, "identity", err.Error())
		return
	}
	in.accept()
	var none *trace.Failure
	if p.candidates, none = p.aggressiveOnly(now, id); none != nil {
		p.fail(now, message.NoProposalChosen, none)
		return
	}
	if !p.choose(now, offer) {
		return
	}
	public, nonce, ok := p.takeKE(now, in.Message)
	if !ok {
		sa.close(now, keyex.Closed{Reason: keyex.CloseFailed})
		return
	}
	sa.state = keyex.Connecting
	sa.remoteID = id
	p.gxi, p.ni, p.idBody = public, nonce, idp.Append(nil)
	sa.takeVendors(in.Message)
	p.takeCertificates(in.Message)
	p.flow.Run(now, p.agree, p.chooseIdentity, func(now time.Time) {
		p.gxr, p.nr = p.pair.Public(), sa.nonce()
		p.derive(now)
	}, p.prove, func(now time.Time) {
		list := []message.Payload{p.choice(offer), &message.Opaque{Kind: message.TypeKE, Data: p.gxr}, &message.Opaque{Kind: message.TypeNonce, Data: p.nr}, idPayload(sa.localID)}
		list = append(list, p.certPayloads()...)
		list = append(list, p.certRequest()...)
		list = append(list, sa.vendorIDs()...)
		list = append(list, sa.natPayloads()...)
		p.x.next = p.aggressive3
		p.send(now, false, append(list, p.proof)...)
	})
}

// aggressiveOnly are the configurations that accept Aggressive Mode from an
// identity, or why there are none. With a pre-shared key it hands whoever asks a
// hash to try passwords on, so that it takes consent of its own.
func (p *phase1) aggressiveOnly(now time.Time, id ident.ID) (out []*keyex.Config, none *trace.Failure) {
	sa := p.sa
	list := v1Only(sa.env.Candidates(sa.local.Addr(), sa.remote.Addr()))
	var others, unasked *keyex.Config
	var evidence []string
	for _, c := range list {
		switch {
		case !c.V1.Aggressive:
			others = c
		case ident.Match(c.Remote.ID, id) == ident.None:
			evidence = append(evidence, c.Name+" expects "+c.Remote.ID.String())
		case c.Local.Class != keyex.AuthPubkey && !c.V1.AggressivePSK:
			unasked = c
		default:
			out = append(out, c)
		}
	}
	switch {
	case len(out) > 0 || len(list) == 0:
		return out, nil // without any, choose says so
	case unasked != nil:
		none = sa.failure(now, trace.StageConfig, "Aggressive Mode with a pre-shared key is refused for "+unasked.Name+": the answer would hold a hash of the key for whoever asks",
			"use Main Mode at the peer, or signatures; aggressive_psk: yes consents to that")
		none.Conn = unasked.Name
	case len(evidence) > 0:
		none = sa.failure(now, trace.StageIdentity, fmt.Sprintf("the peer says in Aggressive Mode that it is %v, which no connection expects", id),
			"set id of the remote section to the peer's identity, or configure the peer's identity", evidence...)
	default:
		none = sa.failure(now, trace.StageConfig, "the peer begins with Aggressive Mode, which "+others.Name+" does not accept", "use Main Mode at the peer, or set aggressive: yes here")
		none.Conn = others.Name
	}
	none.RemoteID = id.String()
	return nil, none
}

// aggressive3 takes the initiator's proof, which may come in clear or encrypted.
func (p *phase1) aggressive3(now time.Time, in *incoming) {
	if hasType(in.Message, message.TypeNATD) || hasType(in.Message, message.TypeNATDDraft) {
		p.sa.detectNAT(in.Message, in.from)
	}
	p.takeProof(now, in, p.established)
}

func hasType(m *message.Message, t message.PayloadType) bool {
	for _, p := range m.Payloads {
		if p.Type() == t {
			return true
		}
	}
	return false
}
