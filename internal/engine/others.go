package engine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"iked/conf"
	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/spd"
)

// Children with policies: no stand beside somebody else, as a mobility manager, who
// owns their policies in the kernel. What is theirs in the backend are SAs alone.

// unclaimed is a question of somebody else's policy that no child claimed.
type unclaimed struct {
	ev backend.Acquire
	at time.Time
}

// Bounds of what is remembered of such questions. The kernel forgets one after
// net.core.xfrm_acq_expires, 30 seconds as a rule, and asks no second time before.
const (
	maxUnclaimed  = 256
	unclaimedTime = 30 * time.Second
)

// putOff remembers a question that no child claims now: the one that will may not be
// configured yet, as when the daemon has just begun.
func (p *supervisor) putOff(ev backend.Acquire, at time.Time) {
	p.unclaimed = slices.DeleteFunc(p.unclaimed, func(u unclaimed) bool {
		return time.Since(u.at) >= unclaimedTime || u.ev.Flow == ev.Flow
	})
	if len(p.unclaimed) < maxUnclaimed {
		p.unclaimed = append(p.unclaimed, unclaimed{ev, at})
	}
}

// reclaim asks the children of a new configuration.
func (p *supervisor) reclaim() {
	list := p.unclaimed
	p.unclaimed = nil
	for _, u := range list {
		if time.Since(u.at) < unclaimedTime {
			p.claim(u.ev, u.at)
		}
	}
}

// claim answers a packet that met a policy of somebody else's, if it is that of a
// child: by protocol, mode, request id and what it is bound to, and by the packet. The
// first child in the order of the configuration has it. What no child claims may be
// answered by others and is left alone. at is when it was asked.
func (p *supervisor) claim(ev backend.Acquire, at time.Time) {
	if p.stopped {
		return
	}
	conns := make([]*connState, 0, 8)
	for _, c := range p.conns {
		if slices.ContainsFunc(c.prog.conf.Children, func(ch *conf.Child) bool { return ch.OthersPolicies }) {
			conns = append(conns, c)
		}
	}
	slices.SortFunc(conns, func(a, b *connState) int { return cmp.Compare(a.prog.index, b.prog.index) })
	passive := false
	for _, c := range conns {
		for _, name := range c.order {
			k := c.kids[name]
			if !k.claims(&ev) {
				continue
			}
			if bind, err := p.e.devices.binding(k.conf); err != nil || bind.ifID != ev.IfID || bind.mark != ev.Mark {
				continue // its SAs are bound to something else
			}
			if startAction(k.conf)&conf.ActionTrap == 0 {
				passive = true
				continue
			}
			if t, ok := p.e.opt.Backend.(backend.AcquireTaker); ok {
				t.AcquireTaken(ev.Flow)
			}
			if p.e.learnEnds(c.prog, &ev) {
				p.relocate(c.name)
			}
			p.claimed(c, k, ev.Flow, false)
			return
		}
	}
	p.putOff(ev, at)
	if passive {
		p.e.drops.add("acquire-not-on-demand")
		return
	}
	p.e.drops.add("acquire-unknown-policy")
}

// claims tells whether a question is about a child. Selectors that stand for the hosts
// are for whatever address IKE will have.
func (k *kidState) claims(ev *backend.Acquire) bool {
	if !k.conf.OthersPolicies || k.ike == nil || k.ike.Mode != ev.Mode || k.conf.ReqID != ev.ReqID {
		return false
	}
	if want := protectionOf(k.conf); (want == byAH) != (ev.Proto == suite.ProtoAH) {
		return false
	}
	return ev.Flow.Match(staticOrAny(k.conf.Local), staticOrAny(k.conf.Remote))
}

// goneWithin is how long the end of an SA may be on its way here when the kernel asks
// for another one already.
const goneWithin = time.Second

// claimed brings a child up for a packet of somebody else's policy. An SA that is for
// the packet may just have ended; it is looked at again.
func (p *supervisor) claimed(c *connState, k *kidState, flow spd.Flow, again bool) {
	for _, l := range k.live {
		if !flow.Match(l.info.Local, l.info.Remote) {
			continue
		}
		if !again {
			time.AfterFunc(goneWithin, func() {
				p.post(func() {
					if !p.stopped && p.conns[c.name] == c && c.kids[k.conf.Name] == k {
						p.claimed(c, k, flow, true)
					}
				})
			})
			return
		}
		// The kernel asks all the same, so the ends are others, or the request id.
		p.e.log(trace.Record{Level: trace.Control, Group: trace.KNL, Conn: c.name, Child: k.conf.Name, Warn: true,
			Msg: fmt.Sprintf("the policy for traffic from %s to %s is not served by CHILD_SA %s{%d} with request id %d, which is for that traffic: the addresses of its ends are others; see `ip xfrm policy`",
				flow.Local, flow.Remote, k.conf.Name, l.info.UniqueID, k.conf.ReqID)})
		p.e.drops.add("acquire-served")
		p.e.acquireFailed(0, flow, acquirePause)
		return
	}
	if len(k.live) >= k.conf.PFPLimit {
		p.e.drops.add("acquire-limit")
		p.e.acquireFailed(0, flow, acquirePause)
		return
	}
	p.acquire(childKey{c.name, k.conf.Name}, 0, flow)
}
