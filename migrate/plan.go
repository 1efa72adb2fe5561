package migrate

import (
	"slices"

	"iked/spd"
)

// Child is a CHILD_SA as the plan sees it.
type Child struct {
	ID    uint64 // the owner's name of it
	IKE   uint64 // of its IKE SA
	Proto uint8  // 50 ESP, 51 AH
	Mode  spd.Mode
	// ReqIDIn is that of the inbound SA, where it is another one.
	ReqID, ReqIDIn uint32
	// AnyReqID: they are not known yet.
	AnyReqID bool
	// SAs are its SPIs; a MIGRATE of policies names none.
	SAs []SAs
	// In and Out are the outer addresses of its two directions.
	In, Out       Pair
	Local, Remote []spd.TS
	// Own: its addresses are not those of IKE, and nothing moves them.
	Own bool
}

// IKE is an IKE SA as the plan sees it.
type IKE struct {
	ID uint64
	Ends
}

// State is what is there before an event.
type State struct {
	IKE      []IKE
	Children []Child
}

// ChildMove is a CHILD_SA that has other outer addresses from now on. In and Out
// tell which of its SAs move.
type ChildMove struct {
	ID      uint64
	In, Out bool
	// ToIn and ToOut are the addresses of both SAs after it.
	ToIn, ToOut Pair
}

// IKEMove is an IKE SA whose ends are at other addresses from now on. The ports
// stay.
type IKEMove struct {
	ID uint64
	To Ends
}

// Plan is what follows from an event.
type Plan struct {
	IKE      []IKEMove
	Children []ChildMove
}

// Empty tells that all is as the event says: it was heard before, or it is the
// echo of what was done here, or nothing here is concerned.
func (p *Plan) Empty() bool { return len(p.IKE) == 0 && len(p.Children) == 0 }

// Make plans what follows from an event. It is right for events in any order and
// any number of times: an SA moves when it stands where the entry says that it
// stood, and not when it is there already or somewhere else. A MIGRATE is about one
// direction, and so is what it moves of a CHILD_SA.
func Make(e *Event, s *State) Plan {
	var p Plan
	if e.Sub || e.Check() != nil {
		return p // the second SPD is nobody's here
	}
	var concerned []uint64 // IKE SAs that have SAs of the policy
	note := func(id uint64) {
		if !slices.Contains(concerned, id) {
			concerned = append(concerned, id)
		}
	}
	var from, guess Ends // of a tunnel, when IKE's are not told
	for i := range s.Children {
		c := &s.Children[i]
		m := ChildMove{ID: c.ID, ToIn: c.In, ToOut: c.Out}
		for _, x := range e.Entries {
			if !x.names(c, e.Dir) {
				continue
			}
			at, moves := &m.ToIn, &m.In
			if e.Dir == Out {
				at, moves = &m.ToOut, &m.Out
			}
			if c.Own || x.Mode == spd.Transport && x.Old.Unspecified() {
				// Mobile IPv6 says of SAs in transport mode that the node moved. They stay
				// between the home address and the home agent, whatever the entry says that
				// they moved from: at home, it says the home address. A home agent has the
				// same request id for all nodes, so that the selector tells which one it is.
				if e.has(c) {
					note(c.IKE)
				}
				continue
			}
			switch *at {
			case x.New:
				note(c.IKE)
				if e.Dir == Out {
					from, guess = e.Dir.ends(x.Old), e.Dir.ends(x.New)
				}
			case x.Old:
				note(c.IKE)
				*at, *moves = x.New, true
				if e.Dir == Out {
					from, guess = e.Dir.ends(x.Old), e.Dir.ends(x.New)
				}
			}
		}
		if m.In || m.Out {
			p.Children = append(p.Children, m)
		}
	}
	for _, k := range s.IKE {
		to := e.KM
		if !to.Local.IsValid() && k.Ends == from {
			to = guess // the tunnel was between the ends of the IKE SA
		}
		if to.Local.IsValid() && k.Ends != to && slices.Contains(concerned, k.ID) {
			p.IKE = append(p.IKE, IKEMove{k.ID, to})
		}
	}
	return p
}

// names tells whether an entry may be about the SAs of a CHILD_SA: by protocol,
// mode and request id. One without request id is about any.
func (x *Entry) names(c *Child, d Dir) bool {
	id := c.ReqID
	if d != Out && c.ReqIDIn != 0 {
		id = c.ReqIDIn
	}
	return x.Proto == c.Proto && x.Mode == c.Mode && (x.ReqID == 0 || x.ReqID == id || c.AnyReqID)
}

// About tells whether an event may be about the SAs of a child.
func (e *Event) About(c *Child) bool {
	return !e.Sub && slices.ContainsFunc(e.Entries, func(x Entry) bool { return x.names(c, e.Dir) }) && e.has(c)
}

// has tells whether the selector of the event's policy is about the traffic of a
// CHILD_SA.
func (e *Event) has(c *Child) bool {
	v := newKM(e)
	return v.meets(e.Dir, c)
}

// Apply is the state after a plan.
func (s *State) Apply(p *Plan) {
	for _, m := range p.Children {
		for i := range s.Children {
			if c := &s.Children[i]; c.ID == m.ID {
				c.In, c.Out = m.ToIn, m.ToOut
			}
		}
	}
	for _, m := range p.IKE {
		for i := range s.IKE {
			if s.IKE[i].ID == m.ID {
				s.IKE[i].Ends = m.To
			}
		}
	}
}
