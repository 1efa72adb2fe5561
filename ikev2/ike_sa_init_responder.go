package ikev2

import (
	"bytes"
	"fmt"
	"iked/internal/keyex"
	"slices"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/trace"
)

// initResponder answers IKE_SA_INIT.
type initResponder struct {
	flow
	v      *message.IKESAInitRequest
	from   Datagram
	number uint8
}

func (sa *SA) respondInit(now time.Time, h message.Header, d Datagram) {
	m, err := message.Parse(d.Data)
	var v *message.IKESAInitRequest
	if err == nil {
		v, err = message.ParseIKESAInitRequest(m)
	}
	if err == nil && !h.SPIr.IsZero() {
		err = fmt.Errorf("a first request has no responder SPI")
	}
	sa.spiI = h.SPIi
	x := &initResponder{flow: *newFlow(sa), v: v, from: d}
	if err != nil {
		sa.drop(now, h, err)
		if e, ok := err.(*message.Error); ok && e.Action == message.NotifyPeer {
			// RFC 7296, Section 2.5.
			x.refuse(now, message.NewNotify(e.Notify, e.Data))
		}
		sa.close(now, Closed{Reason: CloseFailed})
		return
	}
	sa.counted(message.ExchangeIKESAInit, "in-req")
	sa.hs = &handshake{ni: v.Nonce.Data, init1: bytes.Clone(d.Data)}
	x.Run(now, x.choose, x.exchangeKeys)
}

// refuse answers with a notify and no state: the responder's SPI is zero.
func (x *initResponder) refuse(now time.Time, n *message.Notify) {
	sa := x.sa
	h := sa.header(message.ExchangeIKESAInit, 0, true)
	h.SPIr = [8]byte{}
	b, err := (&message.Message{Header: h, Payloads: []message.Payload{n}}).Append(nil)
	if err != nil {
		return
	}
	sa.counted(message.ExchangeIKESAInit, "out-resp")
	to := x.from
	sa.transmit(now, [][]byte{b}, to)
}

// maxFailed is how many different lists of proposals are remembered as not
// fitting an offer.
const maxFailed = 16

func sameProposals(a, b []suite.Proposal) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, func(p, q suite.Proposal) bool {
		return p.Protocol == q.Protocol && slices.Equal(p.Transforms, q.Transforms)
	}))
}

// choose finds the configurations that can answer and the proposal.
func (x *initResponder) choose(now time.Time) {
	sa, v := x.sa, x.v
	theirs := make([]suite.Proposal, 0, len(v.SA.Proposals))
	numbers := make([]uint8, 0, len(v.SA.Proposals))
	for i := range v.SA.Proposals {
		if p := &v.SA.Proposals[i]; p.Unusable == "" {
			theirs, numbers = append(theirs, p.Proposal), append(numbers, p.Number)
		}
	}
	candidates := sa.env.Candidates(sa.local.Addr(), sa.remote.Addr())
	var first *suite.Mismatch
	var failed [][]suite.Proposal // many connections have the same ones
	for i, cfg := range candidates {
		if slices.ContainsFunc(failed, func(ps []suite.Proposal) bool { return sameProposals(ps, cfg.Proposals) }) {
			continue
		}
		c, mm := suite.Select(cfg.Proposals, theirs, suite.Options{})
		if mm != nil {
			if first == nil {
				first = mm
				sa.cfg = cfg
			}
			if len(failed) < maxFailed {
				failed = append(failed, cfg.Proposals)
			}
			continue
		}
		sa.cfg, sa.proposal, x.number = cfg, c.Proposal, numbers[c.TheirIndex]
		// Others may turn out to be meant once the identities are known.
		for _, other := range candidates[i:] {
			if _, mm := suite.Select(other.Proposals, []suite.Proposal{c.Proposal}, suite.Options{}); mm == nil {
				sa.hs.candidates = append(sa.hs.candidates, other)
			}
		}
		break
	}
	var f *trace.Failure
	switch {
	case len(candidates) == 0:
		f = sa.failure(now, trace.StageConfig, fmt.Sprintf("no connection is configured between %v and %v", sa.local.Addr(), sa.remote.Addr()),
			"add a connection whose local_addrs and remote_addrs have these addresses")
	case sa.hs.candidates == nil:
		f = sa.mismatch(now, trace.StageProposal, first)
	}
	if f != nil {
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		x.refuse(now, message.NewNotify(message.NoProposalChosen, nil))
		sa.close(now, Closed{Reason: CloseFailed, Failure: f})
		x.Stop()
		return
	}
	group, _ := sa.proposal.First(suite.KE)
	if v.KE.Group != group.ID {
		// RFC 7296, Section 1.2.
		sa.log(now, trace.Control, false, "the peer sent key exchange method %v, asking for %v", suite.Transform{Type: suite.KE, ID: v.KE.Group}, group)
		x.refuse(now, message.NewInvalidKE(group.ID))
		sa.close(now, Closed{Reason: CloseRetry})
		x.Stop()
		return
	}
	if err := nonceFits(sa.proposal, v.Nonce.Data); err != nil {
		sa.dropped(now, v.Header, "nonce", err.Error())
		sa.close(now, Closed{Reason: CloseFailed})
		x.Stop()
	}
}

// exchangeKeys makes the keys and answers.
func (x *initResponder) exchangeKeys(now time.Time) {
	sa, v := x.sa, x.v
	x.Compute(now, keyex.Agree(sa.env, v.KE.Group, nil, v.KE.Data), func(now time.Time, r keyex.KEResult, err error) {
		if sa.closed {
			return
		}
		if err != nil {
			// RFC 6989, Section 2; in clear nothing is told.
			sa.dropped(now, v.Header, "key-exchange", err.Error())
			sa.close(now, Closed{Reason: CloseFailed})
			return
		}
		sa.hs.nr = sa.nonce()
		if err := sa.handshakeKeys(r.Shared); err != nil {
			sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageKE, err.Error(), "")})
			return
		}
		x.reply(now, r.Pair)
	})
}

func (x *initResponder) reply(now time.Time, pair *ke.KeyPair) {
	sa, v := x.sa, x.v
	defer pair.Destroy()
	sa.learn(sa.cfg, v.Notifies)
	sa.detectNAT(v.Notifies, sa.spiI, [8]byte{}, x.from.Local, x.from.Remote)
	m := &message.Message{Header: sa.header(message.ExchangeIKESAInit, 0, true), Payloads: []message.Payload{
		&message.SA{Proposals: []message.Proposal{{Number: x.number, Proposal: sa.proposal}}},
		&message.KE{Group: v.KE.Group, Data: pair.Public()},
		&message.Nonce{Data: sa.hs.nr},
	}}
	if v.Notifies.Has(message.NATDetectionSourceIP) && !sa.cfg.NoNATs {
		m.Payloads = append(m.Payloads, sa.natNotifies(sa.cfg, x.from.Local, x.from.Remote)...)
	}
	if sa.cfg.SendCertReq && sa.cfg.Remote.Class != AuthPSK {
		if hashes := sa.env.CertRequests(sa.cfg); len(hashes) > 0 {
			m.Payloads = append(m.Payloads, &message.CertReq{Encoding: message.CertX509, Data: hashes})
		}
	}
	for _, p := range sa.abilities(sa.cfg, sa.hs.peerHashes != nil) {
		// RFC 7383, Section 2.3: only when the initiator announced it.
		if n := p.(*message.Notify); n.Kind == message.FragmentationSupported && !sa.peerFragments {
			continue
		}
		m.Payloads = append(m.Payloads, p)
	}
	// RFC 6023, Section 3.
	m.Payloads = append(m.Payloads, message.NewNotify(message.ChildlessIKEv2Supported, nil))
	m.Payloads = append(m.Payloads, vendorIDs(sa.hs.candidates...)...)
	b, err := m.Append(nil)
	if err != nil {
		sa.close(now, Closed{Reason: CloseInternal, Failure: sa.failure(now, trace.StageConfig, err.Error(), "")})
		return
	}
	sa.hs.init2 = b
	sa.state = Connecting
	if sa.cfg.HalfOpen > 0 {
		sa.timers.halfOpen = now.Add(sa.cfg.HalfOpen)
	}
	sa.window.recvID = 1
	sa.counted(message.ExchangeIKESAInit, "out-resp")
	sa.transmit(now, [][]byte{b}, x.from)
}
