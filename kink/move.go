package kink

import (
	"net/netip"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

// KINK has no message that says that a host moved. A mobility manager on each side says
// so (KMADDRESS), and then both go on between the new addresses: commands go there, and
// what was not answered goes there when it is sent again. What the peer sent before it
// moved is taken from its address before, until it moves again.

// relocated goes on between addresses that a mobility manager told.
func (sa *SA) relocated(now time.Time, t keyex.Relocated) {
	local, remote := netip.AddrPortFrom(t.Local.Unmap(), sa.local.Port()), netip.AddrPortFrom(t.Remote.Unmap(), sa.remote.Port())
	if !t.Local.IsValid() || t.Local.Is4() != t.Remote.Is4() || local == sa.local && remote == sa.remote {
		return
	}
	sa.log(now, trace.Control, false, "KINK with %s moves from %v === %v to %v === %v", sa.peer, sa.local, sa.remote, local, remote)
	if remote != sa.remote {
		sa.before = sa.remote.Addr()
	}
	sa.local, sa.remote = local, remote
	sa.Event(keyex.Moved{})
}

// childRelocated gives the SAs of a pair the outer addresses that they have.
func (sa *SA) childRelocated(t keyex.ChildRelocated) { sa.RelocateChild(t, sa.children, sa.fading) }

// At tells whether the peer is at an address, or was there before it moved.
func (sa *SA) At(a netip.Addr) bool { return a == sa.remote.Addr() || a == sa.before }

// ends are where the SAs of a new pair end: where both sides are; in transport mode where
// those of the pair that it replaces do, which its packets are about: those of a home
// address stay there (RFC 4877, Section 4.1).
func (sa *SA) ends(c *keyex.Child) (local, remote netip.AddrPort) {
	if c.Mode == spd.Transport {
		if old := sa.sameTraffic(c); old != nil {
			return old.LocalAddr, old.RemoteAddr
		}
	}
	return sa.local, sa.remote
}

// place puts a pair that is being made where both sides are by now.
func (sa *SA) place(c *keyex.Child) {
	local, remote := sa.ends(c)
	if c.LocalAddr == local && c.RemoteAddr == remote {
		return
	}
	c.LocalAddr, c.RemoteAddr = local, remote
	if book(c).InUp {
		sa.Tell(keyex.MoveChild{Child: c})
	}
}
