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
	maxAcquires    = 1024      // questions at a time
)

// acquires remembers for what an SA was asked for, and holds the first frames of
// that traffic.
type acquires struct {
	mu      sync.Mutex
	frames  int // that are held for each question
	pending map[question]*acquire
}

// question is what an SA is asked for: a policy, and what tells its SAs apart.
type question struct {
	policy uint64
	flow   spd.Flow // the selectors with a PFP flag, else zero
}

// ask is the question that a packet of a policy puts (RFC 4301, Section 4.4.1.2:
// each value of a selector with the PFP flag has an SA of its own).
func ask(p *spd.Policy, f *spd.Flow) question { return question{policy: p.ID, flow: p.PFP.Key(f)} }

type acquire struct {
	reqID uint32
	// pfp tells that the SA will come with another ReqID and an entry that has flow,
	// that of the first frame.
	pfp    bool
	flow   spd.Flow
	since  time.Time
	frames [][]byte
	octets int
}

func (a *acquires) init(frames int) {
	a.frames, a.pending = frames, map[question]*acquire{}
}

// add takes a frame that cannot be sent; nil: it was sent in clear. first tells
// that nothing like it was asked for yet, so that an event is due; held that the
// frame is kept.
func (a *acquires) add(p *spd.Policy, f *spd.Flow, frame []byte, now time.Time) (first, held bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := ask(p, f)
	q := a.pending[key]
	if q == nil {
		if len(a.pending) >= maxAcquires {
			return false, false
		}
		q = &acquire{reqID: p.ReqID, pfp: p.PFP != 0, flow: *f, since: now}
		a.pending[key] = q
		first = true
	}
	if frame != nil && len(q.frames) < a.frames && q.octets+len(frame) <= holdOctets {
		q.frames = append(q.frames, bytes.Clone(frame))
		q.octets += len(frame)
		held = true
	}
	return first, held
}

// take gives back what waited for SAs of a ReqID.
func (a *acquires) take(reqID uint32) (frames [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.pending {
		if !q.pfp && q.reqID == reqID {
			frames = append(frames, q.frames...)
			delete(a.pending, id)
		}
	}
	return frames
}

// populated gives questions of an entry with PFP flags the ReqID of the entry that
// was made for their flow, and tells whether there are some.
func (a *acquires) populated(p *spd.Policy) (waiting bool) {
	if p.Action != spd.Protect || p.PFP != 0 {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, q := range a.pending {
		if q.pfp && q.flow.Match(p.Local, p.Remote) {
			q.pfp, q.reqID, waiting = false, p.ReqID, true
		}
	}
	return waiting
}

// forget drops what waited for a policy that is gone.
func (a *acquires) forget(policy uint64) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, q := range a.pending {
		if key.policy == policy {
			lost += len(q.frames)
			delete(a.pending, key)
		}
	}
	return lost
}

// unasked takes back a question that nobody heard, with the frame that put it.
func (a *acquires) unasked(key question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.pending, key)
}

// failed drops what waits for an answer that will not come, and keeps the question
// from being put again before retry is over.
func (a *acquires) failed(policy uint64, f *spd.Flow, now time.Time, retry time.Duration) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, q := range a.pending {
		if key.policy != policy || key.flow != (spd.Flow{}) && q.flow != *f {
			continue
		}
		lost += len(q.frames)
		if retry <= 0 {
			delete(a.pending, key)
			continue
		}
		q.frames, q.octets, q.since = nil, holdOctets, now.Add(retry-acquireTimeout)
	}
	return lost
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
			if first, _ := d.acquires.add(p, flow, nil, d.now()); first {
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
	first, held := d.acquires.add(p, flow, frame, d.now())
	if first && !w.ask(p, flow) {
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
	if w.d.events.Emit(backend.Acquire{Policy: p.ID, ReqID: p.ReqID, Flow: *flow}) {
		return true
	}
	w.c.n[eventsLost].Add(1)
	w.d.acquires.unasked(ask(p, flow))
	return false
}

// AcquireFailed implements backend.AcquireAnswerer.
func (d *Datapath) AcquireFailed(policy uint64, flow spd.Flow, retry time.Duration) {
	d.lost(d.acquires.failed(policy, &flow, d.now(), retry))
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
