package kink

import (
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

// create is a CREATE of ours (RFC 4430, Section 3.2).
//
//	CREATE, KINK_AP_REQ, KINK_ENCRYPT{KINK_ISAKMP{SA, Ni [, KE] [, IDci, IDcr]}}  -->
//	<--  REPLY, KINK_AP_REP, KINK_ENCRYPT{KINK_ISAKMP{SA [, Nr] [, KE] [, IDci, IDcr]}}
//	ACK, KINK_AP_REQ                                                              -->
//
// The inbound half is in force before the CREATE is sent, with the keys that follow if
// the responder takes the first transform of the first proposal and adds nothing. If
// it does not, it asks for the ACK, and the keys are made anew.
type create struct {
	sa   *SA
	x    *exchange
	flow keyex.Flow

	cfg           *keyex.ChildConfig
	packet        *spd.Flow // that asked for it; nil: none did
	local, remote []spd.TS  // one of each, but with racoon2
	old           *keyex.Child

	spis       spis
	offered    []quick.Proposal
	first      agreed // what the peer takes, most likely
	group      uint16
	pair       *ke.KeyPair
	ni         []byte
	optimistic *keyex.Child // in force before the answer; nil: none
	made       *keyex.Child
}

// queueChild begins a CREATE for each pair of selectors of a child. A packet that
// asked for it goes first.
func (sa *SA) queueChild(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow) {
	list, f := sa.selectorPairs(now, cfg, flow)
	if f != nil {
		sa.createFailed(now, cfg, flow, f)
		return
	}
	for _, p := range list {
		c := &create{sa: sa, cfg: cfg, packet: flow, local: p.local, remote: p.remote}
		if flow != nil && flow.Match(p.local, p.remote) {
			sa.waiting = slices.Insert(sa.waiting, 0, c)
			continue
		}
		sa.waiting = append(sa.waiting, c)
	}
}

// rekeyChild replaces a pair by a new one (RFC 4430, Section 3.6).
func (sa *SA) rekeyChild(now time.Time, c *keyex.Child) {
	c.RekeyAt = time.Time{}
	if c.State != keyex.ChildInstalled || book(c).rekeying || book(c).successor != nil {
		return
	}
	book(c).rekeying = true
	c.State = keyex.ChildRekeying
	sa.waiting = append(sa.waiting, &create{sa: sa, cfg: c.Config, packet: c.Flow, local: c.Local, remote: c.Remote, old: c})
}

func (c *create) begin(now time.Time) {
	sa := c.sa
	c.group = offer.GroupFor(c.cfg.Proposals)
	c.spis.proto = suite.ProtoESP
	if len(c.cfg.Proposals) > 0 {
		c.spis.proto = c.cfg.Proposals[0].Protocol
	}
	c.ni = sa.nonce()
	c.flow = keyex.Flow{Queue: &sa.Queue}
	c.flow.Run(now, c.reserve, c.reserveAround, c.generate, c.offer)
}

func (c *create) reserve(time.Time) { c.spis.reserve(c.sa, &c.flow, false, c.fail) }

func (c *create) reserveAround(time.Time) {
	if len(c.cfg.AH) > 0 {
		c.spis.reserve(c.sa, &c.flow, true, c.fail)
	}
}

func (c *create) generate(now time.Time) {
	if c.group == 0 {
		return
	}
	c.flow.Compute(now, keyex.Generate(c.sa.env, c.group), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			c.fail(now, c.sa.failure(now, trace.StageKE, "the key exchange failed: "+err.Error(), ""))
			return
		}
		c.pair = r.Pair
	})
}

// offer begins the transaction.
func (c *create) offer(now time.Time) {
	sa := c.sa
	seconds, kbytes := offer.LifeWords(c.cfg)
	c.offered = offer.Suites(c.cfg, c.spis.SPIs, offer.Want{Encap: encapOf(c.cfg.Mode), Group: c.group, Seconds: seconds, KBytes: kbytes})
	if len(c.offered) == 0 {
		c.fail(now, sa.failure(now, trace.StageConfig, "none of the proposals of "+c.cfg.Name+" can be said in KINK, whose numbers are those of IKEv1", "add a proposal such as aes256-sha256 or aes128gcm16"))
		return
	}
	var why string
	if c.first, why = firstOf(c.offered); why != "" {
		c.fail(now, sa.failure(now, trace.StageConfig, "the first proposal of "+c.cfg.Name+" cannot be used: "+why, "use another one"))
		return
	}
	// RFC 4430, Section 5: SA first, then the nonce; identities at the end, together.
	list := []quick.Payload{&quick.SA{Proposals: c.offered}, &quick.Opaque{Kind: quick.TypeNonce, Data: c.ni}}
	if c.pair != nil {
		list = append(list, &quick.Opaque{Kind: quick.TypeKE, Data: c.pair.Public()})
	}
	// One that a peer without identities began may be for several selectors.
	if !sa.cfg.KINK.Racoon2 && len(c.local) == 1 && len(c.remote) == 1 {
		idci, err := offer.IDOf(c.local[0])
		var idcr *quick.ID
		if err == nil {
			idcr, err = offer.IDOf(c.remote[0])
		}
		if err != nil {
			c.fail(now, sa.failure(now, trace.StageSelectors, err.Error(), "use one port, or none, in local_ts and remote_ts of "+c.cfg.Name))
			return
		}
		list = append(list, idci, idcr)
	}
	x := &exchange{kind: message.Create, inner: &message.Body{ISAKMP: []*message.ISAKMP{{Payloads: list}}}, keyed: c.keyed, answered: c.answer, pair: c.spis.stub()}
	x.failed = func(now time.Time, f *trace.Failure) { c.failed(now, f) }
	x.stopped = func(now time.Time) { c.abandon(now) }
	c.x = x
	sa.begin(now, x)
}

// keyed puts the inbound half in force, and sends the CREATE. With a key exchange
// the responder's part is needed first.
func (c *create) keyed(now time.Time) {
	sa := c.sa
	c.forget()
	if c.group != 0 {
		c.x.transmit(now)
		return
	}
	o := sa.newChild(c.cfg, c.first, c.local, c.remote, c.spis.SPIs)
	o.Flow, o.Initiator = c.packet, true
	c.optimistic, c.spis.held, book(o).Reserved = o, false, true
	if err := sa.childKeys(o, keying{key: c.x.ticket.Key(), ni: c.ni}); err != nil {
		c.fail(now, sa.failure(now, trace.StageInstall, err.Error(), ""))
		return
	}
	c.flow = keyex.Flow{Queue: &sa.Queue}
	sa.installChild(&c.flow, o, true, false, func(now time.Time, err error) {
		if err != nil {
			c.fail(now, sa.installFailure(now, c.cfg, err))
			return
		}
		c.x.transmit(now)
	})
}

// forget takes the half out that was put in force before the answer.
func (c *create) forget() {
	o := c.optimistic
	if o == nil {
		return
	}
	c.optimistic = nil
	b := book(o)
	if b.Reserved {
		b.Reserved, c.spis.held = false, true
		return
	}
	if b.InUp {
		b.InUp = false
		c.sa.Tell(keyex.RemoveChild{Child: o, In: true})
	}
}

// choice is what the responder took.
type choice struct {
	agreed
	life   offer.Span
	nr     []byte
	public []byte
}

// answer takes the responder's choice.
func (c *create) answer(now time.Time, in *message.Body, ackReq bool) {
	sa := c.sa
	ch, f := c.take(now, in)
	if f != nil {
		c.fail(now, f)
		return
	}
	same := c.optimistic != nil && ch.nr == nil && ch.public == nil && ch.same(c.first)
	if !same && !ackReq {
		// RFC 4430, Section 3.2: it must ask for the ACK then. Some do not.
		sa.log(now, trace.Detail, true, "the peer chose other than the first proposal, or added to the keys, and asks for no ACK")
		ackReq = true
	}
	if !same {
		c.forget()
	}
	var gqm secret.Bytes
	c.flow = keyex.Flow{Queue: &sa.Queue}
	c.flow.Run(now, func(now time.Time) {
		if ch.public == nil {
			return
		}
		c.flow.Compute(now, keyex.Agree(sa.env, c.group, c.pair, ch.public), func(now time.Time, r keyex.KEResult, err error) {
			if err != nil {
				c.fail(now, sa.failure(now, trace.StageKE, "the peer's public value is refused: "+err.Error(), ""))
				return
			}
			gqm = r.Shared
		})
	}, func(now time.Time) {
		m := c.optimistic
		if same {
			sa.place(m)
			m.SPIOut = ch.spi
			if m.AH != nil {
				m.AH.SPIOut = ch.ahSPI
			}
		} else {
			m = sa.newChild(c.cfg, ch.agreed, c.local, c.remote, c.spis.SPIs)
			m.Flow, m.Initiator, book(m).Reserved = c.packet, true, c.spis.held
		}
		c.optimistic, c.made, c.spis.held = nil, m, false
		offer.LimitBytes(m, ch.life.KBytes, false)
		err := sa.childKeys(m, keying{key: c.x.ticket.Key(), gqm: gqm, ni: c.ni, nr: ch.nr})
		gqm.Destroy()
		if err != nil {
			c.fail(now, sa.failure(now, trace.StageInstall, err.Error(), ""))
			return
		}
		sa.children = append(sa.children, m)
		sa.installChild(&c.flow, m, !same, true, func(now time.Time, err error) {
			if err != nil {
				c.refuseLate(now, m)
				c.fail(now, sa.installFailure(now, c.cfg, err))
			}
		})
	}, func(now time.Time) {
		c.x.finish(now, ackReq)
		if c.pair != nil {
			c.pair.Destroy()
		}
		if !slices.Contains(sa.children, c.made) {
			sa.removeChild(c.made, true, true) // deleted while it was put in force
			return
		}
		sa.childUp(now, c.made, c.old, offer.LifeOf(c.cfg, ch.life.Seconds, false))
	})
}

// refuseLate deletes a pair at the peer, which has it in force, where this side cannot.
func (c *create) refuseLate(now time.Time, m *keyex.Child) {
	c.sa.sendDelete(now, []*keyex.Child{m}, func(time.Time) {})
}

// take checks that the answer chooses one of our transforms, unchanged, and says our
// selectors.
func (c *create) take(now time.Time, in *message.Body) (ch choice, f *trace.Failure) {
	sa := c.sa
	bad := func(format string, args ...any) *trace.Failure {
		return sa.failure(now, trace.StageChild, fmt.Sprintf(format, args...), "this is a fault of the peer's implementation")
	}
	if len(in.ISAKMP) != 1 {
		return ch, bad("the peer's REPLY has %d KINK_ISAKMP payloads, expected one", len(in.ISAKMP))
	}
	list := in.ISAKMP[0].Payloads
	if n := errorIn(list); n != nil {
		return ch, sa.refusedBy(now, n.Kind, "CREATE for "+c.cfg.Name)
	}
	s, ok := one[*quick.SA](list, quick.TypeSA)
	if !ok {
		return ch, bad("the peer's REPLY has not one SA")
	}
	suites, why := offer.ReadSuites(s.Proposals)
	if len(suites) != 1 {
		return ch, bad("the peer chose %d proposals that can be used, expected one: %s", len(suites), why)
	}
	if why := suites[0].Fits(c.cfg); why != "" {
		return ch, bad("the peer's choice has other protocols than were offered: %s", why)
	}
	seconds, kbytes := offer.LifeWords(c.cfg)
	for i := range suites[0] {
		p := &suites[0][i]
		if len(p.Transforms) != 1 {
			return ch, bad("the peer chose %d transforms of %v, expected one", len(p.Transforms), p.Protocol)
		}
		t, why := offer.Read(p.Protocol, &p.Transforms[0])
		if why != "" {
			return ch, bad("the peer's choice cannot be read: %s", why)
		}
		// Two lifetimes must not have changed places, which the attributes alone do not show.
		if !offer.Offered(c.offered, p) || t.Seconds != seconds || t.KBytes != kbytes {
			return ch, bad("the peer chose a transform that was not offered")
		}
		spi, _ := p.SPI32()
		ch.take(suites[0].Main() == p, t, spi)
	}
	t := ch.main
	if ids := offer.IDPair(list); ids != nil && !sa.cfg.KINK.Racoon2 && len(c.local) == 1 && len(c.remote) == 1 {
		l, errL := offer.TSOf(ids[0])
		r, errR := offer.TSOf(ids[1])
		if errL != nil || errR != nil || l != c.local[0] || r != c.remote[0] {
			return ch, bad("the peer's answer has other selectors than ours, and Quick Mode narrows nothing")
		}
	}
	if nr, ok := one[*quick.Opaque](list, quick.TypeNonce); ok {
		ch.nr = nr.Data
	}
	public, ok := one[*quick.Opaque](list, quick.TypeKE)
	switch {
	case t.Group != 0 && (!ok || len(public.Data) != ke.PublicLen(c.group)):
		return ch, sa.failure(now, trace.StageKE, "the peer's answer has no public value of the group", "this is a fault of the peer's implementation")
	case t.Group != 0:
		ch.public = public.Data
	case ok:
		return ch, bad("the peer's answer has a public value, and no group was offered")
	}
	ch.life = offer.HeldByResponder(list, offer.Span{Seconds: t.Seconds, KBytes: t.KBytes})
	return ch, nil
}

// fail ends the CREATE; what it made goes.
func (c *create) fail(now time.Time, f *trace.Failure) {
	if c.x != nil {
		c.x.fail(now, f)
		return
	}
	c.abandon(now)
	c.failed(now, f)
}

// failed reports the end of the CREATE.
func (c *create) failed(now time.Time, f *trace.Failure) {
	sa := c.sa
	if c.old != nil {
		sa.rekeyLater(now, c.old)
	}
	if f.Stage == trace.StageReach && sa.state == keyex.Established && c.spis.Main != 0 {
		// The peer may have the pair, and its answer got lost.
		sa.sendDelete(now, []*keyex.Child{c.spis.stub()}, func(time.Time) {})
	}
	sa.createFailed(now, c.cfg, c.packet, f)
}

// abandon gives back what the CREATE holds.
func (c *create) abandon(time.Time) {
	c.flow.Stop()
	if c.pair != nil {
		c.pair.Destroy()
	}
	c.forget()
	if m := c.made; m != nil {
		if !book(m).announced {
			c.sa.unlist(m)
			c.sa.removeChild(m, true, true)
		}
		return
	}
	c.spis.free(c.sa)
}
