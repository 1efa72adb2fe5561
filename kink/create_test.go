package kink

import (
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/keyex"
	"iked/kink/message"
	"iked/spd"
)

// RFC 4430, Section 3.2: when the responder takes the first proposal and adds nothing,
// two messages make a pair of SAs, and both halves are in force on both sides.
func TestTwoWay(t *testing.T) {
	p := newPair(t).up()
	p.matched(1)
	if len(p.sent) != 2 || p.sent[0].kind() != message.Create || p.sent[1].kind() != message.Reply {
		t.Errorf("%d messages, expected CREATE and REPLY", len(p.sent))
	}
	for _, h := range []*host{p.a, p.b} {
		if len(happened[keyex.Up](h)) != 1 || len(happened[keyex.ChildUp](h)) != 1 {
			t.Errorf("%s: events %v", h.name, h.events)
		}
	}
}

// The inbound half is in force before the CREATE is sent: what the responder sends
// right behind its REPLY arrives.
func TestOptimistic(t *testing.T) {
	p := newPair(t)
	early := 0
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Create {
			early = len(p.a.in)
		}
		return []*packet{q}
	}
	p.up().matched(1)
	if early != 1 {
		t.Errorf("%d inbound SAs when the CREATE was sent, expected 1", early)
	}
}

// RFC 4430, Section 3.2: when the responder takes another transform, it adds a nonce
// and asks for an ACK; the initiator makes its keys anew.
func TestThreeWay(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256gcm16", "aes256-sha256")
	p.up().matched(1)
	if len(p.sent) != 3 || p.sent[2].kind() != message.Ack || p.sent[1].data[13] != 0x80 {
		t.Errorf("%d messages, expected CREATE, REPLY with ACKREQ, and ACK", len(p.sent))
	}
	for _, c := range p.a.in {
		if c.Encr.KeyBits != 256 || c.Integ.ID != suite.IntegHMACSHA256 {
			t.Errorf("the SA has %v %v", c.Encr, c.Integ)
		}
	}
}

// The responder does not send before the ACK is there, and takes what the initiator
// sends at once.
func TestThreeWayWaitsForAck(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Ack {
			if len(p.b.in) != 1 || len(p.b.out) != 0 {
				t.Errorf("before the ACK the responder has %d inbound and %d outbound SAs", len(p.b.in), len(p.b.out))
			}
		}
		return []*packet{q}
	}
	p.up().matched(1)
}

// A key exchange makes the keys independent of the session key; both sides take part,
// so that there are three messages.
func TestPFS(t *testing.T) {
	for _, group := range []string{"ecp256", "modp2048", "x25519"} {
		p := newPair(t)
		p.cha.Proposals = proposals(t, suite.ProtoESP, "aes256-sha256-"+group)
		p.chb.Proposals = p.cha.Proposals
		p.up().matched(1)
		if len(p.sent) != 3 {
			t.Errorf("%s: %d messages, expected 3", group, len(p.sent))
		}
		for _, c := range p.a.in {
			if c.KE.ID == 0 {
				t.Errorf("%s: no group was agreed on", group)
			}
		}
	}
}

// All that Quick Mode can say is made with KINK: protocols, modes, algorithms, extended
// sequence numbers.
func TestChildren(t *testing.T) {
	for name, change := range map[string]func(p *pair){
		"AH": func(p *pair) {
			p.cha.Proposals = proposals(t, suite.ProtoAH, "sha256")
			p.chb.Proposals = p.cha.Proposals
		},
		"GCM": func(p *pair) {
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16")
			p.chb.Proposals = p.cha.Proposals
		},
		"ESN": func(p *pair) {
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha256-esn")
			p.chb.Proposals = p.cha.Proposals
		},
		"sha96": func(p *pair) { p.cha.SHA256_96, p.chb.SHA256_96 = true, true },
		"hosts": func(p *pair) { hosts(p, spd.Transport) },
		"BEET":  func(p *pair) { hosts(p, spd.BEET) },
		"v6": func(p *pair) {
			p.cha.Local, p.cha.Remote = []keyex.Selector{net("2001:db8:1::/48")}, []keyex.Selector{net("2001:db8:2::/48")}
			p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
		},
		"narrow": func(p *pair) { p.cha.Local = []keyex.Selector{net("10.1.7.0/24")} },
	} {
		p := newPair(t)
		change(p)
		p.up()
		if t.Run(name, func(t *testing.T) { p.t = t; p.matched(1) }); len(p.sent) != 2 {
			t.Errorf("%s: %d messages, expected 2", name, len(p.sent))
		}
		for _, c := range p.a.in {
			if c.Mode != p.cha.Mode || c.Proto != p.cha.Proposals[0].Protocol {
				t.Errorf("%s: the SA has mode %v and protocol %v", name, c.Mode, c.Proto)
			}
		}
	}
}

// hosts makes the child one between the two hosts.
func hosts(p *pair, m spd.Mode) {
	p.cha.Mode, p.chb.Mode = m, m
	p.cha.Local, p.cha.Remote = []keyex.Selector{net("192.0.2.1/32")}, []keyex.Selector{net("192.0.2.2/32")}
	p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
}

// AH and ESP are demanded together, in two messages or three; the AH comes, is replaced
// and goes with its ESP (RFC 4430, Section 5.1; RFC 2407, Section 4.6.1).
func TestSuites(t *testing.T) {
	for _, three := range []bool{false, true} {
		p := newPair(t)
		ah := proposals(t, suite.ProtoAH, "sha256")
		p.cha.AH, p.chb.AH = ah, ah
		if three {
			p.cha.AH = proposals(t, suite.ProtoAH, "sha1", "sha256")
		}
		p.up()
		p.matched(1)
		if want := map[bool]int{false: 2, true: 3}[three]; len(p.sent) != want {
			t.Errorf("%d messages, expected %d", len(p.sent), want)
		}
		c := p.saA.children[0]
		if c.AH == nil || c.AH.Integ.ID != suite.IntegHMACSHA256 || c.Proto != suite.ProtoESP {
			t.Fatalf("the SA is %+v", c)
		}
		p.a.start(p.saA, keyex.RekeyChild{SPI: c.SPIIn})
		p.run(time.Minute)
		p.matched(1)
		p.b.start(p.b.sas[0], keyex.DeleteChild{SPI: p.b.sas[0].children[0].SPIIn})
		p.run(time.Minute)
		p.nothing()
	}
	for name, change := range map[string]func(p *pair){
		"one side alone":    func(p *pair) { p.chb.AH = nil },
		"other algorithms":  func(p *pair) { p.chb.AH = proposals(t, suite.ProtoAH, "sha512") },
		"the backend fails": func(p *pair) { p.a.refuse = true },
	} {
		p := newPair(t)
		ah := proposals(t, suite.ProtoAH, "sha256")
		p.cha.AH, p.chb.AH = ah, ah
		change(p)
		p.up()
		p.run(time.Minute)
		if t.Run(name, func(t *testing.T) { p.t = t; p.nothing() }); lastFailure(p.a) == nil {
			t.Errorf("%s: there is no failure", name)
		}
	}
}

// One CREATE is for one pair of selectors; a child with several has several pairs of
// SAs.
func TestSeveralSelectors(t *testing.T) {
	p := newPair(t)
	p.cha.Remote = append(p.cha.Remote, net("10.3.0.0/16"))
	p.chb.Local = append(p.chb.Local, net("10.3.0.0/16"))
	p.up().matched(2)
}

// A second child goes with the SA that is there, and with a ticket for each
// transaction.
func TestSecondChild(t *testing.T) {
	p := newPair(t).up()
	other := *p.cha
	other.Name = "other"
	p.a.start(p.saA, keyex.CreateChild{Child: &other})
	p.run(time.Second)
	p.matched(2)
	if len(p.a.sas) != 1 || len(p.b.sas) != 1 {
		t.Errorf("%d and %d SAs, expected one each", len(p.a.sas), len(p.b.sas))
	}
}

// Whoever is asked while asking uses what the peer has begun: there is one SA on each
// side.
func TestBothInitiate(t *testing.T) {
	p := newPair(t)
	p.cb.Remote.ID.Data = "kink/a.example.org@EXAMPLE.ORG"
	p.b.initiate(p.cb, p.a, p.chb)
	p.up()
	if len(p.a.sas) != 1 || len(p.b.sas) != 1 {
		t.Errorf("%d and %d SAs, expected one each", len(p.a.sas), len(p.b.sas))
	}
	p.matched(2)
	if len(happened[keyex.Up](p.a)) != 1 {
		t.Errorf("it was up %d times", len(happened[keyex.Up](p.a)))
	}
}
