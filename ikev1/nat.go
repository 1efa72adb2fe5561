package ikev1

import (
	"crypto/subtle"
	"net/netip"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/spd"
)

const fragNo = keyex.FragNo

// Ports of IKE (RFC 3947, Section 4).
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

// natHash is the content of NAT-D: the negotiated hash of cookies, address and
// port (RFC 3947, Section 3.2).
func (sa *SA) natHash(a netip.AddrPort) []byte {
	h := sa.p1.hash()
	h.Write(sa.ckyI[:])
	h.Write(sa.ckyR[:])
	h.Write(a.Addr().AsSlice())
	h.Write([]byte{byte(a.Port() >> 8), byte(a.Port())})
	return h.Sum(nil)
}

// natPayloads are NAT-D for the peer's address, then for ours (RFC 3947, Section
// 3.2).
func (sa *SA) natPayloads() []message.Payload {
	if !sa.vendors.natt {
		return nil
	}
	kind := message.TypeNATD
	if sa.vendors.nattDraft {
		kind = message.TypeNATDDraft
	}
	own := sa.natHash(sa.local)
	if sa.cfg.ForceEncap {
		// A source that cannot be right makes the peer see a NAT.
		sa.env.Random(own)
		sa.nat.fake = true
	}
	return []message.Payload{&message.Opaque{Kind: kind, Data: sa.natHash(sa.remote)}, &message.Opaque{Kind: kind, Data: own}}
}

// detectNAT compares the NAT-D payloads of a message: the first is for our
// address, the others for the peer's.
func (sa *SA) detectNAT(m *message.Message, from keyex.Datagram) {
	var list [][]byte
	for _, p := range m.Payloads {
		if t := p.Type(); t == message.TypeNATD || t == message.TypeNATDDraft {
			list = append(list, p.(*message.Opaque).Data)
		}
	}
	fake := sa.nat.fake
	sa.nat = natState{fake: fake}
	if !sa.vendors.natt || len(list) < 2 {
		sa.nat = natState{}
		return
	}
	sa.nat.local = subtle.ConstantTimeCompare(list[0], sa.natHash(from.Local)) != 1
	sa.nat.remote = true
	want := sa.natHash(from.Remote)
	for _, h := range list[1:] {
		if subtle.ConstantTimeCompare(h, want) == 1 {
			sa.nat.remote = false
		}
	}
}

// float moves an initiator to the NAT traversal ports (RFC 3947, Section 4).
func (sa *SA) float() {
	if !sa.nat.any() || sa.natt {
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

// follow moves the SA to where an authentic message came from: an initiator
// floats, and a peer behind a NAT may get another mapping (RFC 3947, Section 4).
func (sa *SA) follow(now time.Time, d keyex.Datagram) {
	if d.Local == sa.local && d.Remote == sa.remote && d.NATT == sa.natt {
		return
	}
	// RFC 3947, Section 4: what comes to port 500 after the change is old. Section 7:
	// who is behind a NAT follows nobody.
	if sa.natt && !d.NATT || sa.p1 == nil && (!sa.nat.remote || sa.nat.local) {
		sa.count("ike-address", "not-followed")
		return
	}
	from := sa.remote
	sa.local, sa.remote, sa.natt = d.Local, d.Remote, d.NATT
	if sa.p1 != nil {
		return
	}
	sa.log(now, trace.Control, false, "the peer moved from %v to %v", from, sa.remote)
	for _, list := range [][]*keyex.Child{sa.children, sa.fading} {
		for _, c := range list {
			if c.OwnEnds {
				continue // RFC 3776: between the home address and its peer
			}
			c.LocalAddr, c.RemoteAddr = sa.local, sa.remote
			sa.Tell(keyex.MoveChild{Child: c})
		}
	}
	sa.Event(keyex.Moved{})
}

// relocated goes on between addresses that a mobility manager told; the peer hears of
// them from its own one.
func (sa *SA) relocated(now time.Time, t keyex.Relocated) {
	to := [2]netip.AddrPort{netip.AddrPortFrom(t.Local, sa.local.Port()), netip.AddrPortFrom(t.Remote, sa.remote.Port())}
	if sa.p1 != nil || !t.Local.IsValid() || t.Local.Is4() != t.Remote.Is4() || to == [2]netip.AddrPort{sa.local, sa.remote} {
		return
	}
	sa.log(now, trace.Control, false, "the ISAKMP SA moves from %v === %v to %v === %v", sa.local, sa.remote, to[0], to[1])
	sa.left = leftAddress{sa.remote.Addr(), now}
	sa.local, sa.remote = to[0], to[1]
	sa.Event(keyex.Moved{})
}

// leftAddress is where the peer was before a mobility manager told of another place.
type leftAddress struct {
	addr netip.Addr
	at   time.Time
}

// LeftMeanwhile tells whether the peer left, while a newer SA was being made with it, the
// address where that has it.
func (sa *SA) LeftMeanwhile(next *SA) bool {
	return sa.left.addr == next.remote.Addr() && !sa.left.at.Before(next.born)
}

// catchUp goes on where an older SA is, which a mobility manager moved while this one
// was being made.
func (sa *SA) catchUp(now time.Time, p *SA) {
	if !p.left.addr.IsValid() || p.left.at.Before(sa.born) || sa.local.Addr() == p.local.Addr() && sa.remote.Addr() == p.remote.Addr() {
		return
	}
	sa.relocated(now, keyex.Relocated{Local: p.local.Addr(), Remote: p.remote.Addr()})
}

// childRelocated gives SAs of Quick Mode the outer addresses that they have.
func (sa *SA) childRelocated(t keyex.ChildRelocated) {
	sa.RelocateChild(t, sa.children, sa.fading)
}

// keepAliveDue is when the next keepalive must be sent; zero: never.
func (sa *SA) keepAliveDue() time.Time {
	if sa.cfg == nil || sa.cfg.KeepAlive < 0 || !sa.nat.local || !sa.natt || sa.state != keyex.Established {
		return time.Time{}
	}
	every := sa.cfg.KeepAlive
	if every == 0 {
		every = 20 * time.Second
	}
	return sa.lastOutbound.Add(every)
}

// encapOf is the attribute for a mode.
func (sa *SA) encapOf(m spd.Mode) uint16 {
	if m == spd.BEET {
		if sa.nat.any() {
			return message.EncapUDPBEET
		}
		return message.EncapBEET
	}
	e := message.EncapTunnel
	if m == spd.Transport {
		e = message.EncapTransport
	}
	switch {
	case sa.nat.any() && sa.vendors.nattDraft:
		e += message.EncapUDPTunnelDraft - message.EncapTunnel
	case sa.nat.any():
		e += message.EncapUDPTunnel - message.EncapTunnel
	}
	return e
}
