package ikev2_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
)

// A mobility manager on each side tells of a move, with no message of IKE (RFC 6275,
// Section 6.1.7), while the IKE SA or a CHILD_SA is being rekeyed, by one side or by both
// at once, with losses: the IKE SA that is left is at the new address, whichever it is.
func TestRelocatedWhileRekeying(t *testing.T) {
	to := netip.MustParseAddr("198.51.100.7")
	for seed := range uint64(300) {
		p := newPair(t, seed)
		p.ca.Mobike, p.cb.Mobike = false, false
		p.up(t)
		p.net.Jitter = 300 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			if p.net.Rand.IntN(8) == 0 {
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		for i, h := range []*ikev2test.Host{p.a, p.b} {
			switch (seed >> (2 * i)) % 4 {
			case 1, 2:
				h.Start(h.SA(), ikev2.RekeyIKE{})
			case 3:
				h.Start(h.SA(), ikev2.RekeyChild{SPI: h.SA().Children()[0].SPIIn})
			}
		}
		p.net.Run(time.Duration(p.net.Rand.Int64N(int64(time.Second))))
		p.a.Addr = to
		relocate := func(h *ikev2test.Host, local, remote netip.Addr) {
			for _, sa := range h.SAs {
				// As a MIGRATE is about SAs: by those of the IPsec SAs.
				children := sa.Children()
				if len(children) == 0 {
					continue
				}
				h.Start(sa, ikev2.Relocated{Local: local, Remote: remote})
				for _, c := range children {
					h.Start(sa, ikev2.ChildRelocated{SPI: c.SPIIn, Local: local, Remote: remote})
				}
			}
		}
		relocate(p.a, to, addrB)
		p.net.Run(time.Duration(p.net.Rand.Int64N(int64(500 * time.Millisecond))))
		relocate(p.b, addrB, to)
		p.net.Run(15 * time.Second)
		p.net.Fate = nil
		p.net.Run(4 * time.Minute)
		if err := ikev2test.Consistent(p.a, p.b, 1); err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
		}
		p.at(t, to.String(), addrB.String(), false)
	}
}

// RFC 6275, Section 11.7.1 has the mobile node tell its agent after it moved, so that one
// side knows before the other: what the peer sends from its address before is taken and
// answered there, and moves nothing back.
func TestRelocatedBeforeThePeer(t *testing.T) {
	to := netip.MustParseAddr("198.51.100.7")
	p := newPair(t, 1)
	p.ca.Mobike, p.cb.Mobike = false, false
	p.up(t)
	old := p.a.Addr
	p.b.Start(p.b.SA(), ikev2.Relocated{Local: addrB, Remote: to})
	var answers []netip.Addr
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if isResponse(q) {
			answers = append(answers, q.To.Addr())
		}
		return ikev2test.Deliver
	}
	spi := p.a.SA().Children()[0].SPIIn
	p.a.Start(p.a.SA(), ikev2.RekeyChild{SPI: spi})
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	if p.a.SA().Children()[0].SPIIn == spi || len(answers) == 0 || slices.ContainsFunc(answers, func(a netip.Addr) bool { return a != old }) {
		t.Errorf("a asked from %v, the answers went to %v", old, answers)
	}
	if got := p.b.SA().Remote().Addr(); got != to {
		t.Errorf("b has its IKE SA at %v again", got)
	}
}

// The side that follows cannot say UPDATE_SA_ADDRESSES. When its mobility manager moves it
// it tells of its addresses from the new one, as when an address has gone (RFC 4555,
// Section 3.5, the exception; Section 3.6), and the side that decides finds it there.
func TestRelocatedSideThatFollows(t *testing.T) {
	for _, stays := range []bool{false, true} { // the old address
		p := newMobile(t, 1)
		p.up(t)
		to := netip.MustParseAddr("203.0.113.7")
		p.b.Addr = to
		if stays {
			p.b.More = []netip.Addr{addrB}
		}
		p.b.Start(p.b.SA(), ikev2.Relocated{Local: to, Remote: p.a.Addr, Tell: true})
		for _, c := range p.b.SA().Children() {
			p.b.Start(p.b.SA(), ikev2.ChildRelocated{SPI: c.SPIIn, Local: to, Remote: p.a.Addr})
		}
		p.net.Run(20 * time.Second)
		p.consistent(t, 1)
		p.at(t, p.a.Addr.String(), to.String(), false)
	}
}
