package kink

import (
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// RFC 4430, Section 3.5: clocks that differ too much, and a ticket that has expired, are
// told by an answer that can be believed. The initiator puts it right and says the same
// in a new transaction, whose keys are of the ticket of then.
func TestSkewAndExpiry(t *testing.T) {
	for _, three := range []bool{false, true} {
		for name, change := range map[string]func(p *pair){
			"the clock of a is slow": func(p *pair) { p.a.skew = -7 * time.Minute },
			"the clock of b is slow": func(p *pair) { p.b.skew = -7 * time.Minute },
			"a ticket has expired": func(p *pair) {
				p.realm.life = -time.Hour
				p.filter = func(q *packet) []*packet { p.realm.life = time.Hour; return []*packet{q} }
			},
		} {
			p := newPair(t)
			if three {
				p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
			}
			change(p)
			p.up()
			p.matched(1)
			if p.count(message.Create) != 2 || string(p.sent[0].data[8:12]) == string(p.sent[2].data[8:12]) {
				t.Errorf("%s: %d CREATEs", name, p.count(message.Create))
			}
			if p.realm.life > 0 && p.a.tickets != 2 {
				t.Errorf("%s: %d tickets were asked for", name, p.a.tickets)
			}
		}
	}
}

// A peer that repeats such an error is given up, with the reason in words.
func TestSkewForEver(t *testing.T) {
	p := newPair(t)
	p.a.skew = 7 * time.Minute
	p.realm.skew = -time.Hour // nothing is ever in time
	p.up()
	p.nothing()
	f := lastFailure(p.a)
	if f == nil || f.Stage != trace.StageAuth || !strings.Contains(f.Sentence, "off by -7m0s") || !strings.Contains(f.Advice, "NTP") {
		t.Errorf("the failure is %+v", f)
	}
	if p.count(message.Create) != 2 {
		t.Errorf("%d CREATEs", p.count(message.Create))
	}
}

// What the KDC says is the failure, with its advice; nothing was sent.
func TestNoTicket(t *testing.T) {
	p := newPair(t)
	p.realm.fail = &KerberosError{Sentence: "no KDC of EXAMPLE.ORG can be reached", Advice: "see krb5.conf", Evidence: []string{"192.0.2.88:88: refused"}}
	p.up()
	p.nothing()
	if len(p.sent) != 0 || len(p.a.closed) != 1 || p.a.closed[0].Reason != keyex.CloseFailed {
		t.Fatalf("%d messages, %s", len(p.sent), why(p.a))
	}
	f := p.a.closed[0].Failure
	if f.Stage != trace.StageAuth || f.Advice != "see krb5.conf" || len(f.Evidence) != 1 || f.RemoteID != "kink/b.example.org@EXAMPLE.ORG" {
		t.Errorf("the failure is %+v", f)
	}
}

// A slow KDC holds nothing else up: the peer is answered meanwhile.
func TestSlowKDC(t *testing.T) {
	p := newPair(t)
	p.a.kdc = 10 * time.Second
	p.cb.Remote.ID.Data = "kink/a.example.org@EXAMPLE.ORG"
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Second)
	p.b.initiate(p.cb, p.a, p.chb)
	p.run(time.Second)
	if len(p.a.out) != 1 || len(p.b.out) != 1 {
		t.Errorf("%d and %d outbound SAs while the KDC of a is slow", len(p.a.out), len(p.b.out))
	}
	p.run(time.Minute)
	p.matched(2)
}

// RFC 4430, Section 3.1: a peer without a key of its own is asked for its
// ticket-granting ticket, because the KDC says so or because the configuration does.
func TestUserToUser(t *testing.T) {
	for _, configured := range []bool{false, true} {
		p := newPair(t)
		delete(p.realm.keys, p.b.acc.own)
		p.ca.KINK.UserToUser = configured
		p.up()
		p.matched(1)
		if p.count(message.GetTGT) != 1 || p.count(message.Create) != 1 {
			t.Errorf("configured %v: %d GETTGTs, %d CREATEs", configured, p.count(message.GetTGT), p.count(message.Create))
		}
		// It is remembered.
		p.a.start(p.saA, keyex.Liveness{})
		p.run(time.Second)
		if p.count(message.GetTGT) != 1 {
			t.Error("it is asked for each time")
		}
		// RFC 4430, Section 3.7.1: the peer was started again, and its ticket is another one.
		p.b.restart()
		p.realm.tgts[p.b.acc.own] = []byte("another ticket-granting ticket")
		p.a.start(p.saA, keyex.CreateChild{Child: p.cha})
		p.run(10 * time.Second)
		p.matched(1)
		if p.count(message.GetTGT) != 2 {
			t.Errorf("configured %v: %d GETTGTs after the restart", configured, p.count(message.GetTGT))
		}
	}
}

// A ticket-granting ticket that somebody made up gets no ticket of the KDC; one that
// does not come ends in words.
func TestLyingTGT(t *testing.T) {
	p := newPair(t)
	delete(p.realm.keys, p.b.acc.own)
	p.filter = func(q *packet) []*packet {
		if q.kind() != message.Reply {
			return []*packet{q}
		}
		m, err := message.Parse(q.data)
		if err != nil {
			t.Fatal(err)
		}
		if m.TGTRep == nil {
			return []*packet{q}
		}
		b, err := message.Append(nil, message.Header{Type: message.Reply, XID: m.XID}, message.Body{TGTRep: []byte("made up")}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return []*packet{{from: q.from, to: q.to, data: b}}
	}
	p.up()
	p.nothing()
	if f := lastFailure(p.a); f == nil || !strings.Contains(f.Sentence, "does not know the ticket of the peer") {
		t.Errorf("%+v", f)
	}
	p = newPair(t)
	delete(p.realm.keys, p.b.acc.own)
	p.b.dead = true
	p.up()
	p.run(2 * time.Minute)
	p.nothing()
	if f := lastFailure(p.a); f == nil || !strings.Contains(f.Sentence, "does not answer GETTGT") {
		t.Errorf("%+v", f)
	}
}

// A peer's ticket-granting ticket that the KDC does not take any more is asked for anew,
// with the SAs in force: it lives for some hours, and they for days. One that somebody
// made up is not kept either.
func TestWornTGT(t *testing.T) {
	p := newPair(t)
	delete(p.realm.keys, p.b.acc.own)
	p.up()
	p.matched(1)
	p.realm.worn = p.realm.tgts[p.b.acc.own]
	p.realm.tgts[p.b.acc.own] = []byte("the next ticket-granting ticket")
	lies := 2
	p.filter = func(q *packet) []*packet {
		if m, err := message.Parse(q.data); err == nil && m.TGTRep != nil && lies > 0 {
			lies--
			b, err := message.Append(nil, message.Header{Type: message.Reply, XID: m.XID}, message.Body{TGTRep: []byte("made up")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return []*packet{{from: q.from, to: q.to, data: b}}
		}
		return []*packet{q}
	}
	child := *p.cha
	p.a.start(p.saA, keyex.CreateChild{Child: &child})
	p.run(time.Second)
	if f := lastFailure(p.a); f == nil || !strings.Contains(f.Sentence, "does not know the ticket of the peer") && !strings.Contains(f.Sentence, "has expired") {
		t.Errorf("%+v", f)
	}
	p.run(time.Minute)
	lies = 0
	n, asked := p.count(message.Status), p.count(message.GetTGT)
	p.a.start(p.saA, keyex.Liveness{})
	p.run(time.Second)
	if p.count(message.Status) != n+1 || p.count(message.GetTGT) != asked+1 {
		t.Errorf("%d STATUS with a ticket of the next ticket-granting ticket, %d GETTGTs", p.count(message.Status)-n, p.count(message.GetTGT)-asked)
	}
	// And without anybody that lies, an expired one holds nothing up.
	p.realm.worn = p.realm.tgts[p.b.acc.own]
	p.realm.tgts[p.b.acc.own] = []byte("the one after it")
	failed := len(happened[keyex.Failed](p.a))
	p.a.start(p.saA, keyex.RekeyIKE{})
	p.run(5 * time.Minute)
	p.matched(1)
	if len(happened[keyex.Failed](p.a)) != failed {
		t.Errorf("%+v", lastFailure(p.a))
	}
}
