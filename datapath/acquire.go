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
	holdOctets     = 128 << 10 // for each question
	holdTotal      = 8 << 20   // for all
	maxAcquires    = 16 << 10  // questions at a time
	// maxFlows is how many of them may be of one entry with PFP flags: whoever sends
	// to many addresses must not keep other entries from asking.
	maxFlows = 256
)

// acquires remembers for what an SA was asked for, and holds the first frames of
// that traffic.
type acquires struct {
	mu      sync.Mutex
	frames  int // that are held for each question
	pending map[question]*acquire
	of      map[uint64]int // questions of each policy
	octets  int            // that are held for all
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
	reqID  uint32
	pfp    bool     // the SA will come with another ReqID
	flow   spd.Flow // of the first frame
	since  time.Time
	frames [][]byte
	octets int
	failed bool // nothing is held for it any more
}

func (a *acquires) init(frames int) {
	a.frames, a.pending, a.of = frames, map[question]*acquire{}, map[uint64]int{}
}

// remove ends a question and what is held for it.
func (a *acquires) remove(key question) {
	q := a.pending[key]
	if q == nil {
		return
	}
	delete(a.pending, key)
	a.octets -= q.octets
	if a.of[key.policy]--; a.of[key.policy] == 0 {
		delete(a.of, key.policy)
	}
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
		if len(a.pending) >= maxAcquires || p.PFP != 0 && a.of[p.ID] >= maxFlows {
			return false, false
		}
		q = &acquire{reqID: p.ReqID, pfp: p.PFP != 0, flow: *f, since: now}
		a.pending[key] = q
		a.of[p.ID]++
		first = true
	}
	if frame != nil && !q.failed && len(q.frames) < a.frames && q.octets+len(frame) <= holdOctets && a.octets+len(frame) <= holdTotal {
		q.frames = append(q.frames, bytes.Clone(frame))
		q.octets += len(frame)
		a.octets += len(frame)
		held = true
	}
	return first, held
}

// take gives back what waited for SAs of a ReqID, and for what serves the flow of
// the first frame now: the SAs of a flow may come with an entry of their own, for
// PFP flags or because the peer narrowed the selectors.
func (a *acquires) take(reqID uint32, served func(*spd.Flow) bool) (frames [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.pending {
		if !q.pfp && q.reqID == reqID || served(&q.flow) {
			frames = append(frames, q.frames...)
			a.remove(id)
		}
	}
	return frames
}

// forget drops what waited for a policy that is gone.
func (a *acquires) forget(policy uint64) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, q := range a.pending {
		if key.policy == policy {
			lost += len(q.frames)
			a.remove(key)
		}
	}
	return lost
}

// unasked takes back a question that nobody heard, with the frame that put it.
func (a *acquires) unasked(key question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.remove(key)
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
			a.remove(key)
			continue
		}
		a.octets -= q.octets
		q.frames, q.octets, q.failed, q.since = nil, 0, true, now.Add(retry-acquireTimeout)
	}
	return lost
}

func (a *acquires) expire(now time.Time) (lost int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, q := range a.pending {
		if now.Sub(q.since) >= acquireTimeout {
			lost += len(q.frames)
			a.remove(id)
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

// release sends what waited for SAs of a ReqID, and what finds an SA by now. Zero is
// no ReqID.
func (d *Datapath) release(reqID uint32) {
	d.slowMu.Lock()
	defer d.slowMu.Unlock()
	frames := d.acquires.take(reqID, func(f *spd.Flow) bool {
		p, sa := d.slow.find(f)
		return p.Action == spd.Protect && sa != nil
	})
	d.slow.releasing = true
	defer func() { d.slow.releasing = false }()
	for _, f := range frames {
		d.slow.safe(f)
		d.slow.flush()
	}
}
