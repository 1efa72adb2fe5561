package kink

import (
	"testing"
	"time"

	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// RFC 4430, Section 3.6: a pair is replaced before its time is over, without a gap, and
// who replaced it deletes the old one.
func TestRekey(t *testing.T) {
	p := newPair(t).up()
	p.run(time.Hour)
	p.matched(2) // the old one is still there
	if len(happened[keyex.ChildReplaced](p.a)) != 1 || len(happened[keyex.ChildReplaced](p.b)) != 1 {
		t.Fatalf("replaced: %v, %v", p.a.events, p.b.events)
	}
	p.run(time.Minute)
	p.matched(1)
	if n := p.count(message.Delete); n != 1 {
		t.Errorf("%d DELETEs, expected one", n)
	}
	if len(happened[keyex.ChildDown](p.a))+len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Error("rekeying told that a CHILD_SA is down")
	}
	p.run(50 * time.Hour)
	p.matched(1)
}

// Both sides replace the same pair at once: in the end there is one.
func TestRekeyCollision(t *testing.T) {
	p := newPair(t).up()
	a, b := p.a.sas[0], p.b.sas[0]
	p.a.start(a, keyex.RekeyChild{SPI: a.children[0].SPIIn})
	p.b.start(b, keyex.RekeyChild{SPI: b.children[0].SPIIn})
	p.run(2 * time.Minute)
	p.matched(1)
	if len(happened[keyex.ChildDown](p.a))+len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Error("the collision told that a CHILD_SA is down")
	}
}

// Where rekeying fails, the old pair stays and it is tried again.
func TestRekeyFails(t *testing.T) {
	p := newPair(t).up()
	p.realm.fail = &KerberosError{Sentence: "no KDC can be reached", Advice: "see krb5.conf"}
	p.run(61 * time.Minute)
	p.matched(1)
	if f := lastFailure(p.a); f == nil || f.Sentence != "no KDC can be reached" || f.Stage != trace.StageAuth {
		t.Errorf("the failure is %+v", f)
	}
	p.realm.fail = nil
	p.run(2 * time.Minute)
	p.matched(1)
	if len(happened[keyex.ChildReplaced](p.a)) != 1 {
		t.Error("it was not tried again")
	}
}

// A pair whose peer does not let it be replaced ends with its lifetime, on both sides.
func TestHardLifetime(t *testing.T) {
	p := newPair(t)
	p.cha.Time, p.chb.Time = keyex.Lifetime{Hard: time.Minute}, keyex.Lifetime{Hard: time.Minute}
	p.up()
	p.run(2 * time.Minute)
	p.nothing()
	if len(happened[keyex.ChildDown](p.a)) != 1 || len(happened[keyex.ChildDown](p.b)) != 1 {
		t.Errorf("%v, %v", p.a.events, p.b.events)
	}
}

// The responder's lifetime is the shorter one, and the initiator is told (RFC 2407,
// Section 4.6.3.1).
func TestResponderLifetime(t *testing.T) {
	p := newPair(t)
	p.chb.Time.Hard, p.chb.Time.Rekey = 20*time.Minute, 0
	p.chb.HardBytes = 1 << 20
	p.up().matched(1)
	for _, c := range p.a.in {
		if life := c.ExpireAt.Sub(c.Installed); life != 20*time.Minute || c.HardBytes != 1<<20 {
			t.Errorf("the initiator holds %v and %d octets", life, c.HardBytes)
		}
	}
}

// RFC 4430, Sections 3.3 and 5.6: a DELETE names the sender's inbound SPIs, and the pair
// goes as a whole on both sides. What is on its way is still received for a while.
func TestDelete(t *testing.T) {
	p := newPair(t).up()
	p.a.start(p.saA, keyex.DeleteChild{SPI: p.saA.children[0].SPIIn})
	if len(p.a.out) != 0 || len(p.a.in) != 1 {
		t.Errorf("while DELETE goes, %d outbound and %d inbound SAs", len(p.a.out), len(p.a.in))
	}
	p.run(5 * time.Second)
	if len(p.b.out) != 0 || len(p.b.in) != 1 {
		t.Errorf("behind DELETE, the peer has %d outbound and %d inbound SAs", len(p.b.out), len(p.b.in))
	}
	p.run(fadeTime)
	p.nothing()
	downs := happened[keyex.ChildDown](p.b)
	if len(downs) != 1 || !downs[0].Peer || len(happened[keyex.ChildDown](p.a)) != 1 {
		t.Errorf("%v, %v", p.a.events, downs)
	}
	if len(p.sent) != 4 {
		t.Errorf("%d messages, expected 4", len(p.sent))
	}
}

// A DELETE for what is not there is answered with INVALID-SPI, and changes nothing.
func TestDeleteUnknown(t *testing.T) {
	p := newPair(t).up()
	c := *p.saA.children[0]
	c.SPIIn = 0xdead
	p.saA.sendDelete(p.now, []*keyex.Child{&c}, func(time.Time) {})
	p.a.drain(p.saA)
	p.run(time.Second)
	p.matched(1)
	if p.count(message.Reply) != 2 {
		t.Error("the DELETE was not answered")
	}
}

// The end of an SA deletes what it has at the peer, and waits for the answer; a forced
// end waits for nothing.
func TestDeleteSA(t *testing.T) {
	p := newPair(t).up()
	p.a.start(p.saA, keyex.Delete{})
	if len(p.a.out) != 0 {
		t.Error("it still sends")
	}
	p.run(time.Second)
	if len(p.a.closed) != 1 || p.a.closed[0].Reason != keyex.CloseAsked || len(p.a.in) != 0 {
		t.Errorf("closed: %v", p.a.closed)
	}
	p.run(fadeTime + time.Second)
	p.nothing()

	p = newPair(t).up()
	p.b.dead = true
	p.a.start(p.saA, keyex.Delete{})
	p.run(time.Second)
	if len(p.a.closed) != 0 {
		t.Error("it did not wait for the answer")
	}
	p.a.start(p.saA, keyex.Delete{Force: true, Why: keyex.CloseReplaced})
	if len(p.a.closed) != 1 || p.a.closed[0].Reason != keyex.CloseReplaced || len(p.a.in)+len(p.a.out) != 0 {
		t.Errorf("closed: %v", p.a.closed)
	}
}

// What a CREATE may have made whose answer is under way goes with the SA.
func TestDeleteWhileCreating(t *testing.T) {
	for _, first := range []bool{true, false} {
		p := newPair(t)
		p.filter = func(q *packet) []*packet {
			if q.kind() == message.Reply && (first || len(p.b.in) == 2) {
				q.extra = 2 * time.Second
			}
			return []*packet{q}
		}
		p.saA = p.a.initiate(p.ca, p.b, p.cha)
		p.run(time.Second)
		if !first {
			other := *p.cha
			p.a.start(p.saA, keyex.CreateChild{Child: &other})
			p.run(time.Second)
		}
		if len(p.b.in) == 0 || len(p.a.sas) != 1 {
			t.Fatalf("%d inbound SAs on the responder, %s", len(p.b.in), why(p.a))
		}
		p.a.start(p.saA, keyex.Delete{})
		p.filter = nil
		p.run(time.Minute)
		p.nothing()
	}
}

// A pair that carries nothing is closed after its time.
func TestInactivity(t *testing.T) {
	p := newPair(t)
	p.cha.Inactivity = time.Minute
	p.up()
	p.a.lastIn = p.now.Add(30 * time.Second)
	p.run(75 * time.Second)
	p.matched(1)
	p.run(time.Minute)
	p.nothing()
}

// RFC 4430, Section 3.4: STATUS finds a dead peer, when nothing else came from it.
func TestDeadPeer(t *testing.T) {
	p := newPair(t)
	p.ca.DPDDelay = 30 * time.Second
	p.up()
	p.run(2 * time.Minute)
	if n := p.count(message.Status); n < 3 || n > 5 {
		t.Errorf("%d STATUS in two minutes", n)
	}
	p.matched(1)
	p.b.dead = true
	p.a.lastIn = p.now.Add(time.Minute) // packets still come
	p.run(70 * time.Second)
	if len(p.a.closed) != 0 {
		t.Fatal("a peer whose packets come is taken for dead")
	}
	p.run(3 * time.Minute)
	if len(p.a.closed) != 1 || p.a.closed[0].Reason != keyex.CloseTimeout || p.a.closed[0].Failure == nil {
		t.Fatalf("closed: %v", p.a.closed)
	}
	if len(p.a.in)+len(p.a.out)+len(p.a.reserved) != 0 {
		t.Error("something is left")
	}
}

// RFC 4430, Section 3.7: a peer that was started again has another epoch. All SAs with
// it go, whichever message tells.
func TestEpoch(t *testing.T) {
	for name, tell := range map[string]func(p *pair){
		"the answer to STATUS": func(p *pair) { p.b.restart(); p.a.start(p.saA, keyex.Liveness{}) },
		"its own CREATE": func(p *pair) {
			p.b.restart()
			p.cb.Remote.ID.Data = "kink/a.example.org@EXAMPLE.ORG"
			p.b.initiate(p.cb, p.a, p.chb)
		},
		"the answer to CREATE": func(p *pair) {
			p.b.restart()
			p.a.start(p.saA, keyex.CreateChild{Child: p.cha})
		},
		"its own STATUS": func(p *pair) {
			p.b.restart()
			p.cb.Remote.ID.Data = "kink/a.example.org@EXAMPLE.ORG"
			p.b.initiate(p.cb, p.a, nil)
		},
	} {
		p := newPair(t).up()
		old := p.saA.children[0]
		tell(p)
		p.run(time.Second)
		if p.a.in[old.SPIIn] == old || p.a.out[old.SPIOut] == old {
			t.Errorf("%s: the SAs that the peer has lost are still there", name)
		}
		if downs := happened[keyex.ChildDown](p.a); len(downs) != 1 || !downs[0].Peer {
			t.Errorf("%s: %v", name, p.a.events)
		}
		if len(p.a.in) != len(p.b.in) || len(p.a.in) != len(p.a.out) {
			t.Errorf("%s: %d and %d inbound SAs, %d outbound", name, len(p.a.in), len(p.b.in), len(p.a.out))
		}
	}
}

// An SA that nothing hangs on goes after a while: it costs the peer nothing.
func TestIdle(t *testing.T) {
	p := newPair(t).up()
	p.a.start(p.saA, keyex.DeleteChild{SPI: p.saA.children[0].SPIIn})
	p.run(idleTime + 5*time.Minute)
	if len(p.a.sas)+len(p.b.sas) != 0 || p.a.closed[0].Reason != keyex.CloseExpired {
		t.Errorf("%d and %d SAs", len(p.a.sas), len(p.b.sas))
	}
}

// One peer may do much in a minute: answers that are kept for its repetitions do not
// keep it from asking.
func TestManyCommandsInAMinute(t *testing.T) {
	p := newPair(t).up()
	for i := range 3 * maxAnswers {
		p.a.start(p.saA, keyex.Liveness{})
		if p.run(100 * time.Millisecond); p.count(message.Reply) != 2+i {
			t.Fatalf("%d replies to %d commands", p.count(message.Reply), 2+i)
		}
	}
	p.matched(1)
}
