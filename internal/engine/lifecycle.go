package engine

import (
	"fmt"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/trace"
	"iked/spd"
)

// down is a child that went, told together with the end of its IKE SA when that
// is why.
type down struct {
	child  ChildInfo
	byPeer bool
}

// ikeUp: an IKE SA is authenticated.
func (p *supervisor) ikeUp(info SAInfo, created time.Time, initialContact bool) {
	s := &saState{info: info, created: created, upAt: time.Now()}
	p.enter(s)
	c := p.conns[info.Conn]
	if c == nil {
		return
	}
	if a := c.attemptOf(info.UniqueID); a != nil {
		a.succeeded()
		s.reauthOf = a.reauthOf
		if old := p.sas[a.reauthOf]; old != nil {
			p.takeOver(c, s, old, a)
		}
	}
	if !p.unique(c, s, initialContact) {
		return
	}
	p.ikeOps(c.name)
	p.tend(c)
}

// childUp: a CHILD_SA is installed.
func (p *supervisor) childUp(info SAInfo, child ChildInfo) {
	if s := p.sas[info.UniqueID]; s != nil {
		s.info = info
		p.arrived(s, child.Name)
	}
	c, k := p.kid(info.Conn, child.Name)
	if k == nil {
		return
	}
	live := p.add(k, child, info.UniqueID)
	if k.pending == info.UniqueID {
		k.pending = 0
	}
	k.failures, k.retryAt = 0, time.Time{}
	k.answered(c.prog.conf, child.flow)
	k.asked = nil
	if !k.always {
		k.tries = 0
	}
	p.childOps(c.name, child.Name, nil)
	p.dedupe(c, k, live)
	p.tend(c)
}

// childDown: a CHILD_SA went while its IKE SA lives on.
func (p *supervisor) childDown(info SAInfo, d down) {
	p.childGone(d.child.UniqueID)
	c, k := p.kid(info.Conn, d.child.Name)
	if k == nil {
		return
	}
	p.drop(k, d.child.UniqueID)
	s := p.sas[info.UniqueID]
	if s == nil || s.closing || s.replaced {
		return
	}
	if d.byPeer {
		p.act(c, k, k.conf.CloseAction)
		// The peer may be about to make its own: no race for it.
		k.retryAt = time.Now().Add(vary(retryMin))
	}
	p.idleSA(c, s)
	p.tend(c)
}

// childRekeyed: a CHILD_SA was replaced.
func (p *supervisor) childRekeyed(info SAInfo, old, now ChildInfo) {
	_, k := p.kid(info.Conn, now.Name)
	if k == nil {
		return
	}
	p.drop(k, old.UniqueID)
	p.add(k, now, info.UniqueID)
}

// ikeRekeyed: an IKE SA was replaced and its children went with it.
func (p *supervisor) ikeRekeyed(old, now SAInfo) {
	s := p.sas[old.UniqueID]
	if s == nil {
		s = &saState{created: time.Now(), upAt: time.Now()}
	}
	p.leave(old.UniqueID)
	s.info = now
	p.enter(s)
	c := p.conns[now.Conn]
	if c == nil {
		return
	}
	for _, l := range s.live {
		l.ike = now.UniqueID
	}
	for _, k := range c.kids {
		if k.pending == old.UniqueID {
			k.pending = now.UniqueID
		}
		for _, d := range k.demands {
			if d.ike == old.UniqueID {
				d.ike = now.UniqueID
			}
		}
	}
	if c.attempt != nil && c.attempt.reauthOf == old.UniqueID {
		c.attempt.reauthOf = now.UniqueID
	}
	for _, ps := range c.peers {
		if ps.attempt != nil && ps.attempt.reauthOf == old.UniqueID {
			ps.attempt.reauthOf = now.UniqueID
		}
	}
	for _, t := range p.waits {
		t.renumber(old.UniqueID, now.UniqueID)
	}
}

func (p *supervisor) ikeMoved(info SAInfo) {
	if s := p.sas[info.UniqueID]; s != nil {
		s.info = info
	}
}

// negotiationFailed: an exchange failed. For a child, the IKE SA may live on;
// the end of an IKE SA comes as ikeClosed.
func (p *supervisor) negotiationFailed(id uint32, conn, child string, flow *spd.Flow, f trace.Failure) {
	if child == "" {
		return
	}
	if s := p.sas[id]; s != nil {
		p.arrived(s, child)
	}
	c, k := p.kid(conn, child)
	if k == nil {
		return
	}
	if d := k.answered(c.prog.conf, flow); d != nil {
		p.e.acquireFailed(d.policy, d.flow, acquirePause)
		p.idleSA(c, p.sas[id])
	} else if k.pending == id {
		k.pending = 0
		k.failures++
		if k.tries > 0 && !k.always {
			k.tries--
		}
		k.retryAt = time.Now().Add(backoff(k.failures))
		p.unanswered(k, time.Until(k.retryAt))
		p.childOps(conn, child, fmt.Errorf("establishing CHILD_SA '%s' failed: %s", child, f.Sentence))
	}
	p.tend(c)
}

// ikeClosed: an IKE SA is over, and with it the children in downs.
func (p *supervisor) ikeClosed(info SAInfo, end ikev2.Closed, downs []down) {
	id := info.UniqueID
	s := p.leave(id)
	for _, d := range downs {
		p.childGone(d.child.UniqueID)
	}
	p.ikeGone(id)
	c := p.conns[info.Conn]
	if c == nil {
		return
	}
	if s != nil {
		for _, l := range s.live {
			for _, k := range c.kids {
				delete(k.live, l.info.UniqueID)
			}
		}
		s.live = nil
	}
	if a := c.attemptOf(id); a != nil {
		f := trace.Failure{Conn: c.name, Sentence: "the IKE_SA was closed: " + closeWords(end.Reason)}
		if end.Failure != nil {
			f = *end.Failure
		}
		p.attemptFailed(a, f)
		return
	}
	failed := fmt.Errorf("the IKE_SA was closed: %s", closeWords(end.Reason))
	for name, k := range c.kids {
		if k.pending == id {
			k.pending = 0
			k.failures++
			k.retryAt = time.Now().Add(backoff(k.failures))
			p.unanswered(k, time.Until(k.retryAt))
			p.childOps(c.name, name, failed)
		}
		p.failDemands(k, acquirePause, func(d *demand) bool { return d.ike == id })
	}
	if s == nil || s.closing || s.replaced {
		p.tend(c)
		return
	}
	for _, d := range downs {
		k := c.kids[d.child.Name]
		if k == nil {
			continue
		}
		switch end.Reason {
		case ikev2.CloseTimeout:
			p.act(c, k, k.conf.DPDAction)
		case ikev2.ClosePeerDeleted:
			p.act(c, k, k.conf.CloseAction)
		}
	}
	if end.Reason == ikev2.ClosePeerDeleted || end.Reason == ikev2.CloseInternal || end.Reason == ikev2.CloseFailed {
		// It was up, and ended by the peer or by a fault: not at once again.
		c.failures = max(c.failures, 1)
		c.started = time.Now().Add(vary(retryMin))
	}
	p.tend(c)
}

// act does what close_action or dpd_action says. A child that must always be up
// needs no such word.
func (p *supervisor) act(c *connState, k *kidState, a conf.Action) {
	if a&conf.ActionTrap != 0 {
		p.trap(c, k, true)
	}
	if a&conf.ActionStart != 0 && !k.always && !k.held {
		k.tries = keyingTries(c.prog.conf)
	}
}

// keyingTries is the number of attempts, -1 for ever.
func keyingTries(c *conf.Connection) int {
	if c.KeyingTries == 0 {
		return -1
	}
	return c.KeyingTries
}

// dedupe removes one of two equal children that both ends made at the same
// time, so that they do not pile up. Both ends come to the same choice: what was
// initiated with the lower SPI goes, and its initiator deletes it.
func (p *supervisor) dedupe(c *connState, k *kidState, a *liveChild) {
	s := p.sas[a.ike]
	if s == nil {
		return
	}
	// Only SAs with the same peer can be equal, and one has few.
	for _, o := range p.samePeer(s) {
		for _, b := range o.live {
			switch {
			case a == b || k.live[b.info.UniqueID] != b || tsKey(a.info.Local, a.info.Remote) != tsKey(b.info.Local, b.info.Remote):
			case a.ike == b.ike:
				p.dedupeChildren(c, a, b)
			default:
				p.dedupeSAs(c, s, o)
			}
		}
	}
}

func (p *supervisor) dedupeChildren(c *connState, a, b *liveChild) {
	if a.info.Initiator == b.info.Initiator {
		return
	}
	mine, other := a, b
	if !mine.info.Initiator {
		mine, other = b, a
	}
	// The initiator's SPI of each: ours is inbound here, the peer's outbound.
	if mine.info.SPIIn > other.info.SPIOut {
		return
	}
	p.e.log(trace.Record{Level: trace.Detail, Group: trace.CHD, Conn: c.name, Child: mine.info.Name,
		Msg: fmt.Sprintf("both ends made CHILD_SA %s at once, {%d} goes", mine.info.Name, mine.info.UniqueID)})
	p.e.startTask(mine.ike, ikev2.DeleteChild{SPI: mine.info.SPIIn})
}

func (p *supervisor) dedupeSAs(c *connState, a, b *saState) {
	if a == nil || b == nil || a.closing || b.closing || a.replaced || b.replaced ||
		a.info.Initiator == b.info.Initiator || a.info.RemoteID != b.info.RemoteID || !concurrent(a, b) {
		return
	}
	mine, other := a, b
	if !mine.info.Initiator {
		mine, other = b, a
	}
	if mine.info.SPIi > other.info.SPIi {
		return
	}
	p.e.log(trace.Record{Level: trace.Detail, Group: trace.IKE, Conn: c.name,
		Msg: fmt.Sprintf("both ends made IKE_SA %s at once, [%d] goes", c.name, mine.info.UniqueID)})
	p.closeSA(mine, ikev2.Delete{Why: ikev2.CloseReplaced})
}

// concurrent tells whether two SAs were negotiated at the same time: each was
// begun before the other was up.
func concurrent(a, b *saState) bool {
	return !a.created.After(b.upAt) && !b.created.After(a.upAt)
}

// closeSA deletes an IKE SA, which is not brought up again for that.
func (p *supervisor) closeSA(s *saState, d ikev2.Delete) {
	s.closing = true
	p.e.startTask(s.info.UniqueID, d)
}
