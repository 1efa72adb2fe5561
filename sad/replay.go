package sad

import "sync"

// Verdict is what the replay window says of a packet.
type Verdict uint8

// Verdicts.
const (
	Fresh     Verdict = iota // not seen, inside of the window or before it
	Old                      // behind the window
	Duplicate                // seen
	Invalid                  // number 0, or one from before the first packet
)

// Limits of the replay window in packets. RFC 4303, Section 3.4.3 wants at
// least 32.
const (
	MinReplayWindow = 32
	MaxReplayWindow = 4096
)

// noWindow is the window from which the high half of an extended number is
// inferred when the check is switched off: the nearest number is taken.
const noWindow = 1 << 31

// Replay is the anti-replay window of one inbound SA (RFC 4303, Section 3.4.3)
// on whole sequence numbers, with the inference of the high half of RFC 4303,
// Appendix A2 for ESN. The bitmap is the ring of blocks of RFC 6479. The zero
// value is not ready: call Init. All methods are safe for concurrent use: a
// mutex is held for some ten instructions, never while the ICV is verified.
type Replay struct {
	esn    bool
	window uint64 // 0: no check

	mu   sync.Mutex
	top  uint64 // highest number that was authenticated
	ring []uint64
}

// Init sets the window in packets, 0 for no check, and whether numbers are
// extended. A size above 0 is brought between MinReplayWindow and
// MaxReplayWindow.
func (r *Replay) Init(window uint32, esn bool) {
	r.esn, r.window = esn, 0
	if window == 0 {
		return
	}
	r.window = uint64(min(max(window, MinReplayWindow), MaxReplayWindow))
	// One block more than the window fills: the newest block is never full of old
	// numbers (RFC 6479, Section 2). The count is a power of two.
	blocks := uint64(2)
	for (blocks-1)*64 < r.window {
		blocks *= 2
	}
	r.ring = make([]uint64, blocks)
}

// Check infers the whole sequence number from its low half and tells whether a
// packet may have it. It comes before the ICV and changes nothing (RFC 4303,
// Section 3.4.3); seq is used in the ICV and in Update.
func (r *Replay) Check(low uint32) (seq uint64, v Verdict) {
	r.mu.Lock()
	defer r.mu.Unlock()
	seq = uint64(low)
	if r.esn {
		var ok bool
		if seq, ok = r.infer(low); !ok {
			return 0, Invalid
		}
	}
	return seq, r.check(seq)
}

// infer is Appendix A2.2 of RFC 4303; all sums are modulo 2^32. ok is false for
// a number that would lie before the first packet.
func (r *Replay) infer(low uint32) (seq uint64, ok bool) {
	w := uint32(noWindow)
	if r.window != 0 {
		w = uint32(r.window)
	}
	th, tl := uint32(r.top>>32), uint32(r.top)
	bottom := tl - w + 1
	high := th
	if tl >= w-1 {
		// Case A: the window lies in one subspace.
		if low < bottom {
			high = th + 1
			if high == 0 {
				return 0, false
			}
		}
	} else if low >= bottom {
		// Case B: the window reaches into the subspace before, if there is one.
		if th == 0 {
			return 0, false
		}
		high = th - 1
	}
	return uint64(high)<<32 | uint64(low), true
}

func (r *Replay) check(seq uint64) Verdict {
	switch {
	case seq == 0:
		// The first packet has number 1 (RFC 4303, Section 2.2).
		return Invalid
	case r.window == 0 || seq > r.top:
		return Fresh
	case seq+r.window <= r.top:
		return Old
	case r.ring[seq/64&uint64(len(r.ring)-1)]&(1<<(seq%64)) != 0:
		return Duplicate
	}
	return Fresh
}

// Update records an authenticated packet. It checks once more, because another
// packet may have been faster: only Fresh lets the packet pass. newest tells
// that the packet moved the window.
func (r *Replay) Update(seq uint64) (v Verdict, newest bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if v = r.check(seq); v != Fresh {
		return v, false
	}
	newest = seq > r.top
	if r.window != 0 {
		mask := uint64(len(r.ring) - 1)
		if newest {
			from, to := r.top/64+1, seq/64
			if to-r.top/64 > mask {
				clear(r.ring)
			} else {
				for b := from; b <= to; b++ {
					r.ring[b&mask] = 0
				}
			}
		}
		r.ring[seq/64&mask] |= 1 << (seq % 64)
	}
	if newest {
		r.top = seq
	}
	return Fresh, newest
}

// Top is the highest authenticated number, 0 before the first packet.
func (r *Replay) Top() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.top
}
