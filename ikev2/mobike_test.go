package ikev2_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/spd"
)

// newMobile is a pair of which both sides speak MOBIKE.
func newMobile(t testing.TB, seed uint64) *pair {
	p := newPair(t, seed)
	p.ca.Mobike, p.cb.Mobike = true, true
	p.ca.DPDDelay = 30 * time.Second
	return p
}

// at checks where both sides have the IKE SA and all CHILD_SAs of it.
func (p *pair) at(t testing.TB, a, b string, encap bool) {
	t.Helper()
	check := func(h *ikev2test.Host, local, remote string) {
		sa := h.SA()
		if sa == nil {
			t.Fatalf("%s has no IKE SA%s", h.Name, story(p.a, p.b))
		}
		if l, r := sa.Local().Addr().String(), sa.Remote().Addr().String(); l != local || r != remote {
			t.Fatalf("%s: the IKE SA is between %s and %s, expected %s and %s%s", h.Name, l, r, local, remote, story(p.a, p.b))
		}
		for _, c := range sa.Children() {
			if l, r := c.LocalAddr.Addr().String(), c.RemoteAddr.Addr().String(); l != local || r != remote || c.Encap != encap {
				t.Fatalf("%s: the CHILD_SA is between %s and %s, encapsulated %t, expected %s and %s, %t%s", h.Name, l, r, c.Encap, local, remote, encap, story(p.a, p.b))
			}
		}
	}
	check(p.a, a, b)
	check(p.b, b, a)
}

// said are the notifies of every message of a host's that was sent, in order.
func (p *pair) listen(t testing.TB) *[]string {
	var all []string
	fate := p.net.Fate
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !q.KeepAlive && q.Header().Exchange == message.ExchangeInformational {
			if m := p.read(t, q); m != nil {
				kind := "request"
				if isResponse(q) {
					kind = "response"
				}
				all = append(all, fmt.Sprintf("%v %s %v", q.From.Addr(), kind, types(m)))
			}
		}
		if fate != nil {
			return fate(q)
		}
		return ikev2test.Deliver
	}
	return &all
}

// RFC 4555, Section 3.2: MOBIKE is used when both sides say so in IKE_AUTH; Section
// 3.3: then the initiator floats to port 4500 without a NAT, and ESP is not
// encapsulated.
func TestMOBIKESupported(t *testing.T) {
	for _, c := range []struct{ a, b, floats bool }{{true, true, true}, {true, false, true}, {false, true, false}, {false, false, false}} {
		p := newPair(t, 1)
		p.ca.Mobike, p.cb.Mobike = c.a, c.b
		p.up(t)
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			if s := h.SA().Status(); s.NATT != c.floats || s.Children[0].Encap || (s.Local.Port() == 4500) != c.floats {
				t.Errorf("%+v: %s is at %v, encapsulates %t", c, h.Name, s.Local, s.Children[0].Encap)
			}
			if got := ikev2.MobileForTest(h.SA()); got != (c.a && c.b) {
				t.Errorf("%+v: %s speaks MOBIKE: %t", c, h.Name, got)
			}
		}
	}
}

// RFC 4555, Section 3.5: the initiator's address changes; one exchange moves the IKE
// SA and its CHILD_SAs, with the check of the new address (Section 3.7) before the
// responder's traffic goes there. SPIs and keys stay.
//
//	a (new address)                                b
//	N(UPDATE_SA_ADDRESSES), N(NAT_DETECTION)+  -->
//	                                          <--  N(NAT_DETECTION)+
//	                                          <--  N(COOKIE2)
//	N(COOKIE2)                                 -->
func TestMOBIKEUpdate(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	before := p.a.SA().Children()[0]
	spi := before.SPIIn
	said := p.listen(t)
	p.a.Move("198.51.100.7")
	p.net.Run(5 * time.Second)
	p.at(t, "198.51.100.7", addrB.String(), false)
	want := []string{
		"198.51.100.7 request [UPDATE_SA_ADDRESSES NAT_DETECTION_SOURCE_IP NAT_DETECTION_DESTINATION_IP]",
		"192.0.2.2 response [NAT_DETECTION_SOURCE_IP NAT_DETECTION_DESTINATION_IP]",
		"192.0.2.2 request [COOKIE2]", "198.51.100.7 response [COOKIE2]",
	}
	if !slices.Equal(*said, want) {
		t.Errorf("messages\n%s\nexpected\n%s", strings.Join(*said, "\n"), strings.Join(want, "\n"))
	}
	if c := p.a.SA().Children()[0]; c != before || c.SPIIn != spi || p.a.Moves != 1 || p.b.Moves != 1 {
		t.Errorf("the CHILD_SA was moved %d and %d times, expected once", p.a.Moves, p.b.Moves)
	}
	for _, h := range []*ikev2test.Host{p.a, p.b} {
		if n := len(ikev2test.Happened[ikev2.Moved](h)); n != 1 {
			t.Errorf("%s tells %d times that it moved", h.Name, n)
		}
	}
	p.consistent(t, 1)
	// What comes after uses the new addresses: rekeying, deletion.
	p.b.Start(p.b.SA(), ikev2.RekeyChild{SPI: p.b.SA().Children()[0].SPIIn})
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	p.at(t, "198.51.100.7", addrB.String(), false)
	p.a.Start(p.a.SA(), ikev2.Delete{})
	p.net.Run(5 * time.Second)
	if len(p.a.SAs)+len(p.b.SAs) != 0 {
		t.Error("the IKE SA cannot be deleted from the new address")
	}
}

// A hundred moves in a row, of either family, one of them in the middle of the other,
// end where the last one went.
func TestMOBIKEManyMoves(t *testing.T) {
	for seed := range uint64(30) {
		p := newMobile(t, seed)
		p.b.More = []netip.Addr{netip.MustParseAddr("2001:db8::2")}
		p.up(t)
		p.net.Jitter = 200 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			if p.net.Rand.IntN(5) == 0 {
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		var last string
		for range 100 {
			last = fmt.Sprintf("198.51.100.%d", 1+p.net.Rand.IntN(250))
			if p.net.Rand.IntN(3) == 0 {
				last = fmt.Sprintf("2001:db8:1::%d", 1+p.net.Rand.IntN(250))
			}
			p.a.Move(last)
			p.net.Run(time.Duration(p.net.Rand.Int64N(int64(2 * time.Second))))
		}
		p.net.Fate = nil
		p.net.Run(2 * time.Minute)
		p.consistent(t, 1)
		to := addrB.String()
		if strings.Contains(last, ":") {
			to = "2001:db8::2"
		}
		p.at(t, last, to, false)
	}
}

// RFC 4555, Section 3.5: a request without an answer goes on from the new address,
// and the update is sent when the window allows.
func TestMOBIKEOutstanding(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	dead := true
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if dead {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Start(p.a.SA(), ikev2.RekeyChild{SPI: p.a.SA().Children()[0].SPIIn})
	p.net.Run(time.Second)
	dead = false
	p.a.Move("198.51.100.7")
	p.net.Run(500 * time.Millisecond)
	p.at(t, "198.51.100.7", addrB.String(), false)
	p.net.Run(5 * time.Second) // the replaced CHILD_SA goes
	p.consistent(t, 1)
	if n := len(ikev2test.Happened[ikev2.ChildReplaced](p.a)); n != 1 {
		t.Errorf("%d CHILD_SAs were rekeyed", n)
	}
}

// While there is no way the IKE SA waits: nothing is given up, however long it takes,
// and it goes on at once when there is one.
func TestMOBIKEAway(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	p.a.Move()
	p.net.Run(time.Hour)
	if p.a.SA() == nil {
		t.Fatalf("a gave up%s", story(p.a))
	}
	if n := len(ikev2test.Happened[ikev2.Failed](p.a)); n != 1 {
		t.Errorf("a tells %d times that there is no way, expected once", n)
	}
	sent := p.a.Counts["send-error"]
	p.a.Move("198.51.100.7")
	p.net.Run(time.Second)
	p.consistent(t, 1)
	p.at(t, "198.51.100.7", addrB.String(), false)
	if sent > 1 {
		t.Errorf("%d messages were sent while there was no way", sent)
	}
}

// RFC 4555, Section 3.10: when its address is gone and there are several ways, all
// are tried at once, and the first that answers is taken. A family may change.
func TestMOBIKEPaths(t *testing.T) {
	for name, dead := range map[string]string{"the first is dead": "198.51.100.7", "the second is dead": "2001:db8:1::7"} {
		p := newMobile(t, 1)
		p.b.More = []netip.Addr{netip.MustParseAddr("2001:db8::2")}
		p.up(t)
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if a := netip.MustParseAddr(dead); q.From.Addr() == a || q.To.Addr() == a {
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		p.a.Move("198.51.100.7", "2001:db8:1::7")
		p.net.Run(time.Second)
		want := [2]string{"198.51.100.7", addrB.String()}
		if dead == want[0] {
			want = [2]string{"2001:db8:1::7", "2001:db8::2"}
		}
		t.Log(name)
		p.at(t, want[0], want[1], false)
		p.consistent(t, 1)
	}
}

// The path dies without anything being seen here: after two waits the request that
// has no answer tries the peer's other address, and the IKE SA goes on there.
func TestMOBIKEDeadPath(t *testing.T) {
	p := newMobile(t, 1)
	p.b.More = []netip.Addr{netip.MustParseAddr("203.0.113.2")}
	p.up(t)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.From.Addr() == addrB || q.To.Addr() == addrB {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.net.Run(31*time.Second + 20*time.Second)
	p.at(t, addrA.String(), "203.0.113.2", false)
	p.consistent(t, 1)
}

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

// RFC 4555, Section 3.8: a NAT that comes switches encapsulation on, one that goes
// switches it off, on both sides.
func TestMOBIKENATComesAndGoes(t *testing.T) {
	p := newMobile(t, 1)
	p.net.AddNAT(netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("198.51.100.1"))
	p.up(t)
	check := func(local, seen string, encap bool) {
		t.Helper()
		a, b := p.a.SA().Status(), p.b.SA().Status()
		if a.Local.Addr().String() != local || b.Remote.Addr().String() != seen {
			t.Fatalf("a is at %v, b sees %v%s", a.Local, b.Remote, story(p.a, p.b))
		}
		if a.Children[0].Encap != encap || b.Children[0].Encap != encap || a.NATLocal != encap || b.NATRemote != encap {
			t.Fatalf("encapsulated %t and %t, NAT %t and %t, expected %t", a.Children[0].Encap, b.Children[0].Encap, a.NATLocal, b.NATRemote, encap)
		}
		if c := b.Children[0]; c.RemoteAddr != b.Remote {
			t.Fatalf("b's CHILD_SA goes to %v, the IKE SA to %v", c.RemoteAddr, b.Remote)
		}
	}
	p.a.Move("10.9.9.9")
	p.net.Run(5 * time.Second)
	check("10.9.9.9", "198.51.100.1", true)
	keeps := p.a.KeepAlive
	p.net.Run(time.Minute)
	if p.a.KeepAlive == keeps {
		t.Error("behind the NAT no keepalives are sent")
	}
	p.a.Move("203.0.113.5")
	p.net.Run(5 * time.Second)
	check("203.0.113.5", "203.0.113.5", false)
	keeps = p.a.KeepAlive
	p.net.Run(time.Minute)
	if p.a.KeepAlive != keeps {
		t.Error("without a NAT keepalives are sent")
	}
	p.consistent(t, 1)
}

// RFC 4555, Section 3.8: a NAT that maps anew is noticed by the liveness check, which
// asks how the peer sees this side; the IKE message itself moves nothing.
func TestMOBIKEMappingChanges(t *testing.T) {
	p := newMobile(t, 1)
	nat := p.net.AddNAT(addrA, netip.MustParseAddr("198.51.100.1"))
	p.up(t)
	p.net.Run(40 * time.Second)
	before := p.b.SA().Remote()
	nat.Rebind()
	said := p.listen(t)
	p.net.Run(35 * time.Second)
	now := p.b.SA().Remote()
	if now == before || p.b.SA().Children()[0].RemoteAddr != now {
		t.Errorf("b goes on with %v and %v, before %v", now, p.b.SA().Children()[0].RemoteAddr, before)
	}
	if !slices.Contains(*said, "192.0.2.1 request [UPDATE_SA_ADDRESSES NAT_DETECTION_SOURCE_IP NAT_DETECTION_DESTINATION_IP]") {
		t.Errorf("it was not an update: %v", *said)
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

// Who decides on the addresses is who began the first IKE SA, whoever rekeyed it
// since (RFC 4555, Section 1.2); an UPDATE_SA_ADDRESSES of the other side moves
// nothing.
func TestMOBIKEAfterRekey(t *testing.T) {
	for _, byA := range []bool{true, false} {
		p := newMobile(t, 1)
		p.b.More = []netip.Addr{netip.MustParseAddr("203.0.113.2")}
		p.up(t)
		h := p.b
		if byA {
			h = p.a
		}
		h.Start(h.SA(), ikev2.RekeyIKE{})
		p.net.Run(10 * time.Second)
		p.consistent(t, 1)
		before := p.a.Moves
		p.ask(t, p.b.SA(), message.ExchangeInformational, 0, message.NewNotify(message.UpdateSAAddresses, nil))
		if p.a.Moves != before || p.a.SA().Remote().Addr() != addrB {
			t.Errorf("rekeyed by a %t: a followed the responder's update", byA)
		}
	}
	for _, byA := range []bool{true, false} {
		p := newMobile(t, 1)
		p.up(t)
		h := p.b
		if byA {
			h = p.a
		}
		h.Start(h.SA(), ikev2.RekeyIKE{})
		p.net.Run(10 * time.Second)
		p.a.Move("198.51.100.7")
		p.net.Run(10 * time.Second)
		p.consistent(t, 1)
		p.at(t, "198.51.100.7", addrB.String(), false)
	}
}

// A move and a rekeying of the IKE SA or of the CHILD_SA at once, by either side, with
// losses: one IKE SA is left, and all of it is at the new address.
func TestMOBIKERekeyWhileMoving(t *testing.T) {
	for seed := range uint64(300) {
		p := newMobile(t, seed)
		p.up(t)
		p.net.Jitter = 300 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			switch p.net.Rand.IntN(8) {
			case 0:
				return ikev2test.Lose
			case 1:
				return ikev2test.Double
			}
			return ikev2test.Deliver
		}
		for i, h := range []*ikev2test.Host{p.a, p.b} {
			switch (seed >> (2 * i)) % 4 {
			case 1:
				h.Start(h.SA(), ikev2.RekeyIKE{})
			case 2:
				h.Start(h.SA(), ikev2.RekeyChild{SPI: h.SA().Children()[0].SPIIn})
			case 3:
				h.Start(h.SA(), ikev2.Liveness{})
			}
		}
		p.net.Run(time.Duration(p.net.Rand.Int64N(int64(time.Second))))
		p.a.Move("198.51.100.7")
		p.net.Run(15 * time.Second)
		p.net.Fate = nil
		p.net.Run(4 * time.Minute)
		if err := ikev2test.Consistent(p.a, p.b, 1); err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
		}
		p.at(t, "198.51.100.7", addrB.String(), false)
	}
}

// With a virtual address nothing of the tunnel changes when the outer address does
// (RFC 4555, Section 1.3).
func TestMOBIKEVirtualAddress(t *testing.T) {
	p := newMobile(t, 1)
	vip := netip.MustParseAddr("10.3.0.1")
	p.ca.VIPs, p.cb.Pools, p.b.Pool = []netip.Addr{netip.IPv4Unspecified()}, []string{"pool"}, []netip.Addr{vip}
	p.cha.Local, p.chb.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
	p.up(t)
	before := fmt.Sprint(p.a.SA().Children()[0].Local)
	p.a.Move("198.51.100.7")
	p.net.Run(5 * time.Second)
	p.at(t, "198.51.100.7", addrB.String(), false)
	p.a.Start(p.a.SA(), ikev2.RekeyChild{SPI: p.a.SA().Children()[0].SPIIn})
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	if got := fmt.Sprint(p.a.SA().Children()[0].Local); got != before || len(p.a.Addresses) != 1 || p.a.Addresses[0].Addr() != vip {
		t.Errorf("selectors %s, before %s; addresses %v", got, before, p.a.Addresses)
	}
}

// A tunnel for the address of the host itself, without a virtual one, has that address
// in its selectors: after a move it is made anew for the new one, and the old one goes.
func TestMOBIKEHostAddress(t *testing.T) {
	for seed := range uint64(20) {
		p := newMobile(t, seed)
		p.cha.Local, p.chb.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
		p.up(t)
		p.a.Move("198.51.100.7")
		p.net.Run(500 * time.Millisecond)
		p.a.Move("198.51.100.8")
		p.net.Run(20 * time.Second)
		p.consistent(t, 1)
		p.at(t, "198.51.100.8", addrB.String(), false)
		want := []spd.TS{spd.Host(netip.MustParseAddr("198.51.100.8"))}
		if l, r := p.a.SA().Children()[0].Local, p.b.SA().Children()[0].Remote; !slices.Equal(l, want) || !slices.Equal(r, want) {
			t.Fatalf("the tunnel is for %v and %v, expected %v%s", l, r, want, story(p.a, p.b))
		}
		if len(p.a.Reserved)+len(p.b.Reserved) != 0 {
			t.Error("an SPI is still reserved")
		}
	}
}

// Transport mode has the addresses in its packets: its CHILD_SA is closed (RFC 4555,
// Section 1.3 is about tunnel mode). AH does not outlive a NAT that comes.
func TestMOBIKEClosesWhatCannotMove(t *testing.T) {
	t.Run("transport", func(t *testing.T) {
		p := newMobile(t, 1)
		for _, c := range []*ikev2.ChildConfig{p.cha, p.chb} {
			c.Mode, c.Local, c.Remote = spd.Transport, []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
		}
		p.up(t)
		p.a.Move("198.51.100.7")
		p.net.Run(20 * time.Second)
		p.consistent(t, 0)
	})
	t.Run("AH", func(t *testing.T) {
		p := newMobile(t, 1)
		p.cha.Proposals = proposals(t, suite.ProtoAH, "sha256")
		p.chb.Proposals = p.cha.Proposals
		p.net.AddNAT(netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("198.51.100.1"))
		p.up(t)
		p.a.Move("198.51.100.7")
		p.net.Run(20 * time.Second)
		p.consistent(t, 1)
		p.a.Move("10.9.9.9")
		p.net.Run(20 * time.Second)
		p.consistent(t, 0)
	})
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

// The side that follows waits for the answer to its Delete of a rekeyed IKE SA when the
// peer moves: it is sent to where the peer is now, and the old IKE SA does not linger.
func TestMOBIKEOldIKESAFollows(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if !isResponse(q) && q.Header().Exchange == message.ExchangeInformational && q.To.Addr() == addrA {
			return ikev2test.Lose // the Delete
		}
		return ikev2test.Deliver
	}
	p.b.Start(p.b.SA(), ikev2.RekeyIKE{})
	p.net.Run(100 * time.Millisecond)
	if len(p.b.SAs) != 2 {
		t.Fatalf("b has %d IKE SAs, expected the old one and the new one", len(p.b.SAs))
	}
	p.a.Move("198.51.100.7")
	p.net.Run(time.Second)
	p.consistent(t, 1)
	p.at(t, "198.51.100.7", addrB.String(), false)
}
