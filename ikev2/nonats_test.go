package ikev2_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

var movedTo, natOutside = netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("203.0.113.50")

// RFC 4555, Section 3.9: who does not traverse NATs sends no NAT detection, and
// NO_NATS_ALLOWED with everything that tells of addresses: IKE_AUTH, UPDATE_SA_ADDRESSES,
// and lists of further addresses, of either side. Without a NAT all is as ever, at the
// ports of IKE.
func TestNoNATsIsSaid(t *testing.T) {
	p := newMobile(t, 1)
	p.ca.NoNATs, p.cb.NoNATs = true, true
	p.b.More = []netip.Addr{netip.MustParseAddr("203.0.113.2")}
	var auths int
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !q.KeepAlive {
			if m := p.read(t, q); m != nil {
				all := types(m)
				if slices.Contains(all, "NAT_DETECTION_SOURCE_IP") {
					t.Errorf("%v says %v", q.From, all)
				}
				if q.Header().Exchange == message.ExchangeIKEAuth && slices.Contains(all, "NO_NATS_ALLOWED") {
					auths++
				}
			}
			if q.From.Port() != 500 || q.To.Port() != 500 {
				t.Errorf("a message from %v to %v", q.From, q.To)
			}
		}
		return ikev2test.Deliver
	}
	p.up(t)
	if auths != 1 {
		t.Errorf("%d messages of IKE_AUTH with NO_NATS_ALLOWED, expected the request", auths)
	}
	p.net.Fate = nil
	said := p.listen(t)
	p.a.Move(movedTo.String(), "198.51.100.8")
	p.net.Run(5 * time.Second)
	p.b.Move(addrB.String(), "203.0.113.3")
	p.net.Run(5 * time.Second)
	p.at(t, movedTo.String(), addrB.String(), false)
	for _, want := range []string{"198.51.100.7 request [UPDATE_SA_ADDRESSES NO_NATS_ALLOWED]", "198.51.100.7 request [ADDITIONAL_IP4_ADDRESS NO_NATS_ALLOWED]", "192.0.2.2 request [ADDITIONAL_IP4_ADDRESS NO_NATS_ALLOWED]"} {
		if !slices.Contains(*said, want) {
			t.Errorf("nobody says %s, but\n%s", want, strings.Join(*said, "\n"))
		}
	}
	p.consistent(t, 1)
	p.a.Start(p.a.SA(), ikev2.RekeyIKE{})
	p.net.Run(10 * time.Second)
	p.a.Move("198.51.100.9")
	p.net.Run(5 * time.Second)
	p.at(t, "198.51.100.9", addrB.String(), false)
}

// A NAT before the one who begins: IKE_AUTH is refused with UNEXPECTED_NAT_DETECTED,
// whichever side allows none, and both say why.
func TestNoNATsInIKEAuth(t *testing.T) {
	for _, who := range []string{"initiator", "responder"} {
		p := newMobile(t, 1)
		p.net.AddNAT(addrA, natOutside)
		p.ca.NoNATs, p.cb.NoNATs = who == "initiator", who == "responder"
		p.a.Initiate(p.ca, addrB, p.cha)
		p.net.Run(30 * time.Second)
		if len(p.a.SAs)+len(p.b.SAs) != 0 {
			t.Errorf("%s: there is an IKE SA%s", who, story(p.a, p.b))
		}
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			ends := h.Closed
			if len(ends) != 1 || ends[0].Failure == nil || !strings.Contains(ends[0].Failure.Advice, "NAT") {
				t.Errorf("%s allows no NAT, %s: %+v", who, h.Name, ends)
			}
		}
	}
}

// A NAT where the node moves to: the peer does not follow. It is asked several times,
// and then the IKE SA ends, since it carries nothing; when the NAT was one that changed a
// packet or two the move is made.
func TestNoNATsWhenMoving(t *testing.T) {
	for _, lasting := range []bool{true, false} {
		p := newMobile(t, 1)
		p.ca.NoNATs = true
		p.up(t)
		p.net.AddNAT(movedTo, natOutside)
		refusals, strayed := 0, false
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if m := p.read(t, q); m != nil && isResponse(q) && m.Notifies().Has(message.UnexpectedNATDetected) {
				if refusals++; !lasting && refusals == 2 {
					p.net.NATs = nil
					q.To = netip.AddrPortFrom(movedTo, q.To.Port()) // this one is under way
				}
			}
			if sa := p.b.SA(); sa != nil {
				strayed = strayed || sa.Remote().Addr() == natOutside
			}
			return ikev2test.Deliver
		}
		p.a.Move(movedTo.String())
		p.net.Run(time.Minute)
		if strayed {
			t.Error("the peer followed to the address of the NAT")
		}
		if lasting {
			if refusals != 5 || p.a.SA() != nil {
				t.Errorf("%d refusals, expected 5, and an IKE SA %v%s", refusals, p.a.SA(), story(p.a))
			}
			continue
		}
		p.at(t, movedTo.String(), addrB.String(), false)
	}
}

// A list of addresses that a NAT changed the packet of is not taken, and told a few times
// more.
func TestNoNATsInLists(t *testing.T) {
	p := newMobile(t, 1)
	p.ca.NoNATs = true
	sa := p.up(t)
	wrong := message.NewNotify(message.NoNATsAllowed, make([]byte, 12))
	only(t, p.ask(t, sa, message.ExchangeInformational, 2, message.NewNotify(message.AdditionalIP4Address, []byte{203, 0, 113, 9}), wrong), message.UnexpectedNATDetected)
	only(t, p.ask(t, sa, message.ExchangeInformational, 3, message.NewNotify(message.NoAdditionalAddresses, nil), wrong), message.UnexpectedNATDetected)
	if got := ikev2.OthersForTest(p.b.SA()); len(got) != 0 {
		t.Errorf("b keeps %v", got)
	}
	// What tells of no addresses is not concerned.
	if m := p.ask(t, sa, message.ExchangeInformational, 4, wrong); m == nil || m.Notifies().Error() != nil {
		t.Errorf("a sign of life is answered with %v", m)
	}
	q := newMobile(t, 1)
	q.ca.NoNATs = true
	q.up(t)
	q.net.AddNAT(addrA, natOutside)
	said := q.listen(t)
	q.a.Move(addrA.String(), "198.51.100.8")
	q.net.Run(10 * time.Second)
	n := 0
	for _, s := range *said {
		if strings.Contains(s, "request [ADDITIONAL_IP4_ADDRESS NO_NATS_ALLOWED]") {
			n++
		}
	}
	if n != 5 || len(ikev2.OthersForTest(q.b.SA())) != 0 {
		t.Errorf("told %d times, expected 5; b keeps %v\n%s", n, ikev2.OthersForTest(q.b.SA()), strings.Join(*said, "\n"))
	}
}
