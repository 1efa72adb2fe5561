package engine

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/ident"
	"iked/internal/trace"
)

// reauthGrace is how long an older SA from the same address and port may live on
// under `unique: replace`: the peer reauthenticates and moves its children.
const reauthGrace = 10 * time.Second

// maxPerPeer is how many IKE SAs of a connection one identity may have at a time,
// but for unique = never, by which many peers may share one; the oldest goes.
const maxPerPeer = 256

// unique applies the uniqueness policy to an SA that was just authenticated.
// False: the new SA was refused.
//
// INITIAL_CONTACT (RFC 7296, Section 2.4) says that older SAs are dead. It says
// nothing of one that was being made at the same time: the peer did not know of
// it when it sent the notification, and would lose the one it keeps.
func (p *supervisor) unique(c *connState, s *saState, initialContact bool) bool {
	policy := c.prog.conf.Unique
	if policy == conf.UniqueNever {
		return true
	}
	var kept []*saState
	for _, o := range p.samePeer(s) {
		if o == s || o.closing || o.replaced || o.info.UniqueID == s.reauthOf || o.info.Conn != s.info.Conn ||
			!ident.Equal(o.info.RemoteID, s.info.RemoteID) || o.info.User != s.info.User || !ident.Equal(o.info.LocalID, s.info.LocalID) ||
			o.info.Remote.Addr().Is4() != s.info.Remote.Addr().Is4() {
			continue
		}
		together := concurrent(o, s)
		switch {
		case initialContact && !together:
			p.replace(o, s, true)
		case policy == conf.UniqueNo || together:
			// Two at once are settled by dedupe.
			kept = append(kept, o)
		case policy == conf.UniqueKeep:
			if o.info.Remote == s.info.Remote {
				continue
			}
			p.e.fail(trace.Failure{At: time.Now(), Stage: trace.StageIdentity, Conn: c.name,
				Local: s.info.Local.String(), Remote: s.info.Remote.String(), RemoteID: s.info.RemoteID.String(),
				Sentence: fmt.Sprintf("%s is already connected from %s, and unique = keep refuses it from %s", s.info.RemoteID, o.info.Remote, s.info.Remote),
				Advice:   "end the other one, or set unique = replace"}, s.info.UniqueID)
			p.closeSA(s, ikev2.Delete{Why: ikev2.CloseReplaced})
			return false
		case o.info.Remote == s.info.Remote:
			id := o.info.UniqueID
			time.AfterFunc(reauthGrace, func() {
				p.post(func() {
					if o := p.sas[id]; o != nil && !o.closing {
						p.replace(o, s, false)
					}
				})
			})
		default:
			p.replace(o, s, false)
		}
	}
	if n := len(kept) + 1 - maxPerPeer; n > 0 {
		// One identity must not fill the memory, be its peer broken or hostile.
		slices.SortFunc(kept, func(a, b *saState) int { return cmp.Compare(a.info.UniqueID, b.info.UniqueID) })
		for _, o := range kept[:n] {
			p.replace(o, s, false)
		}
	}
	return true
}

// replace ends an older SA. The peer of a dead one is not told: it knows nothing
// of it any more.
func (p *supervisor) replace(old, by *saState, dead bool) {
	p.e.log(trace.Record{Level: trace.Control, Group: trace.IKE, Conn: old.info.Conn, UniqueID: old.info.UniqueID,
		Msg: fmt.Sprintf("IKE_SA %s[%d] is replaced by [%d] of the same identities", old.info.Conn, old.info.UniqueID, by.info.UniqueID)})
	p.closeSA(old, ikev2.Delete{Force: dead, Why: ikev2.CloseReplaced})
}

// reauthDue makes a new IKE SA with all children before the old one goes (make
// before break).
func (p *supervisor) reauthDue(info SAInfo) {
	s := p.sas[info.UniqueID]
	c := p.conns[info.Conn]
	if s == nil || s.closing || s.replaced || p.stopped {
		return
	}
	if c == nil {
		p.e.log(trace.Record{Level: trace.Control, Group: trace.IKE, Warn: true, Conn: info.Conn, UniqueID: info.UniqueID,
			Msg: "reauthentication is due, but the connection is not configured any more: the IKE_SA ends at its lifetime"})
		return
	}
	if !info.Initiator && len(info.RemoteVIPs) > 0 {
		p.e.log(trace.Record{Level: trace.Detail, Group: trace.IKE, Conn: info.Conn, UniqueID: info.UniqueID,
			Msg: "reauthentication is due; it is left to the peer, which has a virtual address of ours"})
		return
	}
	if c.attempt != nil {
		p.retryReauth(s)
		return
	}
	var first *kidState
	for _, name := range c.order {
		for _, l := range c.kids[name].live {
			if l.ike == info.UniqueID && first == nil {
				first = c.kids[name]
			}
		}
	}
	if c.prog.conf.ManyPeers() {
		p.reauthPeer(c, s)
		return
	}
	p.begin(c, first, info.UniqueID)
}

// retryReauth tries a reauthentication again a little later; the old SA lives on
// until its hard lifetime.
func (p *supervisor) retryReauth(s *saState) {
	id := s.info.UniqueID
	time.AfterFunc(vary(10*time.Second), func() {
		p.post(func() {
			if s := p.sas[id]; s != nil {
				p.reauthDue(s.info)
			}
		})
	})
}

// takeOver: a reauthenticated SA is up; the children of the old one are made
// with it, and then the old one goes.
func (p *supervisor) takeOver(c *connState, s, old *saState, a *attempt) {
	old.replaced = true
	s.waiting = make(map[string]bool)
	first := a.kid
	for name, k := range c.kids {
		if k.perPacket {
			if p.remake(k, s, old, a.flow) || name == first && a.flow != nil {
				s.waiting[name] = true
			}
			continue
		}
		for _, l := range k.live {
			if l.ike == old.info.UniqueID {
				s.waiting[name] = true
			}
		}
		if s.waiting[name] && name != first {
			p.create(c, k, s)
		}
	}
	p.finishReauth(s)
}

// arrived: a child of a reauthenticated SA is up, or failed.
func (p *supervisor) arrived(s *saState, child string) {
	if s.waiting == nil {
		return
	}
	delete(s.waiting, child)
	p.finishReauth(s)
}

func (p *supervisor) finishReauth(s *saState) {
	if len(s.waiting) > 0 {
		return
	}
	s.waiting = nil
	if old := p.sas[s.reauthOf]; old != nil && !old.closing {
		p.closeSA(old, ikev2.Delete{Why: ikev2.CloseReplaced})
	}
}
