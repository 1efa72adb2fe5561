package route

import (
	"errors"
	"net/netip"

	"iked/spd"
)

// border is what the near side of the tunnels is, and what entries discard: a
// discarded destination that is wider than a near network does not mean what stays
// on the near side (RFC 4301, Section 3.1: the SPD is about what crosses the
// boundary), and the way there must not lead to the device.
type border struct {
	near     map[netip.Prefix]int // local prefixes of entries that protect
	discards map[netip.Prefix]int // remote prefixes of entries that discard
}

func wider(r, p netip.Prefix) bool { return r.Bits() < p.Bits() && r.Contains(p.Addr()) }

// SetNear tells the local selectors of an entry that protects, and takes that back.
func (m *Manager) SetNear(local []spd.TS, here bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change(m.border.near, spd.Prefixes(local), here, m.border.discards, func(p, r netip.Prefix) (netip.Prefix, bool) { return p, wider(r, p) })
}

// SetDiscard tells the remote prefixes of an entry that discards, and takes that
// back.
func (m *Manager) SetDiscard(remote []netip.Prefix, on bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.change(m.border.discards, remote, on, m.border.near, func(r, p netip.Prefix) (netip.Prefix, bool) { return p, wider(r, p) })
}

// change counts list in set and keeps local, or no longer, what pair says of each
// new or last one with each of the others.
func (m *Manager) change(set map[netip.Prefix]int, list []netip.Prefix, on bool, others map[netip.Prefix]int, pair func(one, other netip.Prefix) (netip.Prefix, bool)) error {
	var errs []error
	for _, one := range list {
		step := m.keepLocal
		if on {
			if set[one]++; set[one] > 1 {
				continue
			}
		} else {
			if set[one] == 0 {
				continue
			}
			if set[one]--; set[one] > 0 {
				continue
			}
			delete(set, one)
			step = m.dropLocal
		}
		for other := range others {
			if p, ok := pair(one, other); ok {
				errs = append(errs, step([]netip.Prefix{p}))
			}
		}
	}
	return errors.Join(errs...)
}
