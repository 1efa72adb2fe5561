package engine

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"time"

	"iked/conf"
	"iked/internal/backend"
	"iked/spd"
)

// Stats is the state of the daemon in numbers.
type Stats struct {
	Started                   time.Time
	IKESAs, HalfOpen          int
	Shards, Workers, Queued   int // Queued: datagrams that wait
	Connections               int
	MemoryInUse, MemoryFromOS uint64 // octets
	Goroutines                int
	Backend                   backend.Info
	BackendWhy                string // half a sentence
}

// Version is the version of the program.
func (e *Engine) Version() string { return e.opt.Version }

// Stats takes the numbers.
func (e *Engine) Stats() Stats {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := Stats{
		Started: e.started, IKESAs: int(e.ikeCount.Load()), Shards: len(e.shards), Workers: e.opt.Workers,
		Connections: len(e.config.Load().order), MemoryInUse: m.HeapAlloc, MemoryFromOS: m.Sys,
		Goroutines: runtime.NumGoroutine(), Backend: e.opt.Backend.Describe(), BackendWhy: e.opt.Why,
	}
	s.HalfOpen = e.gate.half.size()
	for _, sh := range e.shards {
		s.Queued += sh.box.length()
	}
	return s
}

// Counters are the 21 counters of the control protocol, in its order. all lists
// those of every connection, in order of their names, without the total; name
// "" is the total.
func (e *Engine) Counters(name string, all bool) ([]CounterSet, error) {
	if all {
		e.connCount.mu.RLock()
		defer e.connCount.mu.RUnlock()
		var out []CounterSet
		for n, s := range e.connCount.m {
			out = append(out, CounterSet{n, s.list()})
		}
		slices.SortFunc(out, func(a, b CounterSet) int { return cmp.Compare(a.Conn, b.Conn) })
		return out, nil
	}
	s, err := e.counterSet(name)
	if err != nil {
		return nil, err
	}
	return []CounterSet{{name, s.list()}}, nil
}

// CounterSet are the counters of one connection; Conn "" is the total.
type CounterSet struct {
	Conn     string
	Counters []Counter
}

func (e *Engine) counterSet(name string) (*counterSet, error) {
	if name == "" {
		return &e.total, nil
	}
	e.connCount.mu.RLock()
	defer e.connCount.mu.RUnlock()
	if s := e.connCount.m[name]; s != nil {
		return s, nil
	}
	return nil, errors.New("no counters found for this connection")
}

// ResetCounters sets them to zero, as Counters chooses them.
func (e *Engine) ResetCounters(name string, all bool) error {
	if all {
		e.connCount.mu.Lock()
		defer e.connCount.mu.Unlock()
		clear(e.connCount.m)
		return nil
	}
	s, err := e.counterSet(name)
	if err != nil {
		return err
	}
	s.reset()
	return nil
}

// Drops are the faults and drops by reason, of the engine and, with the prefix
// "backend.", of the backend.
func (e *Engine) Drops() map[string]uint64 {
	out := e.drops.snapshot()
	if out == nil {
		out = make(map[string]uint64)
	}
	for k, n := range e.opt.Backend.Counters() {
		out["backend."+k] = n
	}
	if k := e.kerberos.Load(); k != nil {
		if c, ok := k.use.(interface{ Panics() uint64 }); ok && c.Panics() > 0 {
			out["kerberos-panic"] = c.Panics()
		}
	}
	return out
}

// ConnInfo is a configured connection and how it does.
type ConnInfo struct {
	Conf *conf.Connection
	// VICI tells that it came over the control protocol, not from the file.
	VICI     bool
	Up       int // IKE SAs that are up
	Trying   bool
	Failures int       // attempts in a row that failed
	NextTry  time.Time // zero: none is planned
	// KM is where its negotiations begin, as a mobility manager told; nil: it told
	// nothing, or the packet says which of many peers it is about.
	KM       *KMAddress
	Children []ChildConnInfo
}

// ChildConnInfo is a configured child and how it does.
type ChildConnInfo struct {
	Conf *conf.Child
	Up   int
	// Wanted: it is to be up. Held: an operator took it down.
	Wanted, Held bool
}

// ListConns lists the configured connections, all or the one named.
func (e *Engine) ListConns(ctx context.Context, name string) ([]ConnInfo, error) {
	var out []ConnInfo
	err := e.sup.wait(ctx, func() {
		for _, prog := range e.config.Load().order {
			if name != "" && prog.conf.Name != name {
				continue
			}
			i := ConnInfo{Conf: prog.conf, VICI: prog.vici, KM: e.kmAddress(prog.conf, nil)}
			c := e.sup.conns[prog.conf.Name]
			i.Up = e.sup.index.byConn[prog.conf.Name]
			if c != nil {
				i.Trying, i.Failures = c.attempt != nil, c.failures
				if c.timer != nil {
					i.NextTry = c.started
				}
				for _, n := range c.order {
					k := c.kids[n]
					i.Children = append(i.Children, ChildConnInfo{Conf: k.conf, Up: len(k.live), Held: k.held,
						Wanted: !k.held && (k.always || k.tries != 0)})
				}
			}
			out = append(out, i)
		}
	})
	return out, err
}

// PolicyInfo is a policy that stands while its configuration is loaded.
type PolicyInfo struct {
	IKE, Child string
	Action     spd.Action
	Mode       spd.Mode
	ReqID      uint32
	// Trap: a packet that matches asks for the tunnel. Without, a Protect policy
	// only holds back what must not go in clear.
	Trap          bool
	Serving       int // CHILD_SAs
	Local, Remote []spd.TS
	// IfID, Mark and MarkIn are what it is bound to; 0: none.
	IfID         uint32
	Mark, MarkIn spd.Mark
}

// ListPolicies lists the standing policies: traps first, then shunts.
func (e *Engine) ListPolicies() []PolicyInfo {
	p := e.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []PolicyInfo
	for _, s := range p.sets {
		if !s.standing {
			continue
		}
		out = append(out, PolicyInfo{IKE: s.owner.conn, Child: s.owner.child, Action: s.action, Mode: s.now.mode,
			ReqID: s.reqid, Trap: s.acquire, Serving: s.sas, Local: slices.Clone(s.local), Remote: slices.Clone(s.remote),
			IfID: s.key.bind.ifID, Mark: s.key.bind.mark, MarkIn: s.key.bind.markIn})
	}
	for _, x := range p.house.entries {
		if x.id != 0 {
			out = append(out, PolicyInfo{Child: "bypass-" + x.name, Action: spd.Bypass, Local: slices.Clone(x.local), Remote: slices.Clone(x.remote)})
		}
	}
	slices.SortFunc(out, func(a, b PolicyInfo) int {
		return cmp.Or(cmp.Compare(b.Action, a.Action), cmp.Compare(a.IKE, b.IKE), cmp.Compare(a.Child, b.Child), cmp.Compare(a.ReqID, b.ReqID))
	})
	return out
}
