package route

import (
	"errors"
	"fmt"
	"net/netip"

	"iked/spd"
)

// inside returns the prefixes of the local selectors that lie within a remote
// one. A policy between 10.1.0.0/24 and 10.0.0.0/8 says that 10.1.0.0/24 is here:
// packets to it must not go into the tunnel only because the remote selector is
// wider.
func inside(local []spd.TS, remote []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range spd.Prefixes(local) {
		for _, r := range remote {
			if r.Bits() < p.Bits() && r.Contains(p.Addr()) {
				out = append(out, p)
				break
			}
		}
	}
	return out
}

// keepLocal lets packets to local prefixes leave the table. A route to the device
// for the very same prefix decides before it, so that what another policy
// protects stays protected.
func (m *Manager) keepLocal(list []netip.Prefix) error {
	var errs []error
	for _, p := range list {
		if m.locals[p]++; m.locals[p] > 1 || (p.Addr().Is6() && m.noV6) {
			continue
		}
		if err := m.h.RouteReplace(m.route(p, localRoute, netip.Addr{})); err != nil {
			errs = append(errs, fmt.Errorf("route that keeps local %v out of the tunnel: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// dropLocal takes back one keepLocal.
func (m *Manager) dropLocal(list []netip.Prefix) error {
	var errs []error
	for _, p := range list {
		if m.locals[p] == 0 {
			continue
		}
		if m.locals[p]--; m.locals[p] == 0 {
			delete(m.locals, p)
			errs = append(errs, m.del(m.route(p, localRoute, netip.Addr{})))
		}
	}
	return errors.Join(errs...)
}
