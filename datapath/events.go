package datapath

import (
	"sync"

	"iked/internal/backend"
)

// eventQueue hands events over without ever making a worker wait. Expire events
// wait as long as it takes; there are at most two for each SA. Others are lost
// when nobody reads: they come again.
type eventQueue struct {
	ch     chan backend.Event
	mu     sync.Mutex
	wait   []backend.Event
	lost   uint64
	closed bool
}

func (q *eventQueue) init() { q.ch = make(chan backend.Event, 1024) }

func (q *eventQueue) emit(e backend.Event) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.drain()
	if _, expire := e.(backend.Expire); expire {
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

// retry delivers what waited.
func (q *eventQueue) retry() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.drain()
	}
}

func (q *eventQueue) drain() {
	for len(q.wait) > 0 {
		select {
		case q.ch <- q.wait[0]:
			q.wait = q.wait[1:]
		default:
			return
		}
	}
}

func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}
