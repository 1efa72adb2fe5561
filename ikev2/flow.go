package ikev2

import "time"

// flow is a list of steps, one after the other; a step that asks for outside
// work pauses it until the reply is there.
type flow struct {
	sa      *SA
	steps   []func(now time.Time)
	waiting bool
	stopped bool
}

// run does the steps in order.
func (f *flow) run(now time.Time, steps ...func(now time.Time)) {
	f.steps = steps
	f.resume(now)
}

func (f *flow) resume(now time.Time) {
	for len(f.steps) > 0 && !f.waiting && !f.stopped {
		step := f.steps[0]
		f.steps = f.steps[1:]
		step(now)
	}
}

// stop ends the flow; what is still asked for is given back when it comes.
func (f *flow) stop() {
	f.stopped = true
	f.steps = nil
}

// ask pauses the flow until the reply is there and then has been called.
func (f *flow) ask(w Work, then func(now time.Time, r Reply)) {
	f.waiting = true
	f.sa.ask(w, func(now time.Time, r Reply) {
		f.waiting = false
		if f.stopped {
			f.sa.giveBack(w, r)
			return
		}
		then(now, r)
		f.resume(now)
	})
}

// giveBack undoes work whose result nobody wants any more.
func (sa *SA) giveBack(w Work, r Reply) {
	switch w := w.(type) {
	case AllocSPI:
		if s, ok := r.(SPIReply); ok && s.Err == nil {
			sa.tell(FreeSPI{Proto: w.Proto, Local: w.Local, SPI: s.SPI})
		}
	case AssignAddress:
		if a, ok := r.(AddressReply); ok && a.Err == nil {
			rel := ReleaseAddress{Config: w.Config, Peer: w.Peer}
			for _, p := range a.Addrs {
				rel.Addrs = append(rel.Addrs, p.Addr())
			}
			sa.tell(rel)
		}
	}
}
