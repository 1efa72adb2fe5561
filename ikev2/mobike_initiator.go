package ikev2

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
	"iked/migrate"
)

// The side that decides on addresses (RFC 4555, Sections 3.5, 3.6 and 3.10).

// lookAround looks for the way to the peer: addresses or routes changed, or the peer
// does not answer.
func (sa *SA) lookAround(now time.Time) { sa.seekFrom(now, sa.remote.Addr()) }

// seekFrom is lookAround for a peer that is at another address, for all one knows.
func (sa *SA) seekFrom(now time.Time, remote netip.Addr) {
	if !sa.mobile.on || sa.closed {
		return
	}
	sa.mobile.looks++
	w := FindPaths{Config: sa.cfg, Local: sa.local.Addr()}
	if sa.mobile.leads {
		w.Remotes = append(w.Remotes, remote)
		for _, a := range sa.mobile.others {
			if a != remote {
				w.Remotes = append(w.Remotes, a)
			}
		}
	}
	sa.ask(w)
}

func (sa *SA) ask(w FindPaths) {
	look := sa.mobile.looks
	sa.Ask(w, func(now time.Time, r Reply) {
		p, ok := r.(PathsReply)
		if !ok || p.Unknown || look != sa.mobile.looks {
			return
		}
		before := sa.mobile.paths
		sa.mobile.own = p.Own
		sa.mobile.paths = p.Paths[:min(len(p.Paths), maxPaths)]
		switch {
		case sa.mobile.leads:
			sa.choosePath(now, !slices.Equal(before, sa.mobile.paths))
		case slices.Contains(p.Own, sa.local.Addr()):
			sa.mobile.stranded = false
		case w.Remotes == nil:
			// Only who has lost its address needs to know of routes: there may be many
			// thousand peers.
			w.Remotes = []netip.Addr{sa.remote.Addr()}
			sa.ask(w)
			return
		default:
			sa.keepOwn(now)
		}
		sa.queueTell()
	})
}

func (sa *SA) path() Path { return Path{Local: sa.local.Addr(), Remote: sa.remote.Addr()} }

// usable are the paths that the peer did not refuse.
func (m *mobility) usable() []Path {
	return slices.DeleteFunc(slices.Clone(m.paths), func(p Path) bool { return slices.Contains(m.refused, p) })
}

// on is where a message goes on a path. The port of another address of the peer is
// the one that IKE has there.
func (sa *SA) on(p Path) Datagram {
	d := Datagram{Local: netip.AddrPortFrom(p.Local, sa.local.Port()), Remote: netip.AddrPortFrom(p.Remote, sa.remote.Port()), NATT: sa.natt}
	if sa.natt && p.Remote != sa.remote.Addr() {
		d.Remote = netip.AddrPortFrom(p.Remote, orPort(sa.cfg.PeerPortNATT))
	}
	return d
}

// askAgain is how often a change of the network that leaves the path as it is makes
// the mapping of a NAT be asked for: wireless links tell of something all the time.
const askAgain = 10 * time.Second

// choosePath decides where the IKE SA goes on; changed: the paths are others than at
// the last look. While there is a way between the addresses that it has it stays.
func (sa *SA) choosePath(now time.Time, changed bool) {
	m := &sa.mobile
	usable, stranded := m.usable(), m.stranded
	m.stranded = len(usable) == 0
	switch {
	case m.stranded:
		if !stranded {
			f := sa.failure(now, trace.StageReach, fmt.Sprintf("the network is unreachable: there is no way from this system to %v any more; IKE_SA %s waits for one", sa.remote.Addr(), sa.cfg.Name),
				"nothing can be sent: check the routes and interfaces of this system; the tunnel goes on by itself when there is a way")
			sa.log(now, trace.Control, true, "%s", f.Sentence)
			sa.Event(Failed{Failure: f})
		}
	case slices.Contains(usable, sa.path()):
		if o := sa.window.out; o != nil {
			o.spread = o.spread || o.tries > 1 && len(usable) > 1
			if stranded {
				sa.resend(now, o)
			}
		}
		if stranded {
			sa.queueUpdate() // a NAT may have forgotten us, or be new
		} else if sa.nat.local && now.Sub(m.asked) >= askAgain {
			m.asked = now
			sa.queueLiveness(now) // it asks for the mapping
		}
	case len(usable) == 1 && usable[0].Remote == sa.remote.Addr():
		// RFC 4555, Section 3.5: the IPsec SAs move before the peer is told, so that
		// nothing more is sent from an address that is gone.
		sa.moveTo(now, usable[0])
	default:
		// RFC 4555, Section 3.10: the first path on which there is an answer. A peer's
		// other address is its word only, and gets no traffic before.
		if o := sa.window.out; o != nil {
			if !o.spread || changed {
				o.spread = true
				sa.resend(now, o)
			}
		} else if !queuedAs[*tryPaths](sa) {
			sa.enqueueFirst(&tryPaths{sa: sa})
		}
	}
}

// moveTo takes a path.
func (sa *SA) moveTo(now time.Time, p Path) {
	d := sa.on(p)
	if i := slices.Index(sa.mobile.others, p.Remote); i >= 0 {
		// The one that was in use is one of the others now.
		sa.mobile.others = slices.Clone(sa.mobile.others)
		sa.mobile.others[i] = sa.remote.Addr()
	}
	sa.relocate(now, d.Local, d.Remote, d.NATT)
	sa.host = p.Remote
	sa.moveChildren(now)
	sa.queueUpdate()
	if o := sa.window.out; o != nil {
		// RFC 4555, Section 3.5: outstanding requests go on between the new addresses.
		sa.resend(now, o)
	}
}

// resend sends an outstanding request at once and begins its waits anew.
func (sa *SA) resend(now time.Time, o *outgoing) {
	o.tries = 0
	sa.sendAgain(now, o)
	sa.schedule(now, o)
}

// sendAgain sends an outstanding request once more, over all paths when it is spread.
func (sa *SA) sendAgain(now time.Time, o *outgoing) {
	d := Datagram{Local: sa.local, Remote: sa.remote, NATT: sa.natt}
	m := &sa.mobile
	if m.on && m.leads && o.tries == 2 {
		sa.lookAround(now) // the path may be dead although the routes know nothing of it
	}
	if !m.on || !m.leads || !o.spread {
		sa.transmit(now, o.datagrams, d)
		return
	}
	for _, p := range m.usable() {
		sa.transmit(now, o.datagrams, sa.on(p))
	}
}

// answeredOn looks on which path an answer came: the deciding side goes on there.
func (sa *SA) answeredOn(now time.Time, d Datagram) {
	m := &sa.mobile
	if !m.on || !m.leads {
		return
	}
	p := Path{Local: d.Local.Addr(), Remote: d.Remote.Addr()}
	if p != sa.path() && slices.Contains(m.paths, p) && !slices.Contains(m.refused, p) {
		sa.moveTo(now, p)
	}
}

// tryPaths asks for a sign of life on all paths at once (RFC 4555, Section 3.10).
//
//	HDR, SK {}  -->
//	           <--  HDR, SK {}
type tryPaths struct{ sa *SA }

func (x *tryPaths) task() string      { return "IKE_MOBIKE" }
func (x *tryPaths) abandon(time.Time) {}

func (x *tryPaths) begin(now time.Time) {
	sa := x.sa
	if list := sa.mobile.usable(); len(list) == 0 || slices.Contains(list, sa.path()) {
		sa.finish() // things changed again
		return
	}
	if err := sa.request(now, message.ExchangeInformational); err != nil {
		sa.finish()
	}
}

// answer: answeredOn has taken the path.
func (x *tryPaths) answer(time.Time, *message.Message) { x.sa.finish() }

// updateAddresses tells the peer where the IKE SA goes on (RFC 4555, Section 3.5).
//
//	HDR, SK {N(UPDATE_SA_ADDRESSES), [N(NAT_DETECTION_*_IP)]}  -->
//	                             <--  HDR, SK {[N(NAT_DETECTION_*_IP)]}
type updateAddresses struct {
	sa    *SA
	moves int
	sent  *outgoing
}

func (x *updateAddresses) task() string      { return "IKE_MOBIKE" }
func (x *updateAddresses) abandon(time.Time) {}

// queueUpdate lets the peer know of the addresses as soon as the window allows.
func (sa *SA) queueUpdate() {
	sa.mobile.pending = true
	if !queuedAs[*updateAddresses](sa) {
		sa.enqueueFirst(&updateAddresses{sa: sa})
	}
}

func (x *updateAddresses) begin(now time.Time) {
	sa := x.sa
	if !sa.mobile.pending || sa.mobile.stranded {
		sa.finish()
		return
	}
	sa.mobile.pending, x.moves = false, sa.mobile.moves
	ps := []message.Payload{message.NewNotify(message.UpdateSAAddresses, nil)}
	if sa.mobile.natt {
		ps = append(ps, sa.natNotifies(sa.cfg, sa.local, sa.remote)...)
	}
	ps = append(ps, sa.forbidNATs()...)
	if err := sa.request(now, message.ExchangeInformational, ps...); err != nil {
		sa.finish()
		return
	}
	x.sent = sa.window.out
}

func (x *updateAddresses) answer(now time.Time, m *message.Message) {
	sa, ns := x.sa, m.Notifies()
	sa.finish()
	switch {
	case x.moves != sa.mobile.moves:
		// RFC 4555, Section 3.5: the addresses changed again, and the peer is told again.
		sa.queueUpdate()
	case x.sent != nil && x.sent.spread:
		// Which of the copies the peer followed cannot be told.
		sa.queueUpdate()
	case ns.Has(message.UnexpectedNATDetected) && sa.mobile.nats+1 < natTries:
		sa.mobile.nats++
		sa.queueUpdate()
	case ns.Has(message.UnacceptableAddresses), ns.Has(message.UnexpectedNATDetected):
		x.refused(now, ns)
	default:
		sa.mobile.refused, sa.mobile.nats = nil, 0
		if n := ns.Find(message.NATDetectionDestinationIP); n != nil && sa.mobile.natt {
			sa.mobile.mapped = slices.Clone(n.Data)
			sa.detectNAT(ns, sa.spiI, sa.spiR, sa.local, sa.remote)
			sa.moveChildren(now)
		}
		sa.queueTell()
	}
}

// refused: the peer does not accept the pair. Another one is tried; when there is
// none the IKE SA ends, since it carries nothing where it is.
func (x *updateAddresses) refused(now time.Time, ns message.Notifies) {
	sa := x.sa
	n := ns.Error()
	sa.mobile.refused, sa.mobile.nats = append(sa.mobile.refused, sa.path()), 0
	if sa.state == Rekeyed {
		return // its successor hears the same
	}
	f := sa.refusedBy(now, n, fmt.Sprintf("the move to %v === %v", sa.local, sa.remote))
	if n.Kind == message.UnacceptableAddresses {
		f.Advice = "allow the address in the peer's remote_addrs"
	}
	sa.log(now, trace.Control, true, "%s", f.Sentence)
	sa.Event(Failed{Failure: f})
	if len(sa.mobile.usable()) == 0 || len(sa.mobile.refused) > maxPaths*maxPaths {
		sa.startDelete(now, Delete{Why: CloseFailed})
		return
	}
	sa.choosePath(now, true)
}

// keepOwn is what the side that follows may do by itself: leave an own address,
// which is gone (RFC 4555, Section 3.5, the exception).
func (sa *SA) keepOwn(now time.Time) {
	m := &sa.mobile
	m.stranded = len(m.paths) == 0
	for _, p := range m.paths {
		if p.Remote == sa.remote.Addr() {
			// The peer, which decides, has the one that is gone for the one in use.
			m.told = append(slices.Clone(m.told), sa.local.Addr())
			sa.relocate(now, netip.AddrPortFrom(p.Local, sa.local.Port()), sa.remote, sa.natt)
			sa.moveChildren(now)
			if o := sa.window.out; o != nil {
				sa.resend(now, o)
			}
			return
		}
	}
}

// replaceTime is how long after a move a CHILD_SA for the address of a host is made
// anew: the peer proves the new address first.
const replaceTime = time.Second

// replaceOutdated makes another CHILD_SA in place of one whose selectors are an address
// that this host or the peer had, and that moved between other outer addresses: its
// traffic has another address now. Virtual addresses stay, and so does what is for
// networks.
func (sa *SA) replaceOutdated(now time.Time, c *Child, before migrate.Ends) {
	own := !staysHome(sa.vipLocal, c.Config.Local) && before.Local != sa.local.Addr()
	peers := !staysHome(sa.vipRemote, c.Config.Remote) && !sa.cfg.ChecksHomes() && before.Remote != sa.remote.Addr()
	if !sa.mobile.on || !sa.mobile.leads || !own && !peers || book(c).outdated || c.State == ChildDeleting || c.State == ChildDeleted {
		return
	}
	book(c).outdated = true
	sa.logChild(now, c.Config, false, "CHILD_SA %s{%d} is for an address that is another one now, and is made anew", c.Config.Name, c.UniqueID)
	sa.later(now.Add(replaceTime), &createChild{sa: sa, cfg: c.Config})
	sa.later(now.Add(replaceTime), &deleteChild{sa: sa, child: c})
}
