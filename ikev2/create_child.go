package ikev2

import (
	"fmt"
	"iked/internal/keyex"
	"slices"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// createChild is our CREATE_CHILD_SA that makes or rekeys a CHILD_SA (RFC 7296,
// Sections 1.3.1 and 1.3.3).
//
//	HDR, SK {[N(REKEY_SA),] [N(mode),] SA, Ni, [KEi,] TSi, TSr}  -->
//	                           <--  HDR, SK {[N(mode),] SA, Nr, [KEr,] TSi, TSr}
type createChild struct {
	steps  flow
	sa     *SA
	cfg    *ChildConfig
	flow   *spd.Flow
	single bool
	only   *tsPair  // this pair alone, and rest after it
	rest   []tsPair //
	old    *Child   // what is rekeyed

	offer   *childOffer
	group   uint16
	tried   []uint16
	pair    *ke.KeyPair
	ni      []byte
	retries int
	// gone are SPIs that the peer deleted, unknown to us, while this was not
	// answered: the answer may have been lost.
	gone []uint32
}

// deletedMeanwhile tells whether the peer deleted the child before its answer
// was here.
func (x *createChild) deletedMeanwhile(c *Child) bool { return slices.Contains(x.gone, c.SPIOut) }

// maxTemporary is how often a TEMPORARY_FAILURE is taken as temporary when a
// new CHILD_SA is made.
const maxTemporary = 10

func (x *createChild) task() string {
	if x.old != nil {
		return "CHILD_REKEY"
	}
	return "CHILD_CREATE"
}

func (x *createChild) abandon(now time.Time) {
	x.steps.Stop()
	if x.offer != nil {
		x.offer.free()
	}
	if x.pair != nil {
		x.pair.Destroy()
	}
	if x.old != nil {
		book(x.old).own = nil
	}
}

func (x *createChild) begin(now time.Time) {
	x.steps = *newFlow(x.sa)
	if o := x.old; o != nil {
		if o.State != ChildInstalled || book(o).successor != nil {
			// Deleted or rekeyed by the peer while this waited.
			x.sa.finish()
			return
		}
		o.State, book(o).own = ChildRekeying, x
		x.sa.logChild(now, o.Config, false, "rekeying CHILD_SA %s{%d}", o.Config.Name, o.UniqueID)
	}
	x.offer = &childOffer{sa: x.sa, cfg: x.cfg, flow: x.flow, single: x.single, only: x.only, rest: x.rest, old: x.old}
	if x.group == suite.KENone {
		x.group = childGroup(x.cfg.Proposals, x.old)
	}
	x.steps.Run(now, x.reserve, x.generate, x.send)
}

// childGroup is the key exchange method to begin with; KENone: without.
func childGroup(ps []suite.Proposal, old *Child) uint16 {
	if old != nil && old.KE.ID != suite.KENone && offersKE(ps, old.KE.ID) {
		return old.KE.ID
	}
	if len(ps) == 0 {
		return suite.KENone
	}
	for _, t := range ps[0].Transforms {
		if t.Type == suite.KE {
			return t.ID
		}
	}
	return suite.KENone
}

func (x *createChild) reserve(now time.Time) {
	x.offer.reserve(now, &x.steps, func(now time.Time, f *trace.Failure) {
		if f != nil {
			x.failed(now, f)
		}
	})
}

func (x *createChild) generate(now time.Time) {
	x.ni = x.sa.nonce()
	if x.group == suite.KENone {
		return
	}
	x.steps.Compute(now, keyex.Generate(x.sa.env, x.group), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			x.failed(now, x.sa.failure(now, trace.StageKE, err.Error(), "choose another key exchange method"))
			return
		}
		x.pair = r.Pair
	})
}

func (x *createChild) send(now time.Time) {
	var ps []message.Payload
	if o := x.old; o != nil {
		if o.State != ChildRekeying {
			// The peer was faster.
			x.settleFailed(now)
			return
		}
		// RFC 7296, Section 1.3.3: named by our inbound SPI.
		ps = append(ps, message.NewChildNotify(message.RekeySA, o.Proto, o.SPIIn))
	}
	for _, p := range x.offer.payloads() {
		if p.Type() == message.TypeTSi {
			ps = append(ps, &message.Nonce{Data: x.ni})
			if x.pair != nil {
				ps = append(ps, &message.KE{Group: x.group, Data: x.pair.Public()})
			}
		}
		ps = append(ps, p)
	}
	if err := x.sa.request(now, message.ExchangeCreateChildSA, ps...); err != nil {
		x.failed(now, x.sa.failure(now, trace.StageConfig, err.Error(), "configure fewer selectors or proposals"))
	}
}

func (x *createChild) answer(now time.Time, m *message.Message) {
	v, err := message.ParseCreateChildSAResponse(m)
	if err == nil && v.Accepted() && v.Kind != message.NewChild {
		err = fmt.Errorf("it is about an IKE SA")
	}
	switch {
	case err != nil:
		// RFC 7296, Section 2.21.3.
		x.sa.close(now, Closed{Reason: CloseFailed, Failure: x.sa.failure(now, trace.StageRefused,
			"the peer's CREATE_CHILD_SA response is faulty: "+err.Error(), "this is a fault of the peer's implementation")})
	case !v.Accepted():
		x.refused(now, v.Notifies.Error())
	case v.Notifies.UnknownError() != nil:
		// RFC 7296, Section 3.10.1.
		x.giveUp(now, &v.SA.Proposals[0], x.sa.refusedBy(now, v.Notifies.UnknownError(), "CHILD_SA "+x.cfg.Name))
	default:
		x.accepted(now, v)
	}
}

func (x *createChild) accepted(now time.Time, v *message.CreateChildSAResponse) {
	var gir secret.Bytes
	x.steps = *newFlow(x.sa)
	t, withKE := v.SA.Proposals[0].First(suite.KE)
	agree := func(now time.Time) {
		if !withKE {
			return
		}
		if v.KE == nil || x.pair == nil || v.KE.Group != x.group || t.ID != x.group {
			x.giveUp(now, &v.SA.Proposals[0], x.sa.failure(now, trace.StageKE, "the peer's key exchange does not fit its choice", "this is a fault of the peer"))
			return
		}
		x.steps.Compute(now, keyex.Agree(x.sa.env, x.group, x.pair, v.KE.Data), func(now time.Time, r keyex.KEResult, err error) {
			if err != nil {
				x.giveUp(now, &v.SA.Proposals[0], x.sa.failure(now, trace.StageKE, err.Error(), "this is a fault of the peer"))
				return
			}
			gir = r.Shared
		})
	}
	take := func(now time.Time) {
		defer gir.Destroy()
		a := childAnswer{v.SA, v.TSi, v.TSr, v.Notifies, gir, x.ni, v.Nonce.Data}
		if x.old != nil {
			x.settle(now, a)
			return
		}
		x.offer.accept(now, &x.steps, a, func(now time.Time, c *Child) {
			x.done()
			if c != nil {
				x.sa.childUp(now, c)
				if x.deletedMeanwhile(c) {
					x.sa.dropChild(now, c, true)
				}
			}
		})
	}
	x.steps.Run(now, agree, take)
}

// giveUp refuses what the peer set up.
func (x *createChild) giveUp(now time.Time, p *message.Proposal, f *trace.Failure) {
	x.sa.refuseGiven(now, x.offer, p)
	x.failed(now, f)
}

// done ends the exchange.
func (x *createChild) done() {
	x.steps.Stop()
	if x.pair != nil {
		x.pair.Destroy()
		x.pair = nil
	}
	if x.old != nil {
		book(x.old).own = nil
	}
	x.sa.finish()
}

// failed ends it without a CHILD_SA.
func (x *createChild) failed(now time.Time, f *trace.Failure) {
	x.offer.free()
	x.offer.failed(now, f)
	if x.old != nil {
		x.settleFailed(now)
		return
	}
	x.done()
}

// refused handles an error notify.
func (x *createChild) refused(now time.Time, n *message.Notify) {
	sa := x.sa
	switch n.Kind {
	case message.InvalidKEPayload:
		// RFC 7296, Section 1.3: once for each method that we offered.
		group, ok := n.Uint16()
		if ok && group != x.group && !slices.Contains(x.tried, group) && offersKE(x.cfg.Proposals, group) {
			x.tried = append(x.tried, x.group)
			x.group = group
			if x.pair != nil {
				x.pair.Destroy()
				x.pair = nil
			}
			x.steps = *newFlow(sa)
			x.steps.Run(now, x.generate, x.send)
			return
		}
	case message.TemporaryFailure:
		// RFC 7296, Section 2.25: once more, after a random while.
		x.offer.free()
		if x.old != nil {
			x.settleTemporary(now)
			return
		}
		if x.retries < maxTemporary {
			x.retries++
			x.done()
			sa.later(now.Add(sa.retryDelay()), &createChild{sa: sa, cfg: x.cfg, flow: x.flow, single: x.single, only: x.only, rest: x.rest, retries: x.retries})
			return
		}
	case message.SinglePairRequired:
		if next := x.offer.singlePair(); next != nil {
			x.offer.free()
			x.done()
			sa.enqueueFirst(next)
			return
		}
	case message.ChildSANotFound:
		if x.old != nil {
			x.offer.free()
			x.settleNotFound(now)
			return
		}
	}
	f := sa.refusedBy(now, n, "CHILD_SA "+x.cfg.Name)
	f.Evidence = x.offer.evidence()
	x.failed(now, f)
}

// retryDelay is how long to wait after TEMPORARY_FAILURE.
func (sa *SA) retryDelay() time.Duration { return time.Second + keyex.Jitter(sa.env, 4*time.Second) }

// respondCreateChild answers the three kinds of CREATE_CHILD_SA.
func (sa *SA) respondCreateChild(now time.Time, m *message.Message) {
	v, err := message.ParseCreateChildSARequest(m)
	if err != nil {
		sa.viewFault(now, err)
		return
	}
	a := sa.window.answering
	a.name = map[message.ChildKind]string{message.NewChild: "CHILD_CREATE", message.RekeyChild: "CHILD_REKEY", message.RekeyIKE: "IKE_REKEY"}[v.Kind]
	switch {
	case sa.state == Deleting || sa.state == Rekeyed || sa.closing() != nil:
		// RFC 7296, Section 2.25.2: the IKE SA is being closed.
		sa.temporaryFailure(now, "ike-closing")
	case sa.undecided():
		// The peer saw the end of the simultaneous rekeying before we did.
		sa.temporaryFailure(now, "ike-undecided")
	case v.Kind == message.RekeyIKE:
		sa.respondRekeyIKE(now, v)
	case sa.rekeyingIKE():
		sa.temporaryFailure(now, "ike-rekeying")
	case v.Kind == message.RekeyChild:
		sa.respondRekeyChild(now, v)
	default:
		sa.respondNewChild(now, v)
	}
}

func (sa *SA) temporaryFailure(now time.Time, why string) {
	sa.count("temporary-failure", why)
	sa.reply(now, message.NewNotify(message.TemporaryFailure, nil))
}

func (sa *SA) newChildRequest(v *message.CreateChildSARequest, old *Child) *childRequest {
	q := &childRequest{sa: sa, flow: newFlow(sa), offer: v.SA, tsi: v.TSi, tsr: v.TSr, notifies: v.Notifies, ke: v.KE, ni: v.Nonce.Data, old: old}
	sa.window.answering.flow = q.flow
	return q
}

// respondNewChild makes another CHILD_SA for the peer.
func (sa *SA) respondNewChild(now time.Time, v *message.CreateChildSARequest) {
	q := sa.newChildRequest(v, nil)
	q.flow.Run(now, q.choose, q.reserve, q.exchangeKeys,
		func(now time.Time) { q.install(now, true) },
		func(now time.Time) {
			sa.reply(now, q.payloads()...)
			q.ifMalformed(now)
			if q.made != nil {
				sa.childUp(now, q.made)
			}
		})
}
