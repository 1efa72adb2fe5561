package ikev2

import (
	"crypto/sha1"
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/isakmp"
	"iked/internal/trace"
	"iked/migrate"
)

// Ports of IKE (RFC 7296, Section 2.23).
const (
	portIKE  = 500
	portNATT = 4500
)

// natState is what NAT detection found.
type natState struct {
	local  bool // this system is behind a NAT
	remote bool // the peer is, or says so
	fake   bool // we said so to force encapsulation
}

func (n natState) any() bool { return n.local || n.remote || n.fake }

// natHash is the content of NAT_DETECTION_*_IP: SHA-1 of SPIs, address and port
// (RFC 7296, Section 2.23).
func natHash(spii, spir isakmp.SPI, a netip.AddrPort) []byte {
	b := make([]byte, 0, 34)
	b = append(b, spii[:]...)
	b = append(b, spir[:]...)
	b = append(b, a.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, a.Port())
	h := sha1.Sum(b)
	return h[:]
}

// natNotifies are the two notifies for the message that goes from local to
// remote.
func (sa *SA) natNotifies(cfg *Config, local, remote netip.AddrPort) []message.Payload {
	src := natHash(sa.spiI, sa.spiR, local)
	if cfg.ForceEncap {
		// A source that cannot be right makes the peer see a NAT.
		sa.env.Random(src)
		sa.nat.fake = true
	}
	return []message.Payload{
		message.NewNotify(message.NATDetectionSourceIP, src),
		message.NewNotify(message.NATDetectionDestinationIP, natHash(sa.spiI, sa.spiR, remote)),
	}
}

// detectNAT compares the hashes of a message that came from remote to local.
func (sa *SA) detectNAT(ns message.Notifies, spii, spir isakmp.SPI, local, remote netip.AddrPort) {
	dst := ns.Find(message.NATDetectionDestinationIP)
	sources, match := 0, false
	want := natHash(spii, spir, remote)
	for n := range ns.All(message.NATDetectionSourceIP) {
		// There may be several: the peer does not always know which it uses.
		sources++
		match = match || subtle.ConstantTimeCompare(n.Data, want) == 1
	}
	if dst == nil || sources == 0 || sa.cfg.NoNATs && sa.initiator {
		sa.nat = natState{} // one of both does not traverse NATs
		return
	}
	// What the peer says serves to refuse it where no NAT is allowed.
	sa.mobile.natt = !sa.cfg.NoNATs
	sa.nat.remote = !match
	sa.nat.local = subtle.ConstantTimeCompare(dst.Data, natHash(spii, spir, local)) != 1
}

// float moves an initiator to the NAT traversal ports.
func (sa *SA) float() {
	// RFC 4555, Section 3.3: who speaks MOBIKE floats also without a NAT, so that one
	// that comes later changes no port.
	if sa.natt || !sa.nat.any() && !(sa.cfg.Mobike && sa.mobile.natt) {
		return
	}
	sa.natt = true
	sa.local = netip.AddrPortFrom(sa.local.Addr(), orPort(sa.cfg.PortNATT))
	if sa.remote.Port() == portIKE || sa.cfg.PeerPortNATT != 0 {
		sa.remote = netip.AddrPortFrom(sa.remote.Addr(), orPort(sa.cfg.PeerPortNATT))
	}
}

func orPort(p uint16) uint16 {
	if p == 0 {
		return portNATT
	}
	return p
}

// A peer is followed maxMoves times within movesWindow: one that sends from many
// addresses at once must not make work without end.
const (
	maxMoves    = 10
	movesWindow = 10 * time.Second
)

// mayMove counts a move in.
func (sa *SA) mayMove(now time.Time) bool {
	if now.Sub(sa.moved) >= movesWindow {
		sa.moved, sa.moves = now, 0
	}
	sa.moves++
	return sa.moves <= maxMoves
}

// follow moves the IKE SA to where an authentic message came from, if the rules
// of RFC 7296, Section 2.23 allow it.
func (sa *SA) follow(now time.Time, d Datagram) {
	if d.Local == sa.local && d.Remote == sa.remote && d.NATT == sa.natt {
		return
	}
	switch {
	case sa.hs != nil && !sa.initiator && d.Remote.Addr() == sa.remote.Addr():
		// The initiator floats with IKE_AUTH: to other ports. Its address stays, since
		// it is not authenticated yet.
		sa.local, sa.remote, sa.natt = d.Local, d.Remote, d.NATT
	case sa.mobile.on:
		// RFC 4555, Section 3.8: messages of IKE move nothing, so that a path can be
		// tried out with them.
	case sa.hs == nil && sa.nat.remote && !sa.nat.local && sa.mayMove(now):
		// Who is behind a NAT itself does not follow: the NAT maps to one peer.
		sa.relocate(now, d.Local, d.Remote, d.NATT)
		sa.moveChildren(now)
	default:
		sa.count("ike-address", "not-followed")
	}
}

// followESP moves the IKE SA to where authentic ESP comes from (RFC 7296, Section
// 2.23; RFC 4555, Section 3.8 keeps it for ESP).
func (sa *SA) followESP(now time.Time, from netip.AddrPort) {
	switch {
	case !sa.mobile.on:
		sa.follow(now, Datagram{Local: sa.local, Remote: from, NATT: sa.natt})
	case from == sa.remote:
	case !sa.nat.remote || sa.nat.local || !sa.mayMove(now):
		sa.count("ike-address", "not-followed")
	default:
		sa.peerAt(now, Datagram{Local: sa.local, Remote: from, NATT: sa.natt})
	}
}

// relocate changes the addresses of the IKE SA, and nothing else does once it is
// authenticated. Requests without answer go on from and to the new ones.
func (sa *SA) relocate(now time.Time, local, remote netip.AddrPort, natt bool) {
	if local == sa.local && remote == sa.remote && natt == sa.natt {
		return
	}
	sa.log(now, trace.Control, false, "IKE_SA %s moves from %v === %v to %v === %v", sa.cfg.Name, sa.local, sa.remote, local, remote)
	sa.local, sa.remote, sa.natt = local, remote, natt
	sa.mobile.moves++
	sa.Event(Moved{})
	if r := sa.rekey.rival; r != nil && r.mobile.moves == 0 {
		// RFC 7296, Section 2.8.2: it may be the one that is left.
		r.local, r.remote, r.natt = local, remote, natt
	}
	if e := sa.mobile.elder; e != nil && !e.closed && !sa.mobile.leads {
		// Where the peer is, it is with all its IKE SAs.
		e.local, e.remote, e.natt = local, remote, natt
		if o := e.window.out; o != nil {
			e.resend(now, o)
		}
		sa.Event(NewSA{Successor: e, Redundant: true})
	}
}

// relocated goes on between addresses that a mobility manager told. The peer hears of
// them from its own one, or by MOBIKE.
func (sa *SA) relocated(now time.Time, t Relocated) {
	if sa.keys == nil || sa.hs != nil || !t.Local.IsValid() || t.Local.Is4() != t.Remote.Is4() {
		return
	}
	before := sa.local.Addr()
	sa.relocate(now, netip.AddrPortFrom(t.Local, sa.local.Port()), netip.AddrPortFrom(t.Remote, sa.remote.Port()), sa.natt)
	sa.host = t.Remote
	if r := sa.rekey.rival; r != nil {
		r.host = t.Remote
	}
	if o := sa.window.out; o != nil {
		sa.resend(now, o)
	}
	switch m := &sa.mobile; {
	case !t.Tell || !m.on:
	case m.leads:
		sa.queueUpdate()
	case before != t.Local:
		// As when an address has gone: the peer, which decides, has it for the one in use.
		m.told = append(slices.Clone(m.told), before)
		m.own = slices.DeleteFunc(slices.Clone(m.own), func(a netip.Addr) bool { return a == before })
		sa.queueTell()
	}
}

// childRelocated gives a CHILD_SA the outer addresses that its SAs have.
func (sa *SA) childRelocated(t ChildRelocated) {
	sa.RelocateChild(t, sa.children, sa.fading)
}

// moveChildren lets the CHILD_SAs follow the IKE SA, with UDP encapsulation where
// there is a NAT now.
func (sa *SA) moveChildren(now time.Time) {
	sa.mobile.before = nil
	for _, list := range [][]*Child{sa.children, sa.fading} {
		for _, c := range list {
			encap := sa.nat.any()
			if !c.OwnEnds && c.LocalAddr == sa.local && c.RemoteAddr == sa.remote && c.Encap == encap {
				continue
			}
			before := migrate.Ends{Local: c.LocalAddr.Addr(), Remote: c.RemoteAddr.Addr()}
			fate := migrate.Follow(c.Mode, c.OwnEnds, c.Local, c.Remote, before, migrate.Ends{Local: sa.local.Addr(), Remote: sa.remote.Addr()})
			switch {
			case fate == migrate.FateStays:
				continue
			case fate == migrate.FateEnds:
				sa.logChild(now, c.Config, true, "CHILD_SA %s{%d} is closed: transport mode does not outlive other addresses of its ends", c.Config.Name, c.UniqueID)
				sa.queueDeleteChild(now, c, false)
				continue
			case encap && c.Proto == suite.ProtoAH:
				// RFC 4302, Section 3.3.3.1: AH covers the addresses, which a NAT changes.
				sa.logChild(now, c.Config, true, "CHILD_SA %s{%d} is closed: AH does not pass the NAT that is on the way now", c.Config.Name, c.UniqueID)
				sa.queueDeleteChild(now, c, false)
				continue
			}
			c.LocalAddr, c.RemoteAddr, c.Encap = sa.local, sa.remote, encap
			sa.Tell(MoveChild{Child: c})
			sa.replaceOutdated(now, c, before)
		}
	}
}

// keepAliveEvery is the interval of NAT keepalives.
func (sa *SA) keepAliveEvery() time.Duration {
	if sa.cfg.KeepAlive > 0 {
		return sa.cfg.KeepAlive
	}
	return 20 * time.Second
}

// keepAliveDue is when the next keepalive must be sent; zero: never.
func (sa *SA) keepAliveDue() time.Time {
	if sa.cfg == nil || sa.cfg.KeepAlive < 0 || !sa.nat.local || !sa.natt || sa.keys == nil || sa.state == Rekeyed {
		return time.Time{}
	}
	return sa.lastOutbound.Add(sa.keepAliveEvery())
}
