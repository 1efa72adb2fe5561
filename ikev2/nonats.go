package ikev2

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"iked/ikev2/message"
	"iked/internal/trace"
)

// NAT prohibition (RFC 4555, Section 3.9): who does not traverse NATs protects the
// addresses of the packets that move SAs. To whoever changes them on the way it looks
// like an attack, which it may be.

// natTries is how often what a NAT got in the way of is asked anew, so that who can
// change one packet makes no path unusable.
const natTries = 5

// noNATs is the content of NO_NATS_ALLOWED for a message that arrived as d: source
// and destination addresses, source and destination ports (RFC 4555, Section 4.2.6).
func noNATs(d Datagram) []byte {
	b := append(d.Remote.Addr().AsSlice(), d.Local.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, d.Remote.Port())
	return binary.BigEndian.AppendUint16(b, d.Local.Port())
}

// forbidNATs is what a request has that tells of addresses: the first one of IKE_AUTH,
// UPDATE_SA_ADDRESSES and lists of addresses.
func (sa *SA) forbidNATs() []message.Payload {
	if !sa.cfg.NoNATs || !sa.cfg.Mobike {
		return nil
	}
	return []message.Payload{message.NewNotify(message.NoNATsAllowed, noNATs(Datagram{Local: sa.remote, Remote: sa.local}))}
}

// unexpectedNAT refuses a request that allows no NAT and came as d, which is not how it
// was sent; nil: it does not say so, or came as it was sent. What it says of addresses is
// used for nothing then.
func (sa *SA) unexpectedNAT(now time.Time, ns message.Notifies, d Datagram) *message.Notify {
	n := ns.Find(message.NoNATsAllowed)
	if n == nil || slices.Equal(n.Data, noNATs(d)) {
		return nil
	}
	sa.count("ike-address", "unexpected-nat")
	sa.log(now, trace.Control, true, "the peer allows no NAT, and there is one between it and %v", d.Local)
	return message.NewNotify(message.UnexpectedNATDetected, nil)
}

// checkNATs refuses IKE_AUTH of an authentic peer when there is a NAT and one of both
// sides allows none.
func (x *authResponder) checkNATs(now time.Time) {
	sa, d := x.sa, x.sa.window.answering.from
	refuse := func(sentence, advice string) {
		x.refuseWith(now, message.NewNotify(message.UnexpectedNATDetected, nil), sa.failure(now, trace.StageConfig, sentence, advice))
	}
	if sa.cfg.Mobike && x.v.Notifies.Has(message.MOBIKESupported) && sa.unexpectedNAT(now, x.v.Notifies, d) != nil {
		refuse(fmt.Sprintf("the peer allows no NAT (NO_NATS_ALLOWED), and its message came from %v to %v, which is not how it was sent", d.Remote, d.Local),
			"let the peer allow NATs, or remove the NAT")
		return
	}
	if !sa.cfg.NoNATs {
		return
	}
	if sa.nat.any() {
		refuse(fmt.Sprintf("there is a NAT between %v and %v, and %s allows none", d.Local, d.Remote, sa.cfg.Name), "set nat_traversal to yes, or remove the NAT")
		return
	}
	// Another connection was the first choice before the peer said who it is.
	sa.mobile.natt = false
}
