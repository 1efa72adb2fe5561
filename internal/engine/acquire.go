package engine

import (
	"time"

	"iked/internal/backend"
	"iked/spd"
)

// acquirePause is how long a policy does not ask again for what cannot be had.
const acquirePause = 10 * time.Second

// acquire passes on that a packet waits for an SA, if its policy may ask.
func (e *Engine) acquire(ev backend.Acquire) {
	if ev.Policy == 0 {
		e.sup.post(func() { e.sup.claim(ev, time.Now()) })
		return
	}
	owner, asks, ok := e.policies.find(ev.Policy)
	switch {
	case !ok:
		e.drops.add("acquire-unknown-policy")
	case !asks:
		// It holds the traffic of a tunnel back that somebody else has to make.
		e.drops.add("acquire-not-on-demand")
	default:
		e.sup.post(func() { e.sup.acquire(owner, ev.Policy, ev.Flow) })
		return
	}
	e.acquireFailed(ev.Policy, ev.Flow, acquirePause)
}

// acquireFailed answers a packet that gets no SA.
func (e *Engine) acquireFailed(policy uint64, flow spd.Flow, retry time.Duration) {
	if b, ok := e.opt.Backend.(backend.AcquireAnswerer); ok {
		b.AcquireFailed(policy, flow, max(retry, time.Second))
	}
}
