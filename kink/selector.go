package kink

import (
	"fmt"
	"slices"
	"time"

	quick "iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// selectors2 are what one CREATE is about.
type selectors2 struct{ local, remote []spd.TS }

func (sa *SA) localTS(c *keyex.ChildConfig) []spd.TS {
	return offer.Resolve(c.Local, sa.local.Addr(), nil)
}

func (sa *SA) remoteTS(c *keyex.ChildConfig) []spd.TS {
	return offer.Resolve(c.Remote, sa.remote.Addr(), nil)
}

// selectorPairs are the CREATEs that a child needs: one for each pair of selectors,
// which the identities say (RFC 4430, Section 5.3). racoon2 ignores identities and
// takes its policy, so that one pair of SAs is for all selectors.
func (sa *SA) selectorPairs(now time.Time, cfg *keyex.ChildConfig, flow *spd.Flow) ([]selectors2, *trace.Failure) {
	local, remote := sa.localTS(cfg), sa.remoteTS(cfg)
	list := offer.Pairs(local, remote)
	if cfg.PFP != 0 {
		var err error
		if list, err = offer.Populated(cfg, local, remote, flow); err != nil {
			return nil, sa.failure(now, trace.StageSelectors, err.Error(), "see pfp of "+cfg.Name)
		}
		if sa.overLimit(cfg) {
			return nil, sa.tooMany(now, cfg)
		}
	}
	if len(list) == 0 {
		return nil, sa.failure(now, trace.StageSelectors, "local_ts and remote_ts of "+cfg.Name+" have no address family and protocol in common", "make them of one family")
	}
	if len(sa.children)+len(list) > maxChildren {
		return nil, sa.failure(now, trace.StageChild, fmt.Sprintf("there are %d CHILD_SAs with %s, no more are made", len(sa.children), sa.peer), "close some")
	}
	if sa.cfg.KINK.Racoon2 && cfg.PFP == 0 {
		return []selectors2{{local, remote}}, nil
	}
	var out []selectors2
	for _, p := range list {
		out = append(out, selectors2{p[:1:1], p[1:]})
	}
	return out, nil
}

// findChild finds the configured child for a CREATE of the peer. Its identities must
// lie within the policy; without any, what is configured is meant (racoon2 sends
// none), by the first child that the offer fits.
func (c *createAnswer) findChild(now time.Time, list []quick.Payload, theirs *quick.SA) (quick.NotifyType, *trace.Failure) {
	sa := c.sa
	ids := offer.IDPair(list)
	if ids == nil {
		return c.childByOffer(now, theirs)
	}
	c.idci, c.idcr = ids[0], ids[1]
	remote, errR := offer.TSOf(ids[0])
	local, errL := offer.TSOf(ids[1])
	if errL != nil || errR != nil {
		return quick.InvalidIDInformation, sa.failure(now, trace.StageSelectors, fmt.Sprintf("the peer's selectors cannot be used: %v %v", errL, errR), "use addresses, subnets or ranges")
	}
	// One that has the same selectors before one that covers them.
	for _, exact := range [...]bool{true, false} {
		for _, cfg := range sa.cfg.Children {
			l, r := sa.localTS(cfg), sa.remoteTS(cfg)
			fits := spd.Subset([]spd.TS{local}, l) && spd.Subset([]spd.TS{remote}, r)
			if exact {
				fits = slices.Contains(l, local) && slices.Contains(r, remote)
			}
			// What a pair has its successor may have: a peer that moved has dynamic
			// selectors with another address by now.
			same := sa.sameTraffic(&keyex.Child{Config: cfg, Local: []spd.TS{local}, Remote: []spd.TS{remote}})
			if !exact {
				fits = fits || same != nil
			}
			if !fits || same == nil && !offer.PerPacket(cfg, l, r, local, remote) {
				continue
			}
			c.cfg, c.local, c.remote = cfg, []spd.TS{local}, []spd.TS{remote}
			if cfg.PFP != 0 && sa.overLimit(cfg) && sa.sameTraffic(&keyex.Child{Config: cfg, Local: c.local, Remote: c.remote}) == nil {
				return quick.NoProposalChosen, sa.tooMany(now, cfg)
			}
			return 0, nil
		}
	}
	f := sa.failure(now, trace.StageSelectors, fmt.Sprintf("the peer wants %v === %v, which no child of %s has", local, remote, sa.cfg.Name),
		"make local_ts and remote_ts of both sides the same, turned round: Quick Mode narrows nothing")
	for _, cfg := range sa.cfg.Children {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s has %s === %s", cfg.Name, spd.ListText(sa.localTS(cfg)), spd.ListText(sa.remoteTS(cfg))))
	}
	return quick.InvalidIDInformation, f
}

// childByOffer is the child that a CREATE without identities means.
func (c *createAnswer) childByOffer(now time.Time, theirs *quick.SA) (quick.NotifyType, *trace.Failure) {
	sa := c.sa
	var last *trace.Failure
	for _, cfg := range sa.cfg.Children {
		if cfg.PFP != 0 {
			continue // its SAs are for packets, and none is named
		}
		c.cfg, c.local, c.remote = cfg, sa.localTS(cfg), sa.remoteTS(cfg)
		if last = c.choose(now, theirs); last == nil {
			return 0, nil
		}
	}
	c.cfg, c.local, c.remote = nil, nil, nil
	if last == nil {
		last = sa.failure(now, trace.StageSelectors, "the peer's CREATE has no identities, and "+sa.cfg.Name+" has no child with selectors of its own", "configure a child without pfp")
	}
	return quick.NoProposalChosen, last
}

// overLimit tells whether a child has as many SAs as it may.
func (sa *SA) overLimit(cfg *keyex.ChildConfig) bool {
	return offer.Full(cfg, sa.children, func(c *keyex.Child) bool { return book(c).successor != nil })
}

// tooMany is the failure of one SA too many.
func (sa *SA) tooMany(now time.Time, cfg *keyex.ChildConfig) *trace.Failure {
	sentence, advice := offer.FullWords(cfg)
	return sa.failure(now, trace.StageChild, sentence, advice)
}

// encapOf is the attribute for a mode. There is no encapsulation in UDP: KINK has no
// detection of NATs.
func encapOf(m spd.Mode) uint16 {
	switch m {
	case spd.Transport:
		return quick.EncapTransport
	case spd.BEET:
		return quick.EncapBEET
	}
	return quick.EncapTunnel
}

// one is the payload of a type that stands exactly once.
func one[P quick.Payload](list []quick.Payload, t quick.PayloadType) (p P, ok bool) {
	for _, x := range list {
		if x.Type() != t {
			continue
		}
		if ok {
			return p, false
		}
		p, ok = x.(P)
	}
	return p, ok
}

// errorIn is the error notify of an answer; nil: there is none.
func errorIn(list []quick.Payload) *quick.Notify {
	for _, p := range list {
		if n, ok := p.(*quick.Notify); ok && n.Kind.IsError() {
			return n
		}
	}
	return nil
}
