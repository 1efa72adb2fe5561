package ikev2

import (
	"fmt"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// childRequest is the responder's side of a CHILD_SA negotiation, in IKE_AUTH
// or CREATE_CHILD_SA. Each step does nothing once the request is refused.
type childRequest struct {
	sa       *SA
	flow     *flow
	offer    *message.SA
	tsi, tsr *message.TrafficSelectors
	notifies message.Notifies
	ke       *message.KE
	first    bool // in IKE_AUTH: no key exchange
	old      *Child
	ni, nr   []byte

	refused *message.Notify
	choice  childChoice
	spi     uint32
	pair    *ke.KeyPair
	gir     secret.Bytes
	made    *Child
}

// childChoice is what a configuration makes of an offer.
type childChoice struct {
	cfg           *ChildConfig
	number        uint8
	spiOut        uint32
	proposal      suite.Proposal
	local, remote []spd.TS
	mode          spd.Mode
	more          bool // ADDITIONAL_TS_POSSIBLE
}

// refuse ends the negotiation with a notify; the IKE SA goes on.
func (q *childRequest) refuse(now time.Time, n *message.Notify, f *trace.Failure) {
	q.refused = n
	if q.made != nil {
		q.sa.unlist(q.made)
		q.sa.removeChild(q.made, true, true)
		q.made = nil
		q.spi = 0
	}
	if q.spi != 0 {
		q.sa.tell(FreeSPI{Proto: q.choice.proposal.Protocol, Local: q.sa.local.Addr(), SPI: q.spi})
		q.spi = 0
	}
	if q.pair != nil {
		q.pair.Destroy()
	}
	if f != nil {
		q.sa.failed(now, q.choice.cfg, f)
	}
}

// choose finds the configuration, the selectors and the proposal: the first
// child that takes the whole offer, else the first that takes a part (RFC 7296,
// Section 2.9).
func (q *childRequest) choose(now time.Time) {
	sa := q.sa
	if len(sa.children) >= maxChildren {
		q.refuse(now, message.NewNotify(message.NoAdditionalSAs, nil), sa.failure(now, trace.StageChild,
			fmt.Sprintf("the peer wants more than %d CHILD_SAs", maxChildren), "delete some"))
		return
	}
	candidates := sa.cfg.Children
	if q.old != nil {
		candidates = []*ChildConfig{q.old.Config}
	}
	tsi, tsr := fromWire(q.tsi), fromWire(q.tsr)
	var best *childChoice
	var bestScore int
	var notify *message.Notify
	var fail *trace.Failure
	var failed *ChildConfig
	var evidence []string
	for _, cfg := range candidates {
		c := childChoice{cfg: cfg}
		local, remote := sa.localTS(cfg), sa.remoteTS(cfg)
		if q.old != nil {
			// RFC 7296, Section 2.9.2: never narrower than what is rekeyed.
			local, remote = append(q.old.Local[:len(q.old.Local):len(q.old.Local)], local...), append(q.old.Remote[:len(q.old.Remote):len(q.old.Remote)], remote...)
		}
		if n := q.narrow(&c, local, remote, tsi, tsr); n != nil {
			evidence = append(evidence, fmt.Sprintf("%s: ours %s === %s", cfg.Name, selectors(local), selectors(remote)),
				fmt.Sprintf("%s: intersection %s === %s", cfg.Name, selectors(spd.IntersectLists(local, tsr)), selectors(spd.IntersectLists(remote, tsi))))
			if notify == nil {
				notify = n
			}
			continue
		}
		f := q.propose(now, &c)
		if f == nil {
			f = q.chooseMode(now, &c)
		}
		if f != nil {
			if fail == nil {
				fail, failed = f, cfg
			}
			continue
		}
		score := 1
		if spd.Subset(tsi, c.remote) && spd.Subset(tsr, c.local) {
			score += 2
		}
		if c.mode == q.wanted() {
			score++
		}
		if score > bestScore {
			best, bestScore = &c, score
		}
	}
	switch {
	case best != nil:
		q.choice = *best
	case fail != nil:
		q.choice.cfg = failed
		q.refuse(now, message.NewNotify(message.NoProposalChosen, nil), fail)
	case notify != nil && notify.Kind == message.SinglePairRequired:
		q.refuse(now, notify, sa.failure(now, trace.StageSelectors, "the peer offers more than one pair of addresses, this child takes single pairs", "offer the addresses of a packet", evidence...))
	default:
		evidence = append([]string{"offered: " + selectors(tsr) + " === " + selectors(tsi)}, evidence...)
		q.refuse(now, message.NewNotify(message.TSUnacceptable, nil), sa.failure(now, trace.StageSelectors,
			fmt.Sprintf("the peer's traffic selectors %s === %s have nothing in common with any child of %s", selectors(tsr), selectors(tsi), sa.cfg.Name),
			"make local_ts and remote_ts of both sides mirror each other", evidence...))
	}
}

// wanted is the mode that the peer asks for.
func (q *childRequest) wanted() spd.Mode {
	switch {
	case q.notifies.Has(message.UseTransportMode):
		return spd.Transport
	case q.notifies.Has(message.UseBEETMode):
		return spd.BEET
	}
	return spd.Tunnel
}

// narrow chooses the selectors (RFC 7296, Section 2.9); nil: done.
func (q *childRequest) narrow(c *childChoice, local, remote, tsi, tsr []spd.TS) *message.Notify {
	if c.cfg.PFP != 0 && q.old == nil {
		l, okL, ok1 := spd.NarrowFirst(local, tsr)
		r, okR, ok2 := spd.NarrowFirst(remote, tsi)
		switch {
		case !ok1 || !ok2:
			return message.NewNotify(message.TSUnacceptable, nil)
		case !okL || !okR:
			return message.NewNotify(message.SinglePairRequired, nil)
		}
		c.local, c.remote = []spd.TS{l}, []spd.TS{r}
		c.more = len(spd.Narrow(local, tsr)) > 0 && len(tsr)+len(tsi) > 2
		return nil
	}
	c.local, c.remote = spd.Narrow(local, tsr), spd.Narrow(remote, tsi)
	if len(c.local) == 0 || len(c.remote) == 0 || len(c.local) > 255 || len(c.remote) > 255 {
		return message.NewNotify(message.TSUnacceptable, nil)
	}
	return nil
}

// propose chooses the algorithms (RFC 7296, Section 2.7).
func (q *childRequest) propose(now time.Time, c *childChoice) *trace.Failure {
	var theirs []suite.Proposal
	var at []int
	for i := range q.offer.Proposals {
		p := &q.offer.Proposals[i]
		if spi, ok := p.ChildSPI(); p.Unusable == "" && ok && spi != 0 {
			theirs, at = append(theirs, p.Proposal), append(at, i)
		}
	}
	ch, mm := suite.Select(c.cfg.Proposals, theirs, suite.Options{IgnoreKE: q.first})
	if mm != nil {
		return q.sa.mismatch(now, trace.StageChild, mm)
	}
	p := &q.offer.Proposals[at[ch.TheirIndex]]
	c.proposal, c.number = ch.Proposal, p.Number
	c.spiOut, _ = p.ChildSPI()
	return nil
}

// chooseMode decides on the mode (RFC 7296, Section 1.3.1).
func (q *childRequest) chooseMode(now time.Time, c *childChoice) *trace.Failure {
	want := q.wanted()
	if q.old != nil {
		want = q.old.Mode
	}
	if want != spd.Tunnel && want == c.cfg.Mode && !q.sa.nat.any() &&
		(want != spd.Transport || spd.AllHosts(c.local) && spd.AllHosts(c.remote)) {
		c.mode = want
		return nil
	}
	if c.cfg.Mode != spd.Tunnel && c.cfg.ModeRequired {
		return q.sa.failure(now, trace.StageChild, fmt.Sprintf("child %s demands another mode than tunnel, which the peer or a NAT does not allow", c.cfg.Name), "set the same mode on both sides")
	}
	return nil
}

// reserve gets an SPI.
func (q *childRequest) reserve(now time.Time) {
	if q.refused != nil {
		return
	}
	q.flow.ask(AllocSPI{Proto: q.choice.proposal.Protocol, Local: q.sa.local.Addr()}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			q.refuse(now, message.NewNotify(message.NoAdditionalSAs, nil), q.sa.failure(now, trace.StageInstall,
				fmt.Sprintf("no SPI for %s: %v", q.choice.cfg.Name, s.Err), "see the kernel's or the datapath's message"))
			return
		}
		q.spi = s.SPI
	})
}

// exchangeKeys does the key exchange of CREATE_CHILD_SA if one was chosen.
func (q *childRequest) exchangeKeys(now time.Time) {
	if q.refused != nil {
		return
	}
	q.nr = q.sa.nonce()
	group, ok := q.choice.proposal.First(suite.KE)
	if !ok {
		return
	}
	if q.ke == nil || q.ke.Group != group.ID {
		// RFC 7296, Section 1.3.
		q.refuse(now, message.NewInvalidKE(group.ID), nil)
		return
	}
	q.flow.compute(now, q.sa.agree(group.ID, nil, q.ke.Data), func(now time.Time, r keResult, err error) {
		if err != nil {
			q.refuse(now, message.NewNotify(message.InvalidSyntax, nil), q.sa.failure(now, trace.StageKE, "the peer's key exchange data is refused: "+err.Error(), "this is a fault of the peer"))
			return
		}
		q.pair, q.gir = r.pair, r.shared
	})
}

// ifMalformed ends the IKE SA when the refusal was INVALID_SYNTAX.
func (q *childRequest) ifMalformed(now time.Time) {
	if q.refused != nil && q.refused.Kind == message.InvalidSyntax {
		q.sa.syntaxSent(now, "its key exchange data is refused")
	}
}

// install makes the child and puts it into the backend; out: both directions.
func (q *childRequest) install(now time.Time, out bool) {
	if q.refused != nil {
		return
	}
	sa, ch := q.sa, &q.choice
	c := &Child{
		UniqueID: sa.env.NextChildID(), Config: ch.cfg, Mode: ch.mode, SPIIn: q.spi, SPIOut: ch.spiOut,
		Local: ch.local, Remote: ch.remote, NoTFC: q.notifies.Has(message.ESPTFCPaddingNotSupported),
	}
	book(c).reserved = true
	if q.old != nil {
		c.Replaces = q.old.UniqueID
	}
	err := sa.newChild(c, ch.proposal, q.gir, q.ni, q.nr)
	q.gir.Destroy()
	if err != nil {
		q.refuse(now, message.NewNotify(message.NoProposalChosen, nil), sa.failure(now, trace.StageChild, err.Error(), ""))
		return
	}
	q.made, q.spi = c, 0
	sa.installChild(q.flow, c, true, out, func(now time.Time, err error) {
		if err != nil {
			q.refuse(now, message.NewNotify(message.NoProposalChosen, nil), sa.failure(now, trace.StageInstall,
				fmt.Sprintf("%s cannot be installed: %v", ch.cfg.Name, err), "see the kernel's or the datapath's message"))
		}
	})
}

// payloads are the answer: [N(mode),] SA, [Nr, [KE,]] TSi, TSr, or the refusal.
func (q *childRequest) payloads() []message.Payload {
	if q.refused != nil {
		return []message.Payload{q.refused}
	}
	ch := &q.choice
	var ps []message.Payload
	if n := modeNotify(ch.mode); n != message.NoNotify {
		ps = append(ps, message.NewNotify(n, nil))
	}
	if ch.more {
		ps = append(ps, message.NewNotify(message.AdditionalTSPossible, nil))
	}
	ps = append(ps, &message.SA{Proposals: []message.Proposal{{Number: ch.number, SPI: spiBytes(q.made.SPIIn), Proposal: ch.proposal}}})
	if !q.first {
		ps = append(ps, &message.Nonce{Data: q.nr})
		if q.pair != nil {
			ps = append(ps, &message.KE{Group: q.pair.Group(), Data: q.pair.Public()})
		}
	}
	return append(ps, toWire(ch.remote, false), toWire(ch.local, true))
}
