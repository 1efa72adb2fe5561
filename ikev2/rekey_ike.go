package ikev2

import (
	"bytes"
	"fmt"
	"iked/internal/keyex"
	"slices"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/isakmp"
	"iked/internal/secret"
	"iked/internal/trace"
)

// ikeRekeyState is what an IKE SA knows of its successors.
type ikeRekeyState struct {
	heir       *SA    // took over the children
	rival      *SA    // made by the peer's simultaneous rekeying, not decided yet
	rivalNonce []byte // lowest nonce of that exchange
	parent     *SA    // whose rival this is
}

// undecided tells whether this SA may yet lose a simultaneous rekeying: its
// children are still with its parent.
func (sa *SA) undecided() bool {
	p := sa.rekey.parent
	return p != nil && !p.closed && p.rekey.rival == sa
}

// rekeyIKE is our rekeying of the IKE SA (RFC 7296, Section 1.3.2).
//
//	HDR, SK {SA, Ni, KEi}  -->
//	                      <--  HDR, SK {SA, Nr, KEr}
type rekeyIKE struct {
	flow
	group uint16
	tried []uint16
	pair  *ke.KeyPair
	ni    []byte
	spi   isakmp.SPI
}

func (x *rekeyIKE) task() string { return "IKE_REKEY" }

func (x *rekeyIKE) abandon(time.Time) {
	x.Stop()
	if x.pair != nil {
		x.pair.Destroy()
	}
}

func (sa *SA) rekeyingIKE() bool {
	_, ok := sa.active.(*rekeyIKE)
	return ok
}

// queueRekeyIKE begins a rekeying if none is going on.
func (sa *SA) queueRekeyIKE(now time.Time) {
	sa.timers.rekey = time.Time{}
	if sa.rekeyingIKE() || sa.state == Rekeyed || sa.state == Deleting {
		return
	}
	for _, q := range sa.queue {
		if _, ok := q.x.(*rekeyIKE); ok {
			return
		}
	}
	sa.enqueue(&rekeyIKE{flow: *newFlow(sa)})
}

func (x *rekeyIKE) begin(now time.Time) {
	sa := x.sa
	if sa.state != Established {
		sa.finish()
		return
	}
	sa.state = Rekeying
	sa.count("ike-rekey-init", "")
	sa.log(now, trace.Control, false, "rekeying IKE_SA %s", sa.cfg.Name)
	x.spi = isakmp.SPIFromUint64(uint64(sa.env.NewSPI()))
	if x.group == suite.KENone {
		t, _ := sa.proposal.First(suite.KE)
		x.group = t.ID
		if !offersKE(sa.cfg.Proposals, x.group) {
			t, _ = firstKE(sa.cfg.Proposals)
			x.group = t.ID
		}
	}
	x.Run(now, x.generate, x.send)
}

func (x *rekeyIKE) generate(now time.Time) {
	x.ni = x.sa.nonce()
	x.Compute(now, keyex.Generate(x.sa.env, x.group), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			x.failed(now, x.sa.failure(now, trace.StageKE, err.Error(), "choose another key exchange method"))
			return
		}
		x.pair = r.Pair
	})
}

func (x *rekeyIKE) send(now time.Time) {
	if x.sa.state != Rekeying {
		x.failed(now, nil) // the peer was faster
		return
	}
	err := x.sa.request(now, message.ExchangeCreateChildSA,
		offerSA(x.sa.cfg.Proposals, x.spi[:]), &message.Nonce{Data: x.ni}, &message.KE{Group: x.group, Data: x.pair.Public()})
	if err != nil {
		x.failed(now, x.sa.failure(now, trace.StageConfig, err.Error(), "configure fewer proposals"))
	}
}

func (x *rekeyIKE) answer(now time.Time, m *message.Message) {
	sa := x.sa
	v, err := message.ParseCreateChildSAResponse(m)
	if err == nil && v.Accepted() && v.Kind != message.RekeyIKE {
		err = fmt.Errorf("it is about a CHILD_SA")
	}
	switch {
	case err != nil:
		sa.close(now, Closed{Reason: CloseFailed, Failure: sa.failure(now, trace.StageRefused,
			"the peer's CREATE_CHILD_SA response is faulty: "+err.Error(), "this is a fault of the peer's implementation")})
		return
	case !v.Accepted():
		x.refused(now, v.Notifies.Error())
		return
	}
	if n := v.Notifies.UnknownError(); n != nil {
		// RFC 7296, Section 3.10.1.
		x.failed(now, sa.refusedBy(now, n, "the rekeying of the IKE SA"))
		return
	}
	p := &v.SA.Proposals[0]
	spi, _ := p.IKESPI()
	chosen, err := chosenFrom(sa.cfg.Proposals, p, suite.Options{})
	if err == nil {
		if t, _ := chosen.First(suite.KE); t.ID != x.group || v.KE.Group != x.group {
			err = fmt.Errorf("the answer has another key exchange method than the request")
		} else if spi.IsZero() {
			err = fmt.Errorf("the answer has no SPI")
		} else {
			err = nonceFits(chosen, v.Nonce.Data)
		}
	}
	if err != nil {
		x.failed(now, sa.failure(now, trace.StageProposal, err.Error(), "this is a fault of the peer"))
		return
	}
	x.Run(now, func(now time.Time) {
		x.Compute(now, keyex.Agree(sa.env, x.group, x.pair, v.KE.Data), func(now time.Time, r keyex.KEResult, err error) {
			var next *SA
			if err == nil {
				next, err = sa.successor(now, true, x.spi, spi, chosen, r.Shared, x.ni, v.Nonce.Data)
			}
			if err != nil {
				x.failed(now, sa.failure(now, trace.StageKE, err.Error(), "this is a fault of the peer"))
				return
			}
			x.settle(now, next, lowestNonce(x.ni, v.Nonce.Data))
		})
	})
}

// settle decides which IKE SA inherits (RFC 7296, Section 2.8.2).
func (x *rekeyIKE) settle(now time.Time, next *SA, lowest []byte) {
	sa := x.sa
	x.end()
	rival := sa.rekey.rival
	if rival != nil && rival.closed {
		rival = nil
	}
	if rival != nil && bytes.Compare(lowest, sa.rekey.rivalNonce) < 0 {
		// Ours has the lowest nonce: it is redundant and ours to delete. The peer
		// deletes the old one.
		sa.count("ike-collision", "lost")
		next.enqueue(&deleteIKE{sa: next, why: CloseRekeyed})
		sa.Event(NewSA{Successor: next, Redundant: true})
		sa.inherit(now, rival)
		next.pump(now)
		return
	}
	if rival != nil {
		sa.count("ike-collision", "won")
		rival.timers.linger = now.Add(sa.patience())
	}
	sa.inherit(now, next)
	// RFC 7296, Section 2.8: who rekeyed deletes the old one.
	sa.enqueueFirst(&deleteIKE{sa: sa, why: CloseRekeyed})
}

func (x *rekeyIKE) end() {
	x.Stop()
	if x.pair != nil {
		x.pair.Destroy()
		x.pair = nil
	}
	x.sa.finish()
}

// failed: our rekeying made nothing; nil: nothing to tell.
func (x *rekeyIKE) failed(now time.Time, f *trace.Failure) {
	sa := x.sa
	x.end()
	if sa.state == Rekeying {
		sa.state = Established
	}
	if r := sa.rekey.rival; r != nil && !r.closed {
		sa.inherit(now, r)
		return
	}
	if f != nil {
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.Event(Failed{Failure: f})
	}
	if sa.state == Established {
		sa.timers.rekey = now.Add(10*time.Second + keyex.Jitter(sa.env, 10*time.Second))
	}
}

func (x *rekeyIKE) refused(now time.Time, n *message.Notify) {
	sa := x.sa
	switch n.Kind {
	case message.InvalidKEPayload:
		group, ok := n.Uint16()
		if ok && group != x.group && !slices.Contains(x.tried, group) && offersKE(sa.cfg.Proposals, group) {
			x.tried = append(x.tried, x.group)
			x.group = group
			x.pair.Destroy()
			x.pair = nil
			x.Run(now, x.generate, x.send)
			return
		}
	case message.TemporaryFailure:
		// RFC 7296, Section 2.25.2.
		x.failed(now, nil)
		if sa.state == Established {
			sa.timers.rekey = now.Add(sa.retryDelay())
		}
		return
	}
	x.failed(now, sa.refusedBy(now, n, "the rekeying of the IKE SA"))
}

// successor makes the new IKE SA (RFC 7296, Section 2.18).
func (sa *SA) successor(now time.Time, initiator bool, spii, spir isakmp.SPI, chosen suite.Proposal, gir secret.Bytes, ni, nr []byte) (*SA, error) {
	defer gir.Destroy()
	f, err := proposalPRF(chosen)
	if err != nil {
		return nil, err
	}
	seed := kdf.RekeySKEYSEED(sa.keys.prf, sa.keys.skd, gir, ni, nr)
	defer seed.Destroy()
	next := &SA{
		env: sa.env, cfg: sa.cfg, uniqueID: sa.env.NextIKEID(), initiator: initiator, state: Established,
		spiI: spii, spiR: spir, local: sa.local, remote: sa.remote, host: sa.host, moved: sa.moved, moves: sa.moves, natt: sa.natt, nat: sa.nat, mobile: sa.mobile.successor(), proposal: chosen,
		localID: sa.localID, remoteID: sa.remoteID,
		peerFragments: sa.peerFragments, established: now, lastInbound: now, lastOutbound: now,
	}
	next.keys, err = deriveIKE(chosen, f, seed, ni, nr, spii, spir, initiator, sa.env.Random)
	if err != nil {
		return nil, err
	}
	next.keys.forgetHandshake()
	return next, nil
}

// inherit moves everything to the successor.
func (sa *SA) inherit(now time.Time, next *SA) {
	if r := sa.rekey.rival; r != nil {
		r.rekey.parent = nil
	}
	sa.rekey.heir, sa.rekey.rival = next, nil
	sa.state = Rekeyed
	next.children, next.fading = sa.children, sa.fading
	sa.children, sa.fading = nil, nil
	next.vipLocal, next.vipRemote, next.dns, next.home = sa.vipLocal, sa.vipRemote, sa.dns, sa.home
	next.usingAddresses, next.leasedAddresses = sa.usingAddresses, sa.leasedAddresses
	sa.usingAddresses, sa.leasedAddresses = false, false
	next.setLifetimes(now)
	next.timers.reauth, next.timers.reauthHard = sa.timers.reauth, sa.timers.reauthHard
	next.timers.linger = time.Time{}
	for _, q := range sa.queue {
		switch x := q.x.(type) {
		case *createChild:
			x.sa = next
			next.queue = append(next.queue, q)
		case *deleteChild:
			x.sa = next
			next.queue = append(next.queue, q)
		case *deleteIKE:
			if x.why != CloseRekeyed {
				x.sa = next
				next.queue = append(next.queue, q)
			}
		}
	}
	waiting := sa.queue
	sa.queue = nil
	sa.bequeathMobility(now, next, waiting)
	sa.timers = timers{linger: now.Add(sa.patience())}
	sa.log(now, trace.Control, false, "IKE_SA %s rekeyed: now %v_i %v_r", sa.cfg.Name, next.spiI, next.spiR)
	sa.Event(NewSA{Successor: next})
	next.pump(now)
}

// patience is how long an SA that the peer has to delete is kept: as long as a
// peer with our schedule repeats its request.
func (sa *SA) patience() time.Duration { return 2 * time.Minute }

// respondRekeyIKE answers the peer's rekeying of the IKE SA.
func (sa *SA) respondRekeyIKE(now time.Time, v *message.CreateChildSARequest) {
	if sa.childBusy() || sa.rekey.rival != nil {
		// RFC 7296, Section 2.25.2.
		sa.temporaryFailure(now, "child-exchange")
		return
	}
	var theirs []suite.Proposal
	var at []int
	for i := range v.SA.Proposals {
		p := &v.SA.Proposals[i]
		if spi, ok := p.IKESPI(); p.Unusable == "" && ok && !spi.IsZero() {
			theirs, at = append(theirs, p.Proposal), append(at, i)
		}
	}
	c, mm := suite.Select(sa.cfg.Proposals, theirs, suite.Options{})
	if mm != nil {
		f := sa.mismatch(now, trace.StageProposal, mm)
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.Event(Failed{Failure: f})
		sa.reply(now, message.NewNotify(message.NoProposalChosen, nil))
		return
	}
	group, _ := c.Proposal.First(suite.KE)
	if v.KE.Group != group.ID {
		sa.reply(now, message.NewInvalidKE(group.ID))
		return
	}
	if err := nonceFits(c.Proposal, v.Nonce.Data); err != nil {
		sa.reply(now, message.NewNotify(message.InvalidSyntax, nil))
		sa.syntaxSent(now, err.Error())
		return
	}
	x := newFlow(sa)
	sa.window.answering.flow = x
	p := &v.SA.Proposals[at[c.TheirIndex]]
	x.Run(now, func(now time.Time) {
		x.Compute(now, keyex.Agree(sa.env, group.ID, nil, v.KE.Data), func(now time.Time, r keyex.KEResult, err error) {
			if err != nil {
				sa.log(now, trace.Control, true, "the peer's key exchange data is refused: %v", err)
				sa.reply(now, message.NewNotify(message.InvalidSyntax, nil))
				sa.syntaxSent(now, err.Error())
				return
			}
			sa.answerRekeyIKE(now, p, c.Proposal, v.Nonce.Data, r)
		})
	})
}

func (sa *SA) answerRekeyIKE(now time.Time, p *message.Proposal, chosen suite.Proposal, ni []byte, r keyex.KEResult) {
	defer r.Pair.Destroy()
	if sa.state != Established && sa.state != Rekeying {
		// Our own rekeying ended meanwhile (RFC 7296, Section 2.8.2).
		sa.temporaryFailure(now, "ike-closing")
		return
	}
	nr := sa.nonce()
	spii, _ := p.IKESPI()
	spir := isakmp.SPIFromUint64(uint64(sa.env.NewSPI()))
	next, err := sa.successor(now, false, spii, spir, chosen, r.Shared, ni, nr)
	if err != nil {
		sa.log(now, trace.Control, true, "rekeying failed: %v", err)
		sa.reply(now, message.NewNotify(message.NoProposalChosen, nil))
		return
	}
	sa.count("ike-rekey-resp", "")
	sa.reply(now, &message.SA{Proposals: []message.Proposal{{Number: p.Number, SPI: spir[:], Proposal: chosen}}},
		&message.Nonce{Data: nr}, &message.KE{Group: r.Pair.Group(), Data: r.Pair.Public()})
	if sa.rekeyingIKE() {
		// RFC 7296, Section 2.8.2: not decided before our own answer is here.
		sa.rekey.rival, sa.rekey.rivalNonce, next.rekey.parent = next, lowestNonce(ni, nr), sa
		next.timers.linger = now.Add(sa.patience())
		sa.Event(NewSA{Successor: next, Redundant: true})
		return
	}
	sa.inherit(now, next)
}

// childBusy tells whether a CHILD_SA is being made, rekeyed or closed by us.
func (sa *SA) childBusy() bool {
	switch sa.active.(type) {
	case *createChild, *deleteChild:
		return true
	}
	return false
}
