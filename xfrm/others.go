package xfrm

import (
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/spd"
	"iked/xfrm/wire"
)

// askedOther handles a question of a policy that is not of this backend: that of a
// mobility manager, whose SAs the key exchange may be meant to make, or that of
// somebody who makes them without it. The kernel's note of it is touched by none but
// who answers.
func (b *Backend) askedOther(m *wire.Acquire) {
	t := m.Asked()
	if t == nil || m.PolicyType != nil && *m.PolicyType != 0 {
		b.counts[acquiresOther]++ // the second SPD is nobody's here
		return
	}
	at := keyOf(&m.Policy, &m.Attrs)
	a := backend.Acquire{ReqID: t.ReqID, Flow: flowOf(&m.Sel), IfID: at.ifID, Mark: at.mark}
	ok := true
	switch m.ID.Proto {
	case ipESP:
		a.Proto = suite.ProtoESP
	case ipAH:
		a.Proto = suite.ProtoAH
	default:
		ok = false // destination options and routing headers of Mobile IPv6
	}
	switch t.Mode {
	case wire.ModeTunnel:
		a.Mode = spd.Tunnel
	case wire.ModeTransport:
		a.Mode = spd.Transport
	case wire.ModeBEET:
		a.Mode = spd.BEET
	default:
		ok = false
	}
	if !ok || !a.Flow.Local.IsValid() {
		b.counts[acquiresOther]++
		return
	}
	if a.Mode != spd.Transport {
		if src, dst := t.Src.Addr(t.Family), t.ID.Dst.Addr(t.Family); !src.IsUnspecified() && !dst.IsUnspecified() {
			a.OuterLocal, a.OuterRemote = src, dst
		}
	}
	key, now := flowKey{flow: a.Flow}, time.Now()
	if q := b.asking.open[key]; q != nil && now.Before(q.until) {
		b.counts[acquiresStale]++
		q.acq = m
		return
	}
	if b.servedOther(m, &a) {
		b.counts[acquiresStale]++
		return
	}
	if b.asking.fullOfOthers() || !b.events.Emit(a) {
		b.counts[eventsLost]++
		return
	}
	b.asking.open[key] = &question{acq: m, reqID: t.ReqID, until: now.Add(askAgain), others: true}
}

// servedOther tells whether an SA came while the question was on its way here.
func (b *Backend) servedOther(m *wire.Acquire, a *backend.Acquire) bool {
	for _, r := range b.sas {
		if r.reqID == a.ReqID && !r.dead && r.mode == a.Mode && wire.AddressOf(r.id.Dst) == m.ID.Dst && covers(&r.sel, a.Flow) {
			return true
		}
	}
	return false
}

// covers tells whether an outbound SA of this selector, which may be none, is for a
// packet.
func covers(s *wire.Selector, f spd.Flow) bool {
	if s.Family == 0 {
		return true
	}
	k := kernelSelector(s)
	return k.Match(&f)
}

// fullOfOthers tells whether there is no place for one more question of policies of
// others.
func (a *asking) fullOfOthers() bool {
	n := 0
	for _, q := range a.open {
		if q.others {
			n++
		}
	}
	return n >= maxFlows
}

// AcquireTaken implements backend.AcquireTaker.
func (b *Backend) AcquireTaken(flow spd.Flow) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q := b.asking.open[flowKey{flow: flow}]; q != nil && q.others {
		q.taken, q.clear = true, q.until
		b.asking.took[q.want()] = true
	}
}

// wanted is what a question asks for.
type wanted struct {
	reqID uint32
	proto uint8
	mode  uint8
}

func (q *question) want() wanted {
	w := wanted{reqID: q.reqID, proto: q.acq.ID.Proto}
	if t := q.acq.Asked(); t != nil {
		w.mode = t.Mode
	}
	return w
}

// giveUp takes back the open questions of policies of others that would have been
// answered here. The policies stay, and with a note of a question the kernel asks nobody
// who comes next.
func (b *Backend) giveUp() {
	for _, q := range b.asking.open {
		if q.others && b.asking.took[q.want()] {
			b.takeBack(q.acq)
		}
	}
}
