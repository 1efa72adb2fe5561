package kink

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
)

// idleTime is how long an SA is kept that nothing hangs on.
const idleTime = 5 * time.Minute

// timers are the deadlines of an SA besides those of its transactions and pairs;
// zero: none.
type timers struct {
	dpd  time.Time
	idle time.Time
}

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
	add(sa.timers.dpd, sa.timers.idle)
	for _, x := range sa.exchanges {
		add(x.due, x.end)
	}
	for _, a := range sa.answers {
		add(a.due)
		if a.confirm == nil {
			add(a.end)
		}
	}
	for _, c := range sa.children {
		b := book(c)
		add(c.RekeyAt, c.ExpireAt, b.deleteAt, b.inactiveAt)
	}
	for _, c := range sa.fading {
		add(book(c).fadeAt)
	}
	return d
}

// expire handles the deadlines that have passed.
func (sa *SA) expire(now time.Time) {
	if due(sa.timers.idle, now) {
		sa.timers.idle = time.Time{}
		if sa.idle() {
			sa.close(now, keyex.Closed{Reason: keyex.CloseExpired})
			return
		}
	}
	sa.expireExchanges(now)
	if !sa.closed {
		sa.expireAnswers(now)
	}
	if !sa.closed && due(sa.timers.dpd, now) {
		sa.checkPeer(now)
	}
	if !sa.closed {
		sa.expireChildren(now)
	}
}

// ordered are the values of a table in an order that does not depend on it.
func ordered[T any](table map[uint32]T, which func(T) bool) []T {
	var ids []uint32
	for id, v := range table {
		if which(v) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, cmp.Compare[uint32])
	out := make([]T, len(ids))
	for i, id := range ids {
		out[i] = table[id]
	}
	return out
}

func (sa *SA) expireExchanges(now time.Time) {
	for _, x := range ordered(sa.exchanges, func(x *exchange) bool { return due(x.due, now) || due(x.end, now) }) {
		switch {
		case sa.closed || sa.exchanges[x.xid] != x:
		case x.done():
			delete(sa.exchanges, x.xid)
		case due(x.due, now):
			x.retransmit(now)
		}
	}
}

// expireAnswers repeats REPLYs that must be confirmed, and forgets old ones.
func (sa *SA) expireAnswers(now time.Time) {
	for _, a := range ordered(sa.answers, func(a *answer) bool { return due(a.due, now) || a.confirm == nil && due(a.end, now) }) {
		switch {
		case sa.closed:
			return
		case a.confirm == nil:
			a.drop(now)
			delete(sa.answers, a.cmd.XID)
		default:
			a.repeat(now)
		}
	}
}

// repeat sends a REPLY again that the peer must confirm (RFC 4430, Section 9).
func (a *answer) repeat(now time.Time) {
	sa := a.sa
	a.tries++
	if a.tries >= sa.cfg.Retransmit.Limit() {
		a.unconfirmed(now)
		return
	}
	sa.count("ike-retransmit", "response")
	sa.transmitTo(a.cmd, a.reply)
	a.due = now.Add(sa.cfg.Retransmit.Wait(sa.env, a.tries))
}

// checkPeer does dead peer detection if nothing came from the peer for long enough.
func (sa *SA) checkPeer(now time.Time) {
	delay := sa.cfg.DPDDelay
	if idle := now.Sub(sa.lastInbound); idle < delay {
		sa.timers.dpd = sa.lastInbound.Add(delay)
		return
	}
	sa.timers.dpd = now.Add(delay)
	if len(sa.children) == 0 {
		return // nothing that a dead peer would hold
	}
	sa.Ask(keyex.LastInbound{Children: slices.Clone(sa.children)}, func(now time.Time, r keyex.Reply) {
		if t, ok := r.(keyex.TimeReply); ok && now.Sub(t.At) < delay {
			sa.timers.dpd = t.At.Add(delay)
			return
		}
		sa.ping(now)
	})
}

func (sa *SA) expireChildren(now time.Time) {
	for _, c := range slices.Clone(sa.children) {
		b := book(c)
		switch {
		case due(c.ExpireAt, now):
			c.ExpireAt = time.Time{}
			sa.logChild(now, c.Config, true, "the lifetime of CHILD_SA %s{%d} is over", c.Config.Name, c.UniqueID)
			sa.deleteChildren(now, c)
			sa.removeChild(c, true, true)
		case due(b.deleteAt, now):
			b.deleteAt = time.Time{}
			sa.deleteChildren(now, c)
		case due(c.RekeyAt, now):
			sa.rekeyChild(now, c)
		case due(b.inactiveAt, now):
			sa.checkActivity(now, c)
		}
		if sa.closed {
			return
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

func (sa *SA) log(now time.Time, l trace.Level, warn bool, format string, args ...any) {
	sa.record(trace.Record{At: now, Level: l, Group: trace.IKE, Warn: warn, Msg: fmt.Sprintf(format, args...)})
}
