package ikev2

import (
	"net/netip"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
)

// MOBIKE (RFC 4555): an IKE SA and its CHILD_SAs move to other addresses. The side
// that began the first IKE SA decides where; the other one follows UPDATE_SA_ADDRESSES
// and nothing else.

// mobility is what an IKE SA knows about moving.
type mobility struct {
	on    bool // both sides speak MOBIKE
	leads bool // this side began the first IKE SA, and decides on the addresses
	natt  bool // the peer detects NATs, as it said in IKE_SA_INIT
	moves int  // of the IKE SA; what was asked before a move is answered in vain

	own    []netip.Addr // of this host
	told   []netip.Addr // those of them that the peer was told beside the one in use
	others []netip.Addr // the peer's, beside the one in use
	paths  []Path       // found by the last look
	looks  int          // how often was looked; the answer to an older one is old

	elder    *SA        // whose place this one took; it may still wait for an answer
	stranded bool       // there is no path
	pending  bool       // an UPDATE_SA_ADDRESSES is due
	refused  []Path     // that the peer does not accept
	before   *childEnds // where CHILD_SAs are while the peer's new address is not proven
	asked    time.Time  // for the mapping, because of a change of the network
	mapped   []byte     // by the peer's NAT_DETECTION_DESTINATION_IP: how it sees us
	nats     int        // how often in a row a NAT got in the way of a request that allows none
}

type childEnds struct{ local, remote netip.AddrPort }

// Bounds of what a peer can make us keep and try.
const (
	maxOthers = 16
	maxPaths  = 8
)

// successor is what an IKE SA that replaces this one begins with.
func (m *mobility) successor() mobility {
	return mobility{on: m.on, leads: m.leads, natt: m.natt, own: m.own, told: m.told, others: m.others, paths: m.paths, stranded: m.stranded, before: m.before}
}

// bequeathMobility hands over what is not done yet; waiting are the exchanges that had
// not begun. One that has may still be answered, and the new IKE SA makes its own.
func (sa *SA) bequeathMobility(now time.Time, next *SA, waiting []queued) {
	if !sa.mobile.on {
		return
	}
	if next.mobile.moves == 0 {
		// It was made where this one was then.
		next.mobile.told, next.mobile.others, next.mobile.before = sa.mobile.told, sa.mobile.others, sa.mobile.before
		next.local, next.remote, next.natt, next.nat, next.host = sa.local, sa.remote, sa.natt, sa.nat, sa.host
	}
	next.mobile.elder = sa
	update, tell := sa.mobile.pending, false
	check := next.mobile.before != nil && !queuedAs[*checkAddress](next)
	list := []exchange{sa.active}
	for _, q := range waiting {
		list = append(list, q.x)
	}
	for _, x := range list {
		switch x.(type) {
		case *updateAddresses, *tryPaths:
			update = true
		case *tellAddresses:
			tell = true
		}
	}
	if update {
		next.queueUpdate()
		sa.queueUpdate() // the peer may know this one only, as long as it is there
	}
	if check {
		next.enqueueFirst(&checkAddress{sa: next})
	}
	if tell {
		next.enqueue(&tellAddresses{sa: next})
	}
	if next.mobile.before == nil {
		next.moveChildren(now)
	}
}

// living is this IKE SA, or the one that took over its CHILD_SAs.
func (sa *SA) living() *SA {
	for sa.rekey.heir != nil {
		sa = sa.rekey.heir
	}
	return sa
}

// childEnds are the outer addresses of a new CHILD_SA: those of the IKE SA, as far
// as they are proven.
func (sa *SA) childEnds() (local, remote netip.AddrPort) {
	if b := sa.mobile.before; b != nil {
		return b.local, b.remote
	}
	return sa.local, sa.remote
}

// agreeMobility notes in IKE_AUTH whether both sides speak MOBIKE (RFC 4555, Section
// 3.2), and the peer's other addresses (Section 3.4).
func (sa *SA) agreeMobility(leads bool, ns message.Notifies) {
	if !sa.cfg.Mobike || !ns.Has(message.MOBIKESupported) {
		return
	}
	sa.mobile.on, sa.mobile.leads = true, leads
	sa.mobile.others, _ = additional(ns)
}

// additional are the addresses that a message lists; false: it says nothing about
// them. NO_ADDITIONAL_ADDRESSES is an empty list (RFC 4555, Section 3.6).
func additional(ns message.Notifies) (list []netip.Addr, said bool) {
	for _, n := range ns {
		switch n.Kind {
		case message.NoAdditionalAddresses:
			said = true
			continue
		case message.AdditionalIP4Address, message.AdditionalIP6Address:
		default:
			continue
		}
		said = true
		a, ok := netip.AddrFromSlice(n.Data)
		// RFC 4555, Sections 4.2.2 and 4.2.3: 4 and 16 octets.
		if !ok || a.Is4() != (n.Kind == message.AdditionalIP4Address) || !usable(a) || slices.Contains(list, a) || len(list) >= maxOthers {
			continue
		}
		list = append(list, a)
	}
	return list, said
}

// usable tells whether a peer may be at an address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.Is4In6() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// ownAddresses asks for the addresses of this host; then gets the notifies that tell
// the peer of those beside the one in use.
func (sa *SA) ownAddresses(x *flow, then func([]message.Payload)) {
	x.Ask(FindPaths{Config: sa.cfg, Local: sa.local.Addr()}, func(_ time.Time, r Reply) {
		p, _ := r.(PathsReply)
		sa.mobile.own = p.Own
		sa.mobile.told = sa.besides()
		then(additionalNotifies(sa.mobile.told))
	})
}

// toldAll tells whether the peer knows all own addresses: it takes the one in use from
// the packets, wherever it stood when the others were told.
func (sa *SA) toldAll() bool {
	set := func(list []netip.Addr) []netip.Addr {
		list = append(slices.Clone(list), sa.local.Addr())
		slices.SortFunc(list, netip.Addr.Compare)
		return slices.Compact(list)
	}
	return slices.Equal(set(sa.mobile.told), set(sa.besides()))
}

// besides are the own addresses but the one in use.
func (sa *SA) besides() (list []netip.Addr) {
	for _, a := range sa.mobile.own {
		if a != sa.local.Addr() && usable(a) && len(list) < maxOthers {
			list = append(list, a)
		}
	}
	return list
}

func additionalNotifies(list []netip.Addr) (ps []message.Payload) {
	for _, a := range list {
		kind := message.AdditionalIP6Address
		if a.Is4() {
			kind = message.AdditionalIP4Address
		}
		ps = append(ps, message.NewNotify(kind, a.AsSlice()))
	}
	return ps
}

// tellAddresses tells the peer that the list of addresses changed (RFC 4555, Section
// 3.6).
//
//	HDR, SK {N(ADDITIONAL_*_ADDRESS)+ or N(NO_ADDITIONAL_ADDRESSES)}  -->
//	                                                       <--  HDR, SK {}
type tellAddresses struct {
	sa    *SA
	again int // how often it was refused because of a NAT
}

func (x *tellAddresses) task() string      { return "IKE_MOBIKE" }
func (x *tellAddresses) abandon(time.Time) {}

func (x *tellAddresses) begin(now time.Time) {
	sa := x.sa
	if sa.toldAll() && x.again == 0 || sa.mobile.stranded {
		sa.finish()
		return
	}
	sa.mobile.told = sa.besides()
	ps := additionalNotifies(sa.mobile.told)
	if len(ps) == 0 {
		ps = append(ps, message.NewNotify(message.NoAdditionalAddresses, nil))
	}
	ps = append(ps, sa.forbidNATs()...)
	if err := sa.request(now, message.ExchangeInformational, ps...); err != nil {
		sa.finish()
	}
}

func (x *tellAddresses) answer(now time.Time, m *message.Message) {
	sa := x.sa
	sa.finish()
	if !m.Notifies().Has(message.UnexpectedNATDetected) {
		return
	}
	// RFC 4555, Section 3.9: several times. The next move tells of all addresses anew.
	if x.again++; x.again < natTries {
		sa.enqueue(x)
		return
	}
	sa.log(now, trace.Control, true, "the peer cannot be told of the addresses of this host: there is a NAT, and %s allows none (nat_traversal)", sa.cfg.Name)
}

// queueTell queues tellAddresses when there is something to tell.
func (sa *SA) queueTell() {
	if !sa.toldAll() && sa.state != Rekeyed && !queuedAs[*tellAddresses](sa) {
		sa.enqueue(&tellAddresses{sa: sa})
	}
}

// queuedAs tells whether an exchange of a kind waits for its turn.
func queuedAs[X exchange](sa *SA) bool {
	return slices.ContainsFunc(sa.queue, func(q queued) bool { _, ok := q.x.(X); return ok })
}

// mappingQuery asks in a liveness check how the peer sees this side, when a NAT is
// before it (RFC 4555, Section 3.8).
func (sa *SA) mappingQuery() []message.Payload {
	if m := &sa.mobile; !m.on || !m.leads || !m.natt || !sa.nat.local {
		return nil
	}
	return sa.natNotifies(sa.cfg, sa.local, sa.remote)
}

// checkMapping compares the answer with what the peer said before: another mapping
// of the NAT must be told (RFC 4555, Section 3.8).
func (sa *SA) checkMapping(ns message.Notifies) {
	n := ns.Find(message.NATDetectionDestinationIP)
	if n == nil || !sa.mobile.on || !sa.mobile.leads {
		return
	}
	before := sa.mobile.mapped
	sa.mobile.mapped = slices.Clone(n.Data)
	if before != nil && !slices.Equal(before, n.Data) {
		sa.queueUpdate()
	}
}

// respondMobility answers what an INFORMATIONAL request says of addresses; then, when
// not nil, is done after the answer was sent.
func (sa *SA) respondMobility(now time.Time, ns message.Notifies) (ps []message.Payload, then func(time.Time)) {
	if !sa.mobile.on {
		return nil, nil
	}
	d := sa.window.answering.from
	if c := ns.Find(message.Cookie2); c != nil && len(c.Data) >= 8 && len(c.Data) <= 64 {
		// RFC 4555, Sections 3.7 and 4.2.5.
		ps = append(ps, message.NewNotify(message.Cookie2, c.Data))
	}
	list, said := additional(ns)
	if ns.Has(message.UpdateSAAddresses) || said {
		if n := sa.unexpectedNAT(now, ns, d); n != nil {
			return append(ps, n), nil
		}
	}
	if ns.Has(message.UpdateSAAddresses) && !sa.mobile.leads {
		if n := sa.refuseMove(now, d); n != nil {
			return append(ps, n), nil
		}
		then = func(now time.Time) { sa.updated(now, ns, d) }
	}
	if sa.mobile.natt && ns.Has(message.NATDetectionSourceIP) && ns.Has(message.NATDetectionDestinationIP) {
		// RFC 4555, Section 3.8: in any INFORMATIONAL request, and then in its answer.
		ps = append(ps, sa.natNotifies(sa.cfg, d.Local, d.Remote)...)
	}
	if said {
		sa := sa.living()
		sa.mobile.others = list
		sa.log(now, trace.Detail, false, "the peer has the further addresses %v", list)
		if sa.mobile.leads {
			sa.seekFrom(now, d.Remote.Addr())
		}
	}
	return ps, then
}
