package ikev1

import (
	"fmt"
	"net/netip"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// Mobile IPv6 (RFC 3776): the identities of Quick Mode name the home address, which is
// not the address of the ISAKMP SA, and the SAs of transport mode are between what they
// name. They are taken from a peer only as far as its identity of phase 1 may have the
// address (RFC 3776, Section 4.1: the SPD and the phase 1 identity are held together).

// reservesAt is where the inbound SPI of a pair is reserved.
func (sa *SA) reservesAt(m spd.Mode, local spd.TS) netip.Addr {
	if sa.cfg.OwnEnds(m) && local.IsHost() {
		return local.From
	}
	return sa.local.Addr()
}

// placed gives a pair its outer addresses: those of its selectors, where they are its
// own.
func (sa *SA) placed(c *keyex.Child, local, remote spd.TS) {
	c.LocalAddr, c.RemoteAddr, c.Encap = sa.local, sa.remote, sa.nat.any()
	if sa.cfg.OwnEnds(c.Mode) {
		c.OwnEnds, c.Encap = true, false
		c.LocalAddr, c.RemoteAddr = netip.AddrPortFrom(local.From, 0), netip.AddrPortFrom(remote.From, 0)
	}
}

// foreignHome tells why the peer may not have the addresses of a selector; nil: it may.
func (sa *SA) foreignHome(now time.Time, remote spd.TS) *trace.Failure {
	sentence, advice := sa.cfg.ForeignHome([]spd.TS{remote}, sa.remoteID, sa.vipRemote, "")
	if sentence == "" {
		return nil
	}
	return sa.failure(now, trace.StageSelectors, sentence, advice)
}

// oneHome refuses transport mode between other than two single addresses.
func (sa *SA) oneHome(now time.Time, cfg *keyex.ChildConfig, local, remote spd.TS) *trace.Failure {
	if !sa.cfg.OwnEnds(cfg.Mode) || local.IsHost() && remote.IsHost() {
		return nil
	}
	return sa.failure(now, trace.StageSelectors, fmt.Sprintf("%s in transport mode is between a home address and its peer, and %v === %v have more than one address on a side", cfg.Name, local, remote),
		"write single addresses, or wait for the mobile node to begin")
}
