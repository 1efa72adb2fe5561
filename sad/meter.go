package sad

import (
	"sync/atomic"
	"time"
)

// Expiry is a lifetime limit that was reached; the zero value is none.
type Expiry uint8

// Expiries. A hard one means that the SA carries nothing any more.
const (
	Alive Expiry = iota
	SoftTime
	SoftBytes
	SoftPackets
	HardTime
	HardBytes
	HardPackets
)

// Hard tells whether the SA is unusable.
func (e Expiry) Hard() bool { return e >= HardTime }

// Why is "time", "bytes" or "packets", empty for Alive.
func (e Expiry) Why() string {
	switch e {
	case SoftTime, HardTime:
		return "time"
	case SoftBytes, HardBytes:
		return "bytes"
	case SoftPackets, HardPackets:
		return "packets"
	}
	return ""
}

// Meter counts the traffic of one SA against its lifetimes (RFC 4301, Section
// 4.4.2.1). It is safe for concurrent use and does not allocate.
type Meter struct {
	limits  Limits
	created time.Time
	bytes   atomic.Uint64
	packets atomic.Uint64
	used    atomic.Int64 // Unix nanoseconds of the last use, 0 never
}

// Init sets the limits, which count from created. It must be called before any
// other method and not twice.
func (m *Meter) Init(l Limits, created time.Time) { m.limits, m.created = l, created }

// Add counts one packet of n octets. A hard expiry tells that the packet is
// over the limit and must not be carried; a soft one is told for every packet
// from the limit on.
func (m *Meter) Add(n int) Expiry {
	b, p := m.bytes.Add(uint64(n)), m.packets.Add(1)
	l := &m.limits
	switch {
	case l.HardBytes != 0 && b > l.HardBytes:
		return HardBytes
	case l.HardPackets != 0 && p > l.HardPackets:
		return HardPackets
	case l.SoftBytes != 0 && b >= l.SoftBytes:
		return SoftBytes
	case l.SoftPackets != 0 && p >= l.SoftPackets:
		return SoftPackets
	}
	return Alive
}

// Check tells which limit is reached at now, the hardest first.
func (m *Meter) Check(now time.Time) Expiry {
	l, age := &m.limits, now.Sub(m.created)
	b, p := m.bytes.Load(), m.packets.Load()
	switch {
	case l.HardTime != 0 && age >= l.HardTime:
		return HardTime
	case l.HardBytes != 0 && b >= l.HardBytes:
		return HardBytes
	case l.HardPackets != 0 && p >= l.HardPackets:
		return HardPackets
	case l.SoftTime != 0 && age >= l.SoftTime:
		return SoftTime
	case l.SoftBytes != 0 && b >= l.SoftBytes:
		return SoftBytes
	case l.SoftPackets != 0 && p >= l.SoftPackets:
		return SoftPackets
	}
	return Alive
}

// Deadline is when the next time limit after now is reached; zero: none.
func (m *Meter) Deadline(now time.Time) time.Time {
	var next time.Time
	for _, d := range [...]time.Duration{m.limits.SoftTime, m.limits.HardTime} {
		at := m.created.Add(d)
		if d != 0 && at.After(now) && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// Touch records that the SA was used at now; one call per batch is enough.
func (m *Meter) Touch(now time.Time) { m.used.Store(now.UnixNano()) }

// Usage is the count so far, without Seq and MTU.
func (m *Meter) Usage() Usage {
	u := Usage{Bytes: m.bytes.Load(), Packets: m.packets.Load()}
	if ns := m.used.Load(); ns != 0 {
		u.LastUsed = time.Unix(0, ns)
	}
	return u
}
