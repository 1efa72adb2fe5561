package ikev1

import (
	"slices"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
)

// halfOpenTime is how long a responder's SA may live that is not authenticated.
const halfOpenTime = 30 * time.Second

// timers are the deadlines of an ISAKMP SA; zero: none.
type timers struct {
	halfOpen time.Time
	refused  time.Time // until then a better answer than a refusal in clear may come
	rekey    time.Time
	hard     time.Time
	dpd      time.Time
	linger   time.Time // a replaced SA is deleted then
}

// setLifetimes starts the lifetime of an authenticated ISAKMP SA. Rekeying and
// reauthentication are the same in IKEv1.
func (sa *SA) setLifetimes(now time.Time) {
	c := sa.cfg
	sa.timers = timers{}
	soft, hard, jitter := c.Rekey.Rekey, c.Rekey.Hard, c.Rekey.Jitter
	if r := c.Reauth.Rekey; r > 0 && (soft == 0 || r < soft) {
		soft, hard, jitter = r, c.Reauth.Hard, c.Reauth.Jitter
	}
	if use, _ := sa.agreedLife1(); !sa.initiator && c.V1.LifeCheck == keyex.LifeObey && use != 0 {
		hard = seconds1(use)
		soft = hard - hard/10
	}
	if soft > 0 {
		sa.timers.rekey = now.Add(max(soft-keyex.Jitter(sa.env, jitter), time.Second))
	}
	if c.V1.XAuth == keyex.XAuthServer {
		sa.timers.rekey = time.Time{} // only the client can begin: it has the password
	}
	if hard > 0 {
		sa.timers.hard = now.Add(hard)
	}
	if sa.peerLife != 0 && (sa.initiator || c.V1.LifeCheck != keyex.LifeExact) && (lifetime1(c) == 0 || sa.peerLife < lifetime1(c)) {
		sa.limitLife(sa.peerLife)
	}
	if c.DPDDelay > 0 {
		sa.timers.dpd = now.Add(c.DPDDelay)
	}
}

// due tells whether a deadline has passed.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// NextDeadline is when Advance must be called; zero: never.
func (sa *SA) NextDeadline() time.Time {
	var d time.Time
	if sa.closed {
		return d
	}
	add := func(list ...time.Time) {
		for _, t := range list {
			if !t.IsZero() && (d.IsZero() || t.Before(d)) {
				d = t
			}
		}
	}
	t := &sa.timers
	add(t.halfOpen, t.refused, t.rekey, t.hard, t.dpd, t.linger, sa.dpd.due, sa.keepAliveDue())
	if sa.first != nil {
		add(sa.first.due)
	}
	if sa.state == keyex.Established && len(sa.waiting) > 0 {
		add(sa.quickAt)
	}
	for _, x := range sa.exchanges {
		add(x.due, x.end)
	}
	for _, c := range sa.children {
		b := book(c)
		add(c.RekeyAt, c.ExpireAt, b.switchAt, b.deleteAt, b.inactiveAt)
	}
	for _, c := range sa.fading {
		add(book(c).fadeAt)
	}
	return d
}

// expire handles the deadlines that have passed.
func (sa *SA) expire(now time.Time) {
	t := &sa.timers
	switch {
	case due(t.halfOpen, now):
		sa.halfOpen(now)
		return
	case due(t.linger, now):
		sa.delete(now, keyex.CloseRekeyed)
		return
	case due(t.refused, now):
		t.refused = time.Time{}
		if sa.p1 != nil {
			sa.p1.late(now)
			return
		}
	case due(t.hard, now):
		sa.log(now, trace.Control, true, "the lifetime of IKE_SA %s is over", sa.cfg.Name)
		sa.delete(now, keyex.CloseExpired)
		return
	}
	if due(sa.keepAliveDue(), now) {
		sa.lastOutbound = now
		sa.Emit(keyex.KeepAlive{Local: sa.local, Remote: sa.remote})
	}
	sa.expireExchanges(now)
	if sa.closed {
		return
	}
	if due(sa.dpd.due, now) {
		if sa.dpdLate(now); sa.closed {
			return
		}
	}
	if due(t.rekey, now) {
		sa.rekey(now)
	}
	if due(t.dpd, now) {
		sa.checkPeer(now)
	}
	sa.expireChildren(now)
	if sa.state == keyex.Rekeyed && sa.keys == nil && len(sa.children)+len(sa.fading) == 0 {
		sa.close(now, keyex.Closed{Reason: keyex.CloseRekeyed})
	}
}

// halfOpen: the peer never authenticated, or what comes behind phase 1 has no end.
func (sa *SA) halfOpen(now time.Time) {
	c := keyex.Closed{Reason: keyex.CloseHalfOpen}
	switch {
	case sa.refusal != nil:
		c.Reason, c.Failure = keyex.CloseFailed, sa.refusal
	case sa.p1 != nil && sa.p1.garbled:
		c.Failure = sa.failure(now, trace.StageAuth, "a message of the peer "+sa.remote.String()+" makes no sense after decryption: the pre-shared keys differ, most likely", sameSecret)
	case sa.p1 != nil && sa.p1.hinted != 0:
		c.Failure = sa.p1.refused(now)
	case sa.p1 == nil && sa.keys != nil:
		c.Failure = sa.unfinished(now)
	}
	sa.tellEnd(now)
	sa.close(now, c)
}

// unfinished tells what was missing behind phase 1.
func (sa *SA) unfinished(now time.Time) *trace.Failure {
	who := "the peer " + sa.remoteID.String()
	switch {
	case sa.cfg.V1.XAuth == keyex.XAuthServer && sa.user == "":
		return sa.failure(now, trace.StageAuth, who+" did not come to the end of XAuth in time", "see the peer's log; who types a password has half a minute for it")
	case sa.cfg.V1.XAuth == keyex.XAuthClient && !sa.userDone:
		return sa.failure(now, trace.StageAuth, who+" did not bring XAuth to its end in time: it asked for no user, or said nothing of the answer", "see the peer's log: it may wait for who knows the users")
	case len(sa.cfg.VIPs) > 0 && sa.cfg.V1.Push:
		return sa.failure(now, trace.StageAddress, who+" pushed no virtual address in time", "set pull: yes, if the peer waits to be asked, or let it push")
	}
	return sa.failure(now, trace.StageReach, who+" did not bring to an end in time what comes behind "+sa.first.kind.String(), "see the peer's log")
}

func (sa *SA) expireExchanges(now time.Time) {
	if x := sa.first; x != nil && due(x.due, now) {
		sa.retransmit(now, x)
	}
	var list []*exchange
	for _, x := range sa.exchanges {
		if due(x.due, now) || due(x.end, now) {
			list = append(list, x)
		}
	}
	// The order does not depend on that of the table.
	slices.SortFunc(list, func(a, b *exchange) int { return int(int64(a.id) - int64(b.id)) })
	for _, x := range list {
		switch {
		case sa.closed:
			return
		case due(x.end, now):
			delete(sa.exchanges, x.id)
		default:
			sa.retransmit(now, x)
		}
	}
}

// checkPeer does dead peer detection if nothing came from the peer for long
// enough (RFC 3706, Section 5.5).
func (sa *SA) checkPeer(now time.Time) {
	delay := sa.cfg.DPDDelay
	if idle := now.Sub(sa.lastInbound); idle < delay {
		sa.timers.dpd = sa.lastInbound.Add(delay)
		return
	}
	sa.timers.dpd = now.Add(delay)
	if len(sa.children) == 0 {
		sa.areYouThere(now)
		return
	}
	sa.Ask(keyex.LastInbound{Children: slices.Clone(sa.children)}, func(now time.Time, r keyex.Reply) {
		if t, ok := r.(keyex.TimeReply); ok && now.Sub(t.At) < delay {
			sa.timers.dpd = t.At.Add(delay)
			return
		}
		sa.areYouThere(now)
	})
}

func (sa *SA) expireChildren(now time.Time) {
	for _, c := range slices.Clone(sa.children) {
		b := book(c)
		switch {
		case due(b.switchAt, now):
			sa.switchOver(now, c)
		case due(c.ExpireAt, now):
			c.ExpireAt = time.Time{}
			sa.logChild(now, c.Config, true, "the lifetime of CHILD_SA %s{%d} is over", c.Config.Name, c.UniqueID)
			sa.deleteChild(now, c, true)
		case due(b.deleteAt, now):
			b.deleteAt = time.Time{}
			sa.deleteChild(now, c, false)
		case due(c.RekeyAt, now):
			if sa.state == keyex.Rekeyed {
				c.RekeyAt = time.Time{} // a newer ISAKMP SA is in charge
				continue
			}
			sa.rekeyChild(now, c)
		case due(b.inactiveAt, now):
			sa.checkActivity(now, c)
		}
	}
	sa.fading = slices.DeleteFunc(sa.fading, func(c *keyex.Child) bool {
		if !due(book(c).fadeAt, now) {
			return false
		}
		sa.removeChild(c, true, true)
		return true
	})
}

// checkActivity closes a pair that carried nothing for too long.
func (sa *SA) checkActivity(now time.Time, c *keyex.Child) {
	book(c).inactiveAt = time.Time{}
	sa.AskIdle(c, func(now, until time.Time) {
		if book(c).inactiveAt = until; until.IsZero() {
			sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} carried nothing for %v", c.Config.Name, c.UniqueID, c.Config.Inactivity)
			sa.deleteChild(now, c, false)
		}
	})
}
