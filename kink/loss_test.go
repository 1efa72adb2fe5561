package kink

import (
	"math/rand/v2"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// nth changes what happens to the n-th packet.
func nth(n int, do func(q *packet) []*packet) func(*packet) []*packet {
	i := -1
	return func(q *packet) []*packet {
		if i++; i == n {
			return do(q)
		}
		return []*packet{q}
	}
}

// Any message of a two-way and of a three-way exchange, of a DELETE and of a STATUS may
// get lost once.
func TestEveryPacketLostOnce(t *testing.T) {
	for _, three := range []bool{false, true} {
		for n := range 10 {
			p := newPair(t)
			if three {
				p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
			}
			p.filter = nth(n, func(*packet) []*packet { return nil })
			p.up()
			p.run(20 * time.Second)
			p.matched(1)
			p.a.start(p.saA, keyex.Liveness{})
			p.run(20 * time.Second)
			p.b.start(p.b.sas[0], keyex.DeleteChild{SPI: p.b.sas[0].children[0].SPIIn})
			p.run(40 * time.Second)
			p.nothing()
			if len(p.a.closed)+len(p.b.closed) != 0 {
				t.Errorf("packet %d lost: %s %s", n, why(p.a), why(p.b))
			}
		}
	}
}

// RFC 4430, Section 9: each transmission has a fresh authenticator, since the peer takes
// none twice; the number stays. The answer to any of them is taken.
func TestFreshAuthenticator(t *testing.T) {
	p := newPair(t)
	// All REPLYs come late.
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Reply {
			q.extra = 3500 * time.Millisecond
		}
		return []*packet{q}
	}
	p.up()
	p.run(20 * time.Second)
	p.matched(1)
	if n := p.count(message.Create); n != 2 {
		t.Fatalf("%d CREATEs", n)
	}
	first, second := p.sent[0], p.sent[1]
	for _, q := range p.sent[:4] {
		if q.kind() == message.Create && q != first {
			second = q
		}
	}
	if string(first.data[8:12]) != string(second.data[8:12]) {
		t.Error("the number changed")
	}
	if string(first.data) == string(second.data) {
		t.Error("the same authenticator was sent twice")
	}
	if p.b.counts["ike-retransmit:response"] != 1 || len(p.b.events) > 3 {
		t.Errorf("the CREATE was carried out twice: %v", p.b.events)
	}
}

// The network may double and delay any message: nothing happens twice.
func TestDoubled(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
	p.filter = func(q *packet) []*packet {
		again := *q
		again.extra = time.Second
		return []*packet{q, &again}
	}
	p.up()
	p.run(10 * time.Second)
	p.matched(1)
	if len(happened[keyex.ChildUp](p.b)) != 1 {
		t.Errorf("%v", p.b.events)
	}
	p.a.start(p.saA, keyex.Delete{})
	p.run(time.Minute)
	p.nothing()
}

// With heavy loss and reordering either both sides have the same pairs or none, and a
// rekeying leaves no gap of the old ones.
func TestHeavyLoss(t *testing.T) {
	for seed := range uint64(100) {
		p := newPair(t)
		if seed%2 == 1 {
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
		}
		r := rand.New(rand.NewPCG(seed, 1))
		p.filter = func(q *packet) []*packet {
			if r.IntN(4) == 0 {
				return nil
			}
			q.extra = time.Duration(r.IntN(2000)) * time.Millisecond
			return []*packet{q}
		}
		p.up()
		p.run(90 * time.Second)
		if len(p.a.sas) == 0 {
			continue // given up
		}
		p.a.start(p.a.sas[0], keyex.RekeyIKE{})
		p.run(3 * time.Minute)
		p.filter = nil
		p.run(3 * time.Minute)
		if len(p.a.out) > 0 && len(p.a.sas) > 0 {
			if n := len(p.a.out); n != 1 || len(p.b.out) != 1 {
				t.Errorf("seed %d: %d and %d outbound SAs: %s %s", seed, n, len(p.b.out), why(p.a), why(p.b))
				continue
			}
			p.matched(1)
		}
	}
}

// A peer that does not answer is given up, in words; nothing is left.
func TestNoAnswer(t *testing.T) {
	p := newPair(t)
	p.b.dead = true
	p.up()
	p.run(2 * time.Minute)
	p.nothing()
	if len(p.a.closed) != 1 || p.a.closed[0].Reason != keyex.CloseTimeout {
		t.Fatalf("closed: %s", why(p.a))
	}
	if f := p.a.closed[0].Failure; f.Stage != trace.StageReach || f.Child != "net" {
		t.Errorf("the failure is %+v", f)
	}
	if n := p.count(message.Create); n != 5 {
		t.Errorf("%d CREATEs, expected five", n)
	}
}

// The ACK never comes: the responder takes its half back and tells the peer.
func TestNoAck(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Ack {
			return nil
		}
		return []*packet{q}
	}
	p.up()
	p.run(2 * time.Minute)
	p.nothing()
}

// The backend may refuse on either side: nothing is left on any.
func TestBackendRefuses(t *testing.T) {
	for _, three := range []bool{false, true} {
		for i := range 2 {
			p := newPair(t)
			if three {
				p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
			}
			[]*host{p.a, p.b}[i].refuse = true
			p.up()
			p.run(time.Minute)
			p.nothing()
			if lastFailure(p.a) == nil {
				t.Errorf("host %d refuses, three-way %v: there is no failure", i, three)
			}
		}
	}
	// The outbound half alone is refused on the initiator.
	p := newPair(t)
	p.filter = func(q *packet) []*packet {
		p.a.refuse = q.kind() == message.Reply
		return []*packet{q}
	}
	p.up()
	p.run(time.Minute)
	p.nothing()
}
