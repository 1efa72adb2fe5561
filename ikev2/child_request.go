package ikev2

import (
	"errors"
	"fmt"
	"iked/internal/keyex"
	"net/netip"
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
	// cpi and cpiOut are those of compression; 0: there is none.
	cpi, cpiOut uint16
	pair        *ke.KeyPair
	gir         secret.Bytes
	made        *Child
}

// childChoice is what a configuration makes of an offer.
type childChoice struct {
	cfg           *ChildConfig
	number        uint8
	spiOut        uint32
	proposal      suite.Proposal
	local, remote []spd.TS
	mode          spd.Mode
	natLocal      netip.Addr
	natRemote     netip.Addr
	whole         bool // the whole offer is taken
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
	q.sa.freeCPI(&q.cpi)
	if q.spi != 0 {
		q.sa.Tell(FreeSPI{Proto: q.choice.proposal.Protocol, Local: q.sa.local.Addr(), SPI: q.spi})
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
	var best *childChoice
	var bestScore int
	var notify *message.Notify
	var fail *trace.Failure
	failNotify := message.NewNotify(message.NoProposalChosen, nil)
	var failed *ChildConfig
	var evidence []string
	for _, cfg := range candidates {
		c, n, f := q.consider(now, cfg, &evidence)
		switch {
		case n != nil && f == nil:
			if notify == nil || n.Kind == message.SinglePairRequired {
				notify = n
			}
			continue
		case f != nil:
			if fail == nil {
				fail, failed = f, cfg
				if n != nil {
					failNotify = n
				}
			}
			continue
		}
		score := 1
		if c.whole {
			score += 2
		}
		if c.mode == q.wanted() {
			score++
		}
		if score > bestScore {
			best, bestScore = c, score
		}
	}
	switch {
	case best != nil:
		q.choice = *best
	case fail != nil:
		q.choice.cfg = failed
		q.refuse(now, failNotify, fail)
	case notify != nil && notify.Kind == message.SinglePairRequired:
		q.refuse(now, notify, sa.failure(now, trace.StageSelectors, "the peer offers no single values where the SAs of this child take those of a packet (pfp)", "let the peer ask with the selectors of a packet: on demand", evidence...))
	default:
		evidence = append([]string{"offered: " + spd.ListText(fromWire(q.tsr)) + " === " + spd.ListText(fromWire(q.tsi))}, evidence...)
		q.refuse(now, message.NewNotify(message.TSUnacceptable, nil), sa.failure(now, trace.StageSelectors,
			fmt.Sprintf("the peer's traffic selectors %s === %s have nothing in common with any child of %s", spd.ListText(fromWire(q.tsr)), spd.ListText(fromWire(q.tsi)), sa.cfg.Name),
			"make local_ts and remote_ts of both sides mirror each other", evidence...))
	}
}

// consider looks what a configuration makes of the offer. A notify alone: the
// selectors do not fit; a failure: something else.
func (q *childRequest) consider(now time.Time, cfg *ChildConfig, evidence *[]string) (*childChoice, *message.Notify, *trace.Failure) {
	sa := q.sa
	if n := sa.countOf(cfg); cfg.Limit > 0 && n >= cfg.Limit && q.old == nil {
		return nil, message.NewNotify(message.NoAdditionalSAs, nil), sa.failure(now, trace.StageChild,
			fmt.Sprintf("the peer wants more than %d CHILD_SAs of %s", cfg.Limit, cfg.Name), "raise pfp_limit, or lower inactivity")
	}
	local, remote := sa.localTS(cfg), sa.remoteTS(cfg)
	if q.old != nil {
		// RFC 7296, Section 2.9.2: never narrower than what is rekeyed.
		local, remote = append(q.old.Local[:len(q.old.Local):len(q.old.Local)], local...), append(q.old.Remote[:len(q.old.Remote):len(q.old.Remote)], remote...)
	}
	c, n := q.choices(cfg, local, remote)
	if n != nil {
		offeredL, offeredR := fromWire(q.tsr), fromWire(q.tsi)
		*evidence = append(*evidence, fmt.Sprintf("%s: ours %s === %s", cfg.Name, spd.ListText(local), spd.ListText(remote)),
			fmt.Sprintf("%s: intersection %s === %s", cfg.Name, spd.ListText(spd.IntersectLists(local, offeredL)), spd.ListText(spd.IntersectLists(remote, offeredR))))
		return nil, n, sa.unpermitted(now, cfg, offeredR)
	}
	if f := sa.foreignHome(now, cfg, c.remote); f != nil {
		return nil, message.NewNotify(message.TSUnacceptable, nil), f
	}
	f := q.propose(now, c)
	if f == nil {
		f = q.checkMode(now, c)
	}
	return c, nil, f
}

// countOf is how many CHILD_SAs a configuration has in this IKE SA; one that is
// being replaced does not count.
func (sa *SA) countOf(cfg *ChildConfig) (n int) {
	for _, c := range sa.children {
		if c.Config == cfg && c.State != ChildRekeyed && c.State != ChildDeleting {
			n++
		}
	}
	return n
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

// choices chooses mode and selectors: the mode that both want if the selectors
// allow it, else tunnel mode (RFC 7296, Section 1.3.1).
func (q *childRequest) choices(cfg *ChildConfig, local, remote []spd.TS) (*childChoice, *message.Notify) {
	tsl, tsr := fromWire(q.tsr), fromWire(q.tsi)
	mode := q.wanted()
	configured := cfg.Mode
	if q.old != nil {
		configured = q.old.Mode
	}
	if mode != spd.Tunnel && mode == configured {
		c := &childChoice{cfg: cfg, mode: mode}
		l, r, ok := tsl, tsr, true
		if mode == spd.Transport && !q.sa.cfg.OwnEnds(mode) {
			// RFC 7296, Section 2.23.1: substituted before the SPD is looked at.
			l, r, c.natLocal, c.natRemote, ok = q.sa.natSelectors(tsl, tsr)
		}
		if ok {
			if n := q.narrow(c, local, remote, l, r); n == nil && fitsMode(mode, c.local, c.remote) {
				return c, nil
			} else if n != nil && n.Kind == message.SinglePairRequired {
				return nil, n
			}
		}
	}
	// RFC 7296, Section 2.23.1: the substitution is undone for tunnel mode.
	c := &childChoice{cfg: cfg, mode: spd.Tunnel}
	return c, q.narrow(c, local, remote, tsl, tsr)
}

// narrow chooses the selectors (RFC 7296, Section 2.9) of what the peer offers for
// this side and its own; nil: done.
func (q *childRequest) narrow(c *childChoice, local, remote, ofLocal, ofRemote []spd.TS) *message.Notify {
	if len(ofLocal) == 0 || len(ofRemote) == 0 {
		return message.NewNotify(message.TSUnacceptable, nil)
	}
	allL, allR := spd.Narrow(local, ofLocal), spd.Narrow(remote, ofRemote)
	c.local, c.remote = allL, allR
	if c.cfg.PFP != 0 && q.old == nil {
		// RFC 4301, Section 4.4.1.2: the packet's values, which are the first ones.
		l, r := localPFP(c.cfg.PFP), remotePFP(c.cfg.PFP)
		if len(allL) > 0 && len(allR) > 0 && (!l.specific(ofLocal[0]) || !r.specific(ofRemote[0])) {
			return message.NewNotify(message.SinglePairRequired, nil)
		}
		c.local, c.remote = l.populate(allL, ofLocal[0]), r.populate(allR, ofRemote[0])
		c.more = !spd.Subset(allL, c.local) || !spd.Subset(allR, c.remote)
	}
	if len(c.local) == 0 || len(c.remote) == 0 || len(c.local) > 255 || len(c.remote) > 255 {
		return message.NewNotify(message.TSUnacceptable, nil)
	}
	c.whole = spd.Subset(ofLocal, c.local) && spd.Subset(ofRemote, c.remote)
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

// checkMode refuses what the mode and the protocol that were chosen do not allow.
func (q *childRequest) checkMode(now time.Time, c *childChoice) *trace.Failure {
	if f := q.sa.ahThroughNAT(now, c.cfg, c.proposal.Protocol); f != nil {
		return f
	}
	if f := q.sa.homeThroughNAT(now, c.cfg, c.mode); f != nil && q.old == nil {
		return f
	}
	configured := c.cfg.Mode
	if q.old != nil {
		configured = q.old.Mode
	}
	if c.mode == configured || !c.cfg.ModeRequired && q.old == nil {
		return nil
	}
	why := "the peer asks for " + modeName(q.wanted()) + " mode"
	if q.wanted() == configured {
		why = "the selectors do not allow it"
	}
	return q.sa.failure(now, trace.StageChild, fmt.Sprintf("child %s demands %s mode, and %s", c.cfg.Name, modeName(configured), why), "set the same mode on both sides",
		"offered: "+spd.ListText(fromWire(q.tsr))+" === "+spd.ListText(fromWire(q.tsi)))
}

// reserve gets an SPI.
func (q *childRequest) reserve(now time.Time) {
	if q.refused != nil {
		return
	}
	q.flow.Ask(AllocSPI{Proto: q.choice.proposal.Protocol, Local: q.sa.reservesAt(q.choice.mode, q.choice.local)}, func(now time.Time, r Reply) {
		s, ok := r.(SPIReply)
		if !ok || s.Err != nil {
			q.refuse(now, message.NewNotify(message.NoAdditionalSAs, nil), q.sa.failure(now, trace.StageInstall,
				fmt.Sprintf("no SPI for %s: %v", q.choice.cfg.Name, s.Err), "see the kernel's or the datapath's message"))
			return
		}
		q.spi = s.SPI
		q.reserveCPI(now)
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
	q.flow.Compute(now, keyex.Agree(q.sa.env, group.ID, nil, q.ke.Data), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			q.refuse(now, message.NewNotify(message.InvalidSyntax, nil), q.sa.failure(now, trace.StageKE, "the peer's key exchange data is refused: "+err.Error(), "this is a fault of the peer"))
			return
		}
		q.pair, q.gir = r.Pair, r.Shared
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
		UniqueID: sa.env.NextChildID(), Config: ch.cfg, Mode: ch.mode, SPIIn: q.spi, SPIOut: ch.spiOut, CPIIn: q.cpi, CPIOut: q.cpiOut,
		Local: ch.local, Remote: ch.remote, NATLocal: ch.natLocal, NATRemote: ch.natRemote, NoTFC: q.notifies.Has(message.ESPTFCPaddingNotSupported),
	}
	book(c).Reserved = true
	if q.old != nil {
		c.Replaces, c.Flow = q.old.UniqueID, q.old.Flow
	}
	err := sa.newChild(c, ch.proposal, q.gir, q.ni, q.nr)
	q.gir.Destroy()
	if err != nil {
		q.refuse(now, message.NewNotify(message.NoProposalChosen, nil), sa.failure(now, trace.StageChild, err.Error(), ""))
		return
	}
	q.made, q.spi, q.cpi = c, 0, 0
	sa.installChild(q.flow, c, true, out, func(now time.Time, err error) {
		if err != nil {
			kind := message.NoProposalChosen
			if errors.Is(err, keyex.ErrHomeTaken) {
				kind = message.TSUnacceptable
			}
			q.refuse(now, message.NewNotify(kind, nil), sa.failure(now, trace.StageInstall,
				fmt.Sprintf("%s cannot be installed: %v", ch.cfg.Name, err), keyex.InstallAdvice(err, "see the kernel's or the datapath's message")))
		}
	})
}

// payloads are the answer: [N(IPCOMP_SUPPORTED),] [N(mode),] SA, [Nr, [KE,]] TSi, TSr, or the refusal.
func (q *childRequest) payloads() []message.Payload {
	if q.refused != nil {
		return []message.Payload{q.refused}
	}
	ch := &q.choice
	var ps []message.Payload
	if cpi := q.made.CPIIn; cpi != 0 {
		ps = append(ps, ipcompNotify(cpi))
	}
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
