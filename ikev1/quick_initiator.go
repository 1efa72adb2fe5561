package ikev1

import (
	"crypto/hmac"
	"encoding/binary"
	"fmt"
	"time"

	"iked/crypto/ke"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// quick is a Quick Mode of ours (RFC 2409, Section 5.5).
//
//	HDR*, HASH(1), SA, Ni [, KE ] [, IDci, IDcr ]  -->
//	                      <--  HDR*, HASH(2), SA, Nr [, KE ] [, IDci, IDcr ]
//	HDR*, HASH(3)                                  -->
type quick struct {
	sa   *SA
	x    *exchange
	flow keyex.Flow

	cfg           *keyex.ChildConfig
	packet        *spd.Flow // that asked for it; nil: none did
	local, remote spd.TS
	old           *keyex.Child // the pair that this one replaces; nil: none

	spis    offer.SPIs
	proto   suite.Protocol
	offered []message.Proposal
	idci    *message.ID
	idcr    *message.ID
	group   uint16
	pair    *ke.KeyPair
	ni      []byte
	made    *keyex.Child
}

// queueChild begins a Quick Mode for each pair of selectors of a child. A packet
// that asked for it goes first.
func (sa *SA) queueChild(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow) {
	if sa.state == keyex.Created || sa.state == keyex.Connecting {
		// The own address may be one that the peer gives.
		sa.later = append(sa.later, pending{cfg, flow})
		return
	}
	if f := sa.outside(now, cfg, flow); f != nil {
		sa.failedFor(now, cfg, flow, f)
		return
	}
	list := sa.pairs(cfg)
	if cfg.PFP != 0 {
		var err error
		if list, err = offer.Populated(cfg, sa.localTS(cfg), sa.remoteTS(cfg), flow); err != nil {
			sa.failedFor(now, cfg, flow, sa.failure(now, trace.StageSelectors, err.Error(), "see pfp of "+cfg.Name))
			return
		}
		if sa.overLimit(cfg) {
			sa.failedFor(now, cfg, flow, sa.tooMany(now, cfg))
			return
		}
	}
	if len(list) == 0 {
		sa.failed(now, cfg, sa.failure(now, trace.StageSelectors, "local_ts and remote_ts of "+cfg.Name+" have no address family and protocol in common", "make them of one family"))
		return
	}
	if len(sa.children)+len(list) > maxChildren {
		sa.failed(now, cfg, sa.failure(now, trace.StageChild, fmt.Sprintf("the IKE_SA has %d CHILD_SAs, no more are made", len(sa.children)), "close some"))
		return
	}
	for _, p := range list {
		f := sa.oneHome(now, cfg, p[0], p[1])
		if f == nil {
			f = sa.foreignHome(now, p[1])
		}
		if f != nil {
			sa.failedFor(now, cfg, flow, f)
			return
		}
	}
	for _, p := range list {
		q := &quick{sa: sa, cfg: cfg, packet: flow, local: p[0], remote: p[1], flow: keyex.Flow{Queue: &sa.Queue}}
		if flow != nil && p[0].From.Compare(flow.Local) <= 0 && flow.Local.Compare(p[0].To) <= 0 && p[1].From.Compare(flow.Remote) <= 0 && flow.Remote.Compare(p[1].To) <= 0 {
			sa.waiting = append([]*quick{q}, sa.waiting...)
			continue
		}
		sa.waiting = append(sa.waiting, q)
	}
}

// rekeyChild replaces a pair by a new one.
func (sa *SA) rekeyChild(now time.Time, c *keyex.Child) {
	c.RekeyAt = time.Time{}
	if c.State != keyex.ChildInstalled || book(c).rekeying || book(c).successor != nil {
		return
	}
	book(c).rekeying = true
	c.State = keyex.ChildRekeying
	q := &quick{sa: sa, cfg: c.Config, local: book(c).said[0], remote: book(c).said[1], old: c, flow: keyex.Flow{Queue: &sa.Queue}}
	if sa.translates(c.Mode) {
		// The peer may have another address by now.
		q.local, q.remote, _ = sa.asSeen(q.local, q.remote)
	}
	sa.waiting = append(sa.waiting, q)
}

// pending is a child that waits for the end of what comes before Quick Mode.
type pending struct {
	cfg  *keyex.ChildConfig
	flow *spd.Flow
}

func (q *quick) begin(now time.Time) {
	sa := q.sa
	q.x = sa.newExchange(message.ExchangeQuick, "QUICK_MODE")
	q.x.quick = q
	q.x.late, q.x.stop = q.late, func(now time.Time) { q.abandon() }
	q.group = offer.GroupFor(q.cfg.Proposals)
	q.proto = suite.ProtoESP
	if len(q.cfg.Proposals) > 0 {
		q.proto = q.cfg.Proposals[0].Protocol
	}
	if f := q.sa.throughNAT(now, q.cfg); f != nil {
		q.fail(now, f)
		return
	}
	q.flow.Run(now, q.reserve, q.reserveAround, q.reserveCPI, q.generate, q.request)
}

// reserve asks for the inbound SPI.
func (q *quick) reserve(now time.Time) {
	q.sa.reserve(&q.flow, q.proto, q.sa.reservesAt(q.cfg.Mode, q.local), &q.spis.Main, q.fail)
}

// reserveAround asks for the one of AH around ESP.
func (q *quick) reserveAround(now time.Time) {
	if len(q.cfg.AH) > 0 {
		q.sa.reserve(&q.flow, suite.ProtoAH, q.sa.reservesAt(q.cfg.Mode, q.local), &q.spis.AH, q.fail)
	}
}

// reserveCPI asks for the number of compression.
func (q *quick) reserveCPI(now time.Time) {
	if q.cfg.IPComp {
		q.sa.reserveCPI(&q.flow, q.sa.reservesAt(q.cfg.Mode, q.local), &q.spis.CPI, q.fail)
	}
}

func (q *quick) generate(now time.Time) {
	if q.group == 0 {
		return
	}
	q.flow.Compute(now, keyex.Generate(q.sa.env, q.group), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			q.fail(now, q.sa.failure(now, trace.StageKE, "the key exchange failed: "+err.Error(), ""))
			return
		}
		q.pair = r.Pair
	})
}

// request sends the first message.
func (q *quick) request(now time.Time) {
	sa := q.sa
	var err error
	if q.idci, err = offer.IDOf(q.local); err == nil {
		q.idcr, err = offer.IDOf(q.remote)
	}
	if err != nil {
		q.fail(now, sa.failure(now, trace.StageSelectors, err.Error(), "use one port, or none, in local_ts and remote_ts of "+q.cfg.Name))
		return
	}
	if q.cfg.Mode == spd.BEET && !sa.vendors.beet {
		q.fail(now, sa.failure(now, trace.StageConfig, "the peer does not know BEET mode in IKEv1, which has no number for it by any RFC", "use mode: tunnel, or version: 2"))
		return
	}
	seconds, kbytes := offer.LifeWords(q.cfg)
	q.offered = offer.Suites(q.cfg, q.spis, offer.Want{Encap: sa.encapOf(q.cfg.Mode), Group: q.group, Seconds: seconds, KBytes: kbytes})
	if len(q.offered) == 0 {
		q.fail(now, sa.failure(now, trace.StageConfig, "none of the proposals of "+q.cfg.Name+" can be said in IKEv1", "add a proposal such as aes256-sha256 or aes128gcm16"))
		return
	}
	q.ni = sa.nonce()
	list := []message.Payload{&message.SA{Proposals: q.offered}, &message.Opaque{Kind: message.TypeNonce, Data: q.ni}}
	if q.pair != nil {
		list = append(list, &message.Opaque{Kind: message.TypeKE, Data: q.pair.Public()})
	}
	q.x.next = q.answer
	// HASH(1) = prf(SKEYID_a, M-ID | SA | Ni [ | KE ] [ | IDci | IDcr ] [ | NAT-OAi | NAT-OAr ]).
	list = append(append(list, q.idci, q.idcr), sa.originals(q.cfg.Mode, true)...)
	if sa.tellContact {
		sa.tellContact = false
		list = append(list, sa.initialContact())
	}
	if err := sa.sendHashed(now, q.x, true, nil, list...); err != nil {
		q.fail(now, sa.failure(now, trace.StageConfig, err.Error(), "offer fewer proposals"))
	}
}

// answer takes the responder's choice.
func (q *quick) answer(now time.Time, in *incoming) {
	sa := q.sa
	hash, rest, ok := in.AfterHash()
	nr, okN := one[*message.Opaque](in.Message, message.TypeNonce)
	choice, okSA := one[*message.SA](in.Message, message.TypeSA)
	if !ok || !okN || !okSA {
		sa.dropped(now, "missing-payload", "HASH, SA and NONCE are expected once each")
		return
	}
	// HASH(2) = prf(SKEYID_a, M-ID | Ni_b | SA | Nr [ | KE ] [ | IDci | IDcr ]).
	if !hmac.Equal(hash, sa.keys.hashOf(idOctets(q.x.id), q.ni, rest)) {
		sa.dropped(now, "hash", "HASH(2) is wrong")
		return
	}
	in.accept()
	sa.follow(now, in.from)
	got, life, f := q.take(now, in.Message, choice)
	if f != nil {
		sa.tellSPI(now, message.NoProposalChosen, q.proto, q.spis.Main)
		q.fail(now, f)
		return
	}
	if got.cpi == 0 && q.spis.CPI != 0 {
		sa.unreserveCPI(&q.spis)
		sa.logChild(now, q.cfg, true, "CHILD_SA %s is not compressed: the peer does not do it", q.cfg.Name)
	}
	c := sa.made(q.cfg, got, q.local, q.remote, q.spis)
	c.Initiator, book(c).Reserved = true, true
	sa.tellChecksums(c, in.Message, false)
	offer.LimitBytes(c, life.KBytes, false)
	q.made = c
	var gqm secret.Bytes
	q.flow.Run(now, func(now time.Time) {
		if q.group == 0 {
			return
		}
		public, ok := one[*message.Opaque](in.Message, message.TypeKE)
		if !ok || len(public.Data) != ke.PublicLen(q.group) {
			q.fail(now, sa.failure(now, trace.StageKE, "the peer's answer has no public value of the group", "this is a fault of the peer's implementation"))
			return
		}
		q.flow.Compute(now, keyex.Agree(sa.env, q.group, q.pair, public.Data), func(now time.Time, r keyex.KEResult, err error) {
			if err != nil {
				q.fail(now, sa.failure(now, trace.StageKE, "the peer's public value is refused: "+err.Error(), ""))
				return
			}
			gqm = r.Shared
		})
	}, func(now time.Time) {
		if err := sa.childKeys(c, gqm, q.ni, nr.Data); err != nil {
			q.fail(now, sa.failure(now, trace.StageInstall, err.Error(), ""))
			return
		}
		gqm.Destroy()
		sa.children = append(sa.children, c)
		later := q.old != nil && book(q.old).OutUp
		if later {
			book(c).switchAt = now.Add(switchAfter)
		}
		sa.installChild(&q.flow, c, true, !later, func(now time.Time, err error) {
			if err != nil {
				q.fail(now, sa.installFailure(now, q.cfg, err))
			}
		})
	}, func(now time.Time) {
		// HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b).
		h := sa.keys.hashOf([]byte{0}, idOctets(q.x.id), q.ni, nr.Data)
		if err := sa.send(now, q.x, true, false, &message.Opaque{Kind: message.TypeHash, Data: h}); err != nil {
			q.fail(now, sa.failure(now, trace.StageConfig, err.Error(), ""))
			return
		}
		sa.finish(now, q.x)
		sa.childUp(now, c, q.old, offer.LifeOf(q.cfg, life.Seconds, false))
	})
}

// take checks that the answer chooses one of our suites, unchanged, and says our
// selectors.
func (q *quick) take(now time.Time, m *message.Message, s *message.SA) (got agreed, life offer.Span, f *trace.Failure) {
	sa := q.sa
	bad := func(format string, args ...any) *trace.Failure {
		return sa.failure(now, trace.StageChild, fmt.Sprintf(format, args...), "this is a fault of the peer's implementation")
	}
	list, why := offer.ReadSuites(s.Proposals)
	if len(list) == 2 && list[0].Comp() != nil && list[1].SameButComp(list[0]) {
		// strongSwan repeats its choice without compression behind it.
		list = list[:1]
	}
	if len(list) != 1 {
		return got, life, bad("the peer chose %d proposals that can be used, expected one: %s", len(list), why)
	}
	if why := list[0].Fits(q.cfg); why != "" {
		return got, life, bad("the peer's choice has other protocols than were offered: %s", why)
	}
	seconds, kbytes := offer.LifeWords(q.cfg)
	for i := range list[0] {
		p := &list[0][i]
		if len(p.Transforms) != 1 {
			return got, life, bad("the peer chose %d transforms of %v, expected one", len(p.Transforms), p.Protocol)
		}
		t, why := offer.Read(p.Protocol, &p.Transforms[0])
		if why != "" {
			return got, life, bad("the peer's choice cannot be read: %s", why)
		}
		// Two lifetimes must not have changed places, which the attributes alone do not show.
		if !offer.Offered(q.offered, p) || t.Seconds != seconds || t.KBytes != kbytes {
			return got, life, bad("the peer chose a transform that was not offered")
		}
		got.take(list[0], p, t)
	}
	mode := got.mode
	if sa.cfg.OwnEnds(q.cfg.Mode) && mode != q.cfg.Mode {
		return got, life, bad("the peer takes %s mode for what is between a home address and its peer", offer.ModeName(mode))
	}
	// RFC 2409, Section 5.5: the same identities.
	if ids := offer.IDPair(m.Payloads); ids != nil {
		l, errL := offer.TSOf(ids[0])
		r, errR := offer.TSOf(ids[1])
		same := errL == nil && errR == nil && (l == q.local && r == q.remote || sa.translates(mode) && sameButAddresses(l, q.local) && sameButAddresses(r, q.remote))
		if !same {
			return got, life, bad("the peer's answer has other selectors than ours, and IKEv1 narrows nothing")
		}
	}
	life = offer.HeldByResponder(m.Payloads, offer.Span{Seconds: seconds, KBytes: kbytes})
	return got, life, nil
}

// fail ends the Quick Mode; what it made goes.
func (q *quick) fail(now time.Time, f *trace.Failure) {
	q.abandon()
	if q.x != nil {
		q.sa.finish(now, q.x)
	}
	q.sa.failedFor(now, q.cfg, q.packet, f)
	if q.old != nil {
		q.sa.rekeyLater(now, q.old)
	}
}

// abandon gives back what the Quick Mode holds.
func (q *quick) abandon() {
	q.flow.Stop()
	if q.pair != nil {
		q.pair.Destroy()
	}
	if c := q.made; c != nil && !book(c).announced {
		q.sa.unlist(c)
		q.sa.removeChild(c, true, true)
		return
	}
	if q.made == nil {
		q.sa.unreserve(q.proto, &q.spis)
	}
}

func (q *quick) late(now time.Time) {
	q.fail(now, q.sa.failure(now, trace.StageReach, "the peer does not answer Quick Mode for "+q.cfg.Name, "see the peer's log: it may have forgotten the IKE_SA"))
	q.sa.areYouThere(now)
}

// spiOf is the SPI in a notify about AH or ESP.
func spiOf(n *message.Notify) (uint32, bool) {
	if n.Protocol != message.ProtoAH && n.Protocol != message.ProtoESP || len(n.SPI) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(n.SPI), true
}
