package engine

import (
	"maps"
	"sync"
	"sync/atomic"
)

// counterNames are the counters of the control protocol in its order.
var counterNames = [...]string{
	"ike-rekey-init", "ike-rekey-resp", "child-rekey", "invalid", "invalid-spi",
	"ike-init-in-req", "ike-init-in-resp", "ike-init-out-req", "ike-init-out-resp",
	"ike-auth-in-req", "ike-auth-in-resp", "ike-auth-out-req", "ike-auth-out-resp",
	"create-child-in-req", "create-child-in-resp", "create-child-out-req", "create-child-out-resp",
	"info-in-req", "info-in-resp", "info-out-req", "info-out-resp",
}

// Indexes into a counterSet.
const (
	cIKERekeyInit = iota
	cIKERekeyResp
	cChildRekey
	cInvalid
	cInvalidSPI
	cIKEInitInReq
	_
	_
	cIKEInitOutResp
	nCounters = len(counterNames)
)

// Counter is one counter with its name.
type Counter struct {
	Name  string
	Value uint64
}

// counterSet holds the 21 counters of one connection or of the whole engine.
type counterSet [nCounters]atomic.Uint64

func (s *counterSet) list() []Counter {
	out := make([]Counter, nCounters)
	for i := range out {
		out[i] = Counter{counterNames[i], s[i].Load()}
	}
	return out
}

func (s *counterSet) reset() {
	for i := range s {
		s[i].Store(0)
	}
}

// counterIndex finds a counter by name; -1: there is none.
func counterIndex(name string) int {
	for i, n := range counterNames {
		if n == name {
			return i
		}
	}
	return -1
}

// reasons counts drops and errors by a label. Labels come from the program, not
// from peers; the cap holds should that ever be wrong.
type reasons struct {
	mu sync.Mutex
	m  map[string]uint64
}

const maxReasons = 512

func (r *reasons) add(label string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = make(map[string]uint64)
	}
	if _, ok := r.m[label]; !ok && len(r.m) >= maxReasons {
		label = "other"
	}
	r.m[label]++
}

func (r *reasons) snapshot() map[string]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.m)
}

// connCounters are the counter sets of connections.
type connCounters struct {
	mu sync.RWMutex
	m  map[string]*counterSet
}

func (c *connCounters) get(conn string) *counterSet {
	if conn == "" {
		return nil
	}
	c.mu.RLock()
	s := c.m[conn]
	c.mu.RUnlock()
	if s != nil {
		return s
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[string]*counterSet)
	}
	if c.m[conn] == nil {
		c.m[conn] = new(counterSet)
	}
	return c.m[conn]
}

// countConn counts for a connection and in total.
func (e *Engine) countConn(conn string, i int) {
	e.total[i].Add(1)
	if s := e.connCount.get(conn); s != nil {
		s[i].Add(1)
	}
}
