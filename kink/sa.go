package kink

import (
	"net/netip"
	"time"

	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// Env is what an SA needs from outside; its methods answer at once.
type Env interface {
	keyex.Env
	// Epoch is the number of this run of the daemon (RFC 4430, Section 3.7): it
	// changes when the state of all SAs is lost.
	Epoch() uint32
}

// SA is what there is between this host and one principal: the transactions that go
// on and the pairs of SAs that they made. KINK has no SA of its own; this one stands
// where IKE has its SA.
type SA struct {
	keyex.Queue
	env           Env
	cfg           *keyex.Config
	uniqueID      uint32
	initiator     bool
	closed        bool
	state         keyex.SAState
	own, peer     Principal
	local, remote netip.AddrPort
	before        netip.Addr // of the peer, before it moved; invalid: it has not

	epoch      uint32 // of the peer
	epochKnown bool
	tgt        []byte // the peer's, for user-to-user; nil: none was asked for
	exchanges  map[uint32]*exchange
	answers    map[uint32]*answer
	waiting    []*create // whose turn has not come
	children   []*keyex.Child
	fading     []*keyex.Child // that only receive any more
	deleting   bool
	greeting   bool // it tells the peer of this run, and ends

	timers      timers
	established time.Time
	lastInbound time.Time
}

var _ keyex.Machine = (*SA)(nil)

// NewInitiator makes an SA that will initiate when Start(StartInit) is called. peer
// is the principal that answers; the configuration may have a pattern for it.
func NewInitiator(env Env, cfg *keyex.Config, peer Principal, local, remote netip.AddrPort) *SA {
	own, _ := ParsePrincipal(cfg.Local.ID.Data)
	return &SA{env: env, cfg: cfg, initiator: true, uniqueID: env.NextIKEID(), own: own, peer: peer, local: unmap(local), remote: unmap(remote)}
}

// NewResponder makes an SA for a command of a peer, which comes by Command. The
// caller has checked that the configuration is for the peer.
func NewResponder(env Env, cfg *keyex.Config, c *Command) *SA {
	return &SA{env: env, cfg: cfg, uniqueID: env.NextIKEID(), own: c.Server, peer: c.Client, local: unmap(c.Local), remote: unmap(c.Remote)}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// Receive takes a REPLY. Commands come by Command, since they must be authentic
// before it is known whose they are.
func (sa *SA) Receive(now time.Time, d keyex.Datagram) {
	if sa.closed {
		return
	}
	sa.reply(now, d)
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
	if !sa.closed && sa.Queue.Reply(now, id, r) {
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

// start turns a task of the engine into a transaction of ours.
func (sa *SA) start(now time.Time, t keyex.Task) {
	switch t := t.(type) {
	case keyex.Relocated:
		sa.relocated(now, t)
		return
	case keyex.ChildRelocated:
		sa.childRelocated(t)
		return
	}
	if sa.deleting {
		if d, ok := t.(keyex.Delete); ok && d.Force {
			sa.close(now, keyex.Closed{Reason: d.Why})
		}
		return
	}
	switch t := t.(type) {
	case keyex.StartInit:
		if !sa.initiator || sa.state != keyex.Created {
			return
		}
		sa.state = keyex.Connecting
		if t.Child == nil {
			sa.ping(now)
			return
		}
		sa.queueChild(now, t.Child, t.Flow)
	case keyex.CreateChild:
		sa.queueChild(now, t.Child, t.Flow)
	case keyex.RekeyChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.rekeyChild(now, c)
		}
	case keyex.DeleteChild:
		if c := sa.childByInbound(t.SPI); c != nil {
			sa.deleteChildren(now, c)
			if t.Expired {
				sa.removeChild(c, true, true)
			}
		}
	case keyex.RekeyIKE:
		// Every transaction has a ticket of its own, or the same as long as it is valid.
		for _, c := range append([]*keyex.Child(nil), sa.children...) {
			sa.rekeyChild(now, c)
		}
	case keyex.Delete:
		sa.delete(now, t)
	case keyex.Liveness:
		sa.ping(now)
	case keyex.PeerMoved:
		// RFC 4430 has no translators and no message that a host moved.
		sa.log(now, trace.Control, true, "packets of %s come from %v, yet SAs of KINK move by a mobility manager alone", sa.peer, t.Remote)
	}
}

// Greet tells a peer that this host was started again: the epoch of a STATUS says so
// (RFC 4430, Section 3.7). The SA ends with the answer, or without one, of itself.
func (sa *SA) Greet(now time.Time) {
	if sa.closed || sa.state != keyex.Created {
		return
	}
	sa.greeting, sa.state = true, keyex.Connecting
	x := &exchange{kind: message.Status}
	end := func(now time.Time) { sa.close(now, keyex.Closed{Reason: keyex.CloseAsked}) }
	x.answered = func(now time.Time, _ *message.Body, _ bool) { end(now) }
	x.failed = func(now time.Time, f *trace.Failure) {
		sa.log(now, trace.Detail, false, "%s is not told of this start: %s", sa.peer, f.Sentence)
		end(now)
	}
	sa.begin(now, x)
}

// pump begins the CREATEs that wait, so many at once as are allowed.
func (sa *SA) pump(now time.Time) {
	for len(sa.waiting) > 0 && !sa.closed && !sa.deleting {
		n := 0
		for _, x := range sa.exchanges {
			if !x.done() {
				n++
			}
		}
		if n >= maxParallel {
			return
		}
		c := sa.waiting[0]
		sa.waiting = sa.waiting[1:]
		c.begin(now)
	}
	if !sa.closed && sa.timers.idle.IsZero() && sa.idle() {
		sa.timers.idle = now.Add(idleTime)
	}
}

// idle tells whether nothing is left to keep.
func (sa *SA) idle() bool {
	return sa.state == keyex.Established && len(sa.children)+len(sa.fading)+len(sa.exchanges)+len(sa.answers)+len(sa.waiting) == 0
}

// up notes that a message of the peer was authentic.
func (sa *SA) up(now time.Time) {
	sa.lastInbound = now
	if sa.greeting {
		return
	}
	if sa.state == keyex.Established || sa.closed || sa.deleting {
		return
	}
	sa.state, sa.established = keyex.Established, now
	if sa.cfg.DPDDelay > 0 {
		sa.timers.dpd = now.Add(sa.cfg.DPDDelay)
	}
	sa.log(now, trace.Control, false, "%s and %s know each other by Kerberos", sa.own, sa.peer)
	sa.Event(keyex.Up{})
}

// delete closes the SA. The pairs of SAs are deleted first, and the peer's answer is
// waited for, unless that is forced.
func (sa *SA) delete(now time.Time, t keyex.Delete) {
	end := keyex.Closed{Reason: t.Why}
	list := append([]*keyex.Child(nil), sa.children...)
	for _, x := range ordered(sa.exchanges, func(*exchange) bool { return true }) {
		if x.pair != nil && len(x.verifiers) > 0 && !x.done() {
			// The peer may have it already.
			list = append(list, x.pair)
		}
		x.drop(now)
	}
	for _, c := range sa.waiting {
		c.abandon(now)
	}
	sa.exchanges, sa.waiting = nil, nil
	if t.Force || len(list) == 0 {
		sa.close(now, end)
		return
	}
	sa.deleting, sa.state = true, keyex.Deleting
	for _, c := range sa.children {
		sa.removeChild(c, false, true)
	}
	sa.sendDelete(now, list, func(now time.Time) { sa.close(now, end) })
}

// close ends the SA: children and secrets go, then Closed.
func (sa *SA) close(now time.Time, c keyex.Closed) {
	if sa.closed {
		return
	}
	for _, x := range sa.exchanges {
		x.drop(now)
	}
	for _, a := range sa.answers {
		a.drop(now)
	}
	for _, w := range sa.waiting {
		w.abandon(now)
	}
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
	sa.exchanges, sa.answers, sa.waiting, sa.children, sa.fading = nil, nil, nil, nil, nil
	sa.state, sa.closed = keyex.Destroying, true
	sa.Forget()
	sa.Emit(c)
}

// Status takes a picture of the SA.
func (sa *SA) Status() keyex.Status {
	s := keyex.Status{
		Version: keyex.VersionKINK, UniqueID: sa.uniqueID, State: sa.state, Initiator: sa.initiator, Config: sa.cfg, Local: sa.local, Remote: sa.remote,
		LocalID: sa.own.Ident(), RemoteID: sa.peer.Ident(), Children: append([]*keyex.Child(nil), sa.children...),
		Established: sa.established, LastInbound: sa.lastInbound,
	}
	for range sa.waiting {
		s.Queued = append(s.Queued, "KINK_CREATE")
	}
	for _, x := range sa.exchanges {
		if !x.done() {
			s.Active = append(s.Active, x.name())
		}
	}
	for _, a := range sa.answers {
		if a.confirm != nil {
			s.Passive = append(s.Passive, "KINK_CREATE")
		}
	}
	return s
}

// Ident is the principal as an identity of this product.
func (p Principal) Ident() ident.ID {
	if p.IsZero() {
		return ident.ID{}
	}
	return ident.ID{Type: ident.Kerberos, Data: p.String()}
}

// UniqueID numbers the SA.
func (sa *SA) UniqueID() uint32 { return sa.uniqueID }

// State is that of the SA.
func (sa *SA) State() keyex.SAState { return sa.state }

// Config is the configuration.
func (sa *SA) Config() *keyex.Config { return sa.cfg }
