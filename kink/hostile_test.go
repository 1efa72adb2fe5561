package kink

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/internal/ident"
	"iked/internal/keyex"
	"iked/internal/trace"
	"iked/kink/message"
)

// nothingOnB checks that a message made nothing on the responder.
func (p *pair) nothingOnB(when string) {
	p.t.Helper()
	if len(p.b.sas)+len(p.b.in)+len(p.b.out)+len(p.b.reserved) != 0 {
		p.t.Errorf("%s: the responder has %d SAs, %d inbound and %d outbound, %d reserved", when, len(p.b.sas), len(p.b.in), len(p.b.out), len(p.b.reserved))
	}
}

// deliver brings octets to a host, as if another one had sent them.
func (p *pair) deliver(to *host, from string, data []byte) {
	addr := p.a
	if from == "b" {
		addr = p.b
	}
	to.receive(&packet{from: addrPort(addr), to: addrPort(to), data: slices.Clone(data)})
}

// Any octet of any message may be changed on its way: the message is dropped, and the
// next transmission does what it should. No octet is without protection, but what
// nobody reads: the reserved bits and the bits of the header that the checksum covers
// with other values are all under it.
func TestEveryOctetChanged(t *testing.T) {
	for _, three := range []bool{false, true} {
		p := newPair(t)
		if three {
			p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha1", "aes256-sha256")
		}
		p.up()
		total := len(p.sent)
		for n := range total {
			size := len(p.sent[n].data)
			for at := 0; at < size; at += 1 + size/40 {
				q := newPair(t)
				if three {
					q.cha.Proposals = p.cha.Proposals
				}
				q.filter = nth(n, func(x *packet) []*packet {
					x.data = slices.Clone(x.data)
					x.data[at] ^= 1 << (at % 8)
					return []*packet{x}
				})
				q.up()
				q.run(15 * time.Second)
				q.matched(1)
			}
		}
	}
}

// An authenticator that was used is not taken again: the repeated message of somebody
// else is met with silence.
func TestReplayedAuthenticator(t *testing.T) {
	p := newPair(t).up()
	create := p.sent[0].data
	n := len(p.sent)
	p.deliver(p.b, "a", create)
	p.run(time.Second)
	if len(p.sent) != n || p.b.refusals[0] != "ap-req-repeated" {
		t.Errorf("%d answers, refusals %v", len(p.sent)-n, p.b.refusals)
	}
	// Neither after the peer has deleted what it made.
	p.a.start(p.saA, keyex.Delete{})
	p.run(time.Minute)
	p.b.empty()
	p.deliver(p.b, "a", create)
	p.run(time.Second)
	p.nothingOnB("replayed after its end")
}

// The checksum and the ciphertext of one message do not fit another one, though both
// are under the same session key.
func TestSwappedParts(t *testing.T) {
	p := newPair(t).up()
	other := *p.cha
	p.a.start(p.saA, keyex.CreateChild{Child: &other})
	p.filter = func(q *packet) []*packet { return nil }
	p.run(10 * time.Millisecond)
	first, second := p.sent[0].data, p.sent[len(p.sent)-1].data
	if len(first) != len(second) || first[0] != second[0] {
		t.Fatalf("%d and %d octets", len(first), len(second))
	}
	for name, change := range map[string]func(b []byte){
		"checksum":   func(b []byte) { copy(b[len(b)-16:], first[len(first)-16:]) },
		"ciphertext": func(b []byte) { copy(b[len(b)-60:len(b)-16], first[len(first)-60:]) },
		"number":     func(b []byte) { copy(b[8:12], first[8:12]) },
	} {
		q := newPair(t)
		b := slices.Clone(second)
		change(b)
		q.b.acc = p.b.acc
		q.b.acc.seen = nil
		q.deliver(q.b, "a", b)
		q.nothingOnB(name)
		if !slices.Equal(q.b.refusals, []string{"checksum"}) {
			t.Errorf("%s: %v", name, q.b.refusals)
		}
	}
}

// REPLYs that nobody proves change nothing: the initiator goes on, and what they say is
// evidence at most. A flood of them costs no more than reading them.
func TestForgedReplies(t *testing.T) {
	code := message.ProtoErr
	der := func(c int32) []byte {
		b, err := KRBError{Code: c, STime: time.Unix(1_700_000_000, 0), Server: named("kink/b.example.org@EXAMPLE.ORG")}.Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	none := func([]byte) ([]byte, error) { return make([]byte, 16), nil }
	for name, forge := range map[string]struct {
		body message.Body
		sum  func([]byte) ([]byte, error)
	}{
		"KINK_ERROR":               {message.Body{Error: &code}, nil},
		"clock skew":               {message.Body{KRBError: der(ErrSkew)}, nil},
		"expired ticket":           {message.Body{KRBError: der(ErrTicketExpired)}, nil},
		"no key":                   {message.Body{KRBError: der(ErrNoKey)}, nil},
		"no DER":                   {message.Body{KRBError: []byte("garbage")}, nil},
		"an AP_REP of nobody":      {message.Body{APRep: &message.AP{Epoch: 99, Data: []byte("forged")}}, none},
		"a ticket-granting ticket": {message.Body{TGTRep: []byte("ticket")}, nil},
		"nothing":                  {message.Body{}, nil},
	} {
		p := newPair(t)
		p.filter = func(q *packet) []*packet {
			if q.kind() != message.Create {
				return []*packet{q}
			}
			xid := uint32(q.data[8])<<24 | uint32(q.data[9])<<16 | uint32(q.data[10])<<8 | uint32(q.data[11])
			b, err := message.Append(nil, message.Header{Type: message.Reply, XID: xid}, forge.body, forge.sum)
			if err != nil {
				t.Fatal(err)
			}
			for range 2000 {
				p.deliver(p.a, "b", b)
			}
			return []*packet{q}
		}
		p.up()
		p.matched(1)
		if p.count(message.Create) != 1 || len(happened[keyex.Failed](p.a)) != 0 || p.a.tickets != 1 {
			t.Errorf("%s: %d CREATEs, %d tickets, %s", name, p.count(message.Create), p.a.tickets, why(p.a))
		}
	}
}

// What nobody proves is shown as a hint, when nothing better comes.
func TestHint(t *testing.T) {
	p := newPair(t)
	delete(p.realm.keys, p.b.acc.own) // the keytab of b
	p.realm.keys[p.b.acc.own] = []byte("another key")
	tk := p.realm.ticket(p.now, GetTicket{Client: p.a.acc.own, Server: p.b.acc.own})
	p.realm.keys[p.b.acc.own] = []byte("the key of b")
	p.realm.fixed = tk
	p.up()
	p.run(2 * time.Minute)
	p.nothing()
	f := lastFailure(p.a)
	if f == nil || !strings.Contains(strings.Join(f.Evidence, " "), "31, the ticket cannot be decrypted") {
		t.Errorf("the failure is %+v", f)
	}
	if p.b.refusals[0] != "ap-req" {
		t.Errorf("%v", p.b.refusals)
	}
	// The peer may be installed anew: the next ticket is a new one. A peer that is silent
	// says nothing of the kind.
	if p.realm.dropped == 0 {
		t.Error("the ticket is kept")
	}
	p = newPair(t)
	p.filter = func(*packet) []*packet { return nil }
	p.up()
	p.run(2 * time.Minute)
	if p.realm.dropped != 0 || lastFailure(p.a) == nil {
		t.Errorf("%d tickets are dropped, %+v", p.realm.dropped, lastFailure(p.a))
	}
}

// A REPLY from another address than the command went to is none.
func TestReplyFromElsewhere(t *testing.T) {
	p := newPair(t)
	c := p.host("c", "192.0.2.3", p.realm)
	p.filter = func(q *packet) []*packet {
		if q.kind() == message.Reply {
			q.from = addrPort(c)
		}
		return []*packet{q}
	}
	p.up()
	if len(p.a.out) != 0 || p.a.counts["ike-drop:address"] == 0 {
		t.Errorf("%d outbound SAs, %v", len(p.a.out), p.a.counts)
	}
}

// Epochs count in authentic messages alone, and an old message does not bring an old
// epoch back.
func TestEpochGames(t *testing.T) {
	p := newPair(t).up()
	create := slices.Clone(p.sent[0].data)
	create[20]++ // the epoch in KINK_AP_REQ
	p.deliver(p.b, "a", create)
	p.run(time.Second)
	p.matched(1)
	reply := slices.Clone(p.sent[1].data)
	reply[20]++
	p.deliver(p.a, "b", reply)
	p.matched(1)
	// A captured message of the run before, after the new one has begun.
	old := slices.Clone(p.sent[0].data)
	p.a.restart()
	p.up()
	n := len(p.b.in)
	p.deliver(p.b, "a", old)
	p.run(time.Second)
	if len(p.b.in) != n || n == 0 {
		t.Errorf("%d inbound SAs, %d before", len(p.b.in), n)
	}
}

// Only principals that a connection allows get anything: another realm, another name, a
// longer name, and one that has the pattern's characters in it are refused, in a way
// that the peer can believe.
func TestPrincipals(t *testing.T) {
	for _, c := range []struct {
		pattern string
		ok      bool
	}{
		{"kink/a.example.org@EXAMPLE.ORG", true}, {"kink/*.example.org@EXAMPLE.ORG", true}, {"*/a.example.org@EXAMPLE.ORG", true}, {"kink/*@*.ORG", true},
		{"kink/*.example.org@EXAMPLE.COM", false}, {"host/*.example.org@EXAMPLE.ORG", false}, {"kink/b.example.org@EXAMPLE.ORG", false}, {"kink/*.org@example.org", false},
		{"kink/*.example.org/*@EXAMPLE.ORG", false}, {"*@EXAMPLE.ORG", false},
	} {
		p := newPair(t)
		p.cb.Remote.ID = ident.ID{Type: ident.Kerberos, Data: c.pattern}
		p.up()
		if c.ok {
			p.matched(1)
			continue
		}
		p.nothingOnB(c.pattern)
		if f := lastFailure(p.a); f == nil || !strings.Contains(f.Sentence, "AUTHENTICATION-FAILED") || !slices.Contains(p.b.refusals, "principal") {
			t.Errorf("%s: %s %s", c.pattern, why(p.a), why(p.b))
		}
	}
	// A ticket for another service of the same host is not for this connection.
	p := newPair(t)
	p.cb.Local.ID.Data = "host/b.example.org@EXAMPLE.ORG"
	p.up()
	p.nothingOnB("a ticket for another principal")
}

// RFC 4430, Sections 3.5 and 12: what is not understood is answered by its code, never
// longer than what came, and answers are not answered.
func TestAnswersToTheUnreadable(t *testing.T) {
	p := newPair(t)
	create, err := message.Append(nil, message.Header{Type: message.Create, XID: 77}, message.Body{APReq: &message.AP{Data: []byte("an AP-REQ")}}, func([]byte) ([]byte, error) { return make([]byte, 12), nil })
	if err != nil {
		t.Fatal(err)
	}
	o := Opener{Acceptor: p.b.acc, Epoch: 1, Own: p.b.acc.own}
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		code   message.ErrorCode // OK: silence
	}{
		"version": {func(b []byte) []byte { b[1] = 0x20; return b }, message.InvMaj},
		"DOI":     {func(b []byte) []byte { b[7] = 9; return b }, message.InvDOI},
		"payload": {func(b []byte) []byte { b[12] = 99; return b }, message.ProtoErr},
		"no key":  {func(b []byte) []byte { b[14], b[15] = 0, 0; return b }, message.ProtoErr},
		"a REPLY": {func(b []byte) []byte { b[0], b[1] = 3, 0x20; return b }, message.OK},
		"an ACK":  {func(b []byte) []byte { b[0], b[1] = 5, 0x20; return b }, message.OK},
		"a runt":  {func(b []byte) []byte { return b[:15] }, message.OK},
		"a small": {func(b []byte) []byte { b[1] = 0x20; return b[:20] }, message.OK},
		"no name": {func(b []byte) []byte { return b }, message.OK}, // an AP-REQ that is none, without a code
	} {
		cmd, no := o.Open(p.now, keyex.Datagram{Local: addrPort(p.b), Remote: addrPort(p.a), Data: c.change(slices.Clone(create))})
		if cmd != nil || no == nil || no.Authentic {
			t.Fatalf("%s: %+v %+v", name, cmd, no)
		}
		if c.code == message.OK {
			if no.Answer != nil {
				t.Errorf("%s is answered with %x", name, no.Answer)
			}
			continue
		}
		m, err := message.Parse(no.Answer)
		if err != nil || m.Type != message.Reply || m.XID != 77 || m.Error == nil || *m.Error != c.code || len(no.Answer) > len(create) {
			t.Errorf("%s is answered with %+v, %v", name, m, err)
		}
	}
}

// Quick Mode in clear is refused on both sides, though the checksum covers it (RFC 4430,
// Section 6).
func TestQuickModeInClear(t *testing.T) {
	p := newPair(t).up()
	tk := p.realm.ticket(p.now, GetTicket{Client: p.a.acc.own, Server: p.b.acc.own}).Ticket
	req, _, err := tk.Request(p.now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := message.Append(nil, message.Header{Type: message.Create, XID: 5}, message.Body{APReq: &message.AP{Epoch: p.a.epoch, Data: req}, ISAKMP: []*message.ISAKMP{{}}},
		func(b []byte) ([]byte, error) { return tk.Key().Checksum(UsageChecksum, b) })
	if err != nil {
		t.Fatal(err)
	}
	p.deliver(p.b, "a", b)
	if !slices.Contains(p.b.refusals, "not-encrypted") {
		t.Errorf("%v", p.b.refusals)
	}
	p.matched(1)
	// The responder's choice, which is the right one, out of KINK_ENCRYPT.
	p = newPair(t)
	p.filter = func(q *packet) []*packet {
		m, err := message.Parse(q.data)
		if err != nil || m.Type != message.Reply || m.APRep == nil || m.Encrypt == nil {
			return []*packet{q}
		}
		x := p.saA.exchanges[m.XID]
		if x == nil {
			return nil
		}
		in, err := open(x.ticket.Key(), m)
		if err != nil || len(in.ISAKMP) != 1 {
			t.Fatalf("%+v %v", in, err)
		}
		b, err := message.Append(nil, message.Header{Type: message.Reply, XID: m.XID}, message.Body{APRep: m.APRep, ISAKMP: in.ISAKMP},
			func(b []byte) ([]byte, error) { return x.ticket.Key().Checksum(UsageChecksum, b) })
		if err != nil {
			t.Fatal(err)
		}
		return []*packet{{from: q.from, to: q.to, data: b}}
	}
	p.up()
	if f := lastFailure(p.a); f == nil || !strings.Contains(f.Sentence, "KINK_ISAKMP in clear") {
		t.Errorf("%+v", f)
	}
	if len(p.a.in)+len(p.a.out) != 0 {
		t.Errorf("%d inbound and %d outbound SAs of a choice in clear", len(p.a.in), len(p.a.out))
	}
}

// What a peer that is authentic may still say wrong is refused, and leaves nothing.
func TestFaultyPeers(t *testing.T) {
	for name, change := range map[string]func(p *pair){
		"other selectors":     func(p *pair) { p.cha.Remote = []keyex.Selector{net("10.9.0.0/16")} },
		"wider selectors":     func(p *pair) { p.cha.Local = []keyex.Selector{net("10.0.0.0/8")} },
		"other algorithms":    func(p *pair) { p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm8") },
		"another protocol":    func(p *pair) { p.cha.Proposals = proposals(t, suite.ProtoAH, "sha256") },
		"another mode":        func(p *pair) { hosts(p, 1); p.chb.Mode, p.chb.ModeRequired = 0, true },
		"no forward secrecy":  func(p *pair) { p.chb.Proposals = proposals(t, suite.ProtoESP, "aes256-sha256-ecp256") },
		"AH and ESP together": func(p *pair) { p.cha.AH = proposals(t, suite.ProtoAH, "sha256") },
		"nothing sayable":     func(p *pair) { p.cha.Proposals = proposals(t, suite.ProtoESP, "chacha20poly1305") },
	} {
		p := newPair(t)
		change(p)
		p.up()
		p.run(time.Minute)
		p.nothing()
		if f := lastFailure(p.a); f == nil || f.Advice == "" {
			t.Errorf("%s: the failure is %+v", name, f)
		}
	}
}

// FuzzReceive: no octets in any state panic, and none makes a pair of SAs that was not
// authentic.
func FuzzReceive(f *testing.F) {
	p := newPair(f).up()
	for _, q := range p.sent {
		f.Add(q.data, false)
		f.Add(q.data, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, answer bool) {
		p := newPair(t)
		// The seeds are of a realm with other keys.
		p.realm.salt = "fuzz"
		for k := range p.realm.keys {
			p.realm.keys[k] = []byte("fuzz")
		}
		p.b.dead = true
		p.up()
		p.deliver(p.a, "b", b)
		if answer && len(b) >= 12 && len(p.sent) > 0 {
			b = slices.Clone(b)
			copy(b[8:12], p.sent[0].data[8:12])
			p.deliver(p.a, "b", b)
		}
		p.deliver(p.b, "a", b)
		if len(p.a.out)+len(p.b.in) != 0 {
			t.Fatalf("%d outbound SAs on the initiator, %d inbound on the responder", len(p.a.out), len(p.b.in))
		}
	})
}

// A KDC may refer to the same name in another realm, whose KDC could then be anybody: the
// SA is for the principal that the configuration names, and for no other one.
func TestReferredElsewhere(t *testing.T) {
	p := newPair(t)
	p.realm.referral = "kink/b.example.org@OTHER.ORG"
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Minute)
	if p.count(message.Create) != 0 || len(p.a.sas)+len(p.a.in)+len(p.a.out)+len(p.a.reserved) != 0 {
		t.Errorf("%d CREATEs were sent under a ticket for another principal; %d SAs are left", p.count(message.Create), len(p.a.sas))
	}
	if f := lastFailure(p.a); f == nil || f.Stage != trace.StageIdentity || !strings.Contains(f.Sentence, "@OTHER.ORG") {
		t.Errorf("the failure is %+v", f)
	}
}
