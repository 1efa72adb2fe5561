package ikev2

import (
	"crypto/subtle"
	"fmt"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
)

// The side that follows (RFC 4555, Sections 3.5 and 3.7).

// refuseMove is the notify that refuses an UPDATE_SA_ADDRESSES which came between
// the addresses of d; nil: it is accepted.
func (sa *SA) refuseMove(now time.Time, d Datagram) *message.Notify {
	// RFC 4555, Section 3.5: whether the pair is acceptable is local policy, which is
	// that of a peer that begins from there.
	ok := usable(d.Remote.Addr()) && slices.ContainsFunc(sa.env.Candidates(d.Local.Addr(), d.Remote.Addr()), func(c *Config) bool { return c.Name == sa.cfg.Name })
	if !ok {
		sa.count("ike-address", "unacceptable")
		sa.log(now, trace.Control, true, "the peer wants to move to %v, where the connection does not allow it to be (remote_addrs, local_addrs)", d.Remote)
		return message.NewNotify(message.UnacceptableAddresses, nil)
	}
	return nil
}

// updated follows an UPDATE_SA_ADDRESSES that was answered.
func (sa *SA) updated(now time.Time, ns message.Notifies, d Datagram) {
	if sa.mobile.natt && ns.Has(message.NATDetectionSourceIP) && ns.Has(message.NATDetectionDestinationIP) {
		sa.detectNAT(ns, sa.spiI, sa.spiR, d.Local, d.Remote)
	}
	if heir := sa.living(); heir != sa {
		heir.nat = sa.nat
		heir.peerAt(now, d)
		sa.local, sa.remote, sa.natt = d.Local, d.Remote, d.NATT
		sa.Event(NewSA{Successor: heir})
		return
	}
	sa.peerAt(now, d)
}

// peerAt moves the IKE SA to where the peer says that it is. Its CHILD_SAs follow at
// once when the peer's address is the same, and else when the peer has shown that it
// receives there (RFC 4555, Section 3.7): nobody's traffic is sent to a third party.
func (sa *SA) peerAt(now time.Time, d Datagram) {
	local, remote := sa.childEnds()
	sa.relocate(now, d.Local, d.Remote, d.NATT)
	if o := sa.window.out; o != nil {
		sa.resend(now, o) // the peer is there, and got it at the old address if at all
	}
	if d.Remote.Addr() == remote.Addr() {
		sa.moveChildren(now)
		return
	}
	sa.mobile.before = &childEnds{local, remote}
	if !queuedAs[*checkAddress](sa) {
		sa.enqueueFirst(&checkAddress{sa: sa})
	}
}

// checkAddress is the return routability check (RFC 4555, Section 3.7).
//
//	HDR, SK {N(COOKIE2)}  -->
//	                     <--  HDR, SK {N(COOKIE2)}
type checkAddress struct {
	sa     *SA
	cookie []byte
	moves  int
}

func (x *checkAddress) task() string      { return "IKE_MOBIKE" }
func (x *checkAddress) abandon(time.Time) {}

func (x *checkAddress) begin(now time.Time) {
	sa := x.sa
	if sa.mobile.before == nil {
		sa.finish() // it is back where it was
		return
	}
	x.cookie, x.moves = make([]byte, 16), sa.mobile.moves
	sa.env.Random(x.cookie)
	if err := sa.request(now, message.ExchangeInformational, message.NewNotify(message.Cookie2, x.cookie)); err != nil {
		sa.finish()
	}
}

func (x *checkAddress) answer(now time.Time, m *message.Message) {
	sa := x.sa
	sa.finish()
	n := m.Notifies().Find(message.Cookie2)
	switch {
	case n == nil || subtle.ConstantTimeCompare(n.Data, x.cookie) != 1:
		// RFC 4555, Section 3.7: it answers what it did not get.
		f := sa.failure(now, trace.StageReach, fmt.Sprintf("the peer does not return the cookie that was sent to %v", sa.remote), "this is a fault of the peer's implementation, or an attack by it")
		sa.log(now, trace.Control, true, "%s", f.Sentence)
		sa.Event(Failed{Failure: f})
		sa.startDelete(now, Delete{Why: CloseFailed})
	case x.moves != sa.mobile.moves:
		// The cookie may have gone to more than one address.
		if sa.mobile.before != nil {
			sa.enqueueFirst(&checkAddress{sa: sa})
		}
	default:
		sa.host = sa.remote.Addr()
		sa.moveChildren(now)
	}
}
