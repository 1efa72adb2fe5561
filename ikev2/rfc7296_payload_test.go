package ikev2_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/internal/trace"
)

// RFC 7296, Section 3: payload formats, reserved fields, notifies and certificate
// encodings that a peer may send.

// reserve sets every reserved bit of a chain of payloads: of the generic headers,
// of proposals and transforms, of KE, ID, AUTH, TS and CP.
func reserve(first message.PayloadType, b []byte) {
	for t := first; len(b) >= 4; {
		next, n := message.PayloadType(b[0]), int(b[2])<<8|int(b[3])
		b[1] |= 0x7f
		body := b[4:n]
		switch t {
		case message.TypeSA:
			for rest := body; len(rest) > 0; {
				rest[1] = 0xff
				size := int(rest[2])<<8 | int(rest[3])
				for tr := rest[8+int(rest[6]) : size]; len(tr) > 0; {
					tr[1], tr[5] = 0xff, 0xff
					tr = tr[int(tr[2])<<8|int(tr[3]):]
				}
				rest = rest[size:]
			}
		case message.TypeKE:
			body[2], body[3] = 0xff, 0xff
		case message.TypeIDi, message.TypeIDr, message.TypeAuth, message.TypeTSi, message.TypeTSr, message.TypeCP:
			if t != message.TypeIDi && t != message.TypeIDr { // AUTH covers those
				body[1], body[2], body[3] = 0xff, 0xff, 0xff
			}
		}
		t, b = next, b[n:]
	}
}

// RFC 7296, Sections 2.5 and 3: reserved fields are ignored on receipt, in every
// exchange and direction.
func TestReservedFieldsAreIgnored(t *testing.T) {
	p := newPair(t, 1)
	m, q := firstRequest(t, p)
	b := encode(t, m)
	reserve(message.PayloadType(b[16]), b[28:])
	b[19] |= 0xc7 // the X bits of the flags
	if r := initAnswer(t, p, q, b); r == nil || r.Header.SPIr == (message.SPI{}) {
		t.Fatalf("IKE_SA_INIT with reserved bits: %v", r)
	}

	p = newPair(t, 1)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16-x25519")
	p.chb.Proposals = p.cha.Proposals
	changed := 0
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange == message.ExchangeIKESAInit {
			return ikev2test.Deliver
		}
		m := p.read(t, q)
		if len(m.Payloads) == 0 {
			return ikev2test.Deliver
		}
		chain, err := message.AppendPayloads(nil, m.Payloads)
		if err != nil {
			t.Fatal(err)
		}
		reserve(m.Payloads[0].Type(), chain)
		q.Data = ikev2.SealChainForTest(p.holder(q, true), m.Header.Exchange, m.Header.MessageID, isResponse(q), m.Payloads[0].Type(), chain).Data
		changed++
		return ikev2test.Deliver
	}
	p.up(t)
	rekeyChild(p.a)
	p.net.Run(10 * time.Second)
	rekeyIKE(p.b)
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	if changed < 8 {
		t.Errorf("only %d messages had payloads", changed)
	}
}

// RFC 7296, Section 2.15: AUTH covers the reserved octets of the ID payload as
// they came, so that setting them on the way is noticed.
func TestAuthCoversTheWholeID(t *testing.T) {
	p := newPair(t, 1)
	p.rewrite(t, message.ExchangeIKEAuth, false, func(ps []message.Payload) []message.Payload {
		ps[0].(*message.ID).Reserved = [3]byte{1, 2, 3}
		return ps
	})
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(5 * time.Second)
	if f := closedBy(t, p.b).Failure; f == nil || f.Stage != trace.StageAuth {
		t.Errorf("b tells %+v", f)
	}
}

// RFC 7296, Section 3.10.1: status notifies that are not understood are ignored
// in every message; error notifies that are not understood are ignored in a
// request and mean in a response that the request failed.
func TestUnknownNotifies(t *testing.T) {
	status := []message.Payload{message.NewNotify(30000, nil), message.NewNotify(65535, []byte("x")), &message.VendorID{Data: []byte("somebody")},
		&message.Notify{Protocol: suite.ProtoESP, SPI: []byte{1, 2, 3, 4}, Kind: 49999}}
	failure := message.NewNotify(16383, nil)
	all := []message.Exchange{message.ExchangeIKEAuth, message.ExchangeCreateChildSA, message.ExchangeInformational}

	p := newPair(t, 1)
	m, q := firstRequest(t, p)
	m.Payloads = append(append(m.Payloads, status...), failure)
	if r := initAnswer(t, p, q, encode(t, m)); r == nil || r.Header.SPIr == (message.SPI{}) {
		t.Fatalf("IKE_SA_INIT request: %v", types(r))
	}
	for _, x := range all {
		for _, response := range []bool{false, true} {
			add := append([]message.Payload{}, status...)
			if !response {
				add = append(add, failure)
			}
			p := newPair(t, 1)
			n := p.rewrite(t, x, response, also(add...))
			p.up(t)
			rekeyChild(p.a)
			p.net.Run(20 * time.Second)
			p.consistent(t, 1)
			if *n == 0 {
				t.Errorf("%s, response %t: nothing changed", message.ExchangeName(x), response)
			}
		}
	}

	// The unknown error stands alone, or beside what looks like success.
	for name, change := range map[string]func([]message.Payload) []message.Payload{"alone": instead(failure), "beside": also(failure)} {
		p := newPair(t, 1)
		p.rewrite(t, message.ExchangeIKEAuth, true, change)
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(5 * time.Second)
		if f := closedBy(t, p.a).Failure; f == nil || !strings.Contains(f.Sentence, "ERROR_16383") || len(p.a.In)+len(p.a.Reserved) != 0 {
			t.Errorf("%s in IKE_AUTH: a tells %+v", name, f)
		}
		for kind, start := range map[string]func(p *pair){
			"new child":   func(p *pair) { p.a.Start(p.a.SAs[0], ikev2.CreateChild{Child: p.cha}) },
			"rekey child": func(p *pair) { rekeyChild(p.a) },
		} {
			p := newPair(t, 1)
			a := p.up(t)
			old := a.Children()[0].SPIIn
			p.rewrite(t, message.ExchangeCreateChildSA, true, change)
			start(p)
			p.net.Run(5 * time.Second)
			if cs := p.a.SA().Children(); len(cs) != 1 || cs[0].SPIIn != old || len(p.a.In) != 1 {
				t.Errorf("%s for a %s: %d children", name, kind, len(cs))
			}
			if f := ikev2test.Happened[ikev2.Failed](p.a); len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, "ERROR_16383") {
				t.Errorf("%s for a %s: a tells %+v", name, kind, f)
			}
			if name == "beside" && len(p.b.In) != 1 {
				t.Errorf("%s for a %s: what b made is not deleted", name, kind)
			}
		}
		p = newPair(t, 1)
		p.up(t)
		p.rewrite(t, message.ExchangeCreateChildSA, true, change)
		rekeyIKE(p.a)
		p.net.Run(5 * time.Second)
		if f := ikev2test.Happened[ikev2.Failed](p.a); len(f) != 1 || len(p.a.SAs) != 1 || p.a.SAs[0].State() != ikev2.Established {
			t.Errorf("%s for the rekeying of the IKE SA: a tells %+v", name, f)
		}
	}
}

// RFC 7296, Section 3.9: nonces of 16 to 256 octets are taken; PRFs with long keys
// need at least half of that.
func TestPeerNonceLengths(t *testing.T) {
	for _, c := range []struct {
		prf  string
		n    int
		want bool
	}{{"prfsha256", 15, false}, {"prfsha256", 16, true}, {"prfsha256", 256, true}, {"prfsha256", 257, false}, {"prfsha512", 31, false}, {"prfsha512", 32, true}} {
		p := newPair(t, 1)
		p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128gcm16-"+c.prf+"-x25519")
		p.cb.Proposals = p.ca.Proposals
		m, q := firstRequest(t, p)
		for i, pl := range m.Payloads {
			if pl.Type() == message.TypeNonce {
				m.Payloads[i] = raw{message.TypeNonce, bytes.Repeat([]byte{5}, c.n)}
			}
		}
		if r := initAnswer(t, p, q, encode(t, m)); (r != nil) != c.want {
			t.Errorf("%s, %d octets: answered %t, expected %t", c.prf, c.n, r != nil, c.want)
		}
	}
}

// RFC 7296, Section 2: messages of 3000 octets are read and sent, in clear and
// encrypted.
func TestLongMessages(t *testing.T) {
	p := newPair(t, 1)
	m, q := firstRequest(t, p)
	m.Payloads = append(m.Payloads, &message.VendorID{Data: make([]byte, 3000)})
	if r := initAnswer(t, p, q, encode(t, m)); r == nil {
		t.Error("an IKE_SA_INIT request of 3000 octets is not answered")
	}
	p = newPair(t, 1)
	a := p.up(t)
	if r := p.ask(t, a, message.ExchangeInformational, 2, &message.VendorID{Data: make([]byte, 3000)}); r == nil {
		t.Error("an INFORMATIONAL request of 3000 octets is not answered")
	}
}

// RFC 7296, Section 3.1: exchanges that are not known get no answer and change
// nothing, protected or not.
func TestUnknownExchange(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	for _, x := range []message.Exchange{0, 33, 38, message.ExchangeIKEIntermediate, message.ExchangeIKEFollowupKE, 200, 255} {
		if m := p.ask(t, a, x, 2); m != nil {
			t.Errorf("exchange %d is answered with %v", x, types(m))
		}
	}
	if m := p.ask(t, a, message.ExchangeInformational, 2); m == nil {
		t.Error("the next request with this message ID is not answered")
	}
	p.consistent(t, 1)
}

// RFC 7296, Sections 3.6 and 3.7: a CERTREQ may name no authority, one of an
// encoding that is not supported is ignored; certificates come with their encoding
// to who checks them, hash and URL among them, which nobody fetches.
func TestCertificateEncodings(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Local.Class, p.cb.Remote.Class = ikev2.AuthPubkey, ikev2.AuthPubkey
	sent := map[message.PayloadType]int{}
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange == message.ExchangeIKEAuth && !isResponse(q) {
			for _, pl := range p.read(t, q).Payloads {
				sent[pl.Type()]++
			}
		}
		return ikev2test.Deliver
	}
	p.up(t)
	if sent[message.TypeCert] != 0 {
		t.Error("a certificate is sent that nobody asked for")
	}
	for _, c := range []struct {
		enc  message.CertEncoding
		data []byte
		sent bool
	}{{message.CertX509, nil, true}, {message.CertX509, make([]byte, 40), true}, {12, make([]byte, 20), false}, {message.CertX509, make([]byte, 19), true}, {200, nil, false}} {
		// The responder's IKE_SA_INIT response is made by hand: AUTH covers it.
		p := newPair(t, 1)
		p.ca.Local.Class, p.cb.Remote.Class = ikev2.AuthPubkey, ikev2.AuthPubkey
		certs := 0
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			switch {
			case q.Header().Exchange == message.ExchangeIKESAInit && isResponse(q):
				m, err := message.Parse(q.Data)
				if err != nil {
					t.Fatal(err)
				}
				m.Payloads = append(m.Payloads, &message.CertReq{Encoding: c.enc, Data: c.data})
				q.Data = encode(t, m)
			case q.Header().Exchange == message.ExchangeIKEAuth && !isResponse(q):
				for _, pl := range p.read(t, q).Payloads {
					if pl.Type() == message.TypeCert {
						certs++
					}
				}
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(100 * time.Millisecond)
		if (certs > 0) != c.sent {
			t.Errorf("CERTREQ of encoding %d with %d octets: %d certificates, expected some: %t", c.enc, len(c.data), certs, c.sent)
		}
	}
}

// RFC 7296, Section 2.16: EAP is not offered; a peer that wants it is refused,
// and its SA is gone.
func TestEAPIsRefused(t *testing.T) {
	p := newPair(t, 1)
	var answer *message.Message
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange != message.ExchangeIKEAuth {
			return ikev2test.Deliver
		}
		m := p.read(t, q)
		if isResponse(q) {
			answer = m
			return ikev2test.Deliver
		}
		var ps []message.Payload
		for _, pl := range m.Payloads {
			if pl.Type() != message.TypeAuth {
				ps = append(ps, pl)
			}
		}
		q.Data = ikev2.SealForTest(p.holder(q, true), message.ExchangeIKEAuth, 1, false, ps...).Data
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(5 * time.Second)
	only(t, answer, message.AuthenticationFailed)
	if len(p.a.SAs)+len(p.b.SAs) != 0 {
		t.Error("an IKE SA is left")
	}
}
