// Package fake is a backend in memory for the tests of what drives a backend:
// it keeps the SAD and the SPD as a real one would, carries no packet, records
// every call, fails on demand and emits the events that a test injects.
package fake

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"iked/crypto/suite"
	"iked/internal/backend"
	"iked/sad"
	"iked/spd"
)

// Names of the operations, for Call.Op and FailNext.
const (
	OpAllocSPI      = "AllocSPI"
	OpFreeSPI       = "FreeSPI"
	OpAddSA         = "AddSA"
	OpUpdateSA      = "UpdateSA"
	OpDeleteSA      = "DeleteSA"
	OpQuerySA       = "QuerySA"
	OpApplyPolicies = "ApplyPolicies"
	OpAddAddress    = "AddAddress"
	OpRemoveAddress = "RemoveAddress"
	OpAcquireFailed = "AcquireFailed"
)

// Call is one call of the backend, in order.
type Call struct {
	Op     string
	ID     sad.ID       // AddSA, UpdateSA, DeleteSA, QuerySA; AllocSPI and FreeSPI fill Proto, SPI, Dst
	SA     *sad.SA      // AddSA: a copy that keeps its keys
	Move   backend.Move // UpdateSA
	Remove []uint64     // ApplyPolicies
	Add    []spd.Policy // ApplyPolicies
	Prefix netip.Prefix // AddAddress, RemoveAddress
	Err    error        // what was returned
}

// eventRoom is how many events wait for a reader.
const eventRoom = 4096

// Backend is the fake; make it with New. All methods are safe for concurrent
// use.
type Backend struct {
	mu       sync.Mutex
	sas      map[sad.ID]*sad.SA
	order    []sad.ID // by AddSA
	usage    map[sad.ID]sad.Usage
	reserved map[spiKey]bool
	policies []spd.Policy // in order of addition
	addrs    map[netip.Prefix]int
	calls    []Call
	failed   []Failure
	taken    []spd.Flow
	fail     map[string][]error
	nextSPI  uint32
	info     backend.Info
	counters map[string]uint64
	events   chan backend.Event
	closed   bool
}

type spiKey struct {
	proto suite.Protocol
	spi   uint32
}

var (
	_ backend.Backend          = (*Backend)(nil)
	_ backend.AddressInstaller = (*Backend)(nil)
	_ backend.AcquireAnswerer  = (*Backend)(nil)
	_ backend.AcquireTaker     = (*Backend)(nil)
)

// New makes a fake that supports everything.
func New() *Backend {
	return &Backend{
		sas:      map[sad.ID]*sad.SA{},
		usage:    map[sad.ID]sad.Usage{},
		reserved: map[spiKey]bool{},
		addrs:    map[netip.Prefix]int{},
		fail:     map[string][]error{},
		counters: map[string]uint64{},
		nextSPI:  0xc0000001,
		events:   make(chan backend.Event, eventRoom),
		info: backend.Info{Name: "userspace", Detail: "fake, in memory",
			Supports: func(p suite.Protocol, m spd.Mode, _, _ suite.Transform, _ bool) (bool, string) {
				return p != suite.ProtoIPComp || m != spd.BEET, "compression is for tunnel and transport mode"
			}},
	}
}

// FailNext makes the next call of op fail with err; several calls queue up.
func (b *Backend) FailNext(op string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fail[op] = append(b.fail[op], err)
}

// SetInfo replaces what Describe answers.
func (b *Backend) SetInfo(i backend.Info) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.info = i
}

// SetUsage sets what QuerySA answers for an SA.
func (b *Backend) SetUsage(id sad.ID, u sad.Usage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usage[id] = u
}

// SetCounter sets one counter.
func (b *Backend) SetCounter(name string, n uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.counters[name] = n
}

// Emit delivers an event as if packets or time had caused it. It panics when
// nobody reads: a test that loses an event proves nothing.
func (b *Backend) Emit(e backend.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	select {
	case b.events <- e:
	default:
		panic(fmt.Sprintf("fake backend: %d events wait and nobody reads them", eventRoom))
	}
}

// Acquire emits the event for a policy.
func (b *Backend) Acquire(policy uint64, reqID uint32, flow spd.Flow) {
	b.Emit(backend.Acquire{Policy: policy, ReqID: reqID, Flow: flow})
}

// Expire emits the event for an installed SA, with its owner; why is "time",
// "bytes" or "packets". It tells whether the SA exists.
func (b *Backend) Expire(id sad.ID, hard bool, why string) bool {
	sa, ok := b.SA(id)
	if ok {
		b.Emit(backend.Expire{ID: id, Owner: sa.Owner, Hard: hard, Why: why})
	}
	return ok
}

// Failure is an answer to an Acquire.
type Failure struct {
	Policy uint64
	Flow   spd.Flow
	Retry  time.Duration
}

// Failed are the answers that no SA can be had, in order.
func (b *Backend) Failed() []Failure {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.failed)
}

// Taken are the flows of policies of others that are answered, in order.
func (b *Backend) Taken() []spd.Flow {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.taken)
}

// SA is the installed SA with this ID.
func (b *Backend) SA(id sad.ID) (sad.SA, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sa := b.sas[id]; sa != nil {
		return *sa, true
	}
	return sad.SA{}, false
}

// SAs are the installed SAs in the order in which they were added.
func (b *Backend) SAs() []sad.SA {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]sad.SA, 0, len(b.order))
	for _, id := range b.order {
		out = append(out, *b.sas[id])
	}
	return out
}

// Policies are the installed policies as they are looked up: by priority, then
// in order of addition.
func (b *Backend) Policies() []spd.Policy {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := slices.Clone(b.policies)
	slices.SortStableFunc(out, func(x, y spd.Policy) int { return int(int64(x.Priority) - int64(y.Priority)) })
	return out
}

// Reserved is the number of SPIs that were allocated and neither used nor freed.
func (b *Backend) Reserved() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.reserved)
}

// Addresses are the virtual addresses that are installed.
func (b *Backend) Addresses() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.SortedFunc(maps.Keys(b.addrs), func(x, y netip.Prefix) int { return x.Addr().Compare(y.Addr()) })
}

// Calls are all calls so far.
func (b *Backend) Calls() []Call {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.calls)
}

// ResetCalls forgets the calls so far.
func (b *Backend) ResetCalls() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.calls = nil
}

// Closed tells whether Close was called.
func (b *Backend) Closed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}
