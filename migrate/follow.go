package migrate

import (
	"net/netip"
	"slices"

	"iked/spd"
)

// Fate is what becomes of a CHILD_SA when its IKE SA moves.
type Fate uint8

// Fates.
const (
	// FateStays: its addresses are its own and not those of IKE.
	FateStays Fate = iota
	// FateMoves: its outer addresses are those of IKE.
	FateMoves
	// FateEnds: it cannot outlive the addresses that it was made for.
	FateEnds
)

// Follow tells what becomes of a CHILD_SA, made with an IKE SA that was between
// local and remote and is between other addresses now. Whatever moved the IKE SA
// asks it: MOBIKE (RFC 4555, Section 3.5: the IPsec SAs of the IKE SA move with
// it), a NAT (RFC 7296, Section 2.23), or MIGRATE. own tells that the addresses of the
// CHILD_SA were never those of IKE, though they may be the same: at home, the care-of
// address is the home address.
func Follow(mode spd.Mode, own bool, local, remote []spd.TS, before, after Ends) Fate {
	if own {
		return FateStays // RFC 4877: between a home address and the home agent
	}
	if mode != spd.Transport {
		return FateMoves
	}
	// RFC 4555, Section 1.3: what is in the tunnel does not see the change. In
	// transport mode the packets themselves have the addresses, and the selectors
	// are about them.
	if before == after {
		return FateMoves // other ports
	}
	if hosts(local, before.Local) && hosts(remote, before.Remote) {
		return FateEnds
	}
	return FateStays
}

// hosts tells whether an address is one that selectors of transport mode are about.
func hosts(list []spd.TS, a netip.Addr) bool {
	return slices.ContainsFunc(list, func(t spd.TS) bool { return t.Contains(a) })
}
