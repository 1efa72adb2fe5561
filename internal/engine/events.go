package engine

import (
	"sync"
	"sync/atomic"
	"time"

	"iked/internal/trace"
)

// EventKind is a set of kinds of Event.
type EventKind uint16

// Kinds of events; they combine with |.
const (
	EventLog EventKind = 1 << iota
	EventIKEUpDown
	EventIKERekey
	EventIKEUpdate
	EventChildUpDown
	EventChildRekey
)

// Event is something that happened, for those who subscribed to its kind.
type Event struct {
	Kind EventKind
	At   time.Time
	// Up tells a coming from a going (EventIKEUpDown, EventChildUpDown).
	Up bool
	// SA is the IKE SA; its Children hold those concerned. For EventIKERekey it
	// is the old SA and New its successor. For EventIKEUpdate it has the old
	// addresses and New the new ones.
	SA, New *SAInfo
	// OldChild and NewChild are set for EventChildRekey.
	OldChild, NewChild *ChildInfo
	// Record is set for EventLog.
	Record trace.Record
	// Lost counts the events that this subscriber missed just before this one,
	// because it did not read fast enough.
	Lost uint64
}

// Subscription delivers events. A subscriber that does not keep up loses events
// and is told how many by the next one; it never holds up the engine.
type Subscription struct {
	C      <-chan Event
	c      chan Event
	kinds  EventKind
	filter func(*Event) bool
	lost   uint64
	bus    *bus
}

// Lost tells how many events were lost since the last one that was delivered.
func (s *Subscription) Lost() uint64 {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	return s.lost
}

// Close ends the subscription and closes C.
func (s *Subscription) Close() { s.bus.remove(s) }

// bus hands events to subscribers without ever waiting for one.
type bus struct {
	mu     sync.Mutex
	subs   []*Subscription
	wanted atomic.Uint32 // union of kinds, so that nobody builds what nobody reads
	closed bool
}

const (
	defaultEventBuffer = 256
	maxEventBuffer     = 1 << 16
)

func (b *bus) add(kinds EventKind, buffer int, filter func(*Event) bool) *Subscription {
	if buffer <= 0 {
		buffer = defaultEventBuffer
	}
	c := make(chan Event, min(buffer, maxEventBuffer))
	s := &Subscription{C: c, c: c, kinds: kinds, filter: filter, bus: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		close(c)
		return s
	}
	b.subs = append(b.subs, s)
	b.union()
	return s
}

func (b *bus) remove(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.subs {
		if x == s {
			b.subs = append(b.subs[:i], b.subs[i+1:]...)
			close(s.c)
			break
		}
	}
	b.union()
}

func (b *bus) union() {
	var k EventKind
	for _, s := range b.subs {
		k |= s.kinds
	}
	b.wanted.Store(uint32(k))
}

// wants tells whether anybody reads events of this kind.
func (b *bus) wants(k EventKind) bool { return EventKind(b.wanted.Load())&k != 0 }

func (b *bus) publish(ev Event) {
	if !b.wants(ev.Kind) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.subs {
		if s.kinds&ev.Kind == 0 || (s.filter != nil && !s.filter(&ev)) {
			continue
		}
		out := ev
		out.Lost = s.lost
		select {
		case s.c <- out:
			s.lost = 0
		default:
			s.lost++
		}
	}
}

// close ends all subscriptions.
func (b *bus) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, s := range b.subs {
		close(s.c)
	}
	b.subs = nil
	b.wanted.Store(0)
}

// Subscribe delivers events of the kinds given. buffer is how many wait for a
// slow reader before it loses some; 0 means 256. The caller must Close it.
func (e *Engine) Subscribe(kinds EventKind, buffer int) *Subscription {
	return e.bus.add(kinds, buffer, nil)
}
