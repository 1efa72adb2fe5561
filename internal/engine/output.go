package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"iked/conf"
	"iked/ikev2"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink"
	"iked/sad"
)

// output carries out one thing that an SA wants.
func (s *shard) output(x *ikeSA, now time.Time, out ikev2.Output) {
	switch out := out.(type) {
	case ikev2.Send:
		s.send(x, out.Datagram)
	case ikev2.KeepAlive:
		if err := s.e.opt.Transport.Keepalive(out.Local, out.Remote); err != nil {
			s.e.drops.add("send-error")
		}
	case ikev2.Request:
		s.request(x, now, out)
	case ikev2.Event:
		s.event(x, now, out.Event)
	case ikev2.Closed:
		s.bury(x, out)
	default:
		panic(fmt.Sprintf("engine: output %T is unknown", out))
	}
}

func (s *shard) send(x *ikeSA, d ikev2.Datagram) {
	via := s.e.opt.Transport
	if x.kink {
		via = s.e.opt.KINK
	}
	err := via.Send(d.Local, d.Remote, d.Data, d.NATT, dscpOf(x.cfg))
	if err == nil {
		x.sendFault = ""
		return
	}
	// The network may come back: retransmission goes on, and what it meets again
	// is not told again.
	s.e.drops.add("send-error")
	fault := fmt.Sprintf("sending from %s to %s: %v", d.Local, d.Remote, cause(err))
	if fault == x.sendFault {
		return
	}
	x.sendFault = fault
	s.e.log(s.record(x, trace.Record{Level: trace.Detail, Group: trace.NET, Warn: true, Msg: fault + "; it is tried again"}))
}

// dscpOf is the DSCP of the IKE packets of a connection; a responder that did not
// choose one yet has none.
func dscpOf(cfg *ikev2.Config) uint8 {
	if cfg != nil {
		if c, ok := cfg.Ref.(*conf.Connection); ok {
			return c.DSCP
		}
	}
	return 0
}

// cause is what the system said, without the words of the layers above.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// record completes the fixed fields for an SA.
func (s *shard) record(x *ikeSA, r trace.Record) trace.Record {
	if r.At.IsZero() {
		r.At = time.Now()
	}
	r.Conn, r.UniqueID = x.conn, x.id
	return r
}

// answer queues the result of a request; it is resumed when the current step is
// done.
func (x *ikeSA) answer(id ikev2.RequestID, r ikev2.Reply) {
	x.replies = append(x.replies, reply{id, r})
}

// request does the work that an SA asks for, at once where that is quick.
func (s *shard) request(x *ikeSA, now time.Time, q ikev2.Request) {
	e := s.e
	switch w := q.Work.(type) {
	case ikev2.Compute:
		if w.Cheap {
			x.answer(q.ID, w.Run())
			return
		}
		s.later(x, q.ID, func() ikev2.Reply { return w.Run() })
	case ikev2.Sign:
		s.later(x, q.ID, func() ikev2.Reply { return e.store.sign(w) })
	case ikev2.Verify:
		s.later(x, q.ID, func() ikev2.Reply { return e.store.verify(time.Now(), w) })
	case ikev2.ChooseIdentity:
		x.answer(q.ID, e.store.chooseIdentity(now, w))
	case ikev2.AllocSPI:
		spi, err := e.opt.Backend.AllocSPI(w.Proto, w.Local)
		x.answer(q.ID, ikev2.SPIReply{SPI: spi, Err: err})
	case ikev2.FreeSPI:
		e.opt.Backend.FreeSPI(w.Proto, w.Local, w.SPI)
	case ikev2.AssignAddress:
		x.answer(q.ID, e.pools.assign(uint64(x.id), w))
	case ikev2.ReleaseAddress:
		e.pools.release(uint64(x.id), w.Addrs)
	case ikev2.UseAddress:
		s.useAddress(x, w)
	case ikev2.InstallChild:
		err := s.install(x, w)
		x.answer(q.ID, ikev2.DoneReply{Err: err})
	case ikev2.MoveChild:
		s.move(w.Child)
	case ikev2.RemoveChild:
		if c := s.child(w.Child); c != nil {
			s.uninstall(c, w.In, w.Out)
		}
	case keyex.CheckUser:
		s.checkUser(x, q.ID, w)
	case keyex.UserSecret:
		x.answer(q.ID, e.store.userSecret(w))
	case kink.GetTicket:
		s.askKDC(x, q.ID, w)
	case keyex.FindOther:
		s.findOther(x, q.ID, w)
	case ikev2.FindPaths:
		x.answer(q.ID, e.findPaths(w))
	case ikev2.LastInbound:
		x.answer(q.ID, ikev2.TimeReply{At: s.lastUse(w)})
	default:
		panic(fmt.Sprintf("engine: work %T is unknown", w))
	}
}

// later runs slow work on a worker and resumes the SA with its result. A panic
// in it closes the SA that asked.
func (s *shard) later(x *ikeSA, id ikev2.RequestID, run func() ikev2.Reply) {
	s.laterOn(s.e.work, x, id, run)
}

func (s *shard) laterOn(w *workers, x *ikeSA, id ikev2.RequestID, run func() ikev2.Reply) {
	w.submit(func() {
		var r ikev2.Reply
		defer func() {
			if p := recover(); p != nil {
				s.e.panicked(x.conn, x.id, p)
				s.do(func(s *shard) {
					if !x.closed {
						s.contain(x)
					}
				})
				return
			}
			s.do(func(s *shard) {
				s.drive(x, func(now time.Time) { x.m.Resume(now, id, r) })
			})
		}()
		r = run()
	})
}

// lastUse is when any of the children last carried a packet.
func (s *shard) lastUse(w ikev2.LastInbound) (at time.Time) {
	look := func(id sad.ID) {
		if u, err := s.e.opt.Backend.QuerySA(id); err == nil && u.LastUsed.After(at) {
			at = u.LastUsed
		}
	}
	for _, child := range w.Children {
		c := s.child(child)
		if c == nil {
			continue
		}
		if c.in {
			look(c.inID)
		}
		if c.out && w.Outbound {
			look(c.outID)
		}
	}
	return at
}

// useAddress puts the addresses that a peer gave us on an interface.
func (s *shard) useAddress(x *ikeSA, w ikev2.UseAddress) {
	if w.Remove {
		s.dropAddresses(x)
		return
	}
	inst, ok := s.e.opt.Backend.(addressInstaller)
	if !ok {
		s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.CFG, Warn: true,
			Msg: fmt.Sprintf("the peer gave the addresses %v; the %s backend cannot put them on an interface", w.Addrs, s.e.opt.Backend.Describe().Name)}))
		return
	}
	for _, p := range w.Addrs {
		if err := inst.AddAddress(p); err != nil {
			s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.CFG, Warn: true,
				Msg: fmt.Sprintf("virtual address %s cannot be put on an interface: %v", p, err)}))
			continue
		}
		x.vips = append(x.vips, p)
		s.e.virtual.add(p.Addr(), 1)
	}
	if len(w.DNS) == 0 && w.Domain == "" {
		return
	}
	if s.e.opt.DNS == nil {
		s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.CFG,
			Msg: fmt.Sprintf("the peer named the name servers %v, domain %q", w.DNS, w.Domain)}))
		return
	}
	x.dns = fmt.Sprintf("%s-%d", x.conn, x.id)
	if err := s.e.opt.DNS.Use(x.dns, w.DNS, w.Domain); err != nil {
		s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.CFG, Warn: true,
			Msg: fmt.Sprintf("name servers %v cannot be used: %v", w.DNS, err)}))
		return
	}
	x.hasDNS = true
}

func (s *shard) dropAddresses(x *ikeSA) {
	if inst, ok := s.e.opt.Backend.(addressInstaller); ok {
		for _, p := range x.vips {
			if err := inst.RemoveAddress(p); err != nil {
				s.e.warnf(trace.CFG, "virtual address %s cannot be removed: %v", p, err)
			}
			s.e.virtual.add(p.Addr(), -1)
		}
	}
	x.vips = nil
	if x.hasDNS {
		x.hasDNS = false
		if err := s.e.opt.DNS.Drop(x.dns); err != nil {
			s.e.warnf(trace.CFG, "name servers of %s cannot be removed: %v", x.conn, err)
		}
	}
}

// event passes on what happened to an SA.
func (s *shard) event(x *ikeSA, now time.Time, ev ikev2.SAEvent) {
	e := s.e
	switch ev := ev.(type) {
	case ikev2.Log:
		if x.stranger() && (ev.Record.Warn || ev.Record.Level <= trace.Control) && !e.gate.logs.take(now) {
			e.drops.add("log-of-strangers")
			return
		}
		e.log(s.record(x, ev.Record))
	case ikev2.Count:
		s.count(x, ev)
	case ikev2.Failed:
		s.failed(x, ev)
	case ikev2.Up:
		s.up(x, now, ev)
	case ikev2.ChildUp:
		s.childUp(x, ev.Child)
	case ikev2.ChildDown:
		if c := s.child(ev.Child); c != nil {
			s.childDown(c.ike, c, ev.Peer)
		}
	case ikev2.ChildReplaced:
		s.childReplaced(x, ev)
	case ikev2.NewSA:
		s.newSA(x, ev)
	case keyex.PeerDeletes:
		s.peerDeletes(x, ev)
	case ikev2.ReauthDue:
		info := s.look(x)
		e.sup.post(func() { e.sup.reauthDue(info) })
	case ikev2.Moved:
		s.moved(x)
	default:
		panic(fmt.Sprintf("engine: event %T is unknown", ev))
	}
}

func (s *shard) failed(x *ikeSA, ev ikev2.Failed) {
	s.learn(x)
	f := trace.Failure{At: time.Now(), Conn: x.conn, Sentence: "the negotiation failed"}
	if ev.Failure != nil {
		f = *ev.Failure
	}
	if f.Conn == "" {
		f.Conn = x.conn
	}
	child := ""
	if ev.Child != nil {
		child = ev.Child.Name
		if f.Child == "" {
			f.Child = child
		}
	}
	s.e.told(f, x.id)
	id, conn := x.id, x.conn
	s.e.sup.post(func() { s.e.sup.negotiationFailed(id, conn, child, ev.Flow, f) })
}

// learn takes over which configuration a responder SA uses; until it is
// authenticated that may change.
func (s *shard) learn(x *ikeSA) {
	if x.up {
		return
	}
	if cfg := x.m.Config(); cfg != nil {
		x.cfg, x.conn = cfg, cfg.Name
	}
}

func (s *shard) up(x *ikeSA, now time.Time, ev ikev2.Up) {
	s.learn(x)
	s.unhalf(x)
	x.up = true
	if x.v1 && !ev.InitialContact && s.adoptV1(x, now) {
		return
	}
	info := s.look(x)
	if x.kink {
		s.e.known.note(kinkPeer{Conn: x.conn, Peer: info.RemoteID.Data, Remote: x.remote})
	}
	s.e.bus.publish(Event{Kind: EventIKEUpDown, At: now, Up: true, SA: &info})
	created := x.created
	s.e.sup.post(func() { s.e.sup.ikeUp(info, created, ev.InitialContact) })
}

// closed tells the others that an SA is over.
func (s *shard) closed(x *ikeSA, end ikev2.Closed) {
	info := x.last
	now := time.Now()
	if end.Failure != nil {
		f := *end.Failure
		if f.Conn == "" {
			f.Conn = x.conn
		}
		if x.sendFault != "" && end.Reason == ikev2.CloseTimeout {
			f.Evidence = append(slices.Clone(f.Evidence), x.sendFault)
			f.Advice = "nothing could be sent: check the routes and interfaces of this system"
		}
		if x.stranger() && !s.e.gate.logs.take(now) {
			s.e.keep(f)
			s.e.drops.add("log-of-strangers")
		} else {
			s.e.told(f, x.id)
		}
	}
	if x.stranger() {
		s.e.gate.failed(now)
	}
	if end.Reason == ikev2.CloseHalfOpen {
		s.e.drops.add("half-open-timeout")
	}
	if x.up && !x.replaced && !x.heir {
		s.e.log(s.record(x, trace.Record{At: now, Level: trace.Control, Group: trace.IKE, Peer: info.Remote.String(),
			SPIi: uint64(info.SPIi), SPIr: uint64(info.SPIr),
			Msg: fmt.Sprintf("IKE_SA %s[%d] closed: %s", x.conn, x.id, closeWords(end.Reason))}))
		s.e.bus.publish(Event{Kind: EventIKEUpDown, At: now, SA: &info})
	}
	downs := x.downs
	s.tellDowns(x)
	if !x.heir {
		s.e.sup.post(func() { s.e.sup.ikeClosed(info, end, downs) })
	}
	s.bequeath(x, end.Tombstone)
}

func closeWords(r ikev2.CloseReason) string {
	switch r {
	case ikev2.CloseAsked:
		return "on request"
	case ikev2.ClosePeerDeleted:
		return "the peer deleted it"
	case ikev2.CloseFailed:
		return "the negotiation failed"
	case ikev2.CloseTimeout:
		return "the peer does not answer"
	case ikev2.CloseRekeyed:
		return "rekeyed"
	case ikev2.CloseExpired:
		return "its lifetime ended"
	case ikev2.CloseHalfOpen:
		return "the peer never authenticated"
	case ikev2.CloseReplaced:
		return "another IKE_SA with the same identities took its place"
	default:
		return "a fault inside"
	}
}

// newSA takes over the successor of a rekeyed SA (RFC 7296, Section 2.8). It may
// be told of the same one twice: first while a collision is undecided, then when
// it won; each time there is something to drain.
func (s *shard) newSA(x *ikeSA, ev ikev2.NewSA) {
	m := s.e.machineOf(ev.Successor)
	id := m.Identify()
	y := s.sas[id.ID]
	if y == nil {
		y = &ikeSA{m: m, id: id.ID, spi: id.SPI, cfg: x.cfg, conn: x.conn, up: true, heir: true, v1: x.v1}
		s.adopt(y)
	}
	if !ev.Redundant && y.heir {
		y.heir = false
		s.inherit(x, y)
		if y.v1 {
			s.wandered(y)
		}
	}
	s.do(func(s *shard) { s.drive(y, func(time.Time) {}) })
}

// inherit moves what belongs to a tunnel from a rekeyed SA to its successor.
func (s *shard) inherit(x, y *ikeSA) {
	old := s.look(x)
	for k, c := range x.children {
		c.ike = y
		if y.children == nil {
			y.children = make(map[uint32]*childSA)
		}
		y.children[k] = c
	}
	x.children = nil
	y.vips, x.vips = x.vips, nil
	y.hasDNS, x.hasDNS = x.hasDNS, false
	y.dns, x.dns = x.dns, ""
	s.e.pools.transfer(uint64(x.id), uint64(y.id))
	info := s.look(y)
	s.e.bus.publish(Event{Kind: EventIKERekey, At: time.Now(), SA: &old, New: &info})
	x.replaced = true
	s.e.sup.post(func() { s.e.sup.ikeRekeyed(old, info) })
}

func (s *shard) moved(x *ikeSA) {
	old := x.last
	info := s.look(x)
	if x.v1 && x.up {
		s.wandered(x)
	}
	if x.kink {
		s.kinkMoved(x, info.Remote.Addr().Unmap())
		s.e.known.note(kinkPeer{Conn: x.conn, Peer: info.RemoteID.Data, Remote: x.remote})
	}
	s.e.log(s.record(x, trace.Record{Level: trace.Control, Group: trace.IKE,
		Msg: fmt.Sprintf("IKE_SA %s[%d] goes from %s to %s now", x.conn, x.id, info.Local, info.Remote)}))
	s.e.bus.publish(Event{Kind: EventIKEUpdate, At: time.Now(), SA: &old, New: &info})
	s.e.sup.post(func() { s.e.sup.ikeMoved(info) })
}

// addressInstaller is the optional ability of a backend.
type addressInstaller interface {
	AddAddress(p netip.Prefix) error
	RemoveAddress(p netip.Prefix) error
}

// count takes a counter of the state machine: one of the control protocol's, or
// a drop with its reason.
func (s *shard) count(x *ikeSA, c ikev2.Count) {
	s.learn(x)
	if i := counterIndex(c.Counter); i >= 0 {
		s.e.countConn(x.conn, i)
	}
	if c.Reason != "" {
		s.e.drops.add(c.Reason)
	}
}
