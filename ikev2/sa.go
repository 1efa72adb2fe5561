package ikev2

import (
	"iked/internal/keyex"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/isakmp"
)

// SA is one IKE SA (RFC 7296).
type SA struct {
	keyex.Queue
	env       Env
	cfg       *Config // nil in a responder before IKE_SA_INIT
	uniqueID  uint32
	initiator bool // the original initiator of this IKE SA
	closed    bool
	state     SAState

	spiI, spiR      isakmp.SPI
	local, remote   netip.AddrPort
	host            netip.Addr // of the peer when the IKE SA was begun: it got our answer there
	moved           time.Time  // since when moves are counted
	moves           int
	natt            bool
	nat             natState
	mobile          mobility
	proposal        suite.Proposal
	keys            *ikeKeys // nil before IKE_SA_INIT is done
	localID         ident.ID
	remoteID        ident.ID
	peerFragments   bool
	vipLocal        []netip.Prefix // virtual addresses that we were given
	vipRemote       []netip.Prefix // virtual addresses that the peer was given
	dns             []netip.Addr
	home            keyex.HomeLink // that we were told of
	children        []*Child
	fading          []*Child // replaced CHILD_SAs that still receive
	window          window
	active          exchange // of ours, in progress
	queue           []queued
	hs              *handshake // nil once authenticated
	rekey           ikeRekeyState
	timers          timers
	established     time.Time
	lastInbound     time.Time
	lastOutbound    time.Time
	usingAddresses  bool
	leasedAddresses bool
}

// NewInitiator makes an SA that will initiate when Start(StartInit) is called.
func NewInitiator(env Env, cfg *Config, local, remote netip.AddrPort) *SA {
	sa := &SA{
		env: env, cfg: cfg, initiator: true, uniqueID: env.NextIKEID(),
		local: unmap(local), remote: unmap(remote), host: remote.Addr().Unmap(),
		spiI:    isakmp.SPIFromUint64(uint64(env.NewSPI())),
		localID: cfg.Local.ID,
	}
	return sa
}

// NewResponder makes an SA for an IKE_SA_INIT request that passed the gate. The
// request itself comes by Receive.
func NewResponder(env Env, local, remote netip.AddrPort, natt bool) *SA {
	return &SA{
		env: env, uniqueID: env.NextIKEID(), local: unmap(local), remote: unmap(remote), host: remote.Addr().Unmap(), natt: natt,
		spiR: isakmp.SPIFromUint64(uint64(env.NewSPI())),
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Receive takes a datagram addressed to this SA. Its octets are decrypted in
// place.
func (sa *SA) Receive(now time.Time, d Datagram) {
	if sa.closed {
		return
	}
	d.Local, d.Remote = unmap(d.Local), unmap(d.Remote)
	if !sa.initiator && sa.state == Created && sa.timers.halfOpen.IsZero() {
		sa.timers.halfOpen = now.Add(halfOpenTime)
	}
	sa.receive(now, d)
	sa.pump(now)
}

// Start queues a task.
func (sa *SA) Start(now time.Time, t Task) {
	if sa.closed {
		return
	}
	sa.start(now, t)
	sa.pump(now)
}

// Resume brings the result of a Request.
func (sa *SA) Resume(now time.Time, id RequestID, r Reply) {
	if !sa.closed && sa.Reply(now, id, r) {
		sa.pump(now)
	}
}

// Advance tells that NextDeadline has passed.
func (sa *SA) Advance(now time.Time) {
	if sa.closed {
		return
	}
	sa.expire(now)
	sa.pump(now)
}

func (sa *SA) count(counter, reason string) { sa.Event(Count{Counter: counter, Reason: reason}) }

// start turns a task of the engine into an exchange of ours.
func (sa *SA) start(now time.Time, t Task) {
	if succ := sa.rekey.heir; succ != nil && !sa.closed {
		// The children are another SA's by now; the engine looks at it.
		if d, ok := t.(Delete); ok {
			sa.close(now, Closed{Reason: d.Why})
			return
		}
		if _, ok := t.(NetworkChanged); ok {
			// The peer may know this IKE SA only, while our answer to its rekeying is
			// lost: it is told by both. The successor is asked by itself.
			sa.lookAround(now)
			return
		}
		succ.start(now, t)
		sa.Event(NewSA{Successor: succ})
		return
	}
	switch t := t.(type) {
	case StartInit:
		if sa.initiator && sa.state == Created && sa.active == nil && sa.hs == nil {
			sa.startInit(now, t)
		}
	case CreateChild:
		sa.enqueue(&createChild{sa: sa, cfg: t.Child, flow: t.Flow})
	case RekeyChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.queueRekeyChild(now, c)
		}
	case DeleteChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.queueDeleteChild(now, c, t.Expired)
		}
	case RekeyIKE:
		sa.queueRekeyIKE(now)
	case Delete:
		sa.startDelete(now, t)
	case Liveness:
		sa.queueLiveness(now)
	case PeerMoved:
		sa.followESP(now, unmap(t.Remote))
	case NetworkChanged:
		sa.lookAround(now)
	case Relocated:
		sa.relocated(now, t)
	case ChildRelocated:
		sa.childRelocated(t)
	}
}

// close ends the SA: children and secrets go, then Closed.
func (sa *SA) close(now time.Time, c Closed) {
	if sa.closed {
		return
	}
	if sa.active != nil {
		sa.active.abandon(now)
		sa.active = nil
	}
	for _, q := range sa.queue {
		q.x.abandon(now)
	}
	sa.queue = nil
	if a := sa.window.answering; a != nil && a.flow != nil {
		a.flow.Stop()
	}
	for _, ch := range sa.children {
		sa.removeChild(ch, true, true)
		if book(ch).announced && !book(ch).silent && (book(ch).successor == nil || !book(book(ch).successor).announced) {
			sa.Event(ChildDown{Child: ch, Peer: c.Reason == ClosePeerDeleted})
		}
		ch.State = ChildDeleted
	}
	for _, ch := range sa.fading {
		sa.removeChild(ch, true, true)
	}
	sa.children, sa.fading = nil, nil
	if sa.rekey.heir == nil {
		sa.returnAddresses()
	}
	sa.destroySecrets()
	sa.state, sa.closed = Destroying, true
	sa.Forget()
	sa.window.out = nil
	sa.Emit(c)
}

// returnAddresses gives virtual addresses back.
func (sa *SA) returnAddresses() {
	if sa.usingAddresses {
		sa.Tell(UseAddress{Config: sa.cfg, Remove: true, Addrs: sa.vipLocal, DNS: sa.dns})
		sa.usingAddresses = false
	}
	if sa.leasedAddresses {
		var as []netip.Addr
		for _, p := range sa.vipRemote {
			as = append(as, p.Addr())
		}
		sa.Tell(ReleaseAddress{Config: sa.cfg, Peer: sa.remoteID, Addrs: as})
		sa.leasedAddresses = false
	}
}

func (sa *SA) destroySecrets() {
	if sa.hs != nil {
		sa.hs.destroy()
		sa.hs = nil
	}
	if sa.keys != nil {
		sa.keys.destroy()
		sa.keys = nil
	}
}

// header is that of a message of ours.
func (sa *SA) header(x message.Exchange, id uint32, response bool) message.Header {
	h := message.Header{SPIi: sa.spiI, SPIr: sa.spiR, Exchange: x, MessageID: id}
	// RFC 7296, Section 3.1: the flag tells the original initiator of this IKE SA.
	if sa.initiator {
		h.Flags |= message.FlagInitiator
	}
	if response {
		h.Flags |= message.FlagResponse
	}
	return h
}
