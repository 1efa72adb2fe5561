package ikev2_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// RFC 4555, Section 3.6: lists of further addresses replace each other, in both
// directions, and an empty one is said.
func TestMOBIKEAdditionalAddresses(t *testing.T) {
	p := newMobile(t, 1)
	p.a.More = []netip.Addr{netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("203.0.113.1")}
	p.b.More = []netip.Addr{netip.MustParseAddr("2001:db8::2")}
	p.up(t)
	others := func(h *ikev2test.Host) string { return fmt.Sprint(ikev2.OthersForTest(h.SA())) }
	if a, b := others(p.a), others(p.b); a != "[2001:db8::2]" || b != "[2001:db8:1::1 203.0.113.1]" {
		t.Errorf("a knows %s, b knows %s", a, b)
	}
	said := p.listen(t)
	p.a.Move(addrA.String())
	p.b.Move(addrB.String(), "203.0.113.2")
	p.net.Run(5 * time.Second)
	if a, b := others(p.a), others(p.b); a != "[203.0.113.2]" || b != "[]" {
		t.Errorf("after the change a knows %s, b knows %s", a, b)
	}
	if !slices.Contains(*said, "192.0.2.1 request [NO_ADDITIONAL_ADDRESSES]") || !slices.Contains(*said, "192.0.2.2 request [ADDITIONAL_IP4_ADDRESS]") {
		t.Errorf("said: %s", strings.Join(*said, "\n"))
	}
	n := len(*said)
	p.a.NetworkChanged()
	p.net.Run(5 * time.Second)
	if len(*said) != n {
		t.Errorf("the same list is told again: %v", (*said)[n:])
	}
}

// Addresses that no peer can have are not taken from a list, and it is bounded.
func TestMOBIKEAdditionalNonsense(t *testing.T) {
	p := newMobile(t, 1)
	sa := p.up(t)
	ps := []message.Payload{}
	for _, a := range []string{"0.0.0.0", "224.0.0.1", "255.255.255.255", "127.0.0.1", "203.0.113.9", "203.0.113.9"} {
		ps = append(ps, message.NewNotify(message.AdditionalIP4Address, netip.MustParseAddr(a).AsSlice()))
	}
	ps = append(ps, message.NewNotify(message.AdditionalIP4Address, []byte{1, 2, 3}), message.NewNotify(message.AdditionalIP6Address, []byte{203, 0, 113, 8}),
		message.NewNotify(message.AdditionalIP6Address, netip.MustParseAddr("::ffff:203.0.113.7").AsSlice()), message.NewNotify(message.AdditionalIP6Address, netip.MustParseAddr("fe80::1").AsSlice()))
	for i := range 20 {
		ps = append(ps, message.NewNotify(message.AdditionalIP4Address, []byte{203, 0, 113, byte(100 + i)}))
	}
	p.ask(t, sa, message.ExchangeInformational, 2, ps...)
	got := ikev2.OthersForTest(p.b.SA())
	if len(got) != 16 || got[0] != netip.MustParseAddr("203.0.113.9") || got[1] != netip.MustParseAddr("203.0.113.100") {
		t.Errorf("b keeps %v", got)
	}
}

// The responder's address that is in use goes: it tells from its other one, and the
// initiator, which decides, moves there (RFC 4555, Sections 3.5 and 3.6).
func TestMOBIKEResponderMoves(t *testing.T) {
	p := newMobile(t, 1)
	p.b.More = []netip.Addr{netip.MustParseAddr("203.0.113.2")}
	p.up(t)
	p.b.Move("203.0.113.2")
	p.net.Run(10 * time.Second)
	p.at(t, addrA.String(), "203.0.113.2", false)
	p.consistent(t, 1)
}

// A network that tells of something all the time, behind a NAT, makes one question in
// ten seconds and no more.
func TestMOBIKERestlessNetwork(t *testing.T) {
	p := newMobile(t, 1)
	p.net.AddNAT(addrA, netip.MustParseAddr("198.51.100.1"))
	p.ca.DPDDelay = 0
	p.up(t)
	said := p.listen(t)
	for range 600 {
		p.a.NetworkChanged()
		p.net.Run(100 * time.Millisecond)
	}
	if n := len(*said); n < 10 || n > 14 {
		t.Errorf("%d messages in a minute, expected six questions and their answers", n)
	}
}

// RFC 4555, Section 3.8: with MOBIKE a message of IKE moves nothing, wherever it comes
// from, so that paths can be tried; its answer goes to where it came from.
func TestMOBIKEOnlyUpdateMoves(t *testing.T) {
	p := newMobile(t, 1)
	p.net.AddNAT(addrA, netip.MustParseAddr("198.51.100.1"))
	sa := p.up(t)
	before := p.b.SA().Remote()
	d := ikev2.SealForTest(sa, message.ExchangeInformational, 2, false)
	d.Remote = before
	d.Remote, d.Local = d.Local, netip.MustParseAddrPort("203.0.113.66:4500")
	var to []netip.AddrPort
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict { to = append(to, q.To); return ikev2test.Lose }
	p.b.Feed(p.b.SA(), ikev2.Datagram{Local: netip.AddrPortFrom(addrB, 4500), Remote: d.Local, NATT: true, Data: d.Data})
	if p.b.SA().Remote() != before || p.b.Moves != 0 {
		t.Errorf("b moved to %v", p.b.SA().Remote())
	}
	if len(to) != 1 || to[0] != d.Local {
		t.Errorf("the answer went to %v", to)
	}
}

// RFC 4555, Section 3.7: until the peer has shown that it receives at its new address
// nothing but IKE is sent there, and new CHILD_SAs are where the old ones are.
func TestMOBIKEReturnRoutability(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	third := netip.MustParseAddr("203.0.113.99")
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		// The peer claims to be at a third party's address: what is sent there does not
		// reach it.
		if q.To.Addr() == third {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Move(third.String())
	p.net.Run(10 * time.Second)
	b := p.b.SA()
	if b == nil || b.Remote().Addr() != third {
		t.Fatalf("b's IKE SA is %v", b)
	}
	if c := b.Children()[0]; c.RemoteAddr.Addr() != addrA || p.b.Moves != 0 {
		t.Errorf("b sends its traffic to %v, which nobody has proven to be the peer's", c.RemoteAddr)
	}
	p.net.Run(10 * time.Minute)
	if p.b.SA() != nil {
		t.Error("b keeps a peer that does not answer where it says that it is")
	}
}

// RFC 4555, Section 3.7: another cookie than the one that was sent ends the IKE SA.
func TestMOBIKEWrongCookie(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !isResponse(q) || q.Header().Exchange != message.ExchangeInformational || q.To.Addr() != addrB {
			return ikev2test.Deliver
		}
		m := p.read(t, q)
		if m == nil || p.holder(q, true) == nil {
			return ikev2test.Deliver // the answer to the Delete that follows
		}
		q.Data = ikev2.SealForTest(p.holder(q, true), message.ExchangeInformational, m.Header.MessageID, true, message.NewNotify(message.Cookie2, make([]byte, 16))).Data
		return ikev2test.Deliver
	}
	p.a.Move("198.51.100.7")
	p.net.Run(20 * time.Second)
	if p.b.SA() != nil || p.b.Moves != 0 {
		t.Errorf("b goes on with a peer that returns another cookie, and moved its traffic %d times%s", p.b.Moves, story(p.b))
	}
}

// A cookie may reach more than one address when the peer moves while it is asked. It
// is asked again then, and the answer to the first proves nothing.
func TestMOBIKEMoveDuringCheck(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	cookies := map[string]bool{}
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !isResponse(q) && q.From.Addr() == addrB && q.Header().Exchange == message.ExchangeInformational {
			if m := p.read(t, q); m != nil {
				if n := m.Notifies().Find(message.Cookie2); n != nil {
					cookies[string(n.Data)] = true
				}
			}
			if q.To.Addr() == netip.MustParseAddr("198.51.100.7") {
				return ikev2test.Lose
			}
		}
		return ikev2test.Deliver
	}
	p.a.Move("198.51.100.7")
	p.net.Run(time.Second)
	p.a.Move("198.51.100.8")
	p.net.Run(10 * time.Second)
	if len(cookies) != 2 {
		t.Errorf("%d cookies were used, expected 2", len(cookies))
	}
	p.at(t, "198.51.100.8", addrB.String(), false)
}

// RFC 4555, Section 3.5: an address that the responder's configuration does not allow
// is UNACCEPTABLE_ADDRESSES and changes nothing there. The initiator takes another
// way, and ends the IKE SA when there is none.
func TestMOBIKEUnacceptable(t *testing.T) {
	for _, other := range []bool{true, false} {
		p := newMobile(t, 1)
		p.up(t)
		p.b.Allowed = func(_, remote netip.Addr) bool { return remote != netip.MustParseAddr("198.51.100.7") }
		p.a.Routes = func(w ikev2.Path) bool { return other || w.Local != netip.MustParseAddr("198.51.100.8") }
		p.a.Move("198.51.100.7")
		if other {
			p.a.More = []netip.Addr{netip.MustParseAddr("198.51.100.8")}
			p.a.NetworkChanged()
		}
		p.net.Run(10 * time.Second)
		if p.b.Counts["ike-address:unacceptable"] == 0 {
			t.Error("nothing was refused")
		}
		if other {
			p.at(t, "198.51.100.8", addrB.String(), false)
		} else if p.a.SA() != nil {
			t.Errorf("a keeps an IKE SA that carries nothing%s", story(p.a))
		}
	}
}

// RFC 4555, Section 3.9: NO_NATS_ALLOWED with other addresses than those of the packet
// is UNEXPECTED_NAT_DETECTED, and nothing moves; with these it is accepted.
func TestMOBIKENoNATsAllowed(t *testing.T) {
	content := func(src, dst string, sport, dport uint16) []byte {
		b := append(netip.MustParseAddr(src).AsSlice(), netip.MustParseAddr(dst).AsSlice()...)
		return append(b, byte(sport>>8), byte(sport), byte(dport>>8), byte(dport))
	}
	for name, c := range map[string]struct {
		data []byte
		want message.NotifyType
	}{
		"as it arrives":   {content("192.0.2.1", "192.0.2.2", 4500, 4500), message.NoNotify},
		"another source":  {content("10.0.0.1", "192.0.2.2", 4500, 4500), message.UnexpectedNATDetected},
		"another port":    {content("192.0.2.1", "192.0.2.2", 4501, 4500), message.UnexpectedNATDetected},
		"another family":  {content("2001:db8::1", "2001:db8::2", 4500, 4500), message.UnexpectedNATDetected},
		"too short":       {[]byte{1, 2, 3}, message.UnexpectedNATDetected},
		"nothing in it":   {nil, message.UnexpectedNATDetected},
		"destination NAT": {content("192.0.2.1", "10.0.0.2", 4500, 4500), message.UnexpectedNATDetected},
	} {
		p := newMobile(t, 1)
		sa := p.up(t)
		m := p.ask(t, sa, message.ExchangeInformational, 2, message.NewNotify(message.UpdateSAAddresses, nil), message.NewNotify(message.NoNATsAllowed, c.data))
		if m == nil {
			t.Fatalf("%s: no answer", name)
		}
		if got := m.Notifies().Error(); (got != nil) != (c.want != message.NoNotify) || got != nil && got.Kind != c.want {
			t.Errorf("%s: the answer is %v", name, types(m))
		}
	}
}

// An UPDATE_SA_ADDRESSES that is not authentic changes nothing: not with another key,
// not repeated from elsewhere, not from a peer without MOBIKE.
func TestMOBIKEStranger(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	var update []byte
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !isResponse(q) && q.From.Addr() == netip.MustParseAddr("198.51.100.7") && update == nil {
			update = slices.Clone(q.Data)
		}
		return ikev2test.Deliver
	}
	p.a.Move("198.51.100.7")
	p.net.Run(5 * time.Second)
	where, moves := p.b.SA().Remote(), p.b.Moves
	thief := netip.MustParseAddrPort("203.0.113.66:4500")
	p.b.Feed(p.b.SA(), ikev2.Datagram{Local: p.b.SA().Local(), Remote: thief, NATT: true, Data: slices.Clone(update)})
	update[len(update)-1] ^= 1
	p.b.Feed(p.b.SA(), ikev2.Datagram{Local: p.b.SA().Local(), Remote: thief, NATT: true, Data: update})
	p.net.Run(5 * time.Second)
	if p.b.SA().Remote() != where || p.b.Moves != moves {
		t.Errorf("b followed a recorded update to %v", p.b.SA().Remote())
	}
	q := newMobile(t, 1)
	q.cb.Mobike = false
	sa := q.up(t)
	d := ikev2.SealForTest(sa, message.ExchangeInformational, 2, false, message.NewNotify(message.UpdateSAAddresses, nil))
	q.b.Feed(q.b.SA(), ikev2.Datagram{Local: q.b.SA().Local(), Remote: thief, NATT: true, Data: d.Data})
	if q.b.SA().Remote().Addr() != addrA || q.b.Moves != 0 {
		t.Error("b follows without MOBIKE")
	}
}
