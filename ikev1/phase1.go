package ikev1

import (
	"hash"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/ke"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
)

// nonceLen is that of every nonce of ours (RFC 2409, Section 5: 8 to 256).
const nonceLen = 32

// phase1 is what only phase 1 needs (RFC 2409, Section 5).
type phase1 struct {
	sa   *SA
	x    *exchange
	flow keyex.Flow

	offered []message.Transform // initiator: what we offered
	sai     []byte              // SAi_b
	hash    func() hash.Hash    // the negotiated one
	prf     prf.PRF
	group   uint16
	pair    *ke.KeyPair
	gxi     []byte // public values
	gxr     []byte
	ni, nr  []byte
	gxy     secret.Bytes
	psk     secret.Bytes // the one that SKEYID was made from

	candidates []*keyex.Config // responder: who it may be
	peerCerts  []keyex.Cert
	certAsked  bool
	certs      []keyex.Cert // own, to be sent
	curve      int          // of the own key
	contact    bool         // the peer sent INITIAL-CONTACT
	idBody     []byte       // of the peer's ID payload, as it came
	proof      message.Payload

	proving bool             // the peer's proof is being checked, the last of its messages
	early   []keyex.Datagram // that came meanwhile
	over    bool             // the peer is through with phase 1, and reads what is encrypted
	garbled bool             // a message could not be read after decryption
	hinted  message.NotifyType
}

func newPhase1(sa *SA, kind message.Exchange) *phase1 {
	p := &phase1{sa: sa, flow: keyex.Flow{Queue: &sa.Queue}}
	p.x = &exchange{kind: kind, ours: sa.initiator, name: "MAIN_MODE"}
	if kind == message.ExchangeAggressive {
		p.x.name = "AGGRESSIVE_MODE"
	}
	p.x.late = p.late
	sa.p1, sa.first = p, p.x
	return p
}

func (p *phase1) destroy() {
	p.flow.Stop()
	p.gxy.Destroy()
	p.psk.Destroy()
	if p.pair != nil {
		p.pair.Destroy()
	}
}

// startPhase1 begins as initiator.
func (sa *SA) startPhase1(now time.Time) {
	sa.born = now
	sa.state = keyex.Connecting
	kind := message.ExchangeMain
	if sa.cfg.V1.Aggressive {
		kind = message.ExchangeAggressive
	}
	p := newPhase1(sa, kind)
	if kind == message.ExchangeAggressive {
		p.flow.Run(now, p.chooseIdentity, p.offerAggressive)
		return
	}
	p.flow.Run(now, p.chooseIdentity, p.offerMain)
}

// answerPhase1 begins as responder.
func (sa *SA) answerPhase1(now time.Time, kind message.Exchange) *exchange {
	p := newPhase1(sa, kind)
	if kind == message.ExchangeAggressive {
		p.x.next = p.aggressive1
	} else {
		p.x.next = p.main1
	}
	return p.x
}

// methods are what a configuration authenticates with: both sides with the same
// (RFC 2409, Section 5). curve is the size of the own key's curve, 0 RSA, -1 not
// known yet.
func methods(cfg *keyex.Config, curve int) []AuthMethod {
	switch x := cfg.V1.XAuth != keyex.NoXAuth; {
	case x && cfg.V1.Hybrid:
		return []AuthMethod{MethodHybridRSA}
	case x && cfg.Local.Class == keyex.AuthPubkey:
		return []AuthMethod{MethodXAuthRSA}
	case x:
		return []AuthMethod{MethodXAuthPSK}
	case cfg.Local.Class != keyex.AuthPubkey:
		return []AuthMethod{MethodPSK}
	}
	switch curve {
	case 0:
		return []AuthMethod{MethodRSA}
	case 256:
		return []AuthMethod{MethodECDSA256}
	case 384:
		return []AuthMethod{MethodECDSA384}
	case 521:
		return []AuthMethod{MethodECDSA521}
	}
	return []AuthMethod{MethodRSA, MethodECDSA256, MethodECDSA384, MethodECDSA521}
}

// offer is our SA payload with the vendor IDs; nil after a failure.
func (p *phase1) offer(now time.Time, oneGroup bool) []message.Payload {
	sa := p.sa
	p.offered = offerPhase1(sa.cfg.Proposals, methods(sa.cfg, p.curve), lifetime1(sa.cfg), oneGroup)
	if len(p.offered) == 0 {
		p.fail(now, 0, sa.failure(now, trace.StageConfig, "none of the proposals of "+sa.cfg.Name+" can be said in IKEv1: it has AES-CBC and 3DES, HMAC, MODP and ECP groups",
			"add a proposal such as aes256-sha256-modp2048 or aes128-sha256-ecp256"))
		return nil
	}
	offer := &message.SA{Proposals: []message.Proposal{{Number: 1, Protocol: message.ProtoISAKMP, Transforms: p.offered}}}
	p.sai = offer.Append(nil)
	return append([]message.Payload{offer}, sa.vendorIDs()...)
}

// lifetime1 is the lifetime that we offer for phase 1, in seconds.
func lifetime1(cfg *keyex.Config) uint64 {
	for _, d := range [...]time.Duration{cfg.Reauth.Hard, cfg.Rekey.Hard, cfg.Reauth.Rekey, cfg.Rekey.Rekey} {
		if d > 0 {
			return uint64(d / time.Second)
		}
	}
	return 0
}

// takeChoice checks the responder's SA payload: one transform, and one of ours
// unchanged (RFC 2408, Section 4.2). False after a failure.
func (p *phase1) takeChoice(now time.Time, m *message.Message) bool {
	sa := p.sa
	s, ok := one[*message.SA](m, message.TypeSA)
	if !ok || len(s.Proposals) != 1 || len(s.Proposals[0].Transforms) != 1 || s.Proposals[0].Protocol != message.ProtoISAKMP {
		sa.dropped(now, "payload-syntax", "the answer chooses one transform of one proposal")
		return false
	}
	t := &s.Proposals[0].Transforms[0]
	for i := range p.offered {
		if offer.SameTransform(&p.offered[i], t) {
			c, why := readPhase1(t)
			if why != "" {
				break
			}
			return p.chosen(now, c)
		}
	}
	p.fail(now, message.NoProposalChosen, sa.failure(now, trace.StageProposal, "the peer chose a transform that was not offered", "this is a fault of the peer's implementation"))
	return false
}

// chosen notes the algorithms.
func (p *phase1) chosen(now time.Time, c transform1) bool {
	h, err := hashOf(c.proposal)
	if err == nil {
		p.prf, err = prf.New(h.prf)
	}
	if err != nil {
		p.fail(now, message.NoProposalChosen, p.sa.failure(now, trace.StageProposal, err.Error(), "name another hash algorithm"))
		return false
	}
	k, _ := c.proposal.First(suite.KE)
	p.hash, p.group = h.new, k.ID
	p.sa.peerLife = c.seconds
	p.sa.proposal, p.sa.auth = c.proposal, c.auth
	return true
}

// takeKE reads the public value and the nonce of a message. False: it is faulty.
func (p *phase1) takeKE(now time.Time, m *message.Message) (public, nonce []byte, ok bool) {
	k, okK := one[*message.Opaque](m, message.TypeKE)
	n, okN := one[*message.Opaque](m, message.TypeNonce)
	if !okK || !okN {
		p.sa.dropped(now, "missing-payload", "KE and NONCE are expected once each")
		return nil, nil, false
	}
	// RFC 2409, Section 5: the value has the length of the prime.
	if len(k.Data) != ke.PublicLen(p.group) {
		p.sa.dropped(now, "payload-syntax", "the public value has not the length of its group")
		return nil, nil, false
	}
	return k.Data, n.Data, true
}

// derive makes the keys from the shared secret. False after a failure.
func (p *phase1) derive(now time.Time) bool {
	sa := p.sa
	var skeyid secret.Bytes
	if sa.auth.psk() {
		psk, ok := p.findPSK()
		if !ok {
			p.fail(now, message.AuthenticationFailed, sa.noPSK(now))
			return false
		}
		p.psk = psk.Clone()
		skeyid = kdf.SKEYIDPSK(p.prf, psk, p.ni, p.nr)
	} else {
		skeyid = kdf.SKEYIDSignature(p.prf, p.ni, p.nr, p.gxy)
	}
	k, err := newKeys(sa.proposal, p.prf, p.hash, skeyid, p.gxy, sa.ckyI, sa.ckyR)
	if err != nil {
		p.fail(now, message.NoProposalChosen, sa.failure(now, trace.StageKE, err.Error(), "name another cipher"))
		return false
	}
	sa.keys = k
	p.x.iv = kdf.IKEv1PhaseOneIV(p.hash(), p.gxi, p.gxr, k.block.BlockSize())
	return true
}

// takeCertificates reads CERT and CERTREQ.
func (p *phase1) takeCertificates(m *message.Message) {
	for _, x := range m.Payloads {
		c, ok := x.(*message.Cert)
		switch {
		case !ok:
		case c.Request:
			p.certAsked = true
		case c.Encoding == message.CertX509Signature:
			p.peerCerts = append(p.peerCerts, keyex.Cert{Encoding: c.Encoding, Data: c.Data})
		}
	}
}

// certRequest asks for a certificate of any CA (RFC 2408, Section 3.10).
func (p *phase1) certRequest() []message.Payload {
	if p.sa.auth.psk() || !p.sa.cfg.SendCertReq {
		return nil
	}
	return []message.Payload{&message.Cert{Request: true, Encoding: message.CertX509Signature}}
}

// established ends phase 1.
func (p *phase1) established(now time.Time) {
	sa := p.sa
	sa.keys.last = append([]byte(nil), p.x.iv...)
	sa.keys.forgetSKEYID()
	sa.finish(now, p.x)
	p.x.end = time.Time{} // as long as the SA
	sa.contact = p.contact
	early := p.early
	sa.p1.destroy()
	sa.p1 = nil
	sa.timers = timers{halfOpen: now.Add(halfOpenTime)}
	// Aggressive Mode cannot carry it (RFC 2407, Section 4.6.3): Quick Mode will.
	sa.tellContact = sa.initiator && sa.first.kind == message.ExchangeAggressive && sa.cfg.InitialContact && sa.parent == nil
	sa.behindPhase1(now)
	for _, d := range early {
		if !sa.closed {
			sa.receive(now, d)
		}
	}
}

// ready is the end of all that comes before Quick Mode.
func (sa *SA) ready(now time.Time) {
	if sa.state == keyex.Established {
		return
	}
	sa.state, sa.established = keyex.Established, now
	sa.setLifetimes(now)
	sa.log(now, trace.Control, false, "IKE_SA %s established between %v[%v] and %v[%v], %s with %v", sa.cfg.Name, sa.local.Addr(), sa.localID, sa.remote.Addr(), sa.remoteID, sa.first.kind, sa.auth)
	if _, tell := sa.agreedLife1(); tell != 0 && !sa.initiator {
		sa.inform(now, offer.LifePayload(message.ProtoISAKMP, sa.cookies(), offer.Span{Seconds: tell}))
	}
	later := sa.later
	sa.later = nil
	for _, c := range later {
		sa.queueChild(now, c.cfg, c.flow)
	}
	if sa.parent != nil {
		sa.takeOver(now)
		return
	}
	sa.Event(keyex.Up{InitialContact: sa.contact})
}

// fail ends the SA and tells the peer, if notify is not 0.
func (p *phase1) fail(now time.Time, notify message.NotifyType, f *trace.Failure) {
	sa := p.sa
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	if notify != 0 {
		if p.over {
			sa.keys.last = append([]byte(nil), p.x.iv...)
		}
		sa.tellError(now, notify)
		sa.tellEnd(now)
	}
	sa.close(now, keyex.Closed{Reason: keyex.CloseFailed, Failure: f})
}

// garbledWait is how long a message that makes sense may come after one that does not.
const garbledWait = 10 * time.Second

// unreadable notes that a message made no sense after decryption. Anybody can
// send one, so that it ends nothing; but with a pre-shared key it mostly means that
// the keys differ, and an initiator that learns it need not wait.
func (p *phase1) unreadable(now time.Time) {
	if !p.garbled && p.sa.auth.psk() {
		p.garbled = true
		p.sa.log(now, trace.Control, true, "a message of the peer %v makes no sense after decryption: the pre-shared keys differ, most likely", p.sa.remote)
		if p.sa.initiator {
			p.sa.timers.refused = now.Add(refusalWait)
		} else {
			p.sa.tellError(now, message.PayloadMalformed) // RFC 2408, Section 5.3; once, and a hint for the peer
			if end := now.Add(garbledWait); end.Before(p.sa.timers.halfOpen) {
				p.sa.timers.halfOpen = end
			}
		}
	}
}

// sameSecret is the advice for secrets that differ.
const sameSecret = "configure the same secret on both sides, for the peer's address: Main Mode chooses the key before it knows identities"

// late: the peer does not answer.
func (p *phase1) late(now time.Time) {
	sa := p.sa
	f := sa.failure(now, trace.StageReach, "the peer "+sa.remote.String()+" does not answer "+p.x.kind.String(),
		"check that the peer runs and speaks IKEv1, and that UDP ports 500 and 4500 pass in both directions")
	switch {
	case p.hinted != 0:
		f = p.refused(now)
	case p.garbled || sa.keys != nil && sa.auth.psk() && sa.initiator:
		f = sa.failure(now, trace.StageAuth, "the peer "+sa.remote.String()+" cannot read our message, or we not its: the pre-shared keys differ, most likely", sameSecret)
	}
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.close(now, keyex.Closed{Reason: keyex.CloseTimeout, Failure: f})
}

// refused is the failure of a phase 1 that somebody says the peer refused.
func (p *phase1) refused(now time.Time) *trace.Failure {
	if p.hinted == message.PayloadMalformed && p.sa.keys != nil && p.sa.auth.psk() {
		return p.sa.failure(now, trace.StageAuth, "the peer "+p.sa.remote.String()+" cannot read our message (PAYLOAD-MALFORMED): the pre-shared keys differ, most likely", sameSecret)
	}
	f := p.sa.refusedBy(now, p.hinted, p.x.kind.String(), true)
	switch {
	case p.hinted == message.InvalidIDInformation || p.hinted == message.AuthenticationFailed:
		f.Evidence = append(f.Evidence, "ours: "+p.sa.localID.String())
	case p.hinted == message.NoProposalChosen && p.sa.initiator:
		f.Evidence = append(f.Evidence, "ours: "+authNames(methods(p.sa.cfg, p.curve)))
		for _, o := range p.sa.cfg.Proposals {
			f.Evidence = append(f.Evidence, "ours: "+o.String())
		}
	}
	return f
}

// one is the only payload of a type; false when it is missing or there twice.
func one[P message.Payload](m *message.Message, t message.PayloadType) (found P, ok bool) {
	for _, p := range m.Payloads {
		if p.Type() != t {
			continue
		}
		if ok {
			return found, false
		}
		if found, ok = p.(P); !ok {
			return found, false
		}
	}
	return found, ok
}

func (sa *SA) nonce() []byte {
	n := make([]byte, nonceLen)
	sa.env.Random(n)
	return n
}
