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

// An IKE SA that shall end does not wait for a way: it is given up like any other.
func TestMOBIKEAwayAndDeleted(t *testing.T) {
	p := newMobile(t, 1)
	p.up(t)
	p.a.Move()
	p.net.Run(time.Minute)
	p.a.Start(p.a.SA(), ikev2.Delete{})
	p.net.Run(5 * time.Minute)
	if len(p.a.SAs) != 0 || len(p.a.In)+len(p.a.Out) != 0 {
		t.Errorf("it is still there%s", story(p.a))
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
