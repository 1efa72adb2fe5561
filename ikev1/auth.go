package ikev1

import (
	"crypto/hmac"
	"fmt"
	"slices"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
)

// chooseIdentity finds who we are and, with certificates, what our key is: an
// initiator offers the method that fits it.
func (p *phase1) chooseIdentity(now time.Time) {
	sa := p.sa
	if sa.cfg.Local.Class != keyex.AuthPubkey || sa.cfg.V1.Hybrid && sa.cfg.V1.XAuth == keyex.XAuthClient {
		sa.localID = sa.ownID(sa.cfg)
		return
	}
	p.flow.Ask(keyex.ChooseIdentity{Config: sa.cfg, Local: sa.local.Addr()}, func(now time.Time, r keyex.Reply) {
		id, ok := r.(keyex.IdentityReply)
		if !ok || id.Err != nil {
			p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageCert, fmt.Sprintf("no own certificate or key fits: %v", id.Err), "configure a certificate and its private key for the local section"))
			return
		}
		sa.localID, p.certs, p.curve = id.ID, id.Certs, id.Curve
		if id.Curve != 0 && sa.cfg.V1.XAuth != keyex.NoXAuth {
			p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth, "XAuth and hybrid authentication go with RSA keys, and ours is another", "use an RSA key, or authentication without XAuth"))
			return
		}
		if m := methods(sa.cfg, id.Curve)[0]; !sa.initiator && m != sa.auth {
			p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth, fmt.Sprintf("the peer wants %v, and our key makes %v: both sides of IKEv1 use one method", sa.auth, m),
				"use keys of one kind on both sides"))
		}
	})
}

// ownID is the identity of a configuration before a certificate decides it.
func (sa *SA) ownID(cfg *keyex.Config) ident.ID {
	if !cfg.Local.ID.IsAny() {
		return cfg.Local.ID
	}
	return ident.FromAddr(sa.local.Addr())
}

// findPSK is the shared secret with the peer. In Main Mode it is found by the
// peer's address, or by the identity that the configuration expects: the real one
// is encrypted with keys that come from the secret (RFC 2409, Section 5.4).
func (p *phase1) findPSK() (secret.Bytes, bool) {
	sa := p.sa
	list := p.candidates
	if sa.initiator {
		list = []*keyex.Config{sa.cfg}
	}
	for _, cfg := range list {
		own := sa.ownID(cfg)
		if !sa.remoteID.IsAny() {
			if s, ok := sa.env.PSK(own, sa.remoteID); ok {
				return s, true
			}
			continue
		}
		if !cfg.Remote.ID.IsPattern() {
			if s, ok := sa.env.PSK(own, cfg.Remote.ID); ok {
				return s, true
			}
		}
		if s, ok := sa.env.PSK(own, ident.FromAddr(sa.remote.Addr())); ok {
			return s, true
		}
	}
	return secret.Bytes{}, false
}

func (sa *SA) noPSK(now time.Time) *trace.Failure {
	who := sa.remote.Addr().String()
	if !sa.remoteID.IsAny() {
		who = sa.remoteID.String()
	}
	return sa.failure(now, trace.StageAuth, "no shared secret is configured for the peer "+who,
		"add a secret with the peer's address as id: Main Mode chooses the secret before it knows identities")
}

// hashes are the inputs of HASH_I and HASH_R, and the function that makes them:
// with ECDSA the curve decides on it (RFC 4754, Section 5).
func (p *phase1) hashes() (kdf.IKEv1PhaseOne, prf.PRF) {
	sa := p.sa
	f := p.prf
	id := uint16(0)
	switch sa.auth {
	case MethodECDSA256:
		id = suite.PRFHMACSHA256
	case MethodECDSA384:
		id = suite.PRFHMACSHA384
	case MethodECDSA521:
		id = suite.PRFHMACSHA512
	}
	if g, err := prf.New(id); id != 0 && err == nil {
		f = g
	}
	return kdf.IKEv1PhaseOne{GXi: p.gxi, GXr: p.gxr, CKYi: sa.ckyI, CKYr: sa.ckyR, SAi: p.sai}, f
}

// hashFor is HASH_I for the initiator's identity, HASH_R for the responder's (RFC
// 2409, Section 5).
func (p *phase1) hashFor(initiator bool, idBody []byte) []byte {
	x, f := p.hashes()
	if initiator {
		return x.HashI(f, p.sa.keys.all.SKEYID, idBody)
	}
	return x.HashR(f, p.sa.keys.all.SKEYID, idBody)
}

// prove makes our HASH or SIG payload.
func (p *phase1) prove(now time.Time) {
	sa := p.sa
	h := p.hashFor(sa.initiator, idPayload(sa.localID).Append(nil))
	if !sa.auth.signs(sa.initiator) {
		p.proof = &message.Opaque{Kind: message.TypeHash, Data: h}
		return
	}
	p.flow.Ask(keyex.Sign{Config: sa.cfg, Scheme: keyex.SchemeIKEv1, Octets: h}, func(now time.Time, r keyex.Reply) {
		s, ok := r.(keyex.SignReply)
		if !ok || s.Err != nil {
			p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth, fmt.Sprintf("signing failed: %v", s.Err), "check the private key of the local section"))
			return
		}
		p.proof = &message.Opaque{Kind: message.TypeSignature, Data: s.Auth}
	})
}

// certPayloads are our certificates, if the peer wants them.
func (p *phase1) certPayloads() []message.Payload {
	cfg := p.sa.cfg
	if cfg.SendCert == keyex.CertNever || cfg.SendCert == keyex.CertIfAsked && !p.certAsked {
		return nil
	}
	var out []message.Payload
	for _, c := range p.certs {
		out = append(out, &message.Cert{Encoding: c.Encoding, Data: c.Data})
	}
	return out
}

// proofPayloads are identity, certificates and proof, as Main Mode sends them.
func (p *phase1) proofPayloads() []message.Payload {
	return append(append([]message.Payload{idPayload(p.sa.localID)}, p.certPayloads()...), p.proof)
}

// takeProof checks the peer's identity and its proof; then goes on when they are
// right.
func (p *phase1) takeProof(now time.Time, in *incoming, then func(now time.Time)) {
	sa := p.sa
	if idp, ok := one[*message.ID](in.Message, message.TypeID); ok && p.idBody == nil {
		id, err := identity(idp)
		if err != nil {
			sa.dropped(now, "identity", err.Error())
			return
		}
		sa.remoteID, p.idBody = id, idp.Append(nil)
	}
	kind := message.TypeSignature
	byHash := !sa.auth.signs(!sa.initiator)
	if byHash {
		kind = message.TypeHash
	}
	proof, ok := one[*message.Opaque](in.Message, kind)
	if !ok || p.idBody == nil {
		sa.dropped(now, "missing-payload", fmt.Sprintf("ID and %v are expected once each", kind))
		return
	}
	p.takeCertificates(in.Message)
	want := p.hashFor(!sa.initiator, p.idBody)
	if byHash && !hmac.Equal(want, proof.Data) {
		p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth, fmt.Sprintf("the peer %v has another shared secret than ours", sa.remoteID), "configure the same secret on both sides"))
		return
	}
	in.accept()
	p.over = sa.initiator && p.x.kind == message.ExchangeMain
	p.proving = p.over || !sa.initiator && p.x.kind == message.ExchangeAggressive
	if !p.admit(now) {
		return
	}
	// RFC 2407, Section 4.6.3: in clear nothing protects it. Some peers send it in the
	// third message of Aggressive Mode, encrypted.
	if in.Header.Flags&message.FlagEncryption != 0 {
		p.takeContact(in.Message)
	}
	if byHash {
		sa.follow(now, in.from)
		then(now)
		return
	}
	w := keyex.Verify{Config: sa.cfg, Scheme: keyex.SchemeIKEv1, ID: sa.remoteID, Method: sa.auth.signature(), Auth: proof.Data, Octets: want, Certs: p.peerCerts}
	p.flow.Ask(w, func(now time.Time, r keyex.Reply) {
		v, ok := r.(keyex.VerifyReply)
		switch {
		case !ok:
			p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth, "the check of the peer's signature gave no result", ""))
		case v.Failure != nil:
			p.fail(now, message.AuthenticationFailed, sa.complete(now, v.Failure))
		default:
			sa.follow(now, in.from)
			then(now)
		}
	})
}

// admit holds the identity against the configuration: the initiator's one, or the
// candidates of the responder (RFC 4301, Section 4.4.3).
func (p *phase1) admit(now time.Time) bool {
	sa := p.sa
	if !sa.initiator {
		best := ident.None
		for _, c := range p.candidates {
			if r := ident.Match(c.Remote.ID, sa.remoteID); r > best {
				best, sa.cfg = r, c
			}
		}
		if best == ident.None {
			p.fail(now, message.InvalidIDInformation, p.stranger(now))
			return false
		}
	} else if ident.Match(sa.cfg.Remote.ID, sa.remoteID) == ident.None {
		p.fail(now, message.InvalidIDInformation, p.stranger(now))
		return false
	}
	if !sa.auth.psk() {
		return true
	}
	// The secret was found by address: who has that of an address is not yet who has
	// that of the identity it shows.
	if s, ok := sa.env.PSK(sa.ownID(sa.cfg), sa.remoteID); !ok || !s.Equal(p.psk) {
		p.fail(now, message.AuthenticationFailed, sa.failure(now, trace.StageAuth,
			fmt.Sprintf("the peer %v proved the secret of the address %v, and its identity has another one or none", sa.remoteID, sa.remote.Addr()), "name both the address and the identity in the ids of the secret"))
		return false
	}
	return true
}

// stranger is the failure of an identity that nobody expects.
func (p *phase1) stranger(now time.Time) *trace.Failure {
	sa := p.sa
	f := sa.failure(now, trace.StageIdentity, fmt.Sprintf("the peer is %v, expected %v", sa.remoteID, sa.cfg.Remote.ID),
		"set id of the remote section to the peer's identity, or configure the peer's identity",
		"expected: "+sa.cfg.Remote.ID.String(), "found:    "+sa.remoteID.String())
	f.RemoteID = sa.remoteID.String()
	return f
}

// initialContact is the notify INITIAL-CONTACT (RFC 2407, Section 4.6.3.3).
func (sa *SA) initialContact() message.Payload {
	return &message.Notify{DOI: message.DOIIPsec, Protocol: message.ProtoISAKMP, SPI: sa.cookies(), Kind: message.InitialContact}
}

// cookies are the SPI of ISAKMP notifies (RFC 2407, Section 4.6.3).
func (sa *SA) cookies() []byte { return append(append([]byte(nil), sa.ckyI[:]...), sa.ckyR[:]...) }

func (p *phase1) takeContact(m *message.Message) { p.contact = p.contact || saysFirstContact(m) }

// saysFirstContact tells whether a message has the notify INITIAL-CONTACT.
func saysFirstContact(m *message.Message) bool {
	return slices.ContainsFunc(m.Payloads, func(x message.Payload) bool {
		n, ok := x.(*message.Notify)
		return ok && n.Kind == message.InitialContact
	})
}
