package ikev1

import (
	"slices"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
)

// IKEv1 rekeys an ISAKMP SA by a new phase 1 (RFC 2409, Section 5): whoever begins
// it hands what was made under the old one over, and deletes that a little later.

// Times of a rekeying.
const (
	rekeyRetry = 30 * time.Second // until the next try
	lingerTime = 10 * time.Second // until the replaced ISAKMP SA is deleted
)

// rekey begins a new phase 1.
func (sa *SA) rekey(now time.Time) {
	sa.timers.rekey = time.Time{}
	if sa.state != keyex.Established || sa.heir != nil {
		return
	}
	h := NewInitiator(sa.env, sa.cfg, sa.local, sa.remote)
	h.natt, h.parent = sa.natt, sa
	sa.heir = h
	sa.state = keyex.Rekeying
	sa.log(now, trace.Control, false, "IKE_SA %s is rekeyed by a new phase 1", sa.cfg.Name)
	h.startPhase1(now)
	// Undecided: a second event follows when it is established.
	sa.Event(keyex.NewSA{Successor: h, Redundant: true})
}

// takeOver is the end of the new phase 1.
func (sa *SA) takeOver(now time.Time) {
	p := sa.parent
	sa.parent = nil
	sa.Adopt(now, p)
	p.Event(keyex.NewSA{Successor: sa})
	sa.lookAt(p)
}

// Adopt makes all that an older ISAKMP SA with the same peer has ours: the peer
// began a new phase 1 and goes on under it. The older one ends soon: some peers
// forget it without a word.
func (sa *SA) Adopt(now time.Time, p *SA) {
	if len(sa.vipLocal)+len(sa.vipRemote) == 0 {
		sa.vipLocal, sa.vipRemote, sa.dns, sa.using, sa.leased = p.vipLocal, p.vipRemote, p.dns, p.using, p.leased
		sa.given, sa.attrs = p.given, p.attrs
		p.using, p.leased = false, false
	}
	sa.children, p.children = append(p.children, sa.children...), nil
	sa.fading, p.fading = append(p.fading, sa.fading...), nil
	// What was being negotiated begins anew here.
	for _, x := range p.exchanges {
		if q := x.quick; q != nil && x.next != nil {
			p.waiting = append(p.waiting, q)
			p.drop(now, x)
		}
	}
	for _, q := range p.waiting {
		sa.waiting = append(sa.waiting, &quick{sa: sa, cfg: q.cfg, packet: q.packet, local: q.local, remote: q.remote, old: q.old, flow: keyex.Flow{Queue: &sa.Queue}})
	}
	p.waiting = nil
	p.state, p.heir = keyex.Rekeyed, nil
	p.timers = timers{linger: now.Add(lingerTime)}
	p.dpd.due = time.Time{}
	sa.catchUp(now, p)
}

// lookAt makes the engine look at what another machine of ours has to say.
func (sa *SA) lookAt(other *SA) { sa.Event(keyex.NewSA{Successor: other, Redundant: true}) }

// orphaned: the new phase 1 failed; the old ISAKMP SA tries again.
func (sa *SA) orphaned(now time.Time) {
	p := sa.parent
	if p == nil || p.closed || p.heir != sa {
		return
	}
	p.heir, p.state = nil, keyex.Established
	p.timers.rekey = now.Add(rekeyRetry)
	sa.lookAt(p)
}

// rekeyLater tries to replace a pair again, unless its time is over.
func (sa *SA) rekeyLater(now time.Time, c *keyex.Child) {
	book(c).rekeying = false
	if c.State == keyex.ChildRekeying {
		c.State = keyex.ChildInstalled
		c.RekeyAt = now.Add(rekeyRetry)
	}
}

// unlist takes a pair off the list.
func (sa *SA) unlist(c *keyex.Child) {
	if i := slices.Index(sa.children, c); i >= 0 {
		sa.children = slices.Delete(sa.children, i, i+1)
	}
}
