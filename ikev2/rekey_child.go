package ikev2

import (
	"bytes"
	"iked/internal/keyex"
	"time"

	"iked/ikev2/message"
)

// Rekeying of a CHILD_SA, both roles, and its collisions (RFC 7296, Sections
// 2.8, 2.8.1 and 2.25.1).

// queueRekeyChild begins a rekeying if none is going on.
func (sa *SA) queueRekeyChild(now time.Time, c *Child) {
	c.RekeyAt = time.Time{}
	if c.State != ChildInstalled || book(c).successor != nil {
		return
	}
	for _, q := range sa.queue {
		if x, ok := q.x.(*createChild); ok && x.old == c {
			return
		}
	}
	sa.enqueue(&createChild{sa: sa, cfg: c.Config, old: c})
}

// lowestNonce of an exchange: compared octet by octet, a shorter equal beginning
// is lower (RFC 7296, Section 2.8.1).
func lowestNonce(ni, nr []byte) []byte {
	if bytes.Compare(ni, nr) < 0 {
		return ni
	}
	return nr
}

// rivalChild is the CHILD_SA that the peer's simultaneous rekeying made, or what
// took the place of that; nil when there is none or it was deleted.
func rivalChild(c *Child) *Child {
	s := book(c).successor
	for s != nil && s.State == ChildDeleted {
		s = book(s).successor
	}
	return s
}

// settle takes the CHILD_SA that our rekeying made.
func (x *createChild) settle(now time.Time, a childAnswer) {
	sa, old := x.sa, x.old
	made, f := x.offer.build(now, a)
	if f != nil {
		sa.refuseGiven(now, x.offer, &a.sa.Proposals[0])
		x.failed(now, f)
		return
	}
	if x.deletedMeanwhile(made) {
		sa.dropChild(now, made, true)
		x.settleDeleted(now)
		return
	}
	rival := rivalChild(old)
	if rival != nil && bytes.Compare(lowestNonce(a.ni, a.nr), book(old).rival) < 0 {
		// RFC 7296, Section 2.8.1: ours has the lowest nonce, so it is redundant and
		// ours to delete. The peer deletes the old one.
		sa.count("child-collision", "lost")
		book(made).silent, made.State = true, ChildDeleting
		if old.State == ChildRekeying {
			old.State = ChildRekeyed
		}
		sa.enqueueFirst(&deleteChild{sa: sa, child: made})
		x.done()
		return
	}
	if rival != nil {
		// The peer deletes what it made.
		sa.count("child-collision", "won")
		book(rival).silent = true
	}
	// Decided: a request of the peer that is still worked on comes too late.
	if old.State == ChildRekeying {
		old.State = ChildRekeyed
	}
	sa.installChild(&x.steps, made, true, true, func(now time.Time, err error) {
		x.done()
		if err != nil {
			if old.State == ChildRekeyed && rivalChild(old) == nil {
				old.State = ChildInstalled
			}
			sa.installFailed(now, made, err)
			sa.settleGone(now, old)
			return
		}
		if made.State == ChildDeleted {
			x.settleDeleted(now)
			return
		}
		sa.childInstalled(now, made)
		book(old).successor = made
		if rival != nil && book(rival).announced {
			// It had taken over already.
			sa.childReplaced(now, rival, made)
		} else {
			sa.childReplaced(now, old, made)
		}
		if old.State == ChildDeleted {
			return
		}
		// RFC 7296, Section 2.8: who rekeyed deletes the old one.
		old.State = ChildRekeyed
		sa.enqueueFirst(&deleteChild{sa: sa, child: old})
	})
}

// settleDeleted: it was rekeyed and closed by the peer at once: the old one, ours
// to delete, goes as well.
func (x *createChild) settleDeleted(now time.Time) {
	sa, old := x.sa, x.old
	x.done()
	if old.State != ChildDeleted && old.State != ChildDeleting {
		old.State = ChildRekeyed
		sa.enqueueFirst(&deleteChild{sa: sa, child: old})
	}
	sa.settleGone(now, old)
}

// settleFailed: our rekeying made nothing.
func (x *createChild) settleFailed(now time.Time) {
	sa, old := x.sa, x.old
	x.offer.free()
	x.done()
	if old.State == ChildRekeying {
		old.State = ChildInstalled
		if rivalChild(old) != nil {
			old.State = ChildRekeyed
			return
		}
		// Again before it expires.
		old.RekeyAt = now.Add(10*time.Second + keyex.Jitter(sa.env, 10*time.Second))
	}
	sa.settleGone(now, old)
}

// settleGone tells of the end of a CHILD_SA that the peer deleted while we
// rekeyed it in vain.
func (sa *SA) settleGone(now time.Time, old *Child) {
	if book(old).peerGone && book(old).successor == nil {
		book(old).peerGone = false
		sa.childDown(old, true)
	}
}

// settleTemporary: the peer closes the CHILD_SA or rekeys the IKE SA (RFC 7296,
// Section 2.25).
func (x *createChild) settleTemporary(now time.Time) {
	x.settleFailed(now)
	if old := x.old; old.State == ChildInstalled {
		old.RekeyAt = now.Add(x.sa.retryDelay())
	}
}

// settleNotFound: the peer has no such CHILD_SA (RFC 7296, Section 2.25.1). If it
// rekeyed or deleted it, we know that already; else only our half is left and a
// new one takes its place.
func (x *createChild) settleNotFound(now time.Time) {
	sa, old := x.sa, x.old
	x.done()
	if old.State == ChildDeleted || rivalChild(old) != nil {
		if old.State == ChildRekeying {
			old.State = ChildRekeyed
		}
		sa.settleGone(now, old)
		return
	}
	sa.count("child-rekey", "not-found")
	sa.dropChild(now, old, true)
	if x.cfg.PFP == 0 || old.Flow != nil {
		// Else the peer's packet asked for it, and the next will again.
		sa.enqueue(&createChild{sa: sa, cfg: x.cfg, flow: old.Flow})
	}
}

// respondRekeyChild answers the peer's rekeying of a CHILD_SA.
func (sa *SA) respondRekeyChild(now time.Time, v *message.CreateChildSARequest) {
	old := sa.childByOutbound(v.RekeyProtocol, v.RekeySPI)
	if !sa.rekeyable(now, v, old) {
		return
	}
	q := sa.newChildRequest(v, old)
	q.flow.Run(now, q.choose, q.reserve, q.exchangeKeys,
		func(now time.Time) { q.stillWanted(now) },
		// RFC 7296, Section 2.8: the responder sends on the new one only when the
		// old one is deleted.
		func(now time.Time) { q.install(now, false) },
		func(now time.Time) {
			q.stillWanted(now)
			if c := q.made; c != nil {
				sa.childInstalled(now, c)
				book(old).successor, book(old).rival = c, lowestNonce(q.ni, q.nr)
				if old.State == ChildInstalled {
					old.State = ChildRekeyed
				}
				old.RekeyAt = time.Time{}
			}
			sa.reply(now, q.payloads()...)
			q.ifMalformed(now)
		})
}

// stillWanted refuses when our own exchange about the same CHILD_SA ended while
// this request was worked on: the peer then sees no simultaneous rekeying (RFC
// 7296, Section 2.8.1).
func (q *childRequest) stillWanted(now time.Time) {
	if s := q.old.State; q.refused == nil && (s != ChildInstalled && s != ChildRekeying || book(q.old).successor != nil) {
		q.refuse(now, message.NewNotify(message.TemporaryFailure, nil), nil)
	}
}

// rekeyable answers requests that cannot be fulfilled.
func (sa *SA) rekeyable(now time.Time, v *message.CreateChildSARequest, old *Child) bool {
	_, creating := sa.active.(*createChild)
	switch {
	case old == nil && creating:
		// It may be the one that our unanswered request makes: the answer got lost.
		sa.temporaryFailure(now, "child-unknown-yet")
		return false
	case old == nil:
		// RFC 7296, Section 2.25.1.
		sa.reply(now, message.NewChildNotify(message.ChildSANotFound, v.RekeyProtocol, v.RekeySPI))
		return false
	case old.State == ChildInstalled || old.State == ChildRekeying && book(old).successor == nil:
		return true
	}
	// It is being closed, or replaced already.
	sa.temporaryFailure(now, "child-closing")
	return false
}
