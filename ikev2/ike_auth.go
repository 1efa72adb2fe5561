package ikev2

import (
	"crypto/hmac"
	"fmt"
	"time"

	"iked/crypto/kdf"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/secret"
	"iked/internal/trace"
)

// authInitiator is the initiator's IKE_AUTH (RFC 7296, Section 1.2).
//
//	HDR, SK {IDi, [CERT,] [N(INITIAL_CONTACT),] [CERTREQ,] [IDr,] AUTH, [CP,] SAi2, TSi, TSr}  -->
//	                                     <--  HDR, SK {IDr, [CERT,] AUTH, [CP,] SAr2, TSi, TSr}
type authInitiator struct {
	flow
	ni, nr []byte
	certs  []Cert
	auth   *message.Auth
	offer  *childOffer // nil: no CHILD_SA
	mobike []message.Payload
	v      *message.IKEAuthResponse
}

func newAuthInitiator(sa *SA) *authInitiator {
	return &authInitiator{flow: *newFlow(sa), ni: sa.hs.ni, nr: sa.hs.nr}
}

func (x *authInitiator) task() string { return "IKE_AUTH" }

func (x *authInitiator) abandon(now time.Time) {
	x.Stop()
	if x.offer != nil {
		x.offer.free()
	}
}

func (x *authInitiator) begin(now time.Time) {
	if x.sa.hs.child != nil {
		x.offer = &childOffer{sa: x.sa, cfg: x.sa.hs.child, flow: x.sa.hs.flow, first: true}
	}
	x.Run(now, x.chooseIdentity, x.prove, x.reserveSPI, x.findAddresses, x.send)
}

func (x *authInitiator) chooseIdentity(now time.Time) {
	x.sa.chooseIdentity(now, &x.flow, func(now time.Time, certs []Cert, f *trace.Failure) {
		if f != nil {
			x.sa.close(now, Closed{Reason: CloseFailed, Failure: f})
			return
		}
		x.certs = certs
	})
}

func (x *authInitiator) prove(now time.Time) {
	x.sa.prove(now, &x.flow, func(now time.Time, a *message.Auth, f *trace.Failure) {
		if f != nil {
			x.sa.close(now, Closed{Reason: CloseFailed, Failure: f})
			return
		}
		x.auth = a
	})
}

func (x *authInitiator) reserveSPI(now time.Time) {
	if x.offer == nil {
		return
	}
	x.offer.reserve(now, &x.flow, func(now time.Time, f *trace.Failure) {
		if f != nil {
			x.offer.failed(now, f)
			x.offer = nil
		}
	})
}

func (x *authInitiator) send(now time.Time) {
	sa := x.sa
	if x.offer == nil && !sa.hs.childless {
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageChild,
			"there is no CHILD_SA to offer, and the peer takes no IKE_AUTH without one", "configure a child, or initiate one")})
		return
	}
	ps := []message.Payload{&message.ID{Value: sa.localID}}
	ps = append(ps, certPayloads(x.certs)...)
	if sa.cfg.InitialContact {
		ps = append(ps, message.NewNotify(message.InitialContact, nil))
	}
	if sa.cfg.SendCertReq && sa.cfg.Remote.Class != AuthPSK {
		if hashes := sa.env.CertRequests(sa.cfg); len(hashes) > 0 {
			ps = append(ps, &message.CertReq{Encoding: message.CertX509, Data: hashes})
		}
	}
	if id := sa.cfg.Remote.ID; !id.IsPattern() {
		ps = append(ps, &message.ID{Responder: true, Value: id})
	}
	ps = append(ps, x.auth)
	if cp := sa.configRequest(); cp != nil && x.offer != nil {
		ps = append(ps, cp)
	}
	if x.offer != nil {
		ps = append(ps, x.offer.payloads()...)
	}
	ps = append(ps, x.mobike...)
	ps = append(ps, sa.forbidNATs()...)
	if err := sa.request(now, message.ExchangeIKEAuth, ps...); err != nil {
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageConfig, err.Error(), "raise fragment_size, or send fewer certificates")})
	}
}

func (x *authInitiator) answer(now time.Time, m *message.Message) {
	sa := x.sa
	v, err := message.ParseIKEAuthResponse(m)
	switch {
	case err != nil:
		// RFC 7296, Section 2.21.2.
		x.reject(now, sa.failure(now, trace.StageRefused, "the peer's IKE_AUTH response is faulty: "+err.Error(), "this is a fault of the peer's implementation"))
		return
	case v.Stage == message.AuthRefused:
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.refusedBy(now, v.Notifies.Error(), "IKE_AUTH")})
		return
	case v.Stage != message.AuthFirst || v.Auth == nil || v.EAP != nil:
		x.reject(now, sa.failure(now, trace.StageAuth, "the peer wants EAP, which was not offered", "configure another authentication on the peer"))
		return
	}
	if n := v.Notifies.UnknownError(); n != nil && v.SA != nil {
		// RFC 7296, Section 3.10.1: the request failed entirely.
		x.reject(now, sa.refusedBy(now, n, "IKE_AUTH"))
		return
	}
	x.v = v
	x.Run(now, x.checkIdentity, x.verify, x.establish, x.takeAddresses, x.takeChild, x.done)
}

// reject tells the responder in an exchange of its own that it is not accepted
// (RFC 7296, Section 2.21.2).
func (x *authInitiator) reject(now time.Time, f *trace.Failure) {
	sa := x.sa
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	x.abandon(now)
	r := &rejection{sa: sa, failure: f}
	sa.state, sa.active = Deleting, r
	r.begin(now)
}

func (x *authInitiator) checkIdentity(now time.Time) {
	sa := x.sa
	id := x.v.IDr.Value
	if ident.Match(sa.cfg.Remote.ID, id) == ident.None {
		f := sa.failure(now, trace.StageIdentity, fmt.Sprintf("the peer is %v, expected %v", id, sa.cfg.Remote.ID),
			"set id of the remote section to the peer's identity, or configure the peer's identity",
			"expected: "+sa.cfg.Remote.ID.String(), "found:    "+id.String())
		f.RemoteID = id.String()
		x.reject(now, f)
		return
	}
	sa.remoteID = id
}

func (x *authInitiator) verify(now time.Time) {
	x.sa.verify(now, &x.flow, x.sa.cfg, x.v.IDr, x.v.Auth, x.v.Certs, func(now time.Time, f *trace.Failure) {
		if f != nil {
			x.reject(now, f)
		}
	})
}

// findAddresses offers MOBIKE with the other addresses of this host (RFC 4555,
// Sections 3.2 and 3.4).
func (x *authInitiator) findAddresses(now time.Time) {
	if x.sa.cfg.Mobike {
		x.sa.ownAddresses(&x.flow, func(others []message.Payload) {
			x.mobike = append([]message.Payload{message.NewNotify(message.MOBIKESupported, nil)}, others...)
		})
	}
}

func (x *authInitiator) establish(now time.Time) {
	x.sa.agreeMobility(true, x.v.Notifies)
	x.sa.establish(now, false)
}

func (x *authInitiator) takeAddresses(now time.Time) {
	if f := x.sa.takeAddresses(now, x.v.CP); f != nil && x.offer != nil {
		x.offer.failed(now, f)
		if x.v.SA != nil {
			x.sa.refuseGiven(now, x.offer, &x.v.SA.Proposals[0])
		}
		x.offer.free()
		x.offer = nil
	}
}

func (x *authInitiator) takeChild(now time.Time) {
	o, v := x.offer, x.v
	switch {
	case o == nil:
	case v.SA == nil:
		// RFC 7296, Section 1.2: the IKE SA is there all the same.
		n := v.Notifies.Error()
		o.free()
		x.offer = nil
		if n != nil && n.Kind == message.SinglePairRequired {
			if next := o.singlePair(); next != nil {
				x.sa.enqueue(next)
				return
			}
		}
		f := x.sa.failure(now, trace.StageRefused, "the peer answered without a CHILD_SA and without a reason", "see the peer's log")
		if n != nil {
			f = x.sa.refusedBy(now, n, "CHILD_SA "+o.cfg.Name)
			f.Evidence = o.evidence()
		}
		o.failed(now, f)
	default:
		x.offer = nil
		o.accept(now, &x.flow, childAnswer{v.SA, v.TSi, v.TSr, v.Notifies, secret.Bytes{}, x.ni, x.nr}, func(now time.Time, c *Child) {
			if c != nil {
				x.sa.childUp(now, c)
			}
		})
	}
}

func (x *authInitiator) done(now time.Time) { x.sa.finish() }

// rejection tells the responder of IKE_AUTH that it is not accepted; then the
// SA is over.
type rejection struct {
	sa      *SA
	failure *trace.Failure
}

func (x *rejection) task() string      { return "IKE_DELETE" }
func (x *rejection) abandon(time.Time) {}

func (x *rejection) begin(now time.Time) {
	if err := x.sa.request(now, message.ExchangeInformational, message.NewNotify(message.AuthenticationFailed, nil)); err != nil {
		x.sa.close(now, Closed{Reason: CloseFailed, Failure: x.failure})
		return
	}
	// The peer may be gone or hostile: no long wait for its answer.
	x.sa.window.out.limit = min(x.sa.window.out.limit, 3)
}

func (x *rejection) answer(now time.Time, _ *message.Message) {
	x.sa.close(now, Closed{Reason: CloseFailed, Failure: x.failure})
}

// chooseIdentity finds who we are, with our certificates if the peer wants them.
func (sa *SA) chooseIdentity(now time.Time, x *flow, then func(time.Time, []Cert, *trace.Failure)) {
	if sa.cfg.Local.Class != AuthPubkey {
		sa.localID = sa.cfg.Local.ID
		if sa.localID.IsAny() {
			sa.localID = ident.FromAddr(sa.local.Addr())
		}
		then(now, nil, nil)
		return
	}
	x.Ask(ChooseIdentity{Config: sa.cfg, Local: sa.local.Addr(), CertRequests: sa.hs.certRequests}, func(now time.Time, r Reply) {
		id, ok := r.(IdentityReply)
		if !ok || id.Err != nil {
			then(now, nil, sa.failure(now, trace.StageCert, fmt.Sprintf("no own certificate or key fits: %v", id.Err), "configure a certificate and its private key for the local section"))
			return
		}
		sa.localID = id.ID
		if sa.cfg.SendCert == CertNever || sa.cfg.SendCert == CertIfAsked && !sa.hs.certAsked {
			id.Certs = nil
		}
		then(now, id.Certs, nil)
	})
}

func certPayloads(certs []Cert) []message.Payload {
	var ps []message.Payload
	for _, c := range certs {
		ps = append(ps, &message.Cert{Encoding: message.CertEncoding(c.Encoding), Data: c.Data})
	}
	return ps
}

// signedOctets is what the AUTH payload of one side covers (RFC 7296, Section
// 2.15).
func (sa *SA) signedOctets(ofInitiator bool, idBody []byte) []byte {
	hs := sa.hs
	if ofInitiator {
		return kdf.SignedOctets(sa.keys.prf, hs.init1, hs.nr, sa.keys.skpi, idBody)
	}
	return kdf.SignedOctets(sa.keys.prf, hs.init2, hs.ni, sa.keys.skpr, idBody)
}

// prove makes our AUTH payload.
func (sa *SA) prove(now time.Time, x *flow, then func(time.Time, *message.Auth, *trace.Failure)) {
	octets := sa.signedOctets(sa.initiator, sa.localID.Body())
	if sa.cfg.Local.Class == AuthPubkey {
		x.Ask(Sign{Config: sa.cfg, Octets: octets, PeerHashes: sa.hs.peerHashes, CertRequests: sa.hs.certRequests}, func(now time.Time, r Reply) {
			s, ok := r.(SignReply)
			if !ok || s.Err != nil {
				then(now, nil, sa.failure(now, trace.StageAuth, fmt.Sprintf("signing failed: %v", s.Err), "check the private key of the local section"))
				return
			}
			then(now, &message.Auth{Method: message.AuthMethod(s.Method), Data: s.Auth}, nil)
		})
		return
	}
	psk, ok := sa.psk(sa.cfg, sa.localID, sa.remoteID)
	if !ok {
		then(now, nil, sa.noPSK(now))
		return
	}
	then(now, &message.Auth{Method: message.AuthPSK, Data: kdf.PSKAuth(sa.keys.prf, psk, octets)}, nil)
}

// psk finds the shared secret with a peer, whose identity an initiator does not
// know before its answer.
func (sa *SA) psk(cfg *Config, local, remote ident.ID) (secret.Bytes, bool) {
	if !remote.IsAny() {
		return sa.env.PSK(local, remote)
	}
	if s, ok := sa.env.PSK(local, cfg.Remote.ID); ok {
		return s, ok
	}
	return sa.env.PSK(local, ident.FromAddr(sa.remote.Addr()))
}

func (sa *SA) noPSK(now time.Time) *trace.Failure {
	remote := sa.remoteID
	if remote.IsAny() {
		remote = sa.cfg.Remote.ID
	}
	return sa.failure(now, trace.StageAuth, fmt.Sprintf("no shared secret is configured for %v and %v", sa.localID, remote),
		"add a secret with these ids")
}

// verify checks the peer's AUTH payload.
func (sa *SA) verify(now time.Time, x *flow, cfg *Config, id *message.ID, auth *message.Auth, certs []*message.Cert, then func(time.Time, *trace.Failure)) {
	octets := sa.signedOctets(!sa.initiator, id.Body())
	psk := auth.Method == message.AuthPSK
	if class := cfg.Remote.Class; class == AuthPSK && !psk || class == AuthPubkey && psk {
		then(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the peer %v authenticates with %v, the remote section of %s demands %s", id.Value, auth.Method, cfg.Name, className(class)),
			"use the same authentication on both sides"))
		return
	}
	if psk {
		key, ok := sa.psk(cfg, sa.ownID(cfg), id.Value)
		if !ok {
			then(now, sa.noPSK(now))
			return
		}
		// RFC 7296, Section 2.15.
		if !hmac.Equal(kdf.PSKAuth(sa.keys.prf, key, octets), auth.Data) {
			then(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the peer %v has another shared secret than ours", id.Value), "configure the same secret on both sides"))
			return
		}
		then(now, nil)
		return
	}
	switch auth.Method {
	case message.AuthRSA, message.AuthECDSA256, message.AuthECDSA384, message.AuthECDSA521, message.AuthSignature:
	default:
		then(now, sa.failure(now, trace.StageAuth, fmt.Sprintf("the peer %v authenticates with %v, which is not spoken here", id.Value, auth.Method), "use psk or pubkey on the peer"))
		return
	}
	w := Verify{Config: cfg, ID: id.Value, Method: uint8(auth.Method), Auth: auth.Data, Octets: octets}
	for _, c := range certs {
		w.Certs = append(w.Certs, Cert{Encoding: uint8(c.Encoding), Data: c.Data})
	}
	x.Ask(w, func(now time.Time, r Reply) {
		v, ok := r.(VerifyReply)
		switch {
		case !ok:
			then(now, sa.failure(now, trace.StageAuth, "the check of the peer's signature gave no result", ""))
		case v.Failure != nil:
			then(now, sa.complete(now, v.Failure))
		default:
			then(now, nil)
		}
	})
}

// complete fills in what an outside failure does not know.
func (sa *SA) complete(now time.Time, f *trace.Failure) *trace.Failure {
	own := sa.failure(now, f.Stage, f.Sentence, f.Advice, f.Evidence...)
	own.RemoteID = f.RemoteID
	if own.RemoteID == "" && !sa.remoteID.IsAny() {
		own.RemoteID = sa.remoteID.String()
	}
	return own
}

// ownID is the identity of a configuration before a certificate decides it.
func (sa *SA) ownID(cfg *Config) ident.ID {
	switch {
	case sa.initiator && !sa.localID.IsAny():
		return sa.localID
	case !cfg.Local.ID.IsAny():
		return cfg.Local.ID
	}
	return ident.FromAddr(sa.local.Addr())
}

func className(c AuthClass) string {
	switch c {
	case AuthPSK:
		return "psk"
	case AuthPubkey:
		return "pubkey"
	}
	return "any"
}

// establish makes the IKE SA authenticated.
func (sa *SA) establish(now time.Time, contact bool) {
	sa.state = Established
	sa.established = now
	sa.setLifetimes(now)
	sa.log(now, trace.Control, false, "IKE_SA %s established between %v[%v] and %v[%v]", sa.cfg.Name, sa.local.Addr(), sa.localID, sa.remote.Addr(), sa.remoteID)
	if sa.nat.any() {
		sa.log(now, trace.Detail, false, "NAT: local %t, remote %t, forced %t", sa.nat.local, sa.nat.remote, sa.nat.fake)
	}
	sa.hs.destroy()
	sa.hs = nil
	sa.keys.forgetHandshake()
	sa.Event(Up{InitialContact: contact})
}
