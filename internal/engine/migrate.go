package engine

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"iked/conf"
	"iked/crypto/suite"
	"iked/ikev2"
	"iked/internal/trace"
	"iked/migrate"
)

// migrates remembers what was heard from the kernel by one of its ways.
type migrates struct {
	mu    sync.Mutex
	once  migrate.Once
	km    migrate.KMTable
	timer *time.Timer // nil: nothing waits for its twin
}

// hear tells whether an event counts now. What waits comes by overdue.
func (m *migrates) hear(ev *migrate.Event, overdue func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	counts := m.once.Hear(now, ev)
	if due := m.once.Due(); !due.IsZero() && m.timer == nil {
		m.timer = time.AfterFunc(due.Sub(now), overdue)
	}
	return counts
}

// late are the events that waited long enough.
func (m *migrates) late(overdue func()) []migrate.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	list := m.once.Overdue(now)
	m.timer = nil
	if due := m.once.Due(); !due.IsZero() {
		m.timer = time.AfterFunc(due.Sub(now), overdue)
	}
	return list
}

// moving is where a MIGRATE said that the SAs of a child are, direction by direction.
type moving struct {
	in, out migrate.Pair // invalid: not told
	timer   *time.Timer
}

// restTime is how long no event must come about a child before its move is complete. A
// mobility manager tells the kernel of one policy after the other, and each of them
// must still be as it was: what is put into the kernel before the last one is told of
// would make that one fail.
const restTime = 500 * time.Millisecond

// Migrate follows a MIGRATE: the SAs of a policy are at other addresses. What it is
// about is found by request id, mode, protocol and the addresses before, so events may
// come in any order and more than once.
func (e *Engine) Migrate(ctx context.Context, ev migrate.Event) (MigrateResult, error) {
	if err := ev.Check(); err != nil {
		return MigrateResult{}, err
	}
	if !e.migrates.hear(&ev, e.migrateLate) {
		return MigrateResult{}, nil
	}
	return e.follow(ctx, &ev)
}

// MigrateResult is what an event did: how many CHILD_SAs, IKE SAs and SAs keyed by hand
// go on elsewhere, and how many connections begin where it told (KMADDRESS).
// Unused tells why one of these connections does not begin there now; "": all do.
type MigrateResult struct {
	Children, IKEs, Static, Begin int
	Unused                        string
}

// migrateLate follows what PF_KEY alone told.
func (e *Engine) migrateLate() {
	for _, ev := range e.migrates.late(e.migrateLate) {
		if _, err := e.follow(e.ctx, &ev); err != nil && e.ctx.Err() == nil {
			e.warnf(trace.KNL, "%v", err)
		}
	}
}

// follow lets everybody plan and do what follows from an event.
func (e *Engine) follow(ctx context.Context, ev *migrate.Event) (MigrateResult, error) {
	begin, unused, err := e.followKM(ctx, ev)
	if err != nil {
		return MigrateResult{Begin: begin}, err
	}
	r, err := e.relocate(ctx, relocation{
		plan:   func(s *migrate.State) migrate.Plan { return migrate.Make(ev, s) },
		what:   fmt.Sprintf("MIGRATE of direction %v by %v", ev.Dir, ev.Source),
		atOnce: ev.Source == migrate.Control,
	})
	r.Begin, r.Unused = begin, unused
	return r, err
}

// MigrateSA follows the move of one SA; of several, each is told.
func (e *Engine) MigrateSA(ctx context.Context, ev migrate.Single) (MigrateResult, error) {
	if err := ev.Check(); err != nil {
		return MigrateResult{}, err
	}
	return e.relocate(ctx, relocation{
		plan: func(s *migrate.State) migrate.Plan { return migrate.MakeSingle(&ev, s) },
		what: fmt.Sprintf("the move of the SA with SPI 0x%08x", ev.SPI),
	})
}

// relocation is something that moves SAs.
type relocation struct {
	plan func(*migrate.State) migrate.Plan
	what string
	// atOnce: nobody but this daemon moves anything.
	atOnce bool
}

// relocate plans and does what follows for everything that there is.
func (e *Engine) relocate(ctx context.Context, of relocation) (r MigrateResult, err error) {
	for _, s := range e.shards {
		if err := s.wait(ctx, func(s *shard) {
			c, i := s.relocate(&of)
			r.Children, r.IKEs = r.Children+c, r.IKEs+i
		}); err != nil {
			return r, err
		}
	}
	r.Static = e.statics.relocate(&of)
	return r, nil
}

// relocate does so for the SAs of a shard: an IKE SA and its children are in the same
// one.
func (s *shard) relocate(r *relocation) (children, ikes int) {
	state := migrate.State{}
	for _, x := range s.all() {
		if !x.up || x.closed {
			continue
		}
		info := s.look(x)
		state.IKE = append(state.IKE, migrate.IKE{ID: uint64(x.id), Ends: migrate.Ends{Local: info.Local.Addr().Unmap(), Remote: info.Remote.Addr().Unmap()}})
		for id, c := range x.children {
			if c.ike == x && (c.in || c.out) {
				state.Children = append(state.Children, c.plan(uint64(id), uint64(x.id)))
			}
		}
	}
	plan := r.plan(&state)
	if plan.Empty() {
		return 0, 0
	}
	s.e.log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.KNL,
		Msg: fmt.Sprintf("%s: %d CHILD_SAs and %d IKE SAs go on at other addresses", r.what, len(plan.Children), len(plan.IKE))})
	for _, m := range plan.IKE {
		if x := s.sas[uint32(m.ID)]; x != nil {
			s.moveIKE(x, m.To)
		}
	}
	for _, m := range plan.Children {
		c := s.e.children.get(m.ID)
		if c == nil || c.shard != s {
			continue
		}
		if m.In {
			c.moving.in = m.ToIn
		}
		if m.Out {
			c.moving.out = m.ToOut
		}
		switch {
		case r.atOnce:
			s.settleMove(c)
		case c.moving.timer == nil:
			c.moving.timer = time.AfterFunc(restTime, func() { s.do(func(s *shard) { s.settleMove(c) }) })
		default:
			c.moving.timer.Reset(restTime)
		}
	}
	return len(plan.Children), len(plan.IKE)
}

// moveIKE lets an IKE SA go on between other addresses, and the peer know of it as the
// connection has it.
func (s *shard) moveIKE(x *ikeSA, to migrate.Ends) {
	how := conf.MobilityMOBIKE
	if x.cfg != nil {
		if c, ok := x.cfg.Ref.(*conf.Connection); ok {
			how = c.Mobility
		}
	}
	s.start(x, ikev2.Relocated{Local: to.Local, Remote: to.Remote, Tell: how == conf.MobilityMOBIKE})
	if id := x.id; how == conf.MobilityReauth {
		s.e.sup.post(func() {
			if known := s.e.sup.sas[id]; known != nil {
				s.e.sup.reauthDue(known.info)
			}
		})
	}
}

// plan is a child as the plan sees it: where it was told to be, or was put.
func (c *childSA) plan(id, ike uint64) migrate.Child {
	ch := c.child
	local, remote := ch.LocalAddr.Addr().Unmap(), ch.RemoteAddr.Addr().Unmap()
	p := migrate.Child{ID: id, IKE: ike, Proto: 50, Mode: ch.Mode, ReqID: c.reqid, ReqIDIn: c.reqidIn, Local: ch.Local, Remote: ch.Remote, Own: ch.OwnEnds,
		In: migrate.Pair{Src: remote, Dst: local}, Out: migrate.Pair{Src: local, Dst: remote}}
	if ch.Proto == suite.ProtoAH {
		p.Proto = protoAH
	}
	for _, x := range ch.Protocols() {
		n := uint8(50)
		if x.Proto == suite.ProtoAH {
			n = protoAH
		}
		p.SAs = append(p.SAs, migrate.SAs{Proto: n, In: x.SPIIn, Out: x.SPIOut})
	}
	if c.moving.in.Src.IsValid() {
		p.In = c.moving.in
	}
	if c.moving.out.Src.IsValid() {
		p.Out = c.moving.out
	}
	return p
}

// settleMove puts a child where it was told to be. When only one direction was told
// of, the other one follows it.
func (s *shard) settleMove(c *childSA) {
	m := c.moving
	c.moving = moving{}
	if m.timer != nil {
		m.timer.Stop()
	}
	var local, remote netip.Addr
	switch {
	case m.out.Src.IsValid():
		local, remote = m.out.Src, m.out.Dst
	case m.in.Src.IsValid():
		local, remote = m.in.Dst, m.in.Src
	default:
		return
	}
	if c.ike != nil && !c.ike.closed && (c.in || c.out) {
		s.start(c.ike, ikev2.ChildRelocated{SPI: c.child.SPIIn, Local: local, Remote: remote})
	}
}
