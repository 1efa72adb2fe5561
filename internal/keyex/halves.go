package keyex

import (
	"net/netip"
	"time"

	"iked/crypto/suite"
)

// Halves is what of a CHILD_SA is in the backend: its inbound and its outbound SAs,
// or only the reservation of the inbound SPIs.
type Halves struct{ Reserved, InUp, OutUp bool }

// Install asks the backend for directions of a CHILD_SA.
func (h *Halves) Install(f *Flow, c *Child, in, out bool, then func(now time.Time, err error)) {
	h.InUp, h.OutUp = h.InUp || in, h.OutUp || out
	if in {
		h.Reserved = false
	}
	f.Ask(InstallChild{Child: c, In: in, Out: out}, func(now time.Time, r Reply) {
		d, _ := r.(DoneReply)
		if d.Err != nil {
			// The backend left nothing of it; the reservation of the SPIs stands.
			h.InUp, h.OutUp, h.Reserved = false, false, in
		}
		then(now, d.Err)
	})
}

// Remove takes directions out of the backend, as far as they are there.
func (h *Halves) Remove(q *Queue, c *Child, in, out bool) {
	if h.Reserved && in {
		h.Reserved = false
		for _, p := range c.Protocols() {
			q.Tell(FreeSPI{Proto: p.Proto, Local: c.LocalAddr.Addr(), SPI: p.SPIIn})
		}
		if c.CPIIn != 0 {
			q.Tell(FreeSPI{Proto: suite.ProtoIPComp, Local: c.LocalAddr.Addr(), SPI: uint32(c.CPIIn)})
		}
	}
	in, out = in && h.InUp, out && h.OutUp
	if in || out {
		h.InUp, h.OutUp = h.InUp && !in, h.OutUp && !out
		q.Tell(RemoveChild{Child: c, In: in, Out: out})
	}
}

// Begin starts the life of a CHILD_SA: it is replaced a bit before soft, and ends at
// hard; 0: never.
func (c *Child) Begin(env Env, now time.Time, soft, hard time.Duration) {
	c.State, c.Installed = ChildInstalled, now
	if soft > 0 {
		c.RekeyAt = now.Add(max(soft-Jitter(env, c.Config.Time.Jitter), time.Second))
	}
	if hard > 0 {
		c.ExpireAt = now.Add(hard)
	}
}

// AskIdle asks when a CHILD_SA carried something last, unless it is in force no more
// when the answer comes. until is when it has to be asked again; zero: it carried
// nothing for as long as its configuration lets it.
func (q *Queue) AskIdle(c *Child, then func(now, until time.Time)) {
	q.Ask(LastInbound{Children: []*Child{c}, Outbound: true}, func(now time.Time, r Reply) {
		t, _ := r.(TimeReply)
		last := t.At
		if last.Before(c.Installed) {
			last = c.Installed
		}
		switch limit := c.Config.Inactivity; {
		case c.State != ChildInstalled:
		case now.Sub(last) < limit:
			then(now, last.Add(limit))
		default:
			then(now, time.Time{})
		}
	})
}

// RelocateChild gives a CHILD_SA of the lists the outer addresses that its SAs have,
// unless they are its own.
func (q *Queue) RelocateChild(t ChildRelocated, lists ...[]*Child) {
	if !t.Local.IsValid() || t.Local.Is4() != t.Remote.Is4() {
		return
	}
	for _, list := range lists {
		for _, c := range list {
			if c.SPIIn == t.SPI && !c.OwnEnds {
				c.LocalAddr, c.RemoteAddr = netip.AddrPortFrom(t.Local, c.LocalAddr.Port()), netip.AddrPortFrom(t.Remote, c.RemoteAddr.Port())
				q.Tell(MoveChild{Child: c})
			}
		}
	}
}
