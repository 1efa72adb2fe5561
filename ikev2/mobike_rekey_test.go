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
