package tun

import (
	"os"
	"sync"
)

// Memory is a device without a kernel, for tests and simulations: what the
// datapath writes is given to a function, and what Inject is given, it reads.
type Memory struct {
	mtu    int
	queues []Queue
}

type memoryQueue struct {
	in      chan []byte
	done    chan struct{}
	once    sync.Once
	deliver func(frame []byte)
}

// NewMemory makes a device. deliver gets whole frames, header and packet, which
// are its own.
func NewMemory(queues, mtu int, deliver func(frame []byte)) *Memory {
	m := &Memory{mtu: mtu}
	for range queues {
		m.queues = append(m.queues, &memoryQueue{in: make(chan []byte, 1024), done: make(chan struct{}), deliver: deliver})
	}
	return m
}

// Inject makes a queue read a packet; h may ask for segmentation. It waits when
// 1024 frames are unread.
func (m *Memory) Inject(q int, h Header, pkt []byte) {
	frame := make([]byte, HeaderLen, HeaderLen+len(pkt))
	h.Put(frame)
	mq := m.queues[q].(*memoryQueue)
	select {
	case mq.in <- append(frame, pkt...):
	case <-mq.done:
	}
}

// Name implements Device.
func (m *Memory) Name() string { return "memory" }

// MTU implements Device.
func (m *Memory) MTU() int { return m.mtu }

// Queues implements Device.
func (m *Memory) Queues() []Queue { return m.queues }

// Close implements Device.
func (m *Memory) Close() error {
	for _, q := range m.queues {
		mq := q.(*memoryQueue)
		mq.once.Do(func() { close(mq.done) })
	}
	return nil
}

func (q *memoryQueue) Read(buf []byte, wait bool) (int, error) {
	if !wait {
		select {
		case f := <-q.in:
			return copy(buf, f), nil
		default:
			return 0, ErrAgain
		}
	}
	select {
	case f := <-q.in:
		return copy(buf, f), nil
	case <-q.done:
		return 0, os.ErrClosed
	}
}

func (q *memoryQueue) Write(pieces [][]byte) error {
	if q.deliver == nil {
		return nil
	}
	var frame []byte
	for _, p := range pieces {
		frame = append(frame, p...)
	}
	q.deliver(frame)
	return nil
}
