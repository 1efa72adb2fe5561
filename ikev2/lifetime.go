package ikev2

import (
	"iked/internal/keyex"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
)

// timers are the deadlines of an IKE SA; zero: none.
type timers struct {
	halfOpen   time.Time
	rekey      time.Time
	hard       time.Time
	reauth     time.Time
	reauthHard time.Time
	dpd        time.Time
	linger     time.Time // until then the peer should have deleted this SA
	refused    time.Time // until then a better answer than a refusal in clear may come
}

// setLifetimes starts the lifetimes of an authenticated IKE SA.
func (sa *SA) setLifetimes(now time.Time) {
	at := func(d, jitter time.Duration) time.Time {
		if d == 0 {
			return time.Time{}
		}
		return now.Add(max(d-keyex.Jitter(sa.env, jitter), time.Second))
	}
	c := sa.cfg
	sa.timers = timers{
		rekey: at(c.Rekey.Rekey, c.Rekey.Jitter), hard: at(c.Rekey.Hard, 0),
		reauth: at(c.Reauth.Rekey, c.Reauth.Jitter), reauthHard: at(c.Reauth.Hard, 0),
		dpd: at(c.DPDDelay, 0),
	}
}

// halfOpenTime is how long a responder's SA may live that is not authenticated,
// when the configuration does not say.
const halfOpenTime = 30 * time.Second

// earliest of two deadlines; zero is none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// NextDeadline is when Advance must be called; zero: never.
func (sa *SA) NextDeadline() time.Time {
	if sa.closed {
		return time.Time{}
	}
	t := &sa.timers
	d := earliest(earliest(t.halfOpen, t.linger), t.refused)
	if o := sa.window.out; o != nil {
		d = earliest(d, o.due)
	}
	if sa.cfg != nil {
		d = earliest(d, sa.keepAliveDue())
	}
	if sa.state == Created || sa.state == Connecting {
		return d
	}
	for _, x := range [...]time.Time{t.rekey, t.hard, t.reauth, t.reauthHard, t.dpd} {
		d = earliest(d, x)
	}
	for _, c := range sa.children {
		for _, x := range [...]time.Time{c.RekeyAt, c.ExpireAt, book(c).inactiveAt} {
			d = earliest(d, x)
		}
	}
	for _, c := range sa.fading {
		d = earliest(d, book(c).fadeAt)
	}
	if sa.active == nil && sa.window.answering == nil {
		for _, q := range sa.queue {
			d = earliest(d, q.notBefore)
		}
	}
	return d
}

// due tells whether a deadline has passed.
func due(t, now time.Time) bool { return !t.IsZero() && !t.After(now) }

// expire handles the deadlines that have passed.
func (sa *SA) expire(now time.Time) {
	if due(sa.timers.halfOpen, now) {
		sa.close(now, Closed{Reason: CloseHalfOpen})
		return
	}
	if due(sa.timers.linger, now) {
		// The peer should have deleted it long ago.
		sa.close(now, Closed{Reason: CloseRekeyed})
		return
	}
	if due(sa.timers.refused, now) {
		sa.timers.refused = time.Time{}
		if o := sa.window.out; o != nil && sa.hs != nil && !sa.hs.busy {
			sa.timedOut(now, o)
			return
		}
	}
	if o := sa.window.out; o != nil && due(o.due, now) {
		sa.retransmit(now)
		if sa.closed {
			return
		}
	}
	if due(sa.keepAliveDue(), now) {
		sa.lastOutbound = now
		sa.Emit(KeepAlive{Local: sa.local, Remote: sa.remote})
	}
	sa.expireIKE(now)
	if !sa.closed {
		sa.expireChildren(now)
	}
}

func (sa *SA) expireIKE(now time.Time) {
	t := &sa.timers
	if due(t.hard, now) || due(t.reauthHard, now) {
		sa.log(now, trace.Control, true, "the lifetime of IKE_SA %s is over", sa.cfg.Name)
		t.hard, t.reauthHard = time.Time{}, time.Time{}
		if sa.state != Deleting {
			sa.startDelete(now, Delete{Why: CloseExpired})
		}
	}
	if due(t.rekey, now) {
		sa.queueRekeyIKE(now)
	}
	if due(t.reauth, now) {
		t.reauth = time.Time{}
		sa.Event(ReauthDue{})
	}
	if due(t.dpd, now) {
		sa.checkPeer(now)
	}
}

// checkPeer does a liveness check if nothing came from the peer for long enough
// (RFC 7296, Section 2.4).
func (sa *SA) checkPeer(now time.Time) {
	delay := sa.cfg.DPDDelay
	if idle := now.Sub(sa.lastInbound); idle < delay {
		sa.timers.dpd = sa.lastInbound.Add(delay)
		return
	}
	sa.timers.dpd = now.Add(delay)
	if len(sa.children) == 0 {
		sa.queueLiveness(now)
		return
	}
	sa.Ask(LastInbound{Children: append([]*Child(nil), sa.children...)}, func(now time.Time, r Reply) {
		if t, ok := r.(TimeReply); ok && now.Sub(t.At) < delay {
			sa.timers.dpd = t.At.Add(delay)
			return
		}
		sa.queueLiveness(now)
	})
}

func (sa *SA) expireChildren(now time.Time) {
	for _, c := range append([]*Child(nil), sa.children...) {
		if due(c.ExpireAt, now) {
			c.ExpireAt = time.Time{}
			sa.logChild(now, c.Config, true, "the lifetime of CHILD_SA %s{%d} is over", c.Config.Name, c.UniqueID)
			sa.queueDeleteChild(now, c, true)
		}
		if due(c.RekeyAt, now) {
			sa.queueRekeyChild(now, c)
		}
		if due(book(c).inactiveAt, now) {
			sa.checkActivity(now, c)
		}
	}
	var still []*Child
	for _, c := range sa.fading {
		if due(book(c).fadeAt, now) {
			sa.removeChild(c, true, true)
		} else {
			still = append(still, c)
		}
	}
	sa.fading = still
}

// checkActivity closes a CHILD_SA that carried nothing for too long.
func (sa *SA) checkActivity(now time.Time, c *Child) {
	book(c).inactiveAt = time.Time{}
	sa.AskIdle(c, func(now, until time.Time) {
		if book(c).inactiveAt = until; until.IsZero() {
			sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} carried nothing for %v", c.Config.Name, c.UniqueID, c.Config.Inactivity)
			sa.queueDeleteChild(now, c, false)
		}
	})
}

// timedOut: the peer does not answer (RFC 7296, Section 2.4).
func (sa *SA) timedOut(now time.Time, o *outgoing) {
	switch x := sa.active.(type) {
	case *rejection:
		sa.close(now, Closed{Reason: CloseFailed, Failure: x.failure})
		return
	case *deleteIKE:
		sa.close(now, Closed{Reason: x.why})
		return
	}
	if sa.state == Rekeyed {
		sa.close(now, Closed{Reason: CloseRekeyed})
		return
	}
	f := sa.failure(now, trace.StageReach, "the peer "+sa.remote.String()+" does not answer "+message.ExchangeName(o.exchange),
		"check that the peer runs, and that UDP ports 500 and 4500 pass in both directions")
	if sa.hs != nil && sa.hs.hinted != message.NoNotify {
		f = sa.refusedBy(now, message.NewNotify(sa.hs.hinted, nil), message.ExchangeName(o.exchange))
	}
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.close(now, Closed{Reason: CloseTimeout, Failure: f})
}
