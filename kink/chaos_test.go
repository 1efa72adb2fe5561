package kink

import (
	"math/rand/v2"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/keyex"
)

// Whatever both sides do at once while messages get lost, doubled and late, and though
// either is started again in between: when the network is well again, each outbound SA
// has its inbound one with the same keys at the other side, and nothing is reserved.
func TestChaos(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 7))
		p := newPair(t)
		p.cb.Remote.ID.Data = "kink/a.example.org@EXAMPLE.ORG"
		p.ca.DPDDelay, p.cb.DPDDelay = 2*time.Minute, 2*time.Minute
		if seed%3 == 1 {
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
		}
		if seed%3 == 2 {
			ah := proposals(t, suite.ProtoAH, "sha256")
			p.cha.AH, p.chb.AH = ah, ah
		}
		p.filter = func(q *packet) []*packet {
			q.extra = time.Duration(r.IntN(3000)) * time.Millisecond
			switch r.IntN(5) {
			case 0:
				return nil
			case 1:
				again := *q
				again.extra += time.Duration(r.IntN(5000)) * time.Millisecond
				return []*packet{q, &again}
			}
			return []*packet{q}
		}
		for range 30 {
			h, cfg, child, other := p.a, p.ca, p.cha, p.b
			if r.IntN(2) == 0 {
				h, cfg, child, other = p.b, p.cb, p.chb, p.a
			}
			h.lastIn = p.now
			var sa *SA
			if len(h.sas) > 0 {
				sa = h.sas[r.IntN(len(h.sas))]
			}
			switch n := r.IntN(12); {
			case sa == nil:
				h.initiate(cfg, other, child)
			case n == 0:
				h.restart()
			case n == 1:
				h.start(sa, keyex.Delete{})
			case n == 2:
				h.start(sa, keyex.Liveness{})
			case n < 5 && len(sa.children) < 4:
				h.start(sa, keyex.CreateChild{Child: child})
			case len(sa.children) == 0:
			case n < 8:
				h.start(sa, keyex.RekeyChild{SPI: sa.children[r.IntN(len(sa.children))].SPIIn})
			default:
				h.start(sa, keyex.DeleteChild{SPI: sa.children[r.IntN(len(sa.children))].SPIIn})
			}
			p.run(time.Duration(r.IntN(20000)) * time.Millisecond)
		}
		p.filter = nil
		for range 100 {
			p.a.lastIn, p.b.lastIn = p.now.Add(-time.Hour), p.now.Add(-time.Hour)
			p.run(2 * time.Minute)
		}
		for _, x := range [][2]*host{{p.a, p.b}, {p.b, p.a}} {
			for spi, c := range x[0].out {
				o := x[1].in[spi]
				if o == nil || !c.EncrOut.Equal(o.EncrIn) || !c.IntegOut.Equal(o.IntegIn) || (c.AH == nil) != (o.AH == nil) {
					t.Errorf("seed %d: %s sends on %08x, and the peer does not receive: %s %s", seed, x[0].name, spi, why(p.a), why(p.b))
				}
			}
			for spi := range x[0].in {
				if x[1].out[spi] == nil {
					t.Errorf("seed %d: %s receives on %08x, and the peer does not send", seed, x[0].name, spi)
				}
			}
			if n := len(x[0].reserved); n > 0 {
				t.Errorf("seed %d: %s has %d reserved SPIs", seed, x[0].name, n)
			}
		}
	}
}
