package engine

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"iked/crypto/aead"
	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/internal/trace"
	"iked/sad"
	"iked/spd"
)

// Numbers of what is keyed by hand, apart from those of what is negotiated.
const (
	firstStaticReqID  uint32 = 0x40000000
	firstStaticPolicy uint64 = 1 << 63
)

// Bounds on what an operator puts in by hand.
const (
	maxStaticSAs      = 4096
	maxStaticPolicies = 4096
)

// defaultStaticPriority is behind what a host needs to live on its link, and
// before most policies of children.
const defaultStaticPriority = 1000

// statics owns the SAs that were keyed by hand (RFC 4301, Section 4.5.1) and the
// policies that were put in by hand. No configuration and no peer touches them:
// they live until an operator or a lifetime ends them, or the daemon ends.
type statics struct {
	mu        sync.Mutex
	db        backend.Backend
	log       func(trace.Record)
	taken     func(reqid uint32) bool // by what is negotiated
	sas       map[sad.ID]*sad.SA
	order     map[*sad.SA]uint64 // in which they came: the newest of a reqid carries
	added     uint64
	policies  map[string]*spd.Policy
	moves     staticMoves
	nextReqID uint32
	nextID    uint64
}

func newStatics(e *Engine) *statics {
	return &statics{db: e.opt.Backend, log: e.log, taken: e.policies.taken, sas: map[sad.ID]*sad.SA{}, order: map[*sad.SA]uint64{}, policies: map[string]*spd.Policy{},
		nextReqID: firstStaticReqID, nextID: firstStaticPolicy}
}

// taken tells whether a reqid belongs to policies of the configuration.
func (p *policies) taken(reqid uint32) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inUse[reqid] > 0
}

// reqid checks a number that an operator chose.
func (s *statics) reqid(n uint32) error {
	switch {
	case n < firstStaticReqID:
		return fmt.Errorf("reqid %d is in the range of negotiated SAs, whose traffic it could take over; choose 0x%x or more, or leave it out", n, firstStaticReqID)
	case s.taken(n):
		return fmt.Errorf("reqid 0x%x belongs to a child of the configuration; choose another one", n)
	}
	return nil
}

// AddStaticSA installs an SA that is keyed by hand and tells its reqid: the one it
// names, or a new one. It takes over the keys.
func (e *Engine) AddStaticSA(sa *sad.SA) (reqid uint32, err error) {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil || e.down.Load() {
		return 0, errClosed
	}
	if len(s.sas) >= maxStaticSAs {
		return 0, fmt.Errorf("there are %d static SAs, and no more are kept; delete some, or let IKE make them", len(s.sas))
	}
	sa.Static, sa.Owner = true, 0
	if sa.Name == "" {
		sa.Name = "static"
	}
	if err := checkStatic(sa); err != nil {
		return 0, err
	}
	if s.sas[sa.ID] != nil {
		return 0, fmt.Errorf("the static SA %s exists; delete it first", describeSA(sa.ID))
	}
	if sa.ReqID == 0 {
		for sa.ReqID = s.nextReqID; s.taken(sa.ReqID) || s.uses(sa.ReqID); sa.ReqID++ {
		}
		s.nextReqID = sa.ReqID + 1
	} else if err := s.reqid(sa.ReqID); err != nil {
		return 0, err
	}
	if err := s.db.AddSA(sa); err != nil {
		return 0, err
	}
	s.sas[sa.ID] = sa
	s.added++
	s.order[sa] = s.added
	s.say("added %s %s, reqid 0x%x", sa.Name, describeSA(sa.ID), sa.ReqID)
	if sa.Dir == sad.Out && sa.Proto == suite.ProtoESP && (sa.Encr.AEAD() || sa.Encr.ID == suite.EncrAESCTR) {
		// RFC 8221, Section 3: an IV that comes again under the same key reveals the text.
		s.log(trace.Record{Level: trace.Control, Group: trace.KNL, Warn: true, Msg: fmt.Sprintf("static: %s %s uses %v, a counter mode: never put this key in again, also not after a restart (RFC 8221, Section 3)", sa.Name, describeSA(sa.ID), sa.Encr)})
	}
	return sa.ReqID, nil
}

func (s *statics) uses(reqid uint32) bool {
	for _, sa := range s.sas {
		if sa.ReqID == reqid {
			return true
		}
	}
	for _, p := range s.policies {
		if p.ReqID == reqid || slices.ContainsFunc(p.Bundle, func(t spd.Template) bool { return t.ReqID == reqid }) {
			return true
		}
	}
	return reqid < firstStaticReqID
}

// checkStatic refuses what cannot protect before a backend sees it: keys of a
// wrong length above all, which nobody negotiated.
func checkStatic(sa *sad.SA) error {
	if err := backend.CheckSA(sa); err != nil {
		return err
	}
	if sa.Proto != suite.ProtoESP {
		if sa.EncrKey.Len() != 0 {
			return errors.New("AH does not encrypt: leave encr_key out")
		}
		if sa.IntegKey.Len() == 0 {
			return errors.New("integ_key is missing: AH without a key authenticates nothing")
		}
		return nil
	}
	encr, integ, err := aead.KeyLens(sa.Encr, sa.Integ)
	if err != nil {
		return err
	}
	if n := sa.EncrKey.Len(); n != encr {
		return fmt.Errorf("encr_key has %d octets, %v needs %d, the salt or nonce as the last ones included", n, sa.Encr, encr)
	}
	if n := sa.IntegKey.Len(); n != integ {
		return fmt.Errorf("integ_key has %d octets, %v needs %d", n, sa.Integ, integ)
	}
	return nil
}

func describeSA(id sad.ID) string {
	dir := "in"
	if id.Dir == sad.Out {
		dir = "out"
	}
	return fmt.Sprintf("%s %v SPI 0x%08x to %v", dir, id.Proto, id.SPI, id.Dst)
}

func (s *statics) say(format string, args ...any) {
	s.log(trace.Record{Level: trace.Control, Group: trace.KNL, Msg: "static: " + fmt.Sprintf(format, args...)})
}

// StaticSelector chooses static SAs: what is zero fits everything.
type StaticSelector struct {
	Dir   sad.Direction
	Proto suite.Protocol
	SPI   uint32
	Dst   netip.Addr
}

// one is the only SA that fits.
func (s *statics) one(sel StaticSelector) (*sad.SA, error) {
	var found *sad.SA
	for id, sa := range s.sas {
		if sel.Dir != 0 && sel.Dir != id.Dir || sel.Proto != 0 && sel.Proto != id.Proto || sel.SPI != id.SPI || sel.Dst.IsValid() && sel.Dst != id.Dst {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("more than one static SA has SPI 0x%08x; say which with dir, proto and dst", sel.SPI)
		}
		found = sa
	}
	if found == nil {
		return nil, fmt.Errorf("no static SA has SPI 0x%08x and what else was asked for", sel.SPI)
	}
	return found, nil
}

// UpdateStaticSA changes the outer addresses and ports of a static SA. An invalid
// address of m stays as it is; encapsulation is what m says.
func (e *Engine) UpdateStaticSA(sel StaticSelector, m backend.Move) error {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	sa, err := s.one(sel)
	if err != nil {
		return err
	}
	if !m.Src.IsValid() {
		m.Src = sa.Src
	}
	if !m.Dst.IsValid() {
		m.Dst = sa.Dst
	}
	return s.move(sa, m)
}

// move changes the outside of an SA.
func (s *statics) move(sa *sad.SA, m backend.Move) error {
	id, err := s.db.UpdateSA(sa.ID, m)
	if err != nil {
		return err
	}
	delete(s.sas, sa.ID)
	sa.ID, sa.Src, sa.Encap = id, m.Src, m.Encap
	s.sas[id] = sa
	s.say("moved %s %s, from %v", sa.Name, describeSA(id), m.Src)
	return nil
}

// DeleteStaticSA removes the only static SA that fits.
func (e *Engine) DeleteStaticSA(sel StaticSelector) error {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	sa, err := s.one(sel)
	if err != nil {
		return err
	}
	return s.remove(sa, "deleted")
}

// remove ends an SA; one that the backend does not have any more is gone as well.
func (s *statics) remove(sa *sad.SA, why string) error {
	if err := s.db.DeleteSA(sa.ID); err != nil && !errors.Is(err, backend.ErrNotFound) {
		return err
	}
	delete(s.sas, sa.ID)
	delete(s.order, sa)
	sa.EncrKey.Destroy()
	sa.IntegKey.Destroy()
	s.say("%s %s %s", why, sa.Name, describeSA(sa.ID))
	return nil
}

// FlushStaticSAs removes all static SAs and tells how many.
func (e *Engine) FlushStaticSAs() (n int, err error) {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sa := range s.sas {
		if rerr := s.remove(sa, "deleted"); rerr != nil {
			err = errors.Join(err, rerr)
		} else {
			n++
		}
	}
	return n, err
}

// StaticSA is a static SA and what it has carried.
type StaticSA struct {
	sad.SA // without keys, unless they were asked for: then copies
	Usage  sad.Usage
}

// StaticSAs lists the static SAs in the order in which they came.
func (e *Engine) StaticSAs(keys bool) []StaticSA {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	all := slices.SortedFunc(maps.Values(s.sas), func(a, b *sad.SA) int { return cmp.Compare(s.order[a], s.order[b]) })
	out := make([]StaticSA, 0, len(all))
	for _, sa := range all {
		x := StaticSA{SA: *sa}
		x.EncrKey, x.IntegKey = x.EncrKey.Clone(), x.IntegKey.Clone()
		if !keys {
			x.EncrKey.Destroy()
			x.IntegKey.Destroy()
		}
		if u, err := s.db.QuerySA(sa.ID); err == nil {
			x.Usage = u
		}
		out = append(out, x)
	}
	return out
}

// AddStaticPolicy puts a policy in. Its name is unique among static policies.
func (e *Engine) AddStaticPolicy(p *spd.Policy) error {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.down.Load():
		return errClosed
	case p.Name == "":
		return errors.New("name is missing: a policy is deleted by its name")
	case s.policies[p.Name] != nil:
		return fmt.Errorf("the static policy %q exists; delete it first", p.Name)
	case len(s.policies) >= maxStaticPolicies:
		return fmt.Errorf("there are %d static policies, and no more are kept; one may have many selectors", len(s.policies))
	case p.Action == spd.Protect && p.ReqID == 0:
		return errors.New("reqid is missing: it says which SAs serve the policy, and `sa add` tells it")
	}
	if p.Action == spd.Protect {
		ids := []uint32{p.ReqID}
		for _, t := range p.Bundle {
			ids = append(ids, t.ReqID)
		}
		for _, id := range ids {
			if err := s.reqid(id); err != nil {
				return err
			}
		}
	}
	if p.Priority == 0 {
		p.Priority = defaultStaticPriority
	}
	p.ID = s.nextID
	if err := backend.CheckPolicy(p); err != nil {
		return err
	}
	if err := s.db.ApplyPolicies(nil, []spd.Policy{*p}); err != nil {
		return err
	}
	s.nextID++
	s.policies[p.Name] = p
	s.say("added policy %s", p.Name)
	s.warnShadowed()
	return nil
}

// maxRegions bounds the search for policies that are never used.
const maxRegions = 2000

// warnShadowed tells which static policies decide about nothing, because those
// before them have all their traffic. Where that would be long to find out,
// nothing is told.
func (s *statics) warnShadowed() {
	list := s.sorted()
	hidden, err := spd.Shadowed(list, maxRegions)
	if err != nil {
		return
	}
	for _, i := range hidden {
		s.log(trace.Record{Level: trace.Control, Group: trace.KNL, Warn: true, Msg: fmt.Sprintf("static: policy %s is never used: those before it have all its traffic; give it a lower priority number", list[i].Name)})
	}
}

// DeleteStaticPolicy removes a policy.
func (e *Engine) DeleteStaticPolicy(name string) error {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.policies[name]
	if p == nil {
		return fmt.Errorf("no static policy is called %q", name)
	}
	if err := s.db.ApplyPolicies([]uint64{p.ID}, nil); err != nil {
		return err
	}
	delete(s.policies, name)
	s.say("deleted policy %s", name)
	return nil
}

// FlushStaticPolicies removes all static policies in one step and tells how many.
func (e *Engine) FlushStaticPolicies() (int, error) {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flushPolicies()
}

func (s *statics) flushPolicies() (int, error) {
	var ids []uint64
	for _, p := range s.policies {
		ids = append(ids, p.ID)
	}
	if len(ids) == 0 {
		return 0, nil
	}
	if err := s.db.ApplyPolicies(ids, nil); err != nil {
		return 0, err
	}
	clear(s.policies)
	s.say("deleted %d policies", len(ids))
	return len(ids), nil
}

// StaticPolicies lists the static policies in the order in which they are looked
// at.
func (e *Engine) StaticPolicies() []spd.Policy {
	s := e.statics
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted()
}

func (s *statics) sorted() []spd.Policy {
	out := make([]spd.Policy, 0, len(s.policies))
	for _, p := range s.policies {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b spd.Policy) int { return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.ID, b.ID)) })
	return out
}

// expired takes the end of a lifetime (RFC 4301, Section 4.4.2.1). Nobody rekeys a
// static SA: a hard limit removes it, a soft one is said. False: it is not static.
func (s *statics) expired(ev backend.Expire) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sa := s.sas[ev.ID]
	switch {
	case sa == nil:
		return false
	case !ev.Hard:
		s.log(trace.Record{Level: trace.Control, Group: trace.KNL, Warn: true, Msg: fmt.Sprintf("static: %s %s is near the end of its lifetime in %s: put in its successor", sa.Name, describeSA(sa.ID), ev.Why)})
	default:
		if err := s.remove(sa, "lifetime in "+ev.Why+" is over, removed"); err != nil {
			s.log(trace.Record{Level: trace.Control, Group: trace.KNL, Warn: true, Msg: fmt.Sprintf("static: remove %s %s: %v", sa.Name, describeSA(sa.ID), err)})
		}
	}
	return true
}

// clear takes everything out at the end of the daemon: SAs first, so that what
// their policies protect is never let through.
func (s *statics) clear() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.moves.timer != nil {
		s.moves.timer.Stop()
	}
	s.moves = staticMoves{}
	var err error
	for _, sa := range s.sas {
		err = errors.Join(err, s.remove(sa, "deleted"))
	}
	_, perr := s.flushPolicies()
	return errors.Join(err, perr)
}
