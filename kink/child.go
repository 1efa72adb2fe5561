package kink

import (
	"fmt"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// childBook is what the state machine keeps of a pair of SAs for itself.
type childBook struct {
	keyex.Halves
	announced bool // ChildUp or ChildReplaced told of it
	successor *keyex.Child
	rekeying  bool // a CREATE of ours is to replace it

	deleteAt, inactiveAt, fadeAt time.Time
}

func book(c *keyex.Child) *childBook {
	b, ok := c.Book.(*childBook)
	if !ok {
		b = &childBook{}
		c.Book = b
	}
	return b
}

// Times of a pair that goes: when who replaced it deletes it, how long its inbound
// half still receives what was on its way (RFC 4430, Section 3.3), and when a failed
// rekeying is tried again.
const (
	deleteAfter = 10 * time.Second
	forgetAfter = 2 * time.Minute // if the peer, who replaced it, does not
	fadeTime    = 10 * time.Second
	rekeyRetry  = 30 * time.Second
)

func (sa *SA) childByInbound(spi uint32) *keyex.Child {
	for _, c := range sa.children {
		if c.SPIIn == spi {
			return c
		}
	}
	return nil
}

// childByOutbound finds a pair by the peer's inbound SPI.
func (sa *SA) childByOutbound(proto suite.Protocol, spi uint32) *keyex.Child {
	for _, c := range sa.children {
		if outbound(c, proto, spi) {
			return c
		}
	}
	return nil
}

// outbound tells whether a pair has an outbound SA with an SPI.
func outbound(c *keyex.Child, proto suite.Protocol, spi uint32) bool {
	return spi != 0 && slices.ContainsFunc(c.Protocols(), func(p keyex.ProtocolSPIs) bool { return p.Proto == proto && p.SPIOut == spi })
}

// sameTraffic is another pair that serves the same selectors of a child, the newest
// that is not replaced yet; nil: none.
func (sa *SA) sameTraffic(n *keyex.Child) *keyex.Child {
	for _, c := range slices.Backward(sa.children) {
		if c != n && c.Config == n.Config && slices.Equal(c.Local, n.Local) && slices.Equal(c.Remote, n.Remote) && book(c).successor == nil && book(c).announced {
			return c
		}
	}
	return nil
}

// newChild is the record of a pair; SPIs of 0 of the peer are not known yet.
func (sa *SA) newChild(cfg *keyex.ChildConfig, g agreed, local, remote []spd.TS, in offer.SPIs) *keyex.Child {
	t := g.main
	c := &keyex.Child{
		UniqueID: sa.env.NextChildID(), Config: cfg, State: keyex.ChildInstalling, Proto: t.Proposal.Protocol,
		SPIIn: in.Main, SPIOut: g.spi, ESN: t.Proposal.ESN(), Local: local, Remote: remote,
		NoTFC: true,
	}
	c.Mode, _, _ = offer.ModeOf(t.Encap)
	c.LocalAddr, c.RemoteAddr = sa.ends(c)
	c.Encr, _ = t.Proposal.First(suite.ENCR)
	c.Integ, _ = t.Proposal.First(suite.INTEG)
	c.KE, _ = t.Proposal.First(suite.KE)
	if a := g.around; a != nil {
		c.AH = &keyex.Around{SPIIn: in.AH, SPIOut: g.ahSPI, ESN: a.Proposal.ESN()}
		c.AH.Integ, _ = a.Proposal.First(suite.INTEG)
	}
	return c
}

// installChild asks the backend for directions of a pair.
func (sa *SA) installChild(f *keyex.Flow, c *keyex.Child, in, out bool, then func(now time.Time, err error)) {
	book(c).Install(f, c, in, out, then)
}

// removeChild takes directions out of the backend, as far as they are there.
func (sa *SA) removeChild(c *keyex.Child, in, out bool) { book(c).Remove(&sa.Queue, c, in, out) }

// childUp starts the life of a pair and tells of it: a new one, or the successor
// of old.
func (sa *SA) childUp(now time.Time, c, old *keyex.Child, life offer.Life) {
	c.Begin(sa.env, now, life.Soft, life.Hard)
	b := book(c)
	if c.Config.Inactivity > 0 {
		b.inactiveAt = now.Add(c.Config.Inactivity)
	}
	b.announced = true
	if old == nil || !slices.Contains(sa.children, old) {
		sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} established with SPIs %08x_i %08x_o and TS %s === %s",
			c.Config.Name, c.UniqueID, c.SPIIn, c.SPIOut, spd.ListText(c.Local), spd.ListText(c.Remote))
		sa.Event(keyex.ChildUp{Child: c})
		return
	}
	o := book(old)
	other := o.successor
	o.successor, o.rekeying = c, false
	old.State, old.RekeyAt = keyex.ChildRekeyed, time.Time{}
	o.deleteAt = now.Add(forgetAfter)
	if c.Initiator {
		o.deleteAt = now.Add(deleteAfter)
	}
	c.Replaces = old.UniqueID
	sa.count("child-rekey", "")
	sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} rekeyed: now {%d} with SPIs %08x_i %08x_o and TS %s === %s",
		c.Config.Name, old.UniqueID, c.UniqueID, c.SPIIn, c.SPIOut, spd.ListText(c.Local), spd.ListText(c.Remote))
	sa.Event(keyex.ChildReplaced{Old: old, New: c})
	if other != nil && slices.Contains(sa.children, other) && c.Initiator && !other.Initiator && book(other).successor == nil {
		sa.collided(now, o, c, other)
	}
}

// collided: both sides replaced the same pair at once, by ours and by theirs. The
// successor whose initiator has the lower SPI goes, and who made it deletes it.
func (sa *SA) collided(now time.Time, old *childBook, ours, theirs *keyex.Child) {
	winner, loser := ours, theirs
	if ours.SPIIn < theirs.SPIOut {
		winner, loser = theirs, ours
	}
	old.successor = winner
	l := book(loser)
	l.successor, loser.State, loser.RekeyAt = winner, keyex.ChildRekeyed, time.Time{}
	l.deleteAt = now.Add(forgetAfter)
	if loser.Initiator {
		l.deleteAt = now.Add(deleteAfter)
	}
	sa.Event(keyex.ChildReplaced{Old: loser, New: winner})
}

// dropChild ends a pair that both sides know to be over, or that this side ends. Its
// inbound half still receives for a while.
func (sa *SA) dropChild(now time.Time, c *keyex.Child, peer bool) {
	sa.unlist(c)
	c.State = keyex.ChildDeleted
	b := book(c)
	if b.announced && b.successor == nil {
		sa.Event(keyex.ChildDown{Child: c, Peer: peer})
	}
	sa.removeChild(c, false, true)
	if !b.InUp {
		sa.removeChild(c, true, false)
		return
	}
	b.fadeAt = now.Add(fadeTime)
	sa.fading = append(sa.fading, c)
}

// unlist takes a pair off the list.
func (sa *SA) unlist(c *keyex.Child) {
	if i := slices.Index(sa.children, c); i >= 0 {
		sa.children = slices.Delete(sa.children, i, i+1)
	}
}

// rekeyLater tries to replace a pair again, unless its time is over.
func (sa *SA) rekeyLater(now time.Time, c *keyex.Child) {
	book(c).rekeying = false
	if c.State == keyex.ChildRekeying {
		c.State = keyex.ChildInstalled
		c.RekeyAt = now.Add(rekeyRetry)
	}
}

// checkActivity closes a pair that carried nothing for too long.
func (sa *SA) checkActivity(now time.Time, c *keyex.Child) {
	book(c).inactiveAt = time.Time{}
	sa.AskIdle(c, func(now, until time.Time) {
		if book(c).inactiveAt = until; until.IsZero() {
			sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} carried nothing for %v", c.Config.Name, c.UniqueID, c.Config.Inactivity)
			sa.deleteChildren(now, c)
		}
	})
}

// installFailure: the backend does not take a pair.
func (sa *SA) installFailure(now time.Time, cfg *keyex.ChildConfig, err error) *trace.Failure {
	sentence, advice := offer.InstallWords(cfg, err)
	return sa.failure(now, trace.StageInstall, sentence, advice)
}

func (sa *SA) logChild(now time.Time, c *keyex.ChildConfig, warn bool, format string, args ...any) {
	r := trace.Record{At: now, Level: trace.Control, Group: trace.CHD, Warn: warn, Msg: fmt.Sprintf(format, args...)}
	if c != nil {
		r.Child = c.Name
	}
	sa.record(r)
}
