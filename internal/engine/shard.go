package engine

import (
	"container/heap"
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"time"

	"iked/ikev2"
	"iked/internal/backend"
	"iked/internal/trace"
)

// message is what reaches a shard: a datagram for an SA, or something to do.
type message struct {
	x  *ikeSA
	d  ikev2.Datagram
	fn func(*shard)
}

// shard owns a part of the IKE SAs and is the only goroutine that touches them.
type shard struct {
	e      *Engine
	index  int
	box    *mailbox[message]
	sas    map[uint32]*ikeSA
	timers saHeap
	kink   map[netip.Addr][]*ikeSA // SAs of KINK, by the address of the peer
	// running is the SA being driven; what its state machine asks of env meanwhile
	// is about it.
	running *ikeSA
}

// ikeSA is one IKE SA in its shard.
type ikeSA struct {
	id    uint32
	m     machine
	shard *shard
	cfg   *ikev2.Config // nil until a responder chose one
	conn  string
	spi   ikev2.SPI // ours
	// half is set while a responder counts as half-open.
	half     halfOpenKey
	isHalf   bool
	v1       bool       // it speaks IKEv1
	kink     bool       // it speaks KINK
	remote   netip.Addr // KINK: that of the peer
	before   netip.Addr // KINK: that of the peer before it moved
	deadline time.Time
	index    int // in the heap, -1: not in it
	replies  []reply
	children map[uint32]*childSA
	created  time.Time
	up       bool
	closed   bool
	vips     []netip.Prefix // put on an interface for this SA
	hasDNS   bool
	dns      string
	downs    []down // children that went during this step
	heir     bool   // successor in a rekeying that is not decided
	replaced bool   // its successor has the children
	last     SAInfo // what the SA was when last looked at, for its end
	// sendFault is why the last message could not be sent; empty when it was.
	sendFault string
}

// stranger tells whether the peer came by itself and is not authenticated: what
// is logged of it goes at a bounded rate.
func (x *ikeSA) stranger() bool { return !x.up && x.half.spii != 0 }

type reply struct {
	id ikev2.RequestID
	r  ikev2.Reply
}

func newShard(e *Engine, index int) *shard {
	return &shard{e: e, index: index, box: newMailbox[message](e.opt.QueueLen), sas: make(map[uint32]*ikeSA)}
}

func (s *shard) run() {
	defer s.e.wg.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var own, frames []message
	for {
		own, frames = s.box.take(own, frames)
		for i := range own {
			s.guard(own[i].fn)
		}
		for i := range frames {
			m := &frames[i]
			if m.x == nil {
				s.guard(m.fn)
				continue
			}
			s.drive(m.x, func(now time.Time) { m.x.m.Receive(now, m.d) })
		}
		wait := s.advance()
		if len(own)+len(frames) > 0 {
			continue // more may have come meanwhile
		}
		if s.box.isClosed() {
			return
		}
		timer.Reset(wait)
		select {
		case <-s.box.wake:
		case <-timer.C:
		}
	}
}

// advance drives the SAs whose time has come and tells how long to wait for the
// next.
func (s *shard) advance() time.Duration {
	for len(s.timers) > 0 {
		x := s.timers[0]
		if d := time.Until(x.deadline); d > 0 {
			return d
		}
		before := x.deadline
		s.drive(x, func(now time.Time) { x.m.Advance(now) })
		if !x.closed && x.index >= 0 && !x.deadline.After(before) && !x.deadline.After(time.Now()) {
			// A state machine that stays due would hold the shard for ever.
			x.deadline = time.Now().Add(time.Second)
			heap.Fix(&s.timers, x.index)
			s.e.drops.add("deadline-stuck")
		}
	}
	return time.Hour
}

// do queues a call for the shard's goroutine.
func (s *shard) do(fn func(*shard)) bool { return s.box.post(message{fn: fn}) }

// wait runs fn on the shard's goroutine and returns when it is done, or ctx is.
func (s *shard) wait(ctx context.Context, fn func(*shard)) error {
	done := make(chan struct{})
	if !s.do(func(s *shard) { defer close(done); fn(s) }) {
		return errClosed
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// guard runs work that belongs to no single SA; a panic is logged and counted.
func (s *shard) guard(fn func(*shard)) {
	defer func() {
		if r := recover(); r != nil {
			s.e.panicked("", 0, r)
		}
	}()
	fn(s)
}

// panicked logs and counts a panic that was contained.
func (e *Engine) panicked(conn string, id uint32, r any) {
	e.drops.add("panic")
	e.log(trace.Record{Level: trace.Audit, Group: trace.MGR, Warn: true, Conn: conn, UniqueID: id,
		Msg: fmt.Sprintf("a fault inside was contained: %v\n%s", r, debug.Stack())})
}

// drive makes one step of an SA and carries out what follows from it. A panic
// closes that SA and no other.
func (s *shard) drive(x *ikeSA, step func(now time.Time)) {
	if x.closed {
		return
	}
	if s.running != nil {
		// A step that asks for another step of the same or another SA gets it
		// after this one.
		s.do(func(s *shard) { s.drive(x, step) })
		return
	}
	s.running = x
	defer func() {
		s.running = nil
		if r := recover(); r != nil {
			s.e.panicked(x.conn, x.id, r)
			s.contain(x)
		}
	}()
	now := time.Now()
	step(now)
	s.drain(x, now)
	for !x.closed && len(x.replies) > 0 {
		list := x.replies
		x.replies = nil
		for _, r := range list {
			if x.closed {
				return
			}
			x.m.Resume(now, r.id, r.r)
			s.drain(x, now)
		}
		if x.replies == nil {
			x.replies = list[:0]
		}
	}
	if !x.closed {
		s.tellDowns(x)
		s.reschedule(x)
	}
}

func (s *shard) drain(x *ikeSA, now time.Time) {
	for out := range x.m.Outputs() {
		if x.closed {
			return
		}
		s.output(x, now, out)
	}
}

// contain buries an SA whose state machine panicked. What it had installed is
// taken out of the backend, and no method of it is called any more.
func (s *shard) contain(x *ikeSA) {
	defer func() {
		if r := recover(); r != nil {
			s.e.panicked(x.conn, x.id, r)
		}
	}()
	f := &trace.Failure{At: time.Now(), Stage: trace.StageConfig, Conn: x.conn,
		Sentence: "the IKE SA was closed because of a fault inside the daemon",
		Advice:   "report the stack in the log"}
	s.bury(x, ikev2.Closed{Reason: ikev2.CloseInternal, Failure: f})
}

func (s *shard) reschedule(x *ikeSA) {
	d := x.m.NextDeadline()
	switch {
	case d.IsZero():
		if x.index >= 0 {
			heap.Remove(&s.timers, x.index)
		}
	case x.index < 0:
		x.deadline = d
		heap.Push(&s.timers, x)
	case !d.Equal(x.deadline):
		x.deadline = d
		heap.Fix(&s.timers, x.index)
	}
}

// start gives an SA a task.
func (s *shard) start(x *ikeSA, t ikev2.Task) {
	s.drive(x, func(now time.Time) { x.m.Start(now, t) })
}

// all are the SAs of the shard, in a slice so that they may go meanwhile.
func (s *shard) all() []*ikeSA {
	out := make([]*ikeSA, 0, len(s.sas))
	for _, x := range s.sas {
		out = append(out, x)
	}
	return out
}

// adopt takes an SA in.
func (s *shard) adopt(x *ikeSA) {
	if x.shard != s { // the gate may look at it already
		x.shard = s
	}
	x.index = -1
	if x.created.IsZero() {
		x.created = time.Now()
	}
	s.sas[x.id] = x
	s.e.ikeCount.Add(1)
	if x.spi != 0 {
		s.e.spis.put(x.spi, x)
	}
	if x.kink {
		s.kinkEnter(x, x.remote)
	}
}

// bury ends an SA: it leaves all tables, and what it still had in the backend is
// removed.
func (s *shard) bury(x *ikeSA, end ikev2.Closed) {
	if x.closed {
		return
	}
	s.lookLast(x)
	x.closed = true
	s.unhalf(x)
	if x.index >= 0 {
		heap.Remove(&s.timers, x.index)
	}
	if x.spi != 0 {
		s.e.spis.remove(x.spi, x)
	}
	if x.kink {
		s.kinkLeave(x, x.remote)
		s.kinkLeave(x, x.before)
	}
	delete(s.sas, x.id)
	s.e.wanderers.drop(x.id)
	s.e.ikeCount.Add(-1)
	var gone []*childSA
	for _, c := range x.children {
		gone = append(gone, c)
	}
	for _, c := range gone {
		if c.ike == x {
			s.uninstall(c, true, true)
			s.childDown(x, c, false)
		}
	}
	s.dropAddresses(x)
	s.e.pools.releaseAll(uint64(x.id))
	s.closed(x, end)
	x.replies = nil
}

// lookLast takes the state of an SA that ends. After a panic even that may fail;
// then what was last seen serves.
func (s *shard) lookLast(x *ikeSA) {
	defer func() {
		if r := recover(); r != nil {
			x.last.UniqueID, x.last.Conn = x.id, x.conn
		}
	}()
	s.look(x)
}

// unhalf ends the time as half-open.
func (s *shard) unhalf(x *ikeSA) {
	if x.isHalf {
		x.isHalf = false
		s.e.gate.half.leave(x.half, x)
	}
}

func (s *shard) childExpired(c *childSA, ev backend.Expire) {
	if c.ike == nil || c.ike.closed {
		return
	}
	if ev.Hard {
		s.start(c.ike, ikev2.DeleteChild{SPI: c.child.SPIIn, Expired: true})
		return
	}
	s.start(c.ike, ikev2.RekeyChild{SPI: c.child.SPIIn})
}

// saHeap orders SAs by deadline.
type saHeap []*ikeSA

func (h saHeap) Len() int           { return len(h) }
func (h saHeap) Less(i, j int) bool { return h[i].deadline.Before(h[j].deadline) }
func (h saHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *saHeap) Push(v any) {
	x := v.(*ikeSA)
	x.index = len(*h)
	*h = append(*h, x)
}

func (h *saHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	old[len(old)-1] = nil
	x.index = -1
	*h = old[:len(old)-1]
	return x
}
