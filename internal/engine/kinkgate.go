package engine

import (
	"context"
	"errors"
	"fmt"
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
	s := e.hashedShard(d.Remote.Addr())
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
		s.replyKINK(d, h.XID, e.kink.away.others(peer))
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

// replyKINK finds whose REPLY a datagram is, here or in the other shards that have SAs
// with its sender.
func (s *shard) replyKINK(d keyex.Datagram, xid uint32, rest []*shard) {
	for _, x := range s.kink[d.Remote.Addr().Unmap()] {
		if x.m.(kinkSA).Awaits(xid) {
			s.drive(x, func(now time.Time) { x.m.Receive(now, d) })
			return
		}
	}
	if len(rest) == 0 {
		s.e.drops.add("unknown-xid")
		return
	}
	if !rest[0].box.offer(message{fn: func(s *shard) { s.replyKINK(d, xid, rest[1:]) }}) {
		s.e.drops.add("queue-full")
	}
}

// commandKINK is an authentic command on its way to who takes it: through the shard of
// the peer's address, and through the others that have SAs with a peer there.
type commandKINK struct {
	d    keyex.Datagram
	c    *kink.Command
	home *shard
	rest []*shard
	// to is who takes it, in the shard at; nil: nobody so far. sure: it is about what
	// that SA has.
	to   *ikeSA
	at   *shard
	sure bool
}

// command begins to look for who takes a command.
func (s *shard) command(d keyex.Datagram, c *kink.Command) {
	s.lookForTaker(&commandKINK{d: d, c: c, home: s, rest: s.e.kink.away.others(d.Remote.Addr().Unmap())})
}

// lookForTaker looks among the SAs of a shard, lets the others know what the command
// says to all of them, and passes it on.
func (s *shard) lookForTaker(r *commandKINK) {
	e, c, peer := s.e, r.c, r.d.Remote.Addr().Unmap()
	var list []*kink.SA
	for _, x := range slices.Clone(s.kink[peer]) {
		s.drive(x, func(now time.Time) { x.m.(kinkSA).SeeEpoch(now, c) })
		if !x.closed {
			list = append(list, x.m.(kinkSA).SA)
		}
	}
	if !r.sure {
		to, _ := c.Route(e.kinkEnv(), list, e.config.Load().candidates(r.d.Local.Addr().Unmap(), peer, keyex.VersionKINK))
		if to != nil && (r.to == nil || to.Knows(c)) {
			for _, x := range s.kink[peer] {
				if x.m.(kinkSA).SA == to {
					r.to, r.at, r.sure = x, s, to.Knows(c)
				}
			}
		}
	}
	if c.Type == kinkmsg.Delete {
		for _, x := range slices.Clone(s.kink[peer]) {
			if x != r.to {
				s.drive(x, func(now time.Time) { x.m.(kinkSA).DeleteFor(now, c) })
			}
		}
	}
	next := func(to *shard, fn func(*shard)) {
		if to == s {
			fn(s)
		} else if !to.box.offer(message{fn: fn}) {
			e.drops.add("queue-full")
		}
	}
	switch {
	case len(r.rest) > 0:
		to := r.rest[0]
		r.rest = r.rest[1:]
		next(to, func(s *shard) { s.lookForTaker(r) })
	case r.to != nil:
		next(r.at, func(s *shard) { s.drive(r.to, func(now time.Time) { r.to.m.(kinkSA).Command(now, c) }) })
	default:
		next(r.home, func(s *shard) { s.takeAnew(r.d, c) })
	}
}

// takeAnew makes an SA for a CREATE of a principal that a connection allows.
func (s *shard) takeAnew(d keyex.Datagram, c *kink.Command) {
	e, peer := s.e, d.Remote.Addr().Unmap()
	_, cfg := c.Route(e.kinkEnv(), nil, e.config.Load().candidates(d.Local.Addr().Unmap(), peer, keyex.VersionKINK))
	switch {
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
