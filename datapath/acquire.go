package datapath

import (
	"bytes"
	"sync"
	"time"

	"iked/internal/backend"
	"iked/spd"
)

// Limits of what waits for an SA.
const (
	acquireTimeout = 10 * time.Second
	holdOctets     = 128 << 10 // for each policy
	maxAcquires    = 1024      // policies at a time
)

// acquires remembers for which policies an SA was asked for, and holds the
// first frames of their traffic.
type acquires struct {
	mu      sync.Mutex
	frames  int                 // that are held for each policy
	pending map[uint64]*acquire // by policy
}

type acquire struct {
	reqID  uint32
	since  time.Time
	frames [][]byte
	octets int
}

func (a *acquires) init(frames int) {
	a.frames, a.pending = frames, map[uint64]*acquire{}
}

// add takes a frame that cannot be sent; nil: it was sent in clear. ask tells that this is the first, so
// that an event is due; held that the frame is kept.
func (a *acquires) add(p *spd.Policy, frame []byte, now time.Time) (ask, held bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.pending[p.ID]
	if q == nil {
		if len(a.pending) >= maxAcquires {
			return false, false
		}
		q = &acquire{reqID: p.ReqID, since: now}
		a.pending[p.ID] = q
		ask = true
	}
	if frame != nil && len(q.frames) < a.frames && q.octets+len(frame) <= holdOctets {
		q.frames = append(q.frames, bytes.Clone(frame))
		q.octets += len(frame)
		held = true
	}
	return ask, held
}

// take gives back what waited for SAs of a ReqID.
func (a *acquires) take(reqID uint32) (frames [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.pending {
		if q.reqID == reqID {
			frames = append(frames, q.frames...)
			delete(a.pending, id)
		}
	}
	return frames
}

// forget drops what waited for a policy that is gone, and what waited in vain.
func (a *acquires) forget(policy uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.pending[policy]
	delete(a.pending, policy)
	if q == nil {
		return 0
	}
	return len(q.frames)
}

func (a *acquires) expire(now time.Time) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.pending {
		if now.Sub(q.since) >= acquireTimeout {
			lost += len(q.frames)
			delete(a.pending, id)
		}
	}
	return lost
}

// miss handles a frame of a Protect policy that no SA serves.
func (w *outWorker) miss(p *spd.Policy, flow *spd.Flow, frame []byte) {
	d := w.d
	if p.FailOpen {
		if p.Acquire && !w.releasing {
			if ask, _ := d.acquires.add(p, nil, d.now()); ask {
				w.ask(p, flow)
			}
		}
		w.c.n[outFailOpen].Add(1)
		w.clear()
		return
	}
	if !p.Acquire || w.releasing {
		w.c.n[outNoSA].Add(1)
		return
	}
	ask, held := d.acquires.add(p, frame, d.now())
	if ask && !w.ask(p, flow) {
		held = false
	}
	if held {
		w.c.n[outHeld].Add(1)
	} else {
		w.c.n[outNoSA].Add(1)
	}
}

// ask tells that a policy wants an SA. False: nobody heard it, and the next packet
// asks again.
func (w *outWorker) ask(p *spd.Policy, flow *spd.Flow) bool {
	if w.d.events.emit(backend.Acquire{Policy: p.ID, ReqID: p.ReqID, Flow: *flow}) {
		return true
	}
	w.c.n[eventsLost].Add(1)
	w.d.acquires.forget(p.ID)
	return false
}

// release sends what waited for an SA.
func (d *Datapath) release(reqID uint32) {
	frames := d.acquires.take(reqID)
	if len(frames) == 0 {
		return
	}
	d.slowMu.Lock()
	defer d.slowMu.Unlock()
	d.slow.releasing = true
	defer func() { d.slow.releasing = false }()
	for _, f := range frames {
		d.slow.safe(f)
		d.slow.flush()
	}
}
