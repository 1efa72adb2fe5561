package engine

import "sync"

// mailbox is how a goroutine that owns state is reached. It has two lanes:
// strangers' datagrams, which are dropped when the lane is full, and the
// engine's own messages, which are never dropped because each answers
// something that was asked and so is bounded by what exists.
type mailbox[T any] struct {
	mu     sync.Mutex
	own    []T
	frames []T
	limit  int
	closed bool
	wake   chan struct{}
}

// newMailbox makes a mailbox that holds at most limit datagrams.
func newMailbox[T any](limit int) *mailbox[T] {
	return &mailbox[T]{limit: limit, wake: make(chan struct{}, 1)}
}

// post queues a message of the engine itself; false after close.
func (m *mailbox[T]) post(v T) bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	m.own = append(m.own, v)
	m.mu.Unlock()
	m.signal()
	return true
}

// offer queues a datagram; false when the lane is full or closed.
func (m *mailbox[T]) offer(v T) bool {
	m.mu.Lock()
	if m.closed || len(m.frames) >= m.limit {
		m.mu.Unlock()
		return false
	}
	m.frames = append(m.frames, v)
	m.mu.Unlock()
	m.signal()
	return true
}

// take swaps out all that waits: own messages first, since they finish work
// that datagrams would only add to. The slices that the caller has done with
// come back as the next buffers.
func (m *mailbox[T]) take(own, frames []T) ([]T, []T) {
	clear(own)
	clear(frames)
	m.mu.Lock()
	own, m.own = m.own, own[:0]
	frames, m.frames = m.frames, frames[:0]
	m.mu.Unlock()
	return own, frames
}

// length is the number of datagrams that wait.
func (m *mailbox[T]) length() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.frames)
}

// close refuses everything from now on and wakes the owner.
func (m *mailbox[T]) close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.signal()
}

// isClosed tells whether close was called.
func (m *mailbox[T]) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *mailbox[T]) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}
