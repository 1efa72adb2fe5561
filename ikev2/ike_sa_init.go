package ikev2

import (
	"bytes"
	"fmt"
	"iked/internal/keyex"
	"slices"
	"strings"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// handshake is what IKE_SA_INIT and IKE_AUTH need and an established SA does
// not.
type handshake struct {
	ni, nr       []byte
	group        uint16
	tried        []uint16 // groups that the peer refused
	pair         *ke.KeyPair
	cookie       []byte
	cookies      int    // COOKIE answers so far
	init1, init2 []byte // the IKE_SA_INIT messages as on the wire
	busy         bool   // an accepted response is being worked on
	hinted       message.NotifyType
	hints        int // refusals told so far
	repeats      int // copies of the answer to IKE_SA_INIT sent again
	peerHashes   []uint16
	certAsked    bool
	certRequests []byte
	candidates   []*Config // responder
	childless    bool      // the responder takes IKE_AUTH without a CHILD_SA (RFC 6023)
	child        *ChildConfig
	flow         *spd.Flow
}

func (h *handshake) destroy() {
	if h.pair != nil {
		h.pair.Destroy()
	}
}

// hintPatience is how long a better answer is waited for after a refusal in
// clear: long enough for one more try that got lost or was outrun by a forger,
// short enough for somebody who waits to be told why.
const hintPatience = 5 * time.Second

// maxCookies is how often a responder may ask for a cookie (RFC 7296, Section
// 2.6: loops must end).
const maxCookies = 5

// maxHints is how many refusals that nobody authenticated are told of one
// handshake, and maxRepeats how often IKE_SA_INIT is answered again. Who sends
// its request is not known to get the answer, which may be longer than it, so
// copies of a request with somebody else's address must not make many.
const (
	maxHints   = 4
	maxRepeats = 12
)

// ikeInit is the initiator's IKE_SA_INIT (RFC 7296, Section 1.2).
//
//	HDR, [N(COOKIE),] SAi1, KEi, Ni, N+  -->
//	                                <--  HDR, SAr1, KEr, Nr, [CERTREQ,] N+
type ikeInit struct{ flow }

func (x *ikeInit) task() string                       { return "IKE_INIT" }
func (x *ikeInit) abandon(time.Time)                  { x.Stop() }
func (x *ikeInit) answer(time.Time, *message.Message) {} // its responses come by receiveInit

// startInit begins the handshake.
func (sa *SA) startInit(now time.Time, t StartInit) {
	sa.hs = &handshake{child: t.Child, flow: t.Flow, ni: sa.nonce()}
	sa.state = Connecting
	x := &ikeInit{*newFlow(sa)}
	sa.active = x
	sa.log(now, trace.Control, false, "initiating IKE_SA %s to %v", sa.cfg.Name, sa.remote)
	x.begin(now)
}

func (x *ikeInit) begin(now time.Time) {
	sa := x.sa
	if len(sa.cfg.Proposals) > 0 {
		if t, ok := firstKE(sa.cfg.Proposals); ok {
			sa.hs.group = t.ID
		}
	}
	if sa.hs.group == suite.KENone {
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageConfig,
			"no IKE proposal with a key exchange method is configured", "set proposals of the connection")})
		return
	}
	x.exchangeKeys(now)
}

// firstKE is the first key exchange method of a list of proposals.
func firstKE(ps []suite.Proposal) (suite.Transform, bool) {
	for _, p := range ps {
		if t, ok := p.First(suite.KE); ok {
			return t, true
		}
	}
	return suite.Transform{}, false
}

// exchangeKeys makes the key pair of the chosen group and sends the request.
func (x *ikeInit) exchangeKeys(now time.Time) {
	x.Run(now, func(now time.Time) {
		x.Compute(now, keyex.Generate(x.sa.env, x.sa.hs.group), func(now time.Time, r keyex.KEResult, err error) {
			if err != nil {
				x.sa.close(now, Closed{Reason: CloseFailed, Failure: x.sa.failure(now, trace.StageKE, err.Error(), "choose another key exchange method")})
				return
			}
			if x.sa.hs.pair != nil {
				x.sa.hs.pair.Destroy()
			}
			x.sa.hs.pair = r.Pair
		})
	}, x.send)
}

func (x *ikeInit) send(now time.Time) {
	sa, hs := x.sa, x.sa.hs
	if sa.closed {
		return
	}
	m := &message.Message{Header: sa.header(message.ExchangeIKESAInit, 0, false)}
	if hs.cookie != nil {
		m.Payloads = append(m.Payloads, message.NewNotify(message.Cookie, hs.cookie))
	}
	m.Payloads = append(m.Payloads, offerSA(sa.cfg.Proposals, nil), &message.KE{Group: hs.group, Data: hs.pair.Public()}, &message.Nonce{Data: hs.ni})
	if !sa.cfg.NoNATs {
		m.Payloads = append(m.Payloads, sa.natNotifies(sa.cfg, sa.local, sa.remote)...)
	}
	m.Payloads = append(m.Payloads, sa.abilities(sa.cfg, true)...)
	m.Payloads = append(m.Payloads, vendorIDs(sa.cfg)...)
	b, err := m.Append(nil)
	if err != nil {
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageConfig, err.Error(), "configure fewer proposals")})
		return
	}
	hs.init1 = b
	sa.window.sendID = 0 // RFC 7296, Section 2.2: also when it is repeated with a cookie
	sa.sendRequest(now, message.ExchangeIKESAInit, [][]byte{b})
}

// abilities announces the extensions of IKE_SA_INIT.
func (sa *SA) abilities(cfg *Config, hashes bool) []message.Payload {
	var ps []message.Payload
	if cfg.Fragmentation != FragNo {
		ps = append(ps, message.NewNotify(message.FragmentationSupported, nil))
	}
	if hashes {
		// RFC 7427, Section 4; RFC 8420, Section 2.
		ps = append(ps, message.NewSignatureHashes(message.HashSHA256, message.HashSHA384, message.HashSHA512, message.HashIdentity))
	}
	return ps
}

// learn notes the peer's abilities.
func (sa *SA) learn(cfg *Config, ns message.Notifies) {
	sa.peerFragments = ns.Has(message.FragmentationSupported) && cfg.Fragmentation != FragNo
	if n := ns.Find(message.SignatureHashAlgorithms); n != nil {
		sa.hs.peerHashes = []uint16{}
		for _, h := range n.SignatureHashes() {
			sa.hs.peerHashes = append(sa.hs.peerHashes, uint16(h))
		}
	}
}

func (sa *SA) learnCertReqs(reqs []*message.CertReq) {
	for _, r := range reqs {
		if r.Encoding != message.CertX509 {
			continue
		}
		sa.hs.certAsked = true
		if _, ok := r.Authorities(); ok {
			sa.hs.certRequests = append(sa.hs.certRequests, r.Data...)
		}
	}
}

// offerSA is the SA payload with all proposals, numbered from 1.
func offerSA(ps []suite.Proposal, spi []byte) *message.SA {
	sa := &message.SA{Proposals: make([]message.Proposal, 0, len(ps))}
	for i, p := range ps {
		sa.Proposals = append(sa.Proposals, message.Proposal{Number: uint8(i + 1), SPI: spi, Proposal: p})
	}
	return sa
}

// chosenFrom checks that a responder's choice is one of what was offered (RFC
// 7296, Section 2.7).
func chosenFrom(offered []suite.Proposal, p *message.Proposal, o suite.Options) (suite.Proposal, error) {
	if p.Unusable != "" {
		return suite.Proposal{}, fmt.Errorf("the peer chose a proposal that cannot be used: %s", p.Unusable)
	}
	if p.Number == 0 || int(p.Number) > len(offered) {
		return suite.Proposal{}, fmt.Errorf("the peer chose proposal %d, %d were offered", p.Number, len(offered))
	}
	c, mm := suite.Select(offered[p.Number-1:p.Number], []suite.Proposal{p.Proposal}, o)
	if mm != nil {
		return suite.Proposal{}, fmt.Errorf("the peer chose what was not offered: %v", mm)
	}
	return c.Proposal, nil
}

// receiveInit takes IKE_SA_INIT messages of both directions; nothing of them is
// authenticated.
func (sa *SA) receiveInit(now time.Time, h message.Header, d Datagram) {
	if h.MessageID != 0 {
		sa.dropped(now, h, "message-id", "IKE_SA_INIT has message ID 0")
		return
	}
	response := h.Flags&message.FlagResponse != 0
	switch {
	case response != sa.initiator || (h.Flags&message.FlagInitiator != 0) == sa.initiator:
		sa.dropped(now, h, "direction", "IKE_SA_INIT of the wrong direction")
	case sa.initiator:
		x, ok := sa.active.(*ikeInit)
		if !ok || sa.hs == nil || sa.hs.busy || h.SPIi != sa.spiI || sa.window.out == nil {
			sa.dropped(now, h, "unexpected-response", "no IKE_SA_INIT is outstanding")
			return
		}
		x.response(now, h, d)
	case sa.state == Created && sa.hs == nil:
		sa.respondInit(now, h, d)
	case sa.hs != nil && sa.hs.init2 != nil && bytes.Equal(sa.hs.init1, d.Data):
		if sa.hs.repeats++; sa.hs.repeats > maxRepeats {
			sa.dropped(now, h, "repeats", "IKE_SA_INIT was answered often enough")
			return
		}
		sa.count("ike-retransmit", "response")
		d.Data = nil
		sa.transmit(now, [][]byte{sa.hs.init2}, d)
	default:
		sa.dropped(now, h, "unexpected-request", "IKE_SA_INIT was answered before")
	}
}

// response handles an answer to IKE_SA_INIT.
func (x *ikeInit) response(now time.Time, h message.Header, d Datagram) {
	sa, hs := x.sa, x.sa.hs
	m, err := message.Parse(d.Data)
	if err != nil {
		sa.drop(now, h, err)
		return
	}
	v, err := message.ParseIKESAInitResponse(m)
	if err != nil {
		sa.drop(now, h, err)
		return
	}
	sa.counted(message.ExchangeIKESAInit, "in-resp")
	if !v.Accepted() {
		x.refused(now, v)
		return
	}
	// RFC 7296, Section 2.7.
	chosen, err := chosenFrom(sa.cfg.Proposals, &v.SA.Proposals[0], suite.Options{})
	if err != nil {
		sa.dropped(now, h, "proposal", err.Error())
		return
	}
	if t, _ := chosen.First(suite.KE); t.ID != hs.group || v.KE.Group != hs.group {
		sa.dropped(now, h, "key-exchange", "the answer has another key exchange method than the request")
		return
	}
	if err := nonceFits(chosen, v.Nonce.Data); err != nil {
		sa.dropped(now, h, "nonce", err.Error())
		return
	}
	hs.busy = true
	x.Run(now, func(now time.Time) {
		x.Compute(now, keyex.Agree(sa.env, hs.group, hs.pair, v.KE.Data), func(now time.Time, r keyex.KEResult, err error) {
			hs.busy = false
			if err != nil {
				// The answer may be forged: the right one may still come.
				sa.dropped(now, h, "key-exchange", err.Error())
				return
			}
			x.accepted(now, v, chosen, r.Shared, d)
		})
	})
}

// accepted takes an answer: keys are there.
func (x *ikeInit) accepted(now time.Time, v *message.IKESAInitResponse, chosen suite.Proposal, gir secret.Bytes, d Datagram) {
	sa, hs := x.sa, x.sa.hs
	sa.spiR, sa.proposal, hs.nr, hs.init2 = v.Header.SPIr, chosen, v.Nonce.Data, bytes.Clone(d.Data)
	if err := sa.handshakeKeys(gir); err != nil {
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageKE, err.Error(), "")})
		return
	}
	sa.learn(sa.cfg, v.Notifies)
	sa.learnCertReqs(v.CertReqs)
	hs.childless = v.Notifies.Has(message.ChildlessIKEv2Supported)
	sa.local = d.Local
	sa.detectNAT(v.Notifies, sa.spiI, sa.spiR, d.Local, d.Remote)
	sa.float()
	sa.window.out, sa.window.sendID = nil, 1
	x.unrefuse()
	sa.lastInbound = now
	hs.pair.Destroy()
	hs.pair = nil
	sa.active = newAuthInitiator(sa)
	sa.active.begin(now)
}

// handshakeKeys derives the keys of the IKE SA (RFC 7296, Section 2.14).
func (sa *SA) handshakeKeys(gir secret.Bytes) error {
	defer gir.Destroy()
	f, err := proposalPRF(sa.proposal)
	if err != nil {
		return err
	}
	seed := kdf.SKEYSEED(f, sa.hs.ni, sa.hs.nr, gir)
	defer seed.Destroy()
	sa.keys, err = deriveIKE(sa.proposal, f, seed, sa.hs.ni, sa.hs.nr, sa.spiI, sa.spiR, sa.initiator, sa.env.Random)
	return err
}

// nonceFits: a nonce has at least half the key size of the PRF (RFC 7296,
// Section 2.10).
func nonceFits(p suite.Proposal, nonce []byte) error {
	f, err := proposalPRF(p)
	if err != nil {
		return err
	}
	if len(nonce) < f.Size()/2 {
		return fmt.Errorf("the peer's nonce has %d octets, the PRF needs %d", len(nonce), f.Size()/2)
	}
	return nil
}

// refused handles an answer that is no agreement. It is not authenticated: but
// for COOKIE and INVALID_KE_PAYLOAD it is a hint only (RFC 7296, Section 2.21.1).
func (x *ikeInit) refused(now time.Time, v *message.IKESAInitResponse) {
	sa, hs := x.sa, x.sa.hs
	if n := v.Notifies.Find(message.Cookie); n != nil {
		// RFC 7296, Section 2.6.
		switch {
		case len(n.Data) < 1 || len(n.Data) > 64:
			sa.dropped(now, v.Header, "cookie", "a cookie has 1 to 64 octets")
		case bytes.Equal(n.Data, hs.cookie):
			sa.dropped(now, v.Header, "cookie", "this cookie was returned already")
		case hs.cookies == maxCookies:
			sa.dropped(now, v.Header, "cookie", "the responder asks for cookies again and again")
		default:
			hs.cookies++
			hs.cookie = bytes.Clone(n.Data)
			x.unrefuse()
			x.send(now)
		}
		return
	}
	if n := v.Notifies.Find(message.InvalidKEPayload); n != nil {
		group, ok := n.Uint16()
		// RFC 7296, Sections 1.2 and 2.7: one that we offered and did not try yet.
		if !ok || group == hs.group || slices.Contains(hs.tried, group) || !offersKE(sa.cfg.Proposals, group) {
			sa.dropped(now, v.Header, "key-exchange", fmt.Sprintf("the peer wants key exchange method %d, which was not offered or was tried", group))
			return
		}
		sa.log(now, trace.Control, false, "the peer wants key exchange method %v", suite.Transform{Type: suite.KE, ID: group})
		hs.tried = append(hs.tried, hs.group)
		hs.group = group
		sa.window.out = nil
		x.unrefuse()
		x.exchangeKeys(now)
		return
	}
	n := v.Notifies.Error()
	sa.count("ike-hint", hintLabel(n.Kind))
	if hs.hinted == n.Kind {
		return
	}
	hs.hinted = n.Kind
	if hs.hints++; hs.hints > maxHints {
		return
	}
	if sa.timers.refused.IsZero() {
		sa.timers.refused = now.Add(hintPatience)
	}
	f := sa.refusedBy(now, n, "IKE_SA_INIT")
	f.Sentence += ", which nobody authenticated: still waiting for another answer"
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.Event(Failed{Failure: f})
}

// hintLabel names a refusal for a counter: peers cannot make labels.
func hintLabel(n message.NotifyType) string {
	if name := n.Name(); !strings.HasPrefix(name, "ERROR_") {
		return name
	}
	return "unknown"
}

// unrefuse: the peer goes on with the handshake, an earlier refusal is no longer
// what it says.
func (x *ikeInit) unrefuse() { x.sa.hs.hinted, x.sa.timers.refused = message.NoNotify, time.Time{} }

func offersKE(ps []suite.Proposal, group uint16) bool {
	return slices.ContainsFunc(ps, func(p suite.Proposal) bool {
		return p.Has(suite.Transform{Type: suite.KE, ID: group})
	})
}
