package kink

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	quick "iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/kink/message"
	"iked/spd"
)

// answer is a transaction of the peer. Its REPLY is kept for repetitions of the
// command.
type answer struct {
	sa    *SA
	cmd   *Command
	reply []byte // nil while it is being made
	end   time.Time
	// confirm takes the ACK; nil: none is waited for. Until then the REPLY is repeated.
	confirm func(now time.Time)
	// unconfirmed: no ACK came; stopped gives back what the transaction holds.
	unconfirmed func(now time.Time)
	stopped     func(now time.Time)
	due         time.Time
	tries       int
}

// createAnswer is a CREATE of the peer; the drawing stands in create.go.
type createAnswer struct {
	*answer
	flow keyex.Flow

	cfg           *keyex.ChildConfig
	local, remote []spd.TS
	idci, idcr    *quick.ID   // as they came; nil: none did
	suite         offer.Suite // that the peer offered and we chose, with one transform each
	chosen        agreed
	first         bool // the first transforms of the first proposal
	ni, nr        []byte
	public        []byte // the peer's
	pair          *ke.KeyPair
	spis          spis
	made          *keyex.Child
	life, tell    offer.Span
}

// create answers a CREATE.
func (a *answer) create(now time.Time) {
	sa := a.sa
	c := &createAnswer{answer: a, flow: keyex.Flow{Queue: &sa.Queue}}
	a.stopped = func(now time.Time) { c.abandon() }
	bad := func(sentence string) {
		c.refuse(now, quick.PayloadMalformed, sa.failure(now, trace.StageChild, sentence, "this is a fault of the peer's implementation"))
	}
	if len(a.cmd.inner.ISAKMP) != 1 {
		// Several would be several pairs in one transaction, which nobody sends.
		bad(fmt.Sprintf("the peer's CREATE has %d KINK_ISAKMP payloads, and one is answered", len(a.cmd.inner.ISAKMP)))
		return
	}
	list := a.cmd.inner.ISAKMP[0].Payloads
	theirs, okSA := one[*quick.SA](list, quick.TypeSA)
	ni, okN := one[*quick.Opaque](list, quick.TypeNonce)
	if !okSA || !okN || list[0].Type() != quick.TypeSA {
		bad("the peer's CREATE lacks SA or NONCE, or does not begin with SA")
		return
	}
	if len(sa.children) >= maxChildren {
		c.refuse(now, quick.NoProposalChosen, sa.failure(now, trace.StageChild, fmt.Sprintf("there are %d CHILD_SAs with %s, no more are made", len(sa.children), sa.peer), "close some"))
		return
	}
	c.ni = ni.Data
	if n, f := c.findChild(now, list, theirs); f != nil {
		c.refuse(now, n, f)
		return
	}
	if f := c.choose(now, theirs); f != nil {
		c.refuse(now, quick.NoProposalChosen, f)
		return
	}
	if public, ok := one[*quick.Opaque](list, quick.TypeKE); c.chosen.main.Group != 0 {
		if !ok || len(public.Data) != ke.PublicLen(c.chosen.main.Group) {
			c.refuse(now, quick.InvalidKeyInformation, sa.failure(now, trace.StageKE, fmt.Sprintf("the peer's CREATE names group %d and has no public value of it", c.chosen.main.Group), "this is a fault of the peer's implementation"))
			return
		}
		c.public = public.Data
	}
	c.flow.Run(now, c.reserve, c.reserveAround, c.agree, c.install, c.send)
}

// choose takes the first proposal and transform of the peer that fit: with the very
// first one no third message is needed, and racoon2 goes wrong with it.
func (c *createAnswer) choose(now time.Time, theirs *quick.SA) *trace.Failure {
	sa := c.sa
	level := sa.cfg.V1.LifeCheck
	suites, why := offer.ReadSuites(theirs.Proposals)
	if why == "" {
		why = "the peer offers nothing"
	}
	ours := c.cfg.Proposals
	if level == keyex.LifeObey {
		ours = offer.WithoutPFS(ours)
	}
	var mismatch *suite.Mismatch
	for i, s := range suites {
		if no := s.Fits(c.cfg); no != "" {
			why = no
			continue
		}
		p := s.Main()
		for j := range p.Transforms {
			t, no := offer.Read(p.Protocol, &p.Transforms[j])
			mode, udp, ok := offer.ModeOf(t.Encap)
			use, tell, lives := offer.WeighChild(level, c.cfg, t)
			list := []suite.Proposal{t.Proposal}
			if level == keyex.LifeObey {
				list = offer.WithoutPFS(list)
			}
			switch {
			case no != "":
				why = no
			case mode == spd.BEET && !(len(c.local) == 1 && len(c.remote) == 1 && c.local[0].IsHost() && c.remote[0].IsHost()):
				why = "BEET mode is between two single addresses"
			case !ok || udp || mode != c.cfg.Mode && (mode != spd.Tunnel || c.cfg.ModeRequired):
				why = fmt.Sprintf("the peer offers encapsulation mode %d, and %s has mode %s", t.Encap, c.cfg.Name, offer.ModeName(c.cfg.Mode))
			case !lives:
				own, kbytes := offer.LifeWords(c.cfg)
				why = offer.RefusedLife(level, offer.Span{Seconds: own, KBytes: kbytes}, offer.Span{Seconds: t.Seconds, KBytes: t.KBytes})
			default:
				if _, m := suite.Select(ours, list, suite.Options{}); m != nil {
					if mismatch == nil {
						mismatch = m
					}
					continue
				}
				at, no := c.takeSuite(s, j, t)
				if no != "" {
					why = no
					continue
				}
				c.first = i == 0 && j == 0 && at == 0
				c.life, c.tell = use, tell
				if a := c.chosen.around; a != nil {
					c.life, c.tell, _ = offer.WeighChild(level, c.cfg, t.Shorter(*a))
				}
				return nil
			}
		}
	}
	if mismatch != nil {
		return sa.mismatch(now, trace.StageChild, mismatch)
	}
	return sa.failure(now, trace.StageChild, "none of the peer's transforms for "+c.cfg.Name+" can be used: "+why, "make mode and esp_proposals of both sides agree")
}

// takeSuite notes a suite with the j-th transform of its main protocol, which is t, and
// the first AH around it that fits; at is its place, 0 without AH around. no tells why
// none fits.
func (c *createAnswer) takeSuite(s offer.Suite, j int, t offer.Transform) (at int, no string) {
	var g agreed
	chosen := slices.Clone(s)
	keep := func(p *quick.Proposal, i int) uint32 {
		chosen.Of(p.Protocol).Transforms = p.Transforms[i : i+1]
		spi, _ := p.SPI32()
		return spi
	}
	g.take(true, t, keep(s.Main(), j))
	if p := s.Around(); p != nil {
		mode, _, _ := offer.ModeOf(t.Encap)
		i, a, no := offer.SelectAround(c.cfg, c.sa.cfg.V1.LifeCheck, p, mode, t.Group)
		if no != "" {
			return 0, no
		}
		g.take(false, a, keep(p, i))
		at = i
	}
	c.suite, c.chosen = chosen, g
	return at, ""
}

func (c *createAnswer) reserve(time.Time) {
	c.spis.proto = c.chosen.main.Proposal.Protocol
	c.spis.reserve(c.sa, &c.flow, false, c.unreserved)
}

func (c *createAnswer) reserveAround(time.Time) {
	if c.chosen.around != nil {
		c.spis.reserve(c.sa, &c.flow, true, c.unreserved)
	}
}

func (c *createAnswer) unreserved(now time.Time, f *trace.Failure) {
	c.refuse(now, quick.NoProposalChosen, f)
}

// threeWay tells whether the initiator must make its keys anew, and confirm (RFC
// 4430, Section 3.2): it guessed another choice, or this side adds to the keys.
func (c *createAnswer) threeWay() bool { return !c.first || c.public != nil }

// agree makes the record with its keys.
func (c *createAnswer) agree(now time.Time) {
	sa := c.sa
	if c.threeWay() {
		c.nr = sa.nonce()
	}
	derive := func(now time.Time, gqm secret.Bytes) {
		m := sa.newChild(c.cfg, c.chosen, c.local, c.remote, c.spis.SPIs)
		c.made, c.spis.held, book(m).Reserved = m, false, true
		offer.LimitBytes(m, c.life.KBytes, sa.cfg.V1.LifeCheck == keyex.LifeObey)
		err := sa.childKeys(m, keying{key: c.cmd.Key, gqm: gqm, ni: c.ni, nr: c.nr})
		gqm.Destroy()
		if err != nil {
			c.refuse(now, quick.NoProposalChosen, sa.failure(now, trace.StageInstall, err.Error(), ""))
			return
		}
		sa.children = append(sa.children, m)
	}
	if c.public == nil {
		derive(now, secret.Bytes{})
		return
	}
	c.flow.Compute(now, keyex.Agree(sa.env, c.chosen.main.Group, nil, c.public), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			c.refuse(now, quick.InvalidKeyInformation, sa.failure(now, trace.StageKE, "the peer's public value is refused: "+err.Error(), ""))
			return
		}
		c.pair = r.Pair
		derive(now, r.Shared)
	})
}

// install puts both halves in force before the answer, or the inbound one when the
// peer must confirm.
func (c *createAnswer) install(now time.Time) {
	c.sa.installChild(&c.flow, c.made, true, !c.threeWay(), func(now time.Time, err error) {
		if err != nil {
			c.refuse(now, quick.NoProposalChosen, c.sa.installFailure(now, c.cfg, err))
		}
	})
}

// send answers.
func (c *createAnswer) send(now time.Time) {
	sa := c.sa
	around := c.suite.Around()
	for i := range c.suite {
		p, spi := &c.suite[i], c.spis.Main
		if p == around {
			spi = c.spis.AH
		}
		p.SPI = binary.BigEndian.AppendUint32(nil, spi)
	}
	list := []quick.Payload{&quick.SA{Proposals: c.suite}}
	if c.nr != nil {
		list = append(list, &quick.Opaque{Kind: quick.TypeNonce, Data: c.nr})
	}
	if c.pair != nil {
		list = append(list, &quick.Opaque{Kind: quick.TypeKE, Data: c.pair.Public()})
	}
	if c.idci != nil {
		list = append(list, c.idci, c.idcr)
	}
	if c.tell != (offer.Span{}) {
		for _, p := range c.suite {
			list = append(list, offer.LifePayload(p.Protocol, p.SPI, c.tell))
		}
	}
	if !c.respond(now, list, c.threeWay()) {
		c.abandon()
		return
	}
	if c.threeWay() {
		c.confirm, c.unconfirmed = c.confirmed, c.late
		c.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, 0))
		return
	}
	c.up(now)
}

// confirmed: the ACK is there; from now on we send.
func (c *createAnswer) confirmed(now time.Time) {
	sa := c.sa
	c.confirm, c.due = nil, time.Time{}
	if !slices.Contains(sa.children, c.made) {
		c.abandon() // the peer has deleted it meanwhile
		return
	}
	c.flow = keyex.Flow{Queue: &sa.Queue}
	c.flow.Run(now, func(now time.Time) {
		sa.installChild(&c.flow, c.made, false, true, func(now time.Time, err error) {
			if err != nil {
				sa.sendDelete(now, []*keyex.Child{c.made}, func(time.Time) {})
				c.abandon()
				sa.failed(now, c.cfg, sa.installFailure(now, c.cfg, err))
			}
		})
	}, c.up)
}

func (c *createAnswer) up(now time.Time) {
	sa := c.sa
	c.stopped = nil
	if c.pair != nil {
		c.pair.Destroy()
	}
	if !slices.Contains(sa.children, c.made) {
		sa.removeChild(c.made, true, true) // deleted while it was put in force
		return
	}
	old := sa.sameTraffic(c.made)
	sa.childUp(now, c.made, old, offer.LifeOf(c.cfg, c.life.Seconds, sa.cfg.V1.LifeCheck == keyex.LifeObey))
}

// late: the ACK never came. The peer does not have the pair, or believes to have it:
// it is told.
func (c *createAnswer) late(now time.Time) {
	sa := c.sa
	c.confirm, c.due = nil, time.Time{}
	if c.made != nil {
		sa.sendDelete(now, []*keyex.Child{c.made}, func(time.Time) {})
	}
	c.abandon()
	sa.failed(now, c.cfg, sa.failure(now, trace.StageReach, "the peer never confirmed CREATE for "+c.cfg.Name, "see the peer's log"))
}

// refuse tells the peer why, with the SPI that it proposed, and ends the CREATE.
func (c *createAnswer) refuse(now time.Time, n quick.NotifyType, f *trace.Failure) {
	sa := c.sa
	c.abandon()
	sa.failed(now, c.cfg, f)
	notify := &quick.Notify{DOI: quick.DOIIPsec, Protocol: quick.ProtoESP, Kind: n}
	if c.suite != nil {
		notify.Protocol, notify.SPI = quick.Protocol(c.chosen.main.Proposal.Protocol), binary.BigEndian.AppendUint32(nil, c.chosen.spi)
	}
	c.respond(now, []quick.Payload{notify}, false)
}

// abandon gives back what the CREATE holds.
func (c *createAnswer) abandon() {
	c.flow.Stop()
	c.stopped = nil
	if c.pair != nil {
		c.pair.Destroy()
	}
	if m := c.made; m != nil {
		if !book(m).announced {
			c.sa.unlist(m)
			c.sa.removeChild(m, true, true)
		}
		return
	}
	c.spis.free(c.sa)
}

// respond sends a REPLY with Quick Mode payloads, none: it says nothing. The answer
// is kept for repetitions of the command.
func (a *answer) respond(now time.Time, list []quick.Payload, ackReq bool) bool {
	sa := a.sa
	var inner *message.Body
	if len(list) > 0 {
		inner = &message.Body{ISAKMP: []*message.ISAKMP{{Payloads: list}}}
	}
	b, err := a.cmd.reply(sa.env.Epoch(), inner, ackReq)
	if err != nil {
		sa.log(now, trace.Control, true, "a REPLY cannot be written: %v", err)
		return false
	}
	a.reply, a.end = b, now.Add(keepAnswer)
	sa.transmitTo(a.cmd, b)
	return true
}

// drop ends the transaction without a word.
func (a *answer) drop(now time.Time) {
	if a.stopped != nil {
		a.stopped(now)
	}
	a.confirm, a.due = nil, time.Time{}
}
