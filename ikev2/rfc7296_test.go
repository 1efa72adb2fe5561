package ikev2_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// RFC 7296, Sections 2.1 to 2.6: messages, message IDs, windows, liveness,
// versions, cookies.

// RFC 7296, Section 2.1: the initiator of an exchange repeats its request, octet
// by octet the same; the responder sends its response again only when the request
// comes again, and it is the same, too.
//
//	a                       b
//	request  --> (three times)
//	         x-- response (the first two get lost)
//	         <-- response
func TestRepetitionsAreTheSame(t *testing.T) {
	for _, x := range []message.Exchange{message.ExchangeIKESAInit, message.ExchangeIKEAuth, message.ExchangeCreateChildSA, message.ExchangeInformational} {
		p := newPair(t, 1)
		seen := map[bool][][]byte{}
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if q.Header().Exchange != x {
				return ikev2test.Deliver
			}
			r := isResponse(q)
			seen[r] = append(seen[r], bytes.Clone(q.Data))
			if r && len(seen[r]) < 3 {
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(time.Minute)
		switch x {
		case message.ExchangeCreateChildSA:
			rekeyIKE(p.a)
		case message.ExchangeInformational:
			p.a.Start(p.a.SAs[0], ikev2.Liveness{})
		}
		p.net.Run(time.Minute)
		p.consistent(t, 1)
		for _, r := range []bool{false, true} {
			if len(seen[r]) < 3 {
				t.Fatalf("%s: %d messages with Response flag %t, expected 3", message.ExchangeName(x), len(seen[r]), r)
			}
			for i, b := range seen[r][:3] {
				if !bytes.Equal(b, seen[r][0]) {
					t.Errorf("%s: repetition %d (Response flag %t) is another message", message.ExchangeName(x), i, r)
				}
			}
		}
	}
}

// RFC 7296, Section 2.1: a response is never sent by itself, however long the
// initiator is silent.
func TestResponderNeverRepeatsByItself(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	n := 0
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if isResponse(q) {
			n++
		}
		return ikev2test.Lose
	}
	d := ikev2.SealForTest(a, message.ExchangeInformational, 2, false)
	p.net.Flying = append(p.net.Flying, &ikev2test.Packet{From: d.Remote, To: d.Local, Data: d.Data, At: p.net.Now})
	p.net.Run(10 * time.Minute)
	if n != 1 {
		t.Errorf("%d responses to one request, expected 1", n)
	}
}

// RFC 7296, Section 2.2: message IDs begin with 0 in each direction, rise by one,
// are those of the request in the response, and begin with 0 again when the IKE
// SA was rekeyed.
func TestMessageIDsOfBothDirections(t *testing.T) {
	p := newPair(t, 1)
	next := map[string]uint32{}
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		h := q.Header()
		key := fmt.Sprint(h.SPIi, q.From.Addr())
		if isResponse(q) {
			if key = fmt.Sprint(h.SPIi, q.To.Addr()); h.MessageID != next[key]-1 {
				t.Errorf("response %d to request %d", h.MessageID, next[key]-1)
			}
			return ikev2test.Deliver
		}
		if h.MessageID != next[key] {
			t.Errorf("%v from %v, expected number %d", q, q.From, next[key])
		}
		next[key] = h.MessageID + 1
		return ikev2test.Deliver
	}
	p.up(t)
	for range 2 {
		for _, h := range []*ikev2test.Host{p.b, p.a} {
			h.Start(h.SAs[0], ikev2.Liveness{})
			p.net.Run(5 * time.Second)
		}
		rekeyIKE(p.b)
		p.net.Run(10 * time.Second)
		p.consistent(t, 1)
	}
	if len(next) != 4 {
		t.Errorf("requests in %d directions, expected 4: of two IKE SAs", len(next))
	}
}

// RFC 7296, Section 2.2: an IKE SA ends before its message IDs wrap.
func TestMessageIDsDoNotWrap(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	sent := 0
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { sent++; return ikev2test.Lose }
	ikev2.SkipMessageIDsForTest(a, 1<<32-1)
	p.a.Start(a, ikev2.Liveness{})
	if len(p.a.SAs) != 0 || sent != 0 || closedBy(t, p.a).Reason != ikev2.CloseExpired {
		t.Errorf("after the last message ID: %d SAs, %d messages", len(p.a.SAs), sent)
	}
}

// RFC 7296, Section 2.3: a peer that did not announce a larger window has one
// request outstanding at most, and a larger one need not be used: SET_WINDOW_SIZE
// changes nothing, wherever it stands.
func TestOneRequestAtATime(t *testing.T) {
	size := message.NewNotify(message.SetWindowSize, []byte{0, 0, 0, 8})
	for _, announce := range []bool{false, true} {
		p := newPair(t, 1)
		if announce {
			if n := p.rewrite(t, message.ExchangeIKEAuth, true, also(size)); n == nil {
				t.Fatal()
			}
		}
		a := p.up(t)
		if announce {
			if m := p.ask(t, a, message.ExchangeInformational, 2, size); m == nil || len(m.Payloads) != 0 {
				t.Error("SET_WINDOW_SIZE of its own is not acknowledged")
			}
		}
		b := p.b.SA()
		waiting, most := 0, 0
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			switch {
			case q.From.Addr() == addrB && !isResponse(q):
				waiting++
				most = max(most, waiting)
			case q.To.Addr() == addrB && isResponse(q):
				waiting--
			}
			return ikev2test.Deliver
		}
		p.b.Start(b, ikev2.CreateChild{Child: p.chb})
		p.b.Start(b, ikev2.CreateChild{Child: p.chb})
		rekeyChild(p.b)
		p.b.Start(b, ikev2.Liveness{})
		p.net.Run(20 * time.Second)
		p.consistent(t, 3)
		if most != 1 {
			t.Errorf("announced %t: %d requests outstanding at once, expected 1", announce, most)
		}
	}
}

// RFC 7296, Section 2.4: what is not protected tells nothing about an IKE SA,
// whatever it claims.
func TestUnprotectedMessagesChangeNothing(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	b := p.b.SA()
	for _, flags := range []uint8{0, message.FlagResponse, message.FlagInitiator, message.FlagInitiator | message.FlagResponse} {
		for _, pl := range [][]message.Payload{
			{message.NewNotify(message.InvalidIKESPI, nil)}, {message.NewNotify(message.AuthenticationFailed, nil)},
			{message.NewNotify(message.InvalidSyntax, nil)}, {&message.Delete{Protocol: suite.ProtoIKE}}, {},
		} {
			for id := range uint32(4) {
				m := &message.Message{Header: message.Header{SPIi: spiOf(a.SPIi()), SPIr: spiOf(a.SPIr()), Exchange: message.ExchangeInformational, Flags: flags, MessageID: id}, Payloads: pl}
				for _, sa := range []*ikev2.SA{a, b} {
					sa.Receive(p.net.Now, ikev2.Datagram{Local: sa.Local(), Remote: sa.Remote(), Data: encode(t, m)})
					if outputs(sa) != 0 || sa.State() != ikev2.Established {
						t.Fatalf("flags %#x, payloads %v: the SA did something", flags, types(m))
					}
				}
			}
		}
	}
	p.consistent(t, 1)
}

// RFC 7296, Sections 1.4 and 2.4: an empty INFORMATIONAL request is answered
// with an empty response.
func TestLivenessIsEmpty(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	if m := p.ask(t, a, message.ExchangeInformational, 2); m == nil || len(m.Payloads) != 0 {
		t.Error("no empty response")
	}
	n := p.rewrite(t, message.ExchangeInformational, false, func(ps []message.Payload) []message.Payload {
		if len(ps) != 0 {
			t.Errorf("the liveness check has %d payloads", len(ps))
		}
		return ps
	})
	p.b.Start(p.b.SA(), ikev2.Liveness{})
	p.net.Run(time.Second)
	if *n != 1 {
		t.Errorf("%d liveness checks, expected 1", *n)
	}
}

// RFC 7296, Section 2.5: a higher minor version and the Version flag are taken,
// what is sent has version 2.0 and the flag clear; a higher major version gets
// INVALID_MAJOR_VERSION in a message of version 2.0.
func TestVersions(t *testing.T) {
	p := newPair(t, 1)
	m, q := firstRequest(t, p)
	b := encode(t, m)
	b[17], b[19] = 0x2f, b[19]|message.FlagVersion
	r := initAnswer(t, p, q, b)
	if r == nil || r.Header.Version != 0x20 || r.Header.Flags != message.FlagResponse {
		t.Errorf("answer to minor version 15: %+v", r)
	}
	h := m.Header
	h.Version = 0x30
	v, err := message.Parse(ikev2.VersionReply(h))
	if err != nil {
		t.Fatal(err)
	}
	only(t, v, message.InvalidMajorVersion)
	if v.Header.Version != 0x20 || v.Header.SPIi != h.SPIi || v.Header.Flags&message.FlagResponse == 0 || v.Header.MessageID != h.MessageID {
		t.Errorf("header %+v", v.Header)
	}
}

// RFC 7296, Section 2.5: in every exchange a payload that is not understood is
// skipped; a critical one is answered with UNSUPPORTED_CRITICAL_PAYLOAD and its
// type, and in IKE_SA_INIT and IKE_AUTH then no IKE SA is made.
func TestUnknownPayloadInEveryRequest(t *testing.T) {
	skipped := func(critical byte) []byte { return []byte{0, critical, 0, 6, 1, 2} } // last of its chain
	chain := func(t *testing.T, ps []message.Payload) (message.PayloadType, []byte) {
		b, err := message.AppendPayloads(nil, append([]message.Payload{}, ps...))
		if err != nil {
			t.Fatal(err)
		}
		if len(ps) == 0 {
			return 200, nil
		}
		return ps[0].Type(), b
	}
	// attach puts payload 200 behind a chain of payloads.
	attach := func(t *testing.T, ps []message.Payload, critical byte) (message.PayloadType, []byte) {
		first, b := chain(t, append(ps, raw{200, []byte{1, 2}}))
		copy(b[len(b)-6:], skipped(critical))
		return first, b
	}
	for _, critical := range []byte{0, 0x80} {
		t.Run(fmt.Sprintf("IKE_SA_INIT/%02x", critical), func(t *testing.T) {
			p := newPair(t, 1)
			m, q := firstRequest(t, p)
			m.Payloads = append(m.Payloads, raw{200, []byte{1, 2}})
			b := encode(t, m)
			copy(b[len(b)-6:], skipped(critical))
			r := initAnswer(t, p, q, b)
			if critical == 0 {
				if r == nil || r.Header.SPIr == (message.SPI{}) {
					t.Fatalf("the payload is not skipped: %v", types(r))
				}
				return
			}
			if n := only(t, r, message.UnsupportedCriticalPayload); !bytes.Equal(n.Data, []byte{200}) {
				t.Errorf("data %v", n.Data)
			}
		})
		t.Run(fmt.Sprintf("IKE_AUTH/%02x", critical), func(t *testing.T) {
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
				first, b := attach(t, m.Payloads, critical)
				q.Data = ikev2.SealRawForTest(p.holder(q, true), message.ExchangeIKEAuth, 1, first, b).Data
				return ikev2test.Deliver
			}
			p.a.Initiate(p.ca, p.b.Addr, p.cha)
			p.net.Run(5 * time.Second)
			if critical == 0 {
				p.consistent(t, 1)
				return
			}
			only(t, answer, message.UnsupportedCriticalPayload)
			if len(p.a.SAs)+len(p.b.SAs) != 0 {
				t.Error("an IKE SA was made")
			}
		})
		t.Run(fmt.Sprintf("later/%02x", critical), func(t *testing.T) {
			p := newPair(t, 1)
			a := p.up(t)
			for id, c := range []struct {
				x  message.Exchange
				ps []message.Payload
			}{{message.ExchangeInformational, nil}, {message.ExchangeCreateChildSA, p.childRequest(1)}} {
				first, b := attach(t, c.ps, critical)
				r := p.inject(t, a, ikev2.SealRawForTest(a, c.x, uint32(2+id), first, b))
				switch {
				case r == nil:
					t.Fatalf("%s: no answer", message.ExchangeName(c.x))
				case critical == 0 && r.Notifies().Error() != nil:
					t.Errorf("%s: the payload is not skipped: %v", message.ExchangeName(c.x), types(r))
				case critical != 0:
					if n := only(t, r, message.UnsupportedCriticalPayload); !bytes.Equal(n.Data, []byte{200}) {
						t.Errorf("data %v", n.Data)
					}
				}
			}
			if p.b.SA() == nil {
				t.Error("the IKE SA is gone")
			}
		})
	}
}

// RFC 7296, Section 2.6: the cookie has 1 to 64 octets and stands first in the
// request, which is the same otherwise; a responder's SPI that comes with it is
// not kept; other lengths are ignored, and the same cookie again too.
func TestCookieForms(t *testing.T) {
	for _, size := range []int{0, 1, 64, 65} {
		p := newPair(t, 1)
		first, q := firstRequest(t, p)
		sa := p.a.SAs[0]
		cookie := bytes.Repeat([]byte{7}, size)
		h := message.Header{SPIi: first.Header.SPIi, SPIr: message.SPI{9, 9}, Exchange: message.ExchangeIKESAInit, Flags: message.FlagResponse}
		answer := encode(t, &message.Message{Header: h, Payloads: []message.Payload{message.NewNotify(message.Cookie, cookie)}})
		for round := range 2 {
			sa.Receive(p.net.Now, ikev2.Datagram{Local: q.From, Remote: q.To, Data: bytes.Clone(answer)})
			var sent []*message.Message
			for o := range sa.Outputs() {
				if s, ok := o.(ikev2.Send); ok {
					m, err := message.Parse(s.Data)
					if err != nil {
						t.Fatal(err)
					}
					sent = append(sent, m)
				}
			}
			if good := size > 0 && size < 65 && round == 0; (len(sent) == 1) != good {
				t.Fatalf("cookie of %d octets, round %d: %d requests", size, round, len(sent))
			} else if !good {
				continue
			}
			m := sent[0]
			if n, ok := m.Payloads[0].(*message.Notify); !ok || n.Kind != message.Cookie || !bytes.Equal(n.Data, cookie) {
				t.Errorf("the cookie does not stand first: %v", types(m))
			}
			if m.Header.SPIr != (message.SPI{}) || m.Header.SPIi != first.Header.SPIi || m.Header.MessageID != 0 {
				t.Errorf("header %+v", m.Header)
			}
			m.Payloads = m.Payloads[1:]
			if !bytes.Equal(encode(t, m), q.Data) {
				t.Error("the request is another one but for the cookie")
			}
		}
	}
}

// RFC 7296, Section 2.6.1: who is told another group keeps the cookie, so that
// two round trips are enough.
//
//	a                                  b
//	SA, KE(modp2048), Ni     -->
//	                         <--  N(COOKIE)
//	N(COOKIE), SA, KE, Ni    -->
//	                         <--  N(INVALID_KE_PAYLOAD)
//	N(COOKIE), SA, KE(x25519), Ni  -->
//	                         <--  SA, KE, Nr
func TestCookieIsKeptWithAnotherGroup(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128-sha256-modp2048-x25519")
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes128-sha256-x25519")
	p.b.DemandCookies = true
	p.up(t)
	if n := count(p, "b gets IKE_SA_INIT request 0"); n != 3 {
		t.Errorf("%d IKE_SA_INIT requests, expected 3", n)
	}
}

// RFC 7296, Section 2.6: what no connection answers has no state, and the answer
// has no responder's SPI.
func TestRefusalHasNoSPI(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes256-sha512-ecp384")
	m, q := firstRequest(t, p)
	r := initAnswer(t, p, q, encode(t, m))
	only(t, r, message.NoProposalChosen)
	if r.Header.SPIr != (message.SPI{}) || r.Header.SPIi != m.Header.SPIi {
		t.Errorf("header %+v", r.Header)
	}
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes128gcm16-prfsha256-ecp256")
	p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128gcm16-prfsha256-x25519-ecp256")
	p.a.SAs = nil
	m, q = firstRequest(t, p)
	r = initAnswer(t, p, q, encode(t, m))
	if n := only(t, r, message.InvalidKEPayload); !bytes.Equal(n.Data, []byte{0, byte(suite.KEECP256)}) || r.Header.SPIr != (message.SPI{}) {
		t.Errorf("data %v, header %+v", n.Data, r.Header)
	}
}
