package ikev1

import (
	"cmp"
	"crypto/hmac"
	"errors"
	"fmt"
	"slices"
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

// quickResponder is a Quick Mode of the peer; the drawing stands in
// quick_initiator.go.
type quickResponder struct {
	sa   *SA
	x    *exchange
	flow keyex.Flow

	cfg           *keyex.ChildConfig
	local, remote spd.TS
	idci, idcr    *message.ID // as they came; nil: none did
	mapped        bool        // the selectors are those of transport mode through a NAT
	first         *message.Message
	answer        offer.Suite // that the peer offered and we chose, with one transform each
	chosen        agreed
	ni, nr        []byte
	public        []byte // the peer's
	pair          *ke.KeyPair
	spis          offer.SPIs
	made          *keyex.Child
	life, tell    offer.Span // that is agreed on, and the parts that the peer is told
}

// request takes the first message.
func (q *quickResponder) request(now time.Time, in *incoming) {
	sa := q.sa
	hash, rest, ok := in.AfterHash()
	if !ok || !hmac.Equal(hash, sa.keys.hashOf(idOctets(q.x.id), rest)) {
		// HASH(1) = prf(SKEYID_a, M-ID | SA | Ni [ | KE ] [ | IDci | IDcr ]).
		sa.dropped(now, "hash", "HASH(1) of Quick Mode is wrong or missing")
		return
	}
	in.accept()
	sa.keep(q.x)
	sa.follow(now, in.from)
	if saysFirstContact(in.Message) {
		sa.firstContact(now)
	}
	q.x.stop = func(time.Time) { q.abandon() }
	offer, okSA := one[*message.SA](in.Message, message.TypeSA)
	ni, okN := one[*message.Opaque](in.Message, message.TypeNonce)
	if !okSA || !okN {
		q.refuse(now, message.PayloadMalformed, sa.failure(now, trace.StageChild, "the peer's Quick Mode lacks SA or NONCE", "this is a fault of the peer's implementation"))
		return
	}
	if len(sa.children) >= maxChildren {
		q.refuse(now, message.NoProposalChosen, sa.failure(now, trace.StageChild, fmt.Sprintf("the IKE_SA has %d CHILD_SAs, no more are made", len(sa.children)), "close some"))
		return
	}
	q.ni, q.first = ni.Data, in.Message
	if n, f := q.findChild(now, in.Message, offersTransport(offer)); f != nil {
		q.refuse(now, n, f)
		return
	}
	if f := sa.throughNAT(now, q.cfg); f != nil {
		q.refuse(now, message.NoProposalChosen, f)
		return
	}
	if f := q.choose(now, offer); f != nil {
		q.refuse(now, message.NoProposalChosen, f)
		return
	}
	if f := q.takeKE(now, in.Message); f != nil {
		q.refuse(now, message.InvalidKeyInformation, f)
		return
	}
	q.flow.Run(now, q.reserve, q.reserveAround, q.reserveCPI, q.agree, q.install, q.reply)
}

// findChild finds the configured child for the peer's selectors. IKEv1 narrows
// nothing: they must lie within the policy (RFC 2409, Section 5.5). Without
// identities they are the peers' own addresses. An offer of transport mode through
// a NAT is looked up with the addresses as they are seen here.
func (q *quickResponder) findChild(now time.Time, m *message.Message, transport bool) (message.NotifyType, *trace.Failure) {
	sa := q.sa
	q.local, q.remote = spd.Host(sa.local.Addr()), spd.Host(sa.remote.Addr())
	if ids := offer.IDPair(m.Payloads); ids != nil {
		q.idci, q.idcr = ids[0], ids[1]
		var errL, errR error
		q.remote, errR = offer.TSOf(ids[0])
		q.local, errL = offer.TSOf(ids[1])
		if errL != nil || errR != nil {
			return message.InvalidIDInformation, sa.failure(now, trace.StageSelectors, fmt.Sprintf("the peer's selectors cannot be used: %v %v", errL, errR), "use addresses, subnets or ranges")
		}
	}
	if f := sa.foreignHome(now, q.remote); f != nil {
		return message.InvalidIDInformation, f
	}
	seenL, seenR, one := sa.asSeen(q.local, q.remote)
	// One that has the same selectors before one that covers them.
	for _, exact := range [...]bool{true, false} {
		for _, cfg := range sa.cfg.Children {
			l, r := sa.localTS(cfg), sa.remoteTS(cfg)
			local, remote := q.local, q.remote
			mapped := transport && one && sa.translates(cfg.Mode)
			if mapped {
				local, remote = seenL, seenR
			}
			fits := spd.Subset([]spd.TS{local}, l) && spd.Subset([]spd.TS{remote}, r)
			if exact {
				fits = slices.Contains(l, local) && slices.Contains(r, remote)
			}
			fits = fits && offer.PerPacket(cfg, l, r, local, remote)
			if fits && cfg.PFP != 0 && sa.sameTraffic(cfg, local, remote) == nil && sa.overLimit(cfg) {
				return message.NoProposalChosen, sa.tooMany(now, cfg)
			}
			if fits {
				q.cfg, q.local, q.remote, q.mapped = cfg, local, remote, mapped
				return 0, nil
			}
		}
	}
	if cfg := sa.childOfUnity(q.local, q.remote); cfg != nil {
		q.cfg = cfg
		return 0, nil
	}
	f := sa.failure(now, trace.StageSelectors, fmt.Sprintf("the peer wants %v === %v, which no child of %s has", q.local, q.remote, sa.cfg.Name),
		"make local_ts and remote_ts of both sides the same, turned round: IKEv1 narrows nothing")
	for _, cfg := range sa.cfg.Children {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s has %s === %s", cfg.Name, spd.ListText(sa.localTS(cfg)), spd.ListText(sa.remoteTS(cfg))))
	}
	return message.InvalidIDInformation, f
}

// choose takes the first suite and transforms that fit.
func (q *quickResponder) choose(now time.Time, theirs *message.SA) *trace.Failure {
	sa := q.sa
	level := sa.cfg.V1.LifeCheck
	suites, why := offer.ReadSuites(theirs.Proposals)
	if why == "" {
		why = "the peer offers nothing"
	}
	// With compression before without.
	slices.SortStableFunc(suites, func(a, b offer.Suite) int { return cmp.Compare(a.Rank(), b.Rank()) })
	// Of which some part does not fit, a suite is out and the next one is looked at.
	for {
		list, read, where, no := q.readable(suites)
		if no != "" {
			why = no
		}
		if len(list) == 0 {
			return sa.failure(now, trace.StageChild, "none of the peer's transforms for "+q.cfg.Name+" can be used: "+why, "make mode, esp_proposals and ah_proposals of both sides agree")
		}
		ours := q.cfg.Proposals
		if level == keyex.LifeObey {
			ours, list = offer.WithoutPFS(ours), offer.WithoutPFS(list)
		}
		c, m := suite.Select(ours, list, suite.Options{})
		if m != nil {
			return sa.mismatch(now, trace.StageChild, m)
		}
		at, t := where[c.TheirIndex], read[c.TheirIndex]
		_, udp, _ := offer.ModeOf(t.Encap)
		s := suites[at[0]]
		answer := slices.Clone(s)
		var chosen agreed
		keep := func(p *message.Proposal, i int, t offer.Transform) {
			answer.Of(p.Protocol).Transforms = p.Transforms[i : i+1]
			chosen.take(s, p, t)
		}
		keep(s.Main(), at[1], t)
		both, no := t, ""
		if p := s.Around(); p != nil {
			var i int
			var a offer.Transform
			if i, a, no = offer.SelectAround(q.cfg, level, p, chosen.mode, t.Group); no == "" {
				keep(p, i, a)
				both = t.Shorter(a)
			}
		}
		if p := s.Comp(); p != nil && no == "" {
			var i int
			if i, no = offer.SelectComp(p, chosen.mode, udp, t.Group); no == "" {
				keep(p, i, offer.Transform{})
			}
		}
		if no != "" {
			why = no
			suites = slices.Delete(slices.Clone(suites), at[0], at[0]+1)
			continue
		}
		q.chosen, q.answer = chosen, answer
		q.life, q.tell, _ = offer.WeighChild(level, q.cfg, both)
		return nil
	}
}

// readable are the transforms of ESP, or of AH alone, that may be chosen, and where
// they stand: suite and transform. why tells why others may not.
func (q *quickResponder) readable(suites []offer.Suite) (list []suite.Proposal, read []offer.Transform, where [][2]int, why string) {
	sa := q.sa
	level := sa.cfg.V1.LifeCheck
	for i, s := range suites {
		if no := s.Fits(q.cfg); no != "" {
			why = no
			continue
		}
		p := s.Main()
		for j := range p.Transforms {
			t, no := offer.Read(p.Protocol, &p.Transforms[j])
			mode, udp, ok := offer.ModeOf(t.Encap)
			switch _, _, lives := offer.WeighChild(level, q.cfg, t); {
			case no != "":
				why = no
			case sa.cfg.OwnEnds(mode) && !(q.local.IsHost() && q.remote.IsHost()):
				why = "transport mode is between two single addresses"
			case mode == spd.BEET && !(q.local.IsHost() && q.remote.IsHost()):
				why = "BEET mode is between two single addresses"
			case !ok || mode != q.cfg.Mode && (mode != spd.Tunnel || q.cfg.ModeRequired):
				why = fmt.Sprintf("the peer offers %s, and %s has mode %s", offer.EncapWords(t.Encap), q.cfg.Name, offer.ModeName(q.cfg.Mode))
			case udp != sa.nat.any():
				why = fmt.Sprintf("the peer offers %s, and NAT detection found otherwise", offer.EncapWords(t.Encap))
			case sa.translates(q.cfg.Mode) && (mode == spd.Transport) != q.mapped:
				why = fmt.Sprintf("the peer offers %s, and its selectors do not go with it through a NAT: transport mode has one address on each side", offer.EncapWords(t.Encap))
			case !lives:
				own, kbytes := offer.LifeWords(q.cfg)
				why = offer.RefusedLife(level, offer.Span{Seconds: own, KBytes: kbytes}, offer.Span{Seconds: t.Seconds, KBytes: t.KBytes})
			default:
				list, read, where = append(list, t.Proposal), append(read, t), append(where, [2]int{i, j})
			}
		}
	}
	return list, read, where, why
}

// takeKE holds the public value against the group that was chosen.
func (q *quickResponder) takeKE(now time.Time, m *message.Message) *trace.Failure {
	k, ok := one[*message.Opaque](m, message.TypeKE)
	if q.chosen.main.Group == 0 {
		return nil
	}
	if !ok || len(k.Data) != ke.PublicLen(q.chosen.main.Group) {
		return q.sa.failure(now, trace.StageKE, fmt.Sprintf("the peer's Quick Mode names group %d and has no public value of it", q.chosen.main.Group), "this is a fault of the peer's implementation")
	}
	q.public = k.Data
	return nil
}

func (q *quickResponder) reserve(now time.Time) {
	q.sa.reserve(&q.flow, q.chosen.main.Proposal.Protocol, q.sa.reservesAt(q.chosen.mode, q.local), &q.spis.Main, q.unreserved)
}

func (q *quickResponder) reserveAround(now time.Time) {
	if q.chosen.around != nil {
		q.sa.reserve(&q.flow, suite.ProtoAH, q.sa.reservesAt(q.chosen.mode, q.local), &q.spis.AH, q.unreserved)
	}
}

func (q *quickResponder) reserveCPI(now time.Time) {
	if q.chosen.cpi != 0 {
		q.sa.reserveCPI(&q.flow, q.sa.reservesAt(q.chosen.mode, q.local), &q.spis.CPI, q.unreserved)
	}
}

func (q *quickResponder) unreserved(now time.Time, f *trace.Failure) {
	q.refuse(now, message.NoProposalChosen, f)
}

// agree makes the record with its keys.
func (q *quickResponder) agree(now time.Time) {
	sa := q.sa
	q.nr = sa.nonce()
	derive := func(now time.Time, gqm secret.Bytes) {
		c := sa.made(q.cfg, q.chosen, q.local, q.remote, q.spis)
		book(c).Reserved = true
		sa.tellChecksums(c, q.first, true)
		offer.LimitBytes(c, q.life.KBytes, sa.cfg.V1.LifeCheck == keyex.LifeObey)
		q.first = nil
		q.made = c
		if err := sa.childKeys(c, gqm, q.ni, q.nr); err != nil {
			q.refuse(now, message.NoProposalChosen, sa.failure(now, trace.StageInstall, err.Error(), ""))
			return
		}
		gqm.Destroy()
		sa.children = append(sa.children, c)
	}
	if q.public == nil {
		derive(now, secret.Bytes{})
		return
	}
	q.flow.Compute(now, keyex.Agree(sa.env, q.chosen.main.Group, nil, q.public), func(now time.Time, r keyex.KEResult, err error) {
		if err != nil {
			q.refuse(now, message.InvalidKeyInformation, sa.failure(now, trace.StageKE, "the peer's public value is refused: "+err.Error(), ""))
			return
		}
		q.pair = r.Pair
		derive(now, r.Shared)
	})
}

// install puts the inbound half in force before the peer can send.
func (q *quickResponder) install(now time.Time) {
	q.sa.installChild(&q.flow, q.made, true, false, func(now time.Time, err error) {
		if err != nil {
			kind := message.NoProposalChosen
			if errors.Is(err, keyex.ErrHomeTaken) {
				kind = message.InvalidIDInformation
			}
			q.refuse(now, kind, q.sa.installFailure(now, q.cfg, err))
		}
	})
}

// reply sends the second message. It is repeated: the peer's address is proven,
// and the third message has no other sign of its loss.
func (q *quickResponder) reply(now time.Time) {
	sa := q.sa
	for i := range q.answer {
		switch p := &q.answer[i]; p {
		case q.answer.Around():
			p.SPI = spiOctets(q.spis.AH)
		case q.answer.Comp():
			// In as many octets as the peer has it (RFC 2407, Section 4.6.1).
			p.SPI = spiOctets(uint32(q.spis.CPI))[4-len(p.SPI):]
		default:
			p.SPI = spiOctets(q.spis.Main)
		}
	}
	list := []message.Payload{&message.SA{Proposals: q.answer}, &message.Opaque{Kind: message.TypeNonce, Data: q.nr}}
	if q.pair != nil {
		list = append(list, &message.Opaque{Kind: message.TypeKE, Data: q.pair.Public()})
	}
	if q.idci != nil {
		list = append(list, q.idci, q.idcr)
	}
	list = append(list, sa.originals(q.chosen.mode, false)...)
	if q.tell != (offer.Span{}) {
		for i := range q.answer {
			if p := &q.answer[i]; p.Protocol != message.ProtoIPComp {
				list = append(list, offer.LifePayload(p.Protocol, p.SPI, q.tell))
			}
		}
	}
	q.x.next, q.x.late = q.confirm, q.late
	if err := sa.sendHashed(now, q.x, true, q.ni, list...); err != nil {
		q.refuse(now, message.NoProposalChosen, sa.failure(now, trace.StageConfig, err.Error(), ""))
	}
}

// confirm takes the third message; from now on we send.
func (q *quickResponder) confirm(now time.Time, in *incoming) {
	sa := q.sa
	hash, _, ok := in.AfterHash()
	// HASH(3) = prf(SKEYID_a, 0 | M-ID | Ni_b | Nr_b).
	if !ok || !hmac.Equal(hash, sa.keys.hashOf([]byte{0}, idOctets(q.x.id), q.ni, q.nr)) {
		sa.dropped(now, "hash", "HASH(3) of Quick Mode is wrong or missing")
		return
	}
	in.accept()
	sa.finish(now, q.x)
	delete(sa.exchanges, q.x.id) // nothing answers the third message: there is nothing to repeat
	old := sa.sameTraffic(q.cfg, q.local, q.remote)
	q.flow = keyex.Flow{Queue: &sa.Queue}
	q.flow.Run(now, func(now time.Time) {
		sa.installChild(&q.flow, q.made, false, true, func(now time.Time, err error) {
			if err != nil {
				sa.tellDelete(now, q.made)
				q.abandon()
				sa.failed(now, q.cfg, sa.installFailure(now, q.cfg, err))
			}
		})
	}, func(now time.Time) {
		sa.childUp(now, q.made, old, offer.LifeOf(q.cfg, q.life.Seconds, sa.cfg.V1.LifeCheck == keyex.LifeObey))
	})
}

// refuse tells the peer, with the SPI that it proposed, and ends the exchange.
func (q *quickResponder) refuse(now time.Time, n message.NotifyType, f *trace.Failure) {
	sa := q.sa
	q.abandon()
	sa.finish(now, q.x)
	sa.failed(now, q.cfg, f)
	proto, spi := suite.ProtoESP, uint32(0)
	if q.answer != nil {
		proto, spi = q.chosen.main.Proposal.Protocol, q.chosen.spi
	}
	// The first message that comes again shows that this got lost.
	q.x.last = sa.tellSPI(now, n, proto, spi)
}

// abandon gives back what the Quick Mode holds.
func (q *quickResponder) abandon() {
	q.flow.Stop()
	if q.pair != nil {
		q.pair.Destroy()
	}
	switch c := q.made; {
	case c != nil && !book(c).announced:
		q.sa.unlist(c)
		q.sa.removeChild(c, true, true)
	case c == nil:
		q.sa.unreserve(q.chosen.main.Proposal.Protocol, &q.spis)
	}
}

func (q *quickResponder) late(now time.Time) {
	q.abandon()
	q.sa.finish(now, q.x)
	q.sa.failed(now, q.cfg, q.sa.failure(now, trace.StageReach, "the peer never confirmed Quick Mode for "+q.cfg.Name, "see the peer's log"))
}
