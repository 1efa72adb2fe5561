package ikev2_test

import (
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
)

// On a bad network, whatever both sides begin, in the end both have the same IKE
// SA with the same CHILD_SAs and the same keys, or none of either (RFC 7296,
// Sections 2.1, 2.4, 2.8 and 2.25).
func TestBadNetwork(t *testing.T) {
	seeds := uint64(400)
	if testing.Short() {
		seeds = 60
	}
	list := []uint64{3075, 3495, 5383} // once found by a longer search
	for seed := range seeds {
		list = append(list, seed)
	}
	for _, seed := range list {
		p := newPair(t, seed)
		p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16-x25519-ecp256")
		p.chb.Proposals = p.cha.Proposals
		if seed%5 == 2 {
			// A key exchange that is handed over.
			p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128gcm16-prfsha256-ecp384")
			p.cb.Proposals = p.ca.Proposals
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16-ecp384")
			p.chb.Proposals = p.cha.Proposals
			p.a.Delay["Compute"], p.b.Delay["Compute"] = 70*time.Millisecond, 150*time.Millisecond
		}
		if seed%2 == 1 {
			// Key exchange and the backend take their time.
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				h.Delay["InstallChild"] = 30 * time.Millisecond
				h.Delay["AllocSPI"] = 5 * time.Millisecond
			}
		}
		p.up(t)
		p.net.Trace = nil
		p.net.Jitter = 200 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			switch x := p.net.Rand.IntN(100); {
			case x < 15:
				return ikev2test.Lose
			case x < 30:
				return ikev2test.Double
			}
			return ikev2test.Deliver
		}
		// A patient schedule: no side may give up.
		for _, c := range []*ikev2.Config{p.ca, p.cb} {
			c.Retransmit.Tries, c.Retransmit.Timeout, c.Retransmit.Max = 30, time.Second, 3*time.Second
		}
		want := 1
		for range 2 + p.net.Rand.IntN(6) {
			h, c := p.a, p.cha
			if p.net.Rand.IntN(2) == 0 {
				h, c = p.b, p.chb
			}
			var sa *ikev2.SA
			for _, s := range h.SAs {
				if len(s.Children()) > 0 {
					sa = s
				}
			}
			if sa == nil {
				continue
			}
			switch kids := sa.Children(); p.net.Rand.IntN(6) {
			case 5:
				if seed%3 == 0 && len(kids) > 1 {
					want = -1 // it may have been replaced by the time it is deleted
					h.Start(sa, ikev2.DeleteChild{SPI: kids[0].SPIIn})
				}
			case 0, 1:
				h.Start(sa, ikev2.RekeyChild{SPI: kids[p.net.Rand.IntN(len(kids))].SPIIn})
			case 2, 3:
				h.Start(sa, ikev2.RekeyIKE{})
			case 4:
				if want > 0 {
					want++
				}
				h.Start(sa, ikev2.CreateChild{Child: c})
			}
			p.net.Run(time.Duration(p.net.Rand.IntN(int(3 * time.Second))))
		}
		p.net.Run(10 * time.Minute)
		if err := ikev2test.Consistent(p.a, p.b, want); err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
		}
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			if err := told(h); err != nil {
				t.Fatalf("seed %d: %v%s", seed, err, story(p.a, p.b))
			}
		}
	}
}

// A handshake gets through a bad network, or ends on both sides.
func TestHandshakeOnBadNetwork(t *testing.T) {
	for seed := range uint64(200) {
		p := newPair(t, seed)
		p.net.Jitter = 300 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			switch x := p.net.Rand.IntN(10); {
			case x < 2:
				return ikev2test.Lose
			case x < 5:
				return ikev2test.Double
			}
			return ikev2test.Deliver
		}
		p.b.DemandCookies = seed%2 == 0
		p.ca.Retransmit.Tries = 20
		p.ca.Retransmit.Max = 5 * time.Second
		p.cb.HalfOpen = 10 * time.Minute
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(15 * time.Minute)
		if err := ikev2test.Consistent(p.a, p.b, 1); err != nil {
			t.Fatalf("seed %d: %v\n%s%s", seed, err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
		}
	}
}
