package keyex

import (
	"iter"
	"time"
)

// Queue is what a state machine has to say, and its requests that wait for a
// Reply. The zero value is ready.
type Queue struct {
	outs    []Output
	pending map[RequestID]func(now time.Time, r Reply)
	last    RequestID
}

// Emit appends an output.
func (q *Queue) Emit(o Output) { q.outs = append(q.outs, o) }

// Event appends an event.
func (q *Queue) Event(e SAEvent) { q.Emit(Event{Event: e}) }

// Ask appends a Request; then gets its Reply, unless Forget comes before.
func (q *Queue) Ask(w Work, then func(now time.Time, r Reply)) {
	q.last++
	if q.pending == nil {
		q.pending = map[RequestID]func(time.Time, Reply){}
	}
	q.pending[q.last] = then
	q.Emit(Request{ID: q.last, Work: w})
}

// Tell appends a Request that has no Reply.
func (q *Queue) Tell(w Work) {
	q.last++
	q.Emit(Request{ID: q.last, Work: w})
}

// Reply hands a reply to who asked. False: nobody waits for it.
func (q *Queue) Reply(now time.Time, id RequestID, r Reply) bool {
	then := q.pending[id]
	if then == nil {
		return false
	}
	delete(q.pending, id)
	then(now, r)
	return true
}

// Forget drops all requests that wait.
func (q *Queue) Forget() { q.pending = nil }

// Outputs drains the queue. The loop's body may add to it.
func (q *Queue) Outputs() iter.Seq[Output] {
	return func(yield func(Output) bool) {
		for len(q.outs) > 0 {
			o := q.outs[0]
			q.outs[0] = nil
			q.outs = q.outs[1:]
			if !yield(o) {
				return
			}
		}
		q.outs = nil
	}
}

// GiveBack undoes work whose result nobody wants any more.
func (q *Queue) GiveBack(w Work, r Reply) {
	switch w := w.(type) {
	case AllocSPI:
		if s, ok := r.(SPIReply); ok && s.Err == nil {
			q.Tell(FreeSPI{Proto: w.Proto, Local: w.Local, SPI: s.SPI})
		}
	case AssignAddress:
		if a, ok := r.(AddressReply); ok && a.Err == nil {
			rel := ReleaseAddress{Config: w.Config, Peer: w.Peer}
			for _, p := range a.Addrs {
				rel.Addrs = append(rel.Addrs, p.Addr())
			}
			q.Tell(rel)
		}
	}
}
