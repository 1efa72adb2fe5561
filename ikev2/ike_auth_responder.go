package ikev2

import (
	"fmt"
	"time"

	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/trace"
)

// authResponder is the responder's IKE_AUTH (RFC 7296, Section 1.2).
//
//	HDR, SK {IDi, [CERT,] [CERTREQ,] [IDr,] AUTH, [CP,] SAi2, TSi, TSr}  -->
//	                   <--  HDR, SK {IDr, [CERT,] AUTH, [CP,] SAr2, TSi, TSr}
type authResponder struct {
	flow
	v      *message.IKEAuthRequest
	ni, nr []byte
	certs  []Cert
	auth   *message.Auth
	cp     *message.CP
	child  *childRequest // nil: none was asked for
	mobike []message.Payload
}

func (sa *SA) respondAuth(now time.Time, m *message.Message) {
	v, err := message.ParseIKEAuthRequest(m)
	if err != nil {
		sa.viewFault(now, err)
		return
	}
	x := &authResponder{flow: *newFlow(sa), v: v, ni: sa.hs.ni, nr: sa.hs.nr}
	sa.window.answering.flow = &x.flow
	if v.Stage != message.AuthFirst || v.Auth == nil || v.EAP != nil {
		x.refuse(now, sa.failure(now, trace.StageAuth, "the peer wants to authenticate with EAP, which is not offered", "configure psk or pubkey on the peer"))
		return
	}
	sa.learnCertReqs(v.CertReqs)
	sa.remoteID = v.IDi.Value
	x.Run(now, x.choosePeer, x.verify, x.checkNATs, x.chooseIdentity, x.prove, x.establish, x.assignAddress, x.chooseChild, x.installChild, x.findAddresses, x.reply)
}

// refuse answers AUTHENTICATION_FAILED and nothing more: who is not
// authenticated learns no reason (RFC 7296, Section 2.21.2).
func (x *authResponder) refuse(now time.Time, f *trace.Failure) {
	x.refuseWith(now, message.NewNotify(message.AuthenticationFailed, nil), f)
}

func (x *authResponder) refuseWith(now time.Time, n *message.Notify, f *trace.Failure) {
	sa := x.sa
	x.Stop()
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.reply(now, n)
	sa.close(now, Closed{Reason: CloseFailed, Failure: f, Tombstone: sa.tombstone()})
}

// maxReasons bounds what is kept of why no connection fits a stranger.
const maxReasons = 32

// choosePeer finds the configuration for the identities (RFC 4301, Section
// 4.4.3): the best match of both, then the order of the candidates.
func (x *authResponder) choosePeer(now time.Time) {
	sa, v := x.sa, x.v
	var best *Config
	var rank ident.Rank
	var why []string
	psk := v.Auth.Method == message.AuthPSK
	note := func(format string, args ...any) {
		if len(why) < maxReasons {
			why = append(why, fmt.Sprintf(format, args...))
		}
	}
	for _, cfg := range sa.hs.candidates {
		remote := ident.Match(cfg.Remote.ID, v.IDi.Value)
		local := ident.Exact
		if v.IDr != nil && !cfg.Local.ID.IsAny() {
			// RFC 7296, Section 3.5: a hint which of our identities is meant.
			local = ident.Match(cfg.Local.ID, v.IDr.Value)
		}
		class := cfg.Remote.Class
		switch {
		case remote == ident.None:
			note("%s: the remote id is %v, the peer is %v", cfg.Name, cfg.Remote.ID, v.IDi.Value)
		case local == ident.None:
			note("%s: the local id is %v, the peer asks for %v", cfg.Name, cfg.Local.ID, v.IDr.Value)
		case class == AuthPSK && !psk || class == AuthPubkey && psk:
			note("%s: demands %s, the peer uses %v", cfg.Name, className(class), v.Auth.Method)
		case best == nil || remote+local > rank:
			best, rank = cfg, remote+local
		}
	}
	if best == nil {
		x.refuse(now, sa.failure(now, trace.StageIdentity, fmt.Sprintf("no connection fits the peer %v", v.IDi.Value),
			"set id and auth of the remote section to what the peer uses", why...))
		return
	}
	sa.cfg = best
}

func (x *authResponder) verify(now time.Time) {
	sa := x.sa
	sa.verify(now, &x.flow, sa.cfg, x.v.IDi, x.v.Auth, x.v.Certs, func(now time.Time, f *trace.Failure) {
		if f != nil {
			x.refuse(now, f)
		}
	})
}

func (x *authResponder) chooseIdentity(now time.Time) {
	x.sa.chooseIdentity(now, &x.flow, func(now time.Time, certs []Cert, f *trace.Failure) {
		if f != nil {
			x.refuse(now, f)
			return
		}
		x.certs = certs
	})
}

func (x *authResponder) prove(now time.Time) {
	x.sa.prove(now, &x.flow, func(now time.Time, a *message.Auth, f *trace.Failure) {
		if f != nil {
			x.refuse(now, f)
			return
		}
		x.auth = a
	})
}

func (x *authResponder) establish(now time.Time) {
	x.sa.agreeMobility(false, x.v.Notifies)
	x.sa.establish(now, x.v.Notifies.Has(message.InitialContact))
}

func (x *authResponder) assignAddress(now time.Time) {
	if x.v.CP == nil {
		return
	}
	x.sa.assignAddress(now, &x.flow, x.v.CP, func(now time.Time, reply *message.CP, err error) {
		x.cp = reply
		if err != nil && x.v.SA != nil {
			// RFC 7296, Section 3.15.4.
			x.child = &childRequest{sa: x.sa, flow: &x.flow}
			x.child.refuse(now, message.NewNotify(message.InternalAddressFailure, nil),
				x.sa.failure(now, trace.StageAddress, fmt.Sprintf("no virtual address for %v: %v", x.sa.remoteID, err), "enlarge the pool"))
		}
	})
}

func (x *authResponder) chooseChild(now time.Time) {
	if x.v.SA == nil || x.child != nil {
		return
	}
	v := x.v
	x.child = &childRequest{sa: x.sa, flow: &x.flow, offer: v.SA, tsi: v.TSi, tsr: v.TSr, notifies: v.Notifies, first: true, ni: x.ni, nr: x.nr}
	x.child.choose(now)
	x.child.reserve(now)
}

func (x *authResponder) installChild(now time.Time) {
	if x.child != nil {
		x.child.install(now, true)
	}
}

// findAddresses confirms MOBIKE with the other addresses of this host (RFC 4555,
// Sections 3.2 and 3.4).
func (x *authResponder) findAddresses(now time.Time) {
	if x.sa.mobile.on {
		x.sa.ownAddresses(&x.flow, func(others []message.Payload) {
			x.mobike = append([]message.Payload{message.NewNotify(message.MOBIKESupported, nil)}, others...)
		})
	}
}

func (x *authResponder) reply(now time.Time) {
	sa := x.sa
	ps := []message.Payload{&message.ID{Responder: true, Value: sa.localID}}
	ps = append(ps, certPayloads(x.certs)...)
	ps = append(ps, x.auth)
	if q := answerQueries(x.v.CP); q != nil {
		if x.cp == nil {
			x.cp = &message.CP{Kind: message.CFGReply}
		}
		x.cp.Attributes = append(x.cp.Attributes, q...)
	}
	if x.cp != nil {
		ps = append(ps, x.cp)
	}
	if x.child != nil {
		ps = append(ps, x.child.payloads()...)
	}
	ps = append(ps, x.mobike...)
	sa.reply(now, ps...)
	if x.child != nil && x.child.made != nil {
		sa.childUp(now, x.child.made)
	}
}
