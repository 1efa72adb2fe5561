package keyex

import "time"

// Flow is a list of steps, one after the other; a step that asks for outside
// work pauses it until the reply is there.
type Flow struct {
	Queue   *Queue
	steps   []func(now time.Time)
	waiting bool
	stopped bool
}

// Run does the steps in order.
func (f *Flow) Run(now time.Time, steps ...func(now time.Time)) {
	f.steps = steps
	f.resume(now)
}

func (f *Flow) resume(now time.Time) {
	for len(f.steps) > 0 && !f.waiting && !f.stopped {
		step := f.steps[0]
		f.steps = f.steps[1:]
		step(now)
	}
}

// Busy tells whether outside work is awaited or steps are left.
func (f *Flow) Busy() bool { return !f.stopped && (f.waiting || len(f.steps) > 0) }

// Stop ends the flow; what is still asked for is given back when it comes.
func (f *Flow) Stop() {
	f.stopped = true
	f.steps = nil
}

// Ask pauses the flow until the reply is there and then has been called.
func (f *Flow) Ask(w Work, then func(now time.Time, r Reply)) {
	f.waiting = true
	f.Queue.Ask(w, func(now time.Time, r Reply) {
		f.waiting = false
		if f.stopped {
			f.Queue.GiveBack(w, r)
			return
		}
		then(now, r)
		f.resume(now)
	})
}

// Compute runs cheap work at once, other work outside.
func (f *Flow) Compute(now time.Time, c Compute, then func(now time.Time, r KEResult, err error)) {
	take := func(now time.Time, r Reply) {
		v, err := keResult(r)
		then(now, v, err)
	}
	if c.Cheap {
		take(now, c.Run())
		return
	}
	f.Ask(c, take)
}
