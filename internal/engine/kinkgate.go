package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink"
	kinkmsg "iked/kink/message"
)

// ReceiveKINK takes a datagram of KINK's port. It never blocks. d.Data belongs to the
// engine from now on.
func (e *Engine) ReceiveKINK(d keyex.Datagram) {
	defer func() {
		if r := recover(); r != nil {
			e.panicked("", 0, r)
		}
	}()
	if why := e.gate.receiveKINK(d); why != "" {
		e.drops.add(why)
	}
}

// receiveKINK returns why the datagram was dropped, or "". What is left is decided on
// in the shard of the peer's address: nothing is kept of a stranger, and each of its
// messages costs a few symmetric operations, at a bounded rate.
func (g *gate) receiveKINK(d keyex.Datagram) string {
	e := g.e
	p := e.config.Load()
	switch {
	case !p.kink:
		return "version-kink"
	case len(d.Data) < kinkmsg.HeaderLen:
		e.total[cInvalid].Add(1)
		return "truncated-header"
	case len(d.Data) > maxDatagram:
		e.total[cInvalid].Add(1)
		return "too-long"
	}
	if kinkmsg.Type(d.Data[0]) != kinkmsg.Reply {
		if e.down.Load() {
			return "closing"
		}
		if g.rate.allow(source(d.Remote.Addr()), p.global.Limits.RatePerSource, time.Now()) != rateOK {
			return "rate-per-source"
		}
	}
	s := e.shardOf(d.Remote.Addr())
	if !s.box.offer(message{fn: func(s *shard) { s.receiveKINK(d) }}) {
		return "queue-full"
	}
	return ""
}

// receiveKINK finds whose a datagram is.
func (s *shard) receiveKINK(d keyex.Datagram) {
	e, now := s.e, time.Now()
	peer := d.Remote.Addr().Unmap()
	h, err := kinkmsg.ParseHeader(d.Data)
	if err == nil && h.Type == kinkmsg.Reply {
		for _, x := range s.kink[peer] {
			if x.m.(kinkSA).Awaits(h.XID) {
				s.drive(x, func(now time.Time) { x.m.Receive(now, d) })
				return
			}
		}
		e.drops.add("unknown-xid")
		return
	}
	k := e.kerberos.Load()
	if k == nil || k.use == nil {
		e.drops.add("no-kerberos")
		return
	}
	o := kink.Opener{Acceptor: k.use, Epoch: e.kink.epoch, Own: k.own}
	c, no := o.Open(now, d)
	if no != nil {
		s.refuseKINK(d, no)
		return
	}
	if c.Type == kinkmsg.GetTGT {
		s.answerGetTGT(d, c, k)
		return
	}
	s.command(d, c)
}

// refuseKINK answers what is no command of anybody, and notes it for Explain. What
// nobody proves is answered and told at a bounded rate.
func (s *shard) refuseKINK(d keyex.Datagram, no *kink.Refusal) {
	e := s.e
	e.drops.add(no.Reason)
	if !no.Authentic {
		e.total[cInvalid].Add(1)
	}
	if no.Answer != nil && (no.Authentic || e.gate.replies.take(time.Now())) {
		s.sendKINK(d, no.Answer)
	}
	if no.Err != nil && e.gate.told.take(time.Now()) {
		f := trace.Failure{At: time.Now(), Stage: trace.StageAuth, Local: d.Local.String(), Remote: d.Remote.String(), RemoteID: no.Client.String(),
			Sentence: fmt.Sprintf("KINK from %s is refused: %v", d.Remote.Addr().Unmap(), no.Err)}
		f.Advice, f.Evidence = kinkAdvice(no.Err)
		e.fail(f, 0)
	}
}

// sendKINK answers outside of any SA.
func (s *shard) sendKINK(d keyex.Datagram, b []byte) {
	if err := s.e.opt.KINK.Send(d.Local, d.Remote, b, false, 0); err != nil {
		s.e.drops.add("send-error")
	}
}

// answerGetTGT asks for the own ticket-granting ticket, if a connection allows it,
// and hands it to the peer (RFC 4430, Section 3.1).
func (s *shard) answerGetTGT(d keyex.Datagram, c *kink.Command, k *kerberosState) {
	e := s.e
	allowed := false
	for _, cfg := range e.config.Load().candidates(d.Local.Addr().Unmap(), d.Remote.Addr().Unmap(), keyex.VersionKINK) {
		allowed = allowed || cfg.KINK.UserToUser && cfg.Local.ID.Data == c.TGTReq.String()
	}
	if !allowed || e.kdc.overloaded() || !e.gate.replies.take(time.Now()) {
		e.drops.add("gettgt")
		return
	}
	if e.kink.given.Add(1) > tgtWorkers {
		e.kink.given.Add(-1)
		e.drops.add("gettgt")
		return
	}
	e.kdc.submit(func() {
		defer e.kink.given.Add(-1)
		defer func() {
			if r := recover(); r != nil {
				e.panicked("", 0, r)
			}
		}()
		ctx, cancel := context.WithTimeout(e.ctx, kdcTime)
		defer cancel()
		tgt, err := k.use.GetTGT(ctx, time.Now(), c.TGTReq)
		b, err := c.AnswerTGT(time.Now(), kink.TGTReply{TGT: tgt, Err: err})
		if err != nil {
			e.drops.add("gettgt")
			return
		}
		s.do(func(s *shard) { s.sendKINK(d, b) })
	})
}

// command hands an authentic command to the SA that it is for, and makes one for a
// CREATE of a principal that a connection allows.
func (s *shard) command(d keyex.Datagram, c *kink.Command) {
	e := s.e
	peer := d.Remote.Addr().Unmap()
	var list []*kink.SA
	for _, x := range slices.Clone(s.kink[peer]) {
		s.drive(x, func(now time.Time) { x.m.(kinkSA).SeeEpoch(now, c) })
		if !x.closed {
			list = append(list, x.m.(kinkSA).SA)
		}
	}
	to, cfg := c.Route(e.kinkEnv(), list, e.config.Load().candidates(d.Local.Addr().Unmap(), peer, keyex.VersionKINK))
	if c.Type == kinkmsg.Delete {
		for _, x := range slices.Clone(s.kink[peer]) {
			if x.m.(kinkSA).SA != to {
				s.drive(x, func(now time.Time) { x.m.(kinkSA).DeleteFor(now, c) })
			}
		}
	}
	switch {
	case to != nil:
		for _, x := range s.kink[peer] {
			if x.m.(kinkSA).SA == to {
				s.drive(x, func(now time.Time) { to.Command(now, c) })
				return
			}
		}
	case cfg != nil:
		if c.Type == kinkmsg.Create {
			if lim := e.config.Load().global.Limits.IKESAs; lim > 0 && e.ikeCount.Load() >= int64(lim) {
				e.drops.add("ike-sa-limit")
				return
			}
		}
		x := &ikeSA{shard: s, cfg: cfg, conn: cfg.Name, index: -1, created: time.Now(), kink: true}
		x.m = kinkSA{kink.NewResponder(e.kinkEnv(), cfg, c)}
		x.id, x.remote = x.m.Identify().ID, peer
		s.adopt(x)
		s.drive(x, func(now time.Time) { x.m.(kinkSA).Command(now, c) })
		if c.Type != kinkmsg.Create && !x.closed {
			s.start(x, keyex.Delete{Force: true})
		}
	case c.Type == kinkmsg.Create:
		b, err := c.Refuse(e.kink.epoch)
		if err == nil {
			s.sendKINK(d, b)
		}
		e.drops.add("principal")
		if e.gate.told.take(time.Now()) {
			e.fail(trace.Failure{At: time.Now(), Stage: trace.StageIdentity, Local: d.Local.String(), Remote: d.Remote.String(), LocalID: c.Server.String(), RemoteID: c.Client.String(),
				Sentence: fmt.Sprintf("the principal %s is not allowed: no connection of version kink is for it at %s and for %s", c.Client, peer, c.Server),
				Advice:   "add a connection whose remote.id matches the principal and whose local.id is the one that it asked for"}, 0)
		}
	default:
		e.drops.add("unknown-command")
	}
}

// askKDC gets a ticket on a worker of its own kind: KDCs may take their time.
func (s *shard) askKDC(x *ikeSA, id keyex.RequestID, w kink.GetTicket) {
	e := s.e
	k := e.kerberos.Load()
	if k == nil || k.use == nil {
		err := errNoKerberos
		if k != nil {
			err = k.err
		}
		x.answer(id, kink.TicketReply{Err: &kink.KerberosError{Sentence: fmt.Sprintf("Kerberos cannot be used: %v", err), Advice: "see keytab and ccache of the connection, and krb5_conf"}})
		return
	}
	s.laterOn(e.kdc, x, id, func() keyex.Reply {
		ctx, cancel := context.WithTimeout(e.ctx, kdcTime)
		defer cancel()
		t, err := k.use.GetTicket(ctx, time.Now(), w)
		return kink.TicketReply{Ticket: t, Err: err}
	})
}

// kinkAdvice is what to do about a fault of Kerberos.
func kinkAdvice(err error) (string, []string) {
	var k *kink.KerberosError
	if errors.As(err, &k) {
		return k.Advice, k.Evidence
	}
	return "see `ikectl explain` and the clocks of both hosts", nil
}

// kinkEnter notes an SA of KINK by the address of its peer.
func (s *shard) kinkEnter(x *ikeSA) {
	if s.kink == nil {
		s.kink = make(map[netip.Addr][]*ikeSA)
	}
	s.kink[x.remote] = append(s.kink[x.remote], x)
}

func (s *shard) kinkLeave(x *ikeSA) {
	list := slices.DeleteFunc(s.kink[x.remote], func(y *ikeSA) bool { return y == x })
	if s.kink[x.remote] = list; len(list) == 0 {
		delete(s.kink, x.remote)
	}
}
