package ikev1

import (
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/isakmp"
	"iked/internal/keyex"
)

// What a peer sends at once behind its last message of phase 1, while the signature in
// that one is still being checked, need not be sent again: its XAuth request, and its
// Quick Mode behind Aggressive Mode.
func TestEarlyMessages(t *testing.T) {
	for _, c := range []struct{ xauth, aggressive bool }{{true, false}, {false, true}, {true, true}} {
		p := newPair(t)
		p.certificates(0)
		if c.xauth {
			p.xauth("bob")
		}
		p.ca.V1.Aggressive, p.cb.V1.Aggressive = c.aggressive, c.aggressive
		p.a.verifyTakes = 200 * time.Millisecond
		p.b.verifyTakes = 200 * time.Millisecond
		p.saA = p.a.initiate(p.ca, p.b, p.cha)
		p.run(1500 * time.Millisecond)
		p.matched(1)
		if n := p.a.counts["ike-retransmit"] + p.b.counts["ike-retransmit"]; n != 0 {
			t.Errorf("%+v: %d messages were sent again", c, n)
		}
	}
}

// Nothing that came early is read when the proof is wrong, and little is kept meanwhile.
func TestEarlyIsBounded(t *testing.T) {
	p := newPair(t)
	p.certificates(0)
	p.xauth("bob")
	p.a.verifyTakes = 200 * time.Millisecond
	copies := 0
	p.filter = func(x *packet) []*packet {
		h, _ := isakmp.ParseHeader(x.data)
		if message.Exchange(h.Exchange) != message.ExchangeTransaction || x.from.Addr() != p.b.addr || copies > 0 {
			return []*packet{x}
		}
		list := []*packet{x, x}
		for ; copies < 10; copies++ {
			forged := *x
			forged.data = append([]byte(nil), x.data...)
			forged.data[len(forged.data)-1-copies]++
			list = append(list, &forged)
		}
		long := *x
		long.data = append(append([]byte(nil), x.data...), make([]byte, maxEarlyLen)...)
		return append(list, &long)
	}
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(150 * time.Millisecond)
	if p.saA.p1 == nil || len(p.saA.p1.early) != maxEarly {
		t.Fatalf("phase 1 is %v", p.saA.p1)
	}
	p.run(5 * time.Second)
	p.matched(1)

	p = newPair(t)
	p.certificates(0)
	p.xauth("bob")
	p.a.verifyTakes = 200 * time.Millisecond
	p.a.distrusts = true
	p.up()
	if len(p.a.sas) != 0 || len(happened[keyex.Up](p.a)) != 0 || p.b.counts["ike-drop:hash"] != 0 || len(p.b.established()) != 0 {
		t.Errorf("something is up: %s %s", why(p.a), why(p.b))
	}
}

// strongSwan reads the messages of an ISAKMP SA by several threads, and deletes it when
// a Quick Mode overtakes the acknowledgement that ends XAuth, or the last message of
// Aggressive Mode: it comes a while after them.
func TestQuickModeOvertakesNothing(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		p := newPair(t)
		p.certificates(0)
		if !aggressive {
			p.xauth("bob")
		}
		p.ca.V1.Aggressive, p.cb.V1.Aggressive = aggressive, aggressive
		var last time.Time
		var gap time.Duration
		p.filter = func(x *packet) []*packet {
			if h, _ := isakmp.ParseHeader(x.data); x.from.Addr() == p.a.addr {
				if message.Exchange(h.Exchange) == message.ExchangeQuick && gap == 0 {
					gap = p.now.Sub(last)
				}
				last = p.now
			}
			return []*packet{x}
		}
		p.up().matched(1)
		if gap < settleTime {
			t.Errorf("aggressive %t: Quick Mode comes %v after the message before it", aggressive, gap)
		}
	}
}
