package kink

import (
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/keyex"
	"iked/kink/message"
)

// What is one connection here may be two at the peer: each CREATE goes to the one that
// has its selectors, and a DELETE of both pairs to both.
func TestTwoConnectionsOfThePeer(t *testing.T) {
	p := newPair(t)
	p.cha.Remote = append(p.cha.Remote, net("10.3.0.0/16"))
	second, child := *p.cb, *p.chb
	second.Name, child.Name, child.Local = "second", "other", []keyex.Selector{net("10.3.0.0/16")}
	second.Children = []*keyex.ChildConfig{&child}
	p.b.configs = append(p.b.configs, &second)
	p.up()
	p.matched(2)
	if len(p.b.sas) != 2 || len(p.a.sas) != 1 {
		t.Fatalf("%d SAs on the responder, %d on the initiator", len(p.b.sas), len(p.a.sas))
	}
	p.run(65 * time.Minute) // rekeyed meanwhile
	p.matched(2)
	p.a.start(p.a.sas[0], keyex.Delete{})
	p.run(time.Minute)
	p.nothing()
	if n := len(happened[keyex.ChildDown](p.b)); n != 2 {
		t.Errorf("%d CHILD_SAs are down on the responder", n)
	}
}

// A pair that is deleted before it is confirmed is not put in force by the ACK that
// comes late.
func TestDeleteBeforeAck(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Ack {
			q.extra = 1500 * time.Millisecond
		}
		return []*packet{q}
	}
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(500 * time.Millisecond)
	p.a.start(p.saA, keyex.DeleteChild{SPI: p.saA.children[0].SPIIn})
	p.run(time.Minute)
	p.nothing()
	if len(happened[keyex.ChildUp](p.b)) != 0 {
		t.Error("it was put in force")
	}
}

// A principal deletes its own SAs alone: those of another one are unknown to it, and
// stay (RFC 4430, Section 3.3).
func TestDeleteOfOthers(t *testing.T) {
	p := newPair(t).up()
	c := p.host("c", "192.0.2.3", p.realm)
	p.realm.keys[c.acc.own] = []byte("key of c")
	victim := p.saA.children[0]
	cc := *p.ca
	cc.Local.ID = c.acc.own.Ident()
	sa := NewInitiator(c, &cc, p.b.acc.own, addrPort(c), addrPort(p.b))
	c.sas = append(c.sas, sa)
	sa.state = keyex.Established
	sa.sendDelete(p.now, []*keyex.Child{{Proto: victim.Proto, SPIIn: victim.SPIIn}}, func(time.Time) {})
	c.drain(sa)
	p.run(time.Second)
	p.matched(1)
	if p.count(message.Reply) != 2 || len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Errorf("%d REPLYs, %v", p.count(message.Reply), p.b.events)
	}
}
