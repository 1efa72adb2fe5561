package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/migrate"
	"iked/sad"
	"iked/spd"
)

// SAs keyed by hand follow a MIGRATE as CHILD_SAs do, and the policies put in by hand
// with them. What belongs together is what has a request id, a protocol and a mode in
// common and stands between the same two ends: both directions, an SA and its successor,
// the policies that they serve. It moves together, so that an event about one direction
// is about the other one, too.

// staticGroup is what SAs and templates of policies have in common.
type staticGroup struct {
	proto uint8
	mode  spd.Mode
	reqid uint32
}

// staticMove is that a group went from one pair of ends to another.
type staticMove struct {
	group    staticGroup
	from, to migrate.Ends
}

// staticMoves are those that were told and not done yet, in their order.
type staticMoves struct {
	list  []staticMove
	timer *time.Timer
}

// after are the ends of something when all that was told is done.
func (m *staticMoves) after(g staticGroup, e migrate.Ends) migrate.Ends {
	for _, x := range m.list {
		if x.group == g && x.from == e {
			e = x.to
		}
	}
	return e
}

func groupOfSA(sa *sad.SA) staticGroup {
	g := staticGroup{50, sa.Mode, sa.ReqID}
	if sa.Proto == suite.ProtoAH {
		g.proto = protoAH
	}
	return g
}

func endsOfSA(sa *sad.SA) migrate.Ends {
	if sa.Dir == sad.In {
		return migrate.Ends{Local: sa.Dst, Remote: sa.Src}
	}
	return migrate.Ends{Local: sa.Src, Remote: sa.Dst}
}

// templates calls f with each step of protection of a policy that has outer addresses,
// which f may change.
func templates(p *spd.Policy, f func(g staticGroup, local, remote *netip.Addr)) {
	if p.Action != spd.Protect {
		return
	}
	if p.OuterLocal.IsValid() && p.OuterRemote.IsValid() {
		proto := p.Proto
		if proto == 0 {
			proto = 50
		}
		f(staticGroup{proto, p.Mode, p.ReqID}, &p.OuterLocal, &p.OuterRemote)
	}
	for i := range p.Bundle {
		if t := &p.Bundle[i]; t.Local.IsValid() && t.Remote.IsValid() {
			f(staticGroup{t.Proto, t.Mode, t.ReqID}, &t.Local, &t.Remote)
		}
	}
}

// relocate notes what follows for SAs and policies, and does it: at once, or when nothing
// more was told for a while, as for CHILD_SAs. It tells how many SAs move.
func (s *statics) relocate(r *relocation) (sas int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var state migrate.State
	var groups []staticGroup
	item := func(g staticGroup, e migrate.Ends, local, remote []spd.TS, spis ...migrate.SAs) {
		e = s.moves.after(g, e)
		state.Children = append(state.Children, migrate.Child{ID: uint64(len(groups)), Proto: g.proto, Mode: g.mode, ReqID: g.reqid,
			In: migrate.Pair{Src: e.Remote, Dst: e.Local}, Out: migrate.Pair{Src: e.Local, Dst: e.Remote}, Local: local, Remote: remote, SAs: spis})
		groups = append(groups, g)
	}
	for _, sa := range s.sas {
		if sa.Dst.IsMulticast() {
			continue // a group is nobody who moves
		}
		g := groupOfSA(sa)
		spis := migrate.SAs{Proto: g.proto, Out: sa.SPI}
		if sa.Dir == sad.In {
			spis = migrate.SAs{Proto: g.proto, In: sa.SPI}
		}
		item(g, endsOfSA(sa), sa.Local, sa.Remote, spis)
	}
	for _, p := range s.policies {
		whole := *p
		templates(&whole, func(g staticGroup, local, remote *netip.Addr) {
			item(g, migrate.Ends{Local: *local, Remote: *remote}, p.Local, p.Remote)
		})
	}
	plan := r.plan(&state)
	var fresh []staticMove
	for _, m := range plan.Children {
		c := &state.Children[m.ID]
		x := staticMove{groups[m.ID], migrate.Ends{Local: c.Out.Src, Remote: c.Out.Dst}, migrate.Ends{Local: m.ToOut.Src, Remote: m.ToOut.Dst}}
		if !m.Out {
			x.to = migrate.Ends{Local: m.ToIn.Dst, Remote: m.ToIn.Src}
		}
		if !slices.ContainsFunc(fresh, func(y staticMove) bool { return y.group == x.group && y.from == x.from }) {
			fresh = append(fresh, x)
		}
	}
	if len(fresh) == 0 {
		return 0
	}
	for _, sa := range s.sas {
		g := groupOfSA(sa)
		e := s.moves.after(g, endsOfSA(sa))
		if slices.ContainsFunc(fresh, func(x staticMove) bool { return x.group == g && x.from == e }) {
			sas++
		}
	}
	s.moves.list = append(s.moves.list, fresh...)
	switch {
	case r.atOnce:
		s.settleMoves()
	case s.moves.timer == nil:
		s.moves.timer = time.AfterFunc(restTime, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.settleMoves()
		})
	default:
		s.moves.timer.Reset(restTime)
	}
	return sas
}

// settleMoves does what was told.
func (s *statics) settleMoves() {
	m := s.moves
	s.moves = staticMoves{}
	if m.timer != nil {
		m.timer.Stop()
	}
	warn := func(format string, args ...any) {
		s.log(trace.Record{At: time.Now(), Level: trace.Control, Group: trace.KNL, Warn: true, Msg: "static: " + fmt.Sprintf(format, args...)})
	}
	var list []*sad.SA
	for _, sa := range s.sas {
		list = append(list, sa)
	}
	for _, sa := range list {
		now := endsOfSA(sa)
		to := m.after(groupOfSA(sa), now)
		if to == now || sa.Dst.IsMulticast() {
			continue
		}
		mv := backend.Move{Src: to.Local, Dst: to.Remote, Encap: sa.Encap}
		if sa.Dir == sad.In {
			mv.Src, mv.Dst = mv.Dst, mv.Src
		}
		if err := s.move(sa, mv); err != nil {
			warn("%s %s is not moved to %v: %v; delete it and put it in anew", sa.Name, describeSA(sa.ID), mv.Dst, err)
		}
	}
	var changed []spd.Policy
	for _, p := range s.policies {
		next, moved := *p, false
		next.Bundle = slices.Clone(p.Bundle)
		templates(&next, func(g staticGroup, local, remote *netip.Addr) {
			now := migrate.Ends{Local: *local, Remote: *remote}
			to := m.after(g, now)
			moved = moved || to != now
			*local, *remote = to.Local, to.Remote
		})
		if moved {
			changed = append(changed, next)
		}
	}
	if len(changed) == 0 {
		return
	}
	if err := s.db.ApplyPolicies(nil, changed); err != nil {
		warn("policies do not follow the SAs that moved: %v", err)
		return
	}
	for i := range changed {
		s.policies[changed[i].Name] = &changed[i]
		s.say("policy %s follows the SAs that moved", changed[i].Name)
	}
}
