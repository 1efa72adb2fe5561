package sad

import "sync/atomic"

// Counter is the outbound sequence number counter of one SA (RFC 4303, Section
// 3.3.3). It is safe for concurrent use and never repeats a number. The zero
// value is not ready: call Init.
type Counter struct {
	last atomic.Uint64
	max  uint64
}

// Init sets the space of numbers: 64 bits with ESN, else 32.
func (c *Counter) Init(esn bool) {
	c.max = 1<<32 - 1
	if esn {
		// A margin keeps concurrent callers at the very end from wrapping.
		c.max = 1<<64 - 1<<32
	}
}

// Next is the number of the next packet, 1 for the first. ok is false when the
// numbers are used up: the packet must not be sent, whether or not the peer
// checks for replays, because a counter-mode IV would repeat.
func (c *Counter) Next() (seq uint64, ok bool) {
	// A plain addition is enough: the 64-bit counter cannot wrap in any SA's life.
	seq = c.last.Add(1)
	return seq, seq <= c.max
}

// Last is the last number that was given out, at most the highest of the space.
func (c *Counter) Last() uint64 { return min(c.last.Load(), c.max) }

// Skip passes over n numbers, for an SA that continues another's count.
func (c *Counter) Skip(n uint64) { c.last.Add(n) }
