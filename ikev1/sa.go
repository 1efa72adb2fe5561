// Package ikev1 is the IKEv1 state machine of RFC 2407, RFC 2408 and RFC 2409:
// bytes and a time go in, values come out. It knows no socket, clock, goroutine,
// logger or file. What it says to who drives it is package internal/keyex.
package ikev1

import (
	"crypto/sha256"
	"net/netip"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/internal/trace"
)

// SA is one ISAKMP SA and what is negotiated under it.
type SA struct {
	keyex.Queue
	env       keyex.Env
	cfg       *keyex.Config // nil in a responder before the first message
	uniqueID  uint32
	initiator bool // of phase 1
	closed    bool
	state     keyex.SAState

	ckyI, ckyR    isakmp.SPI
	local, remote netip.AddrPort
	natt          bool
	nat           natState
	parts         goneParts
	vendors       vendors // what the peer announced
	proposal      suite.Proposal
	auth          AuthMethod
	keys          *keys // nil before the Diffie-Hellman exchange
	localID       ident.ID
	remoteID      ident.ID

	p1          *phase1 // nil once established
	peerLife    uint64  // lifetime of phase 1 that the peer offered or told, in seconds; 0: none
	first       *exchange
	exchanges   map[uint32]*exchange // by message ID
	used        usedIDs
	waiting     []*quick // Quick Modes of ours whose turn has not come
	reassembler *message.Reassembler
	fragmentID  uint16
	children    []*keyex.Child
	fading      []*keyex.Child // replaced ones that still receive
	heir        *SA            // takes over, see rekey.go
	parent      *SA            // whose children it takes over
	born        time.Time      // when its phase 1 began
	left        leftAddress
	dpd         dpdState
	contact     bool // the peer sent INITIAL-CONTACT
	tellContact bool // the first Quick Mode carries ours
	cfgID       uint16
	user        string // whom XAuth authenticated
	userDone    bool
	lastError   message.NotifyType // that the peer notified and that was about no Quick Mode of ours; 0: none
	refusal     *trace.Failure     // why the user was refused, of which the client is being told
	later       []pending          // children that wait for the end of phase 1
	quickAt     time.Time          // Quick Modes of ours begin then

	// Virtual addresses that we were given, and that the peer was; see modecfg.go.
	vipLocal, vipRemote []netip.Prefix
	dns                 []netip.Addr
	using, leased       bool
	fixed               netip.Addr        // of the user, see xauth.go; invalid: none
	attrs               []keyex.Attribute // of the pools, beside addresses and name servers
	given               unityGiven        // by the server

	timers       timers
	established  time.Time
	lastInbound  time.Time
	lastOutbound time.Time
}

var _ keyex.Machine = (*SA)(nil)

// NewInitiator makes an SA that will initiate when Start(StartInit) is called.
func NewInitiator(env keyex.Env, cfg *keyex.Config, local, remote netip.AddrPort) *SA {
	return &SA{
		env: env, cfg: cfg, initiator: true, uniqueID: env.NextIKEID(), local: unmap(local), remote: unmap(remote),
		ckyI: isakmp.SPIFromUint64(uint64(env.NewSPI())), localID: cfg.Local.ID,
	}
}

// NewResponder makes an SA for a first message of phase 1 that passed the gate.
// The message itself comes by Receive.
func NewResponder(env keyex.Env, local, remote netip.AddrPort, natt bool) *SA {
	return &SA{
		env: env, uniqueID: env.NextIKEID(), local: unmap(local), remote: unmap(remote), natt: natt,
		ckyR: isakmp.SPIFromUint64(uint64(env.NewSPI())),
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Receive takes a datagram addressed to this SA.
func (sa *SA) Receive(now time.Time, d keyex.Datagram) {
	if sa.closed {
		return
	}
	d.Local, d.Remote = unmap(d.Local), unmap(d.Remote)
	if !sa.initiator && sa.state == keyex.Created && sa.timers.halfOpen.IsZero() {
		sa.born = now
		sa.timers.halfOpen = now.Add(halfOpenTime)
	}
	sa.receive(now, d)
	sa.pump(now)
}

// Start queues a task.
func (sa *SA) Start(now time.Time, t keyex.Task) {
	if sa.closed {
		return
	}
	sa.start(now, t)
	sa.pump(now)
}

// Resume brings the result of a Request.
func (sa *SA) Resume(now time.Time, id keyex.RequestID, r keyex.Reply) {
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

// start turns a task of the engine into an exchange of ours.
func (sa *SA) start(now time.Time, t keyex.Task) {
	switch t := t.(type) {
	case keyex.StartInit:
		if sa.initiator && sa.state == keyex.Created && sa.p1 == nil {
			if t.Child != nil {
				sa.queueChild(now, t.Child, t.Flow)
			}
			sa.startPhase1(now)
		}
	case keyex.CreateChild:
		sa.queueChild(now, t.Child, t.Flow)
	case keyex.RekeyChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.rekeyChild(now, c)
		}
	case keyex.DeleteChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.deleteChild(now, c, t.Expired)
		}
	case keyex.RekeyIKE:
		sa.rekey(now)
	case keyex.Delete:
		sa.delete(now, t.Why)
	case keyex.Liveness:
		sa.areYouThere(now)
	case keyex.PeerMoved:
		sa.follow(now, keyex.Datagram{Local: sa.local, Remote: unmap(t.Remote), NATT: sa.natt})
	case keyex.Relocated:
		sa.relocated(now, t)
	case keyex.ChildRelocated:
		sa.childRelocated(t)
	case keyex.NetworkChanged:
		// IKEv1 has no way to tell the peer; what has no way any more ends by DPD.
	}
}

// pump begins what waited for the ISAKMP SA.
func (sa *SA) pump(now time.Time) {
	for sa.state == keyex.Established && len(sa.waiting) > 0 && !sa.closed && !sa.quickAt.After(now) && sa.mayInitiate() {
		q := sa.waiting[0]
		sa.waiting = sa.waiting[1:]
		q.begin(now)
	}
}

// mayInitiate bounds the Quick Modes of ours that run at once.
func (sa *SA) mayInitiate() bool {
	n := 0
	for _, x := range sa.exchanges {
		if x.ours && x.late != nil { // also while it waits for an SPI, or computes
			n++
		}
	}
	return n < maxParallel
}

// close ends the SA: children and secrets go, then Closed.
func (sa *SA) close(now time.Time, c keyex.Closed) {
	if sa.closed {
		return
	}
	for _, x := range sa.exchanges {
		sa.drop(now, x)
	}
	for _, q := range sa.waiting {
		q.abandon()
	}
	sa.waiting = nil
	if sa.p1 != nil {
		sa.p1.flow.Stop()
	}
	sa.orphaned(now)
	for _, ch := range sa.children {
		sa.removeChild(ch, true, true)
		if book(ch).announced {
			sa.Event(keyex.ChildDown{Child: ch, Peer: c.Reason == keyex.ClosePeerDeleted})
		}
		ch.State = keyex.ChildDeleted
	}
	for _, ch := range sa.fading {
		sa.removeChild(ch, true, true)
	}
	sa.children, sa.fading = nil, nil
	sa.returnAddresses()
	sa.destroySecrets()
	sa.state, sa.closed = keyex.Destroying, true
	sa.Forget()
	sa.Emit(c)
}

func (sa *SA) destroySecrets() {
	if sa.p1 != nil {
		sa.p1.destroy()
		sa.p1 = nil
	}
	if sa.keys != nil {
		sa.keys.destroy()
		sa.keys = nil
	}
}

// fingerprint tells a repetition of a message.
func fingerprint(b []byte) [sha256.Size]byte { return sha256.Sum256(b) }
