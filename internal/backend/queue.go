package backend

import "sync"

// Queue hands events over without ever making a backend wait. Expire events
// wait as long as it takes; there are at most two for each SA. Others are lost
// when nobody reads: they come again.
type Queue struct {
	ch     chan Event
	mu     sync.Mutex
	wait   []Event
	closed bool
}

// Init must be called first.
func (q *Queue) Init() { q.ch = make(chan Event, 1024) }

// Emit hands an event over; false: nobody takes it, and it is lost.
func (q *Queue) Emit(e Event) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.drain()
	if _, expire := e.(Expire); expire {
		q.wait = append(q.wait, e)
		q.drain()
		return true
	}
	select {
	case q.ch <- e:
		return true
	default:
		return false
	}
}

// Retry delivers what waited.
func (q *Queue) Retry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.drain()
	}
}

func (q *Queue) drain() {
	for len(q.wait) > 0 {
		select {
		case q.ch <- q.wait[0]:
			q.wait = q.wait[1:]
		default:
			return
		}
	}
}

// C is the channel of events; Close closes it.
func (q *Queue) C() <-chan Event { return q.ch }

// Close ends the queue.
func (q *Queue) Close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}
