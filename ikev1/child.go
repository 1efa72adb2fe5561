package ikev1

import (
	"slices"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/suite"
	"iked/ikev1/offer"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/internal/trace"
	"iked/spd"
)

// childBook is what the state machine keeps of a pair of SAs for itself.
type childBook struct {
	keyex.Halves
	announced bool      // ChildUp or ChildReplaced told of it
	said      [2]spd.TS // the selectors of Quick Mode, this side's and the peer's
	successor *keyex.Child
	rekeying  bool // a Quick Mode of ours is to replace it

	// switchAt is when the outbound half of a successor is put in force.
	switchAt, deleteAt, inactiveAt, fadeAt time.Time
}

func book(c *keyex.Child) *childBook {
	b, ok := c.Book.(*childBook)
	if !ok {
		b = &childBook{}
		c.Book = b
	}
	return b
}

// Times of a replaced pair: when who replaced it deletes it, when it sends on the
// new one, since some responders put that in force only when the third message is
// there, and how long the inbound half of the old one still receives what was on
// its way.
const (
	deleteAfter = 10 * time.Second
	switchAfter = 100 * time.Millisecond
	fadeTime    = 5 * time.Second
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
		for _, p := range c.Protocols() {
			if p.Proto == proto && p.SPIOut == spi {
				return c
			}
		}
	}
	return nil
}

// sameTraffic is the pair that serves the same selectors of a child, the newest
// that is not replaced yet; nil: none.
func (sa *SA) sameTraffic(cfg *keyex.ChildConfig, local, remote spd.TS) *keyex.Child {
	for _, c := range slices.Backward(sa.children) {
		if c.Config == cfg && book(c).said == [2]spd.TS{local, remote} && book(c).successor == nil && book(c).announced {
			return c
		}
	}
	return nil
}

// made is the record of a negotiated pair.
func (sa *SA) made(cfg *keyex.ChildConfig, g agreed, local, remote spd.TS, in offer.SPIs) *keyex.Child {
	p := g.main.Proposal
	c := &keyex.Child{
		UniqueID: sa.env.NextChildID(), Config: cfg, State: keyex.ChildInstalling, Proto: p.Protocol, Mode: g.mode,
		SPIIn: in.Main, SPIOut: g.spi, ESN: p.ESN(), Local: sa.kept(cfg, local), Remote: []spd.TS{remote},
		NoTFC: true,
	}
	sa.placed(c, local, remote)
	if g.cpi != 0 {
		c.CPIIn, c.CPIOut = in.CPI, g.cpi
	}
	book(c).said = [2]spd.TS{local, remote}
	c.Encr, _ = p.First(suite.ENCR)
	c.Integ, _ = p.First(suite.INTEG)
	c.KE, _ = p.First(suite.KE)
	if a := g.around; a != nil {
		c.AH = &keyex.Around{SPIIn: in.AH, SPIOut: g.ahSPI, ESN: a.Proposal.ESN()}
		c.AH.Integ, _ = a.Proposal.First(suite.INTEG)
	}
	return c
}

// childKeys makes the keys of all SAs (RFC 2409, Section 5.5).
func (sa *SA) childKeys(c *keyex.Child, gqm secret.Bytes, ni, nr []byte) error {
	return offer.ChildKeys(c, func(proto suite.Protocol, spi uint32, n int) (secret.Bytes, error) {
		return kdf.IKEv1KEYMAT(sa.keys.prf, sa.keys.all.SKEYIDd, gqm, uint8(proto), [4]byte(idOctets(spi)), ni, nr, n), nil
	})
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
	sa.lastError = 0 // who makes CHILD_SAs with this side does not refuse it
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
	o.successor, o.rekeying = c, false
	old.State, old.RekeyAt = keyex.ChildRekeyed, time.Time{}
	if c.Initiator {
		o.deleteAt = now.Add(deleteAfter)
	}
	c.Replaces = old.UniqueID
	sa.count("child-rekey", "")
	sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} rekeyed: now {%d} with SPIs %08x_i %08x_o and TS %s === %s",
		c.Config.Name, old.UniqueID, c.UniqueID, c.SPIIn, c.SPIOut, spd.ListText(c.Local), spd.ListText(c.Remote))
	sa.Event(keyex.ChildReplaced{Old: old, New: c})
}

// dropChild ends a pair that both sides know to be over.
func (sa *SA) dropChild(now time.Time, c *keyex.Child, peer bool) {
	if i := slices.Index(sa.children, c); i >= 0 {
		sa.children = slices.Delete(sa.children, i, i+1)
	}
	c.State = keyex.ChildDeleted
	b := book(c)
	b.switchAt = time.Time{}
	if s := b.successor; s != nil {
		sa.switchOver(now, s)
	}
	if b.successor != nil && b.InUp {
		sa.removeChild(c, false, true)
		b.fadeAt = now.Add(fadeTime)
		sa.fading = append(sa.fading, c)
		return
	}
	sa.removeChild(c, true, true)
	if b.announced && b.successor == nil {
		sa.Event(keyex.ChildDown{Child: c, Peer: peer})
	}
}

// switchOver puts the outbound half of a successor in force.
func (sa *SA) switchOver(now time.Time, c *keyex.Child) {
	b := book(c)
	if b.switchAt.IsZero() {
		return
	}
	b.switchAt = time.Time{}
	f := &keyex.Flow{Queue: &sa.Queue}
	sa.installChild(f, c, false, true, func(now time.Time, err error) {
		if err != nil {
			sa.failed(now, c.Config, sa.installFailure(now, c.Config, err))
			sa.deleteChild(now, c, false)
		}
	})
}

// installFailure: the backend does not take a pair.
func (sa *SA) installFailure(now time.Time, cfg *keyex.ChildConfig, err error) *trace.Failure {
	sentence, advice := offer.InstallWords(cfg, err)
	return sa.failure(now, trace.StageInstall, sentence, advice)
}
