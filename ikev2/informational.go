package ikev2

import (
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/trace"
)

// INFORMATIONAL (RFC 7296, Section 1.4): Delete and liveness.

// deleteChild closes a CHILD_SA (RFC 7296, Section 1.4.1).
//
//	HDR, SK {D}  -->
//	            <--  HDR, SK {[D]}
type deleteChild struct {
	sa    *SA
	child *Child
	// follow: what replaced the child in the meantime is meant.
	follow bool
}

func (x *deleteChild) task() string      { return "CHILD_DELETE" }
func (x *deleteChild) abandon(time.Time) {}

// queueDeleteChild closes a CHILD_SA. One that was rekeyed stands for what
// replaced it, unless it expired.
func (sa *SA) queueDeleteChild(now time.Time, c *Child, expired bool) {
	if s := rivalChild(c); s != nil && !expired && !book(s).silent {
		c = s
	}
	if c.State == ChildDeleting || c.State == ChildDeleted {
		return
	}
	for _, q := range sa.queue {
		if x, ok := q.x.(*deleteChild); ok && x.child == c {
			return
		}
	}
	sa.enqueue(&deleteChild{sa: sa, child: c, follow: !expired})
}

func (x *deleteChild) begin(now time.Time) {
	sa, c := x.sa, x.child
	for s := rivalChild(c); x.follow && s != nil && !book(s).silent; s = rivalChild(c) {
		c = s
	}
	if c.State == ChildDeleted || book(c).deleteSent {
		sa.finish()
		return
	}
	x.child = c
	c.State, book(c).deleteSent = ChildDeleting, true
	if book(c).successor != nil {
		// RFC 7296, Section 2.8: nothing more is sent on it.
		sa.sendOn(now, book(c).successor)
	}
	sa.removeChild(c, false, true)
	if err := sa.request(now, message.ExchangeInformational, &message.Delete{Protocol: c.Proto, SPIs: []uint32{c.SPIIn}}); err != nil {
		sa.finish()
		sa.dropChild(now, c, false)
	}
}

func (x *deleteChild) answer(now time.Time, m *message.Message) {
	sa := x.sa
	if _, err := message.ParseInformational(m); err != nil {
		sa.count("invalid", "informational-response")
	}
	sa.finish()
	// Whether the response names the other half or not: it is gone.
	sa.dropChild(now, x.child, false)
}

// deleteIKE closes the IKE SA.
//
//	HDR, SK {D}  -->
//	            <--  HDR, SK {}
type deleteIKE struct {
	sa  *SA
	why CloseReason
}

func (x *deleteIKE) task() string      { return "IKE_DELETE" }
func (x *deleteIKE) abandon(time.Time) {}

func (sa *SA) startDelete(now time.Time, t Delete) {
	if sa.state == Created || sa.state == Connecting || sa.keys == nil {
		sa.close(now, Closed{Reason: t.Why})
		return
	}
	if t.Force {
		if err := sa.request(now, message.ExchangeInformational, &message.Delete{Protocol: suite.ProtoIKE}); err != nil {
			sa.log(now, trace.Control, true, "no Delete sent: %v", err)
		}
		sa.close(now, Closed{Reason: t.Why})
		return
	}
	if sa.state == Deleting || sa.closing() != nil {
		return
	}
	sa.log(now, trace.Control, false, "deleting IKE_SA %s", sa.cfg.Name)
	sa.enqueueFirst(&deleteIKE{sa: sa, why: t.Why})
}

func (x *deleteIKE) begin(now time.Time) {
	sa := x.sa
	if sa.state != Rekeyed {
		sa.state = Deleting
	}
	if err := sa.request(now, message.ExchangeInformational, &message.Delete{Protocol: suite.ProtoIKE}); err != nil {
		sa.close(now, Closed{Reason: x.why})
	}
}

func (x *deleteIKE) answer(now time.Time, _ *message.Message) {
	x.sa.close(now, Closed{Reason: x.why, Tombstone: x.sa.tombstone()})
}

// liveness asks for a sign of life (RFC 7296, Section 2.4).
//
//	HDR, SK {}  -->
//	           <--  HDR, SK {}
type liveness struct{ sa *SA }

func (x *liveness) task() string      { return "IKE_DPD" }
func (x *liveness) abandon(time.Time) {}

func (x *liveness) begin(now time.Time) {
	if err := x.sa.request(now, message.ExchangeInformational, x.sa.mappingQuery()...); err != nil {
		x.sa.finish()
	}
}

func (x *liveness) answer(now time.Time, m *message.Message) {
	x.sa.finish()
	x.sa.checkMapping(m.Notifies())
}

func (sa *SA) queueLiveness(now time.Time) {
	if sa.active != nil {
		return // any answer will do
	}
	for _, q := range sa.queue {
		if _, ok := q.x.(*liveness); ok {
			return
		}
	}
	sa.enqueue(&liveness{sa: sa})
}

// respondInformational answers the peer's INFORMATIONAL.
func (sa *SA) respondInformational(now time.Time, m *message.Message) {
	v, err := message.ParseInformational(m)
	if err != nil {
		sa.viewFault(now, err)
		return
	}
	if n := v.Notifies.Error(); n != nil {
		// RFC 7296, Sections 2.21.2 and 2.21.3: the peer does not accept us, or what
		// we sent.
		sa.log(now, trace.Control, true, "the peer reports %s", n.Kind.Name())
		if n.Kind == message.AuthenticationFailed || n.Kind == message.InvalidSyntax || n.Kind == message.UnsupportedCriticalPayload {
			sa.reply(now)
			sa.close(now, Closed{Reason: CloseFailed, Tombstone: sa.tombstone(), Failure: sa.refusedBy(now, n, "the IKE SA")})
			return
		}
	}
	var answer []message.Payload
	if q := answerQueries(v.CP); q != nil {
		answer = append(answer, &message.CP{Kind: message.CFGReply, Attributes: q})
	}
	more, then := sa.respondMobility(now, v.Notifies)
	answer = append(answer, more...)
	for _, d := range v.Deletes {
		if d.Protocol == suite.ProtoIKE {
			sa.peerDeletes(now)
			return
		}
		if p := sa.peerDeletesChildren(now, d); p != nil {
			answer = append(answer, p)
		}
	}
	sa.reply(now, answer...)
	if then != nil && !sa.closed {
		then(now)
	}
}

// peerDeletes: the peer closes the IKE SA.
func (sa *SA) peerDeletes(now time.Time) {
	sa.reply(now)
	c := Closed{Reason: ClosePeerDeleted, Tombstone: sa.tombstone()}
	switch {
	case sa.rekey.heir != nil || sa.state == Rekeyed:
		c.Reason = CloseRekeyed
	case sa.rekey.rival != nil && !sa.rekey.rival.closed:
		// RFC 7296, Section 2.8.2: the peer did not see our rekeying; we forget it.
		if sa.active != nil {
			sa.active.abandon(now)
			sa.active = nil
		}
		sa.inherit(now, sa.rekey.rival)
		c.Reason = CloseRekeyed
	case !sa.timers.linger.IsZero():
		// It lost a simultaneous rekeying, as expected.
		c.Reason = CloseRekeyed
	case sa.closing() != nil:
		// RFC 7296, Section 2.25.2: both close it; ours is forgotten.
		c.Reason = sa.closing().why
	default:
		sa.log(now, trace.Control, false, "the peer deleted IKE_SA %s", sa.cfg.Name)
	}
	sa.close(now, c)
}

// closing is our own Delete of the IKE SA, sent or queued.
func (sa *SA) closing() *deleteIKE {
	if x, ok := sa.active.(*deleteIKE); ok {
		return x
	}
	for _, q := range sa.queue {
		if x, ok := q.x.(*deleteIKE); ok {
			return x
		}
	}
	return nil
}

// peerDeletesChildren closes CHILD_SAs for the peer; the answer names our halves
// (RFC 7296, Section 1.4.1).
func (sa *SA) peerDeletesChildren(now time.Time, d *message.Delete) message.Payload {
	owner := sa
	if sa.undecided() {
		owner = sa.rekey.parent
	}
	for owner.rekey.heir != nil {
		owner = owner.rekey.heir // the request was on its way during the rekeying
	}
	answer := &message.Delete{Protocol: d.Protocol}
	for _, spi := range d.SPIs {
		c := owner.childByOutbound(d.Protocol, spi)
		if c == nil || book(c).deleteSent {
			// Unknown, or our own Delete crosses: no Delete in the answer.
			if x, ok := sa.active.(*createChild); ok && c == nil && len(x.gone) < 16 {
				x.gone = append(x.gone, spi)
			}
			continue
		}
		answer.SPIs = append(answer.SPIs, c.SPIIn)
		owner.dropChild(now, c, true)
	}
	if owner != sa {
		sa.Event(NewSA{Successor: owner})
	}
	if len(answer.SPIs) == 0 {
		return nil
	}
	return answer
}
