package ikev2_test

import (
	"bytes"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// halfway is a pair whose responder has keys but no authenticated peer, and the
// initiator's view on it.
func halfway(t testing.TB) (p *pair, respond *ikev2.SA) {
	p = newPair(t, 1)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange == message.ExchangeIKEAuth {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(100 * time.Millisecond)
	if len(p.b.SAs) != 1 || p.b.SAs[0].State() != ikev2.Connecting {
		t.Fatal("b is not half-way")
	}
	return p, p.b.SAs[0]
}

// outputs counts what an SA does in answer to a datagram, apart from records.
func outputs(sa *ikev2.SA) (n int) {
	for o := range sa.Outputs() {
		if _, ok := o.(ikev2.Event); !ok {
			n++
		}
	}
	return n
}

// CVE-2014-2338: an exchange of an established SA is not begun before IKE_AUTH,
// even with the right keys.
func TestCVE_2014_2338_RekeyBeforeAuth(t *testing.T) {
	p, b := halfway(t)
	a := p.a.SAs[0]
	for _, x := range []message.Exchange{message.ExchangeCreateChildSA, message.ExchangeInformational} {
		d := ikev2.SealForTest(a, x, 1, false, &message.Delete{Protocol: suite.ProtoIKE})
		b.Receive(p.net.Now, d)
		if n := outputs(b); n != 0 || b.State() != ikev2.Connecting {
			t.Errorf("%s before IKE_AUTH: %d outputs, state %v", message.ExchangeName(x), n, b.State())
		}
	}
	// Nor by the responder towards the initiator.
	d := ikev2.SealForTest(b, message.ExchangeInformational, 0, false, &message.Delete{Protocol: suite.ProtoIKE})
	a.Receive(p.net.Now, d)
	if n := outputs(a); n != 0 || a.State() != ikev2.Connecting {
		t.Errorf("a request before IKE_AUTH: %d outputs, state %v", n, a.State())
	}
}

// CVE-2019-12312: an encrypted message where no keys are yet.
func TestCVE_2019_12312_NoKeys(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	a := p.a.SAs[0]
	for _, x := range []message.Exchange{message.ExchangeIKEAuth, message.ExchangeInformational, 200} {
		for _, flags := range []uint8{0, message.FlagResponse} {
			h := message.Header{SPIi: spiOf(a.SPIi()), SPIr: [8]byte{1}, Exchange: x, Flags: flags}
			b, _ := (&message.Message{Header: h}).Append(nil)
			a.Receive(p.net.Now, ikev2.Datagram{Local: a.Local(), Remote: a.Remote(), Data: b})
			if outputs(a) != 0 || a.State() != ikev2.Connecting {
				t.Errorf("exchange %d, flags %x: the SA did something", x, flags)
			}
		}
	}
}

// CVE-2023-38710 and CVE-2016-5391: REKEY_SA with every protocol number is
// answered, and never harms.
func TestCVE_2023_38710_RekeyProtocol(t *testing.T) {
	for proto := range 256 {
		p := newPair(t, 1)
		a := p.up(t)
		b := p.b.SA()
		c := a.Children()[0]
		n := message.NewChildNotify(message.RekeySA, suite.Protocol(proto), c.SPIIn)
		ts := &message.TrafficSelectors{TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535, Start: addrA, End: addrA}}}
		tsr := *ts
		tsr.Responder = true
		d := ikev2.SealForTest(a, message.ExchangeCreateChildSA, 2, false, n,
			&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 0, 9, 9}, Proposal: p.cha.Proposals[0]}}},
			&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, ts, &tsr)
		b.Receive(p.net.Now, d)
		if outputs(b) == 0 {
			t.Errorf("protocol %d: no answer", proto)
		}
	}
}

// CVE-2023-38712: many Deletes, of many SPIs, known, unknown and twice the same.
func TestCVE_2023_38712_DeleteStorm(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	c := a.Children()[0]
	spis := make([]uint32, 5000)
	for i := range spis {
		spis[i] = uint32(i)
	}
	spis[77], spis[78] = c.SPIIn, c.SPIIn
	del := &message.Delete{Protocol: suite.ProtoESP, SPIs: spis}
	b := p.b.SA()
	b.Receive(p.net.Now, ikev2.SealForTest(a, message.ExchangeInformational, 2, false, del, del, &message.Delete{Protocol: suite.ProtoAH, SPIs: []uint32{c.SPIIn}}))
	if n := len(b.Children()); n != 0 {
		t.Errorf("%d children are left", n)
	}
	if b.State() != ikev2.Established {
		t.Errorf("state %v", b.State())
	}
}

// CVE-2013-6467 and others: a payload that must be there and is not. Requests
// are answered INVALID_SYNTAX, and the IKE SA ends (RFC 7296, Section 2.21.3).
func TestCVE_2013_6467_MissingPayload(t *testing.T) {
	all := func(p *pair) []message.Payload {
		ts := &message.TrafficSelectors{TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535, Start: addrA, End: addrA}}}
		tsr := *ts
		tsr.Responder = true
		return []message.Payload{
			&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 0, 9, 9}, Proposal: p.cha.Proposals[0]}}},
			&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, ts, &tsr,
		}
	}
	for drop := range 4 {
		p := newPair(t, 1)
		a := p.up(t)
		ps := all(p)
		ps = append(ps[:drop:drop], ps[drop+1:]...)
		b := p.b.SA()
		b.Receive(p.net.Now, ikev2.SealForTest(a, message.ExchangeCreateChildSA, 2, false, ps...))
		closed := false
		for o := range b.Outputs() {
			if _, ok := o.(ikev2.Closed); ok {
				closed = true
			}
		}
		if !closed {
			t.Errorf("without payload %d the request was taken", drop)
		}
	}
}

// RFC 7296, Section 2.5: a critical payload that is not understood is answered
// and the SA goes on; a repetition gets the same octets.
func TestCriticalPayload(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	b := p.b.SA()
	b.Receive(p.net.Now, ikev2.SealRawForTest(a, message.ExchangeInformational, 2, 200, []byte{0, 0x80, 0, 4}))
	n := 0
	for o := range b.Outputs() {
		if s, ok := o.(ikev2.Send); ok {
			n++
			a.Receive(p.net.Now, s.Datagram)
		}
	}
	if n != 1 || b.State() != ikev2.Established {
		t.Errorf("%d answers, state %v", n, b.State())
	}
}

// RFC 7296, Sections 2.1 and 2.3: an old message ID is ignored, one beyond the
// window as well, the last one gets the same answer, bit by bit.
func TestMessageIDs(t *testing.T) {
	p := newPair(t, 1)
	a := p.up(t)
	b := p.b.SA()
	send := func(id uint32) (answers [][]byte) {
		b.Receive(p.net.Now, ikev2.SealForTest(a, message.ExchangeInformational, id, false))
		for o := range b.Outputs() {
			if s, ok := o.(ikev2.Send); ok {
				answers = append(answers, s.Data)
			}
		}
		return answers
	}
	first := send(2)
	if len(first) != 1 {
		t.Fatal("no answer")
	}
	for _, id := range []uint32{0, 1, 4, 5, 1 << 31, ^uint32(0)} {
		if len(send(id)) != 0 {
			t.Errorf("message ID %d was answered", id)
		}
	}
	if again := send(2); len(again) != 1 || !bytes.Equal(again[0], first[0]) {
		t.Error("the repetition was not answered with the same octets")
	}
	forged := ikev2.SealForTest(a, message.ExchangeInformational, 2, false)
	forged.Data[len(forged.Data)-1] ^= 1
	b.Receive(p.net.Now, forged)
	if outputs(b) != 0 {
		t.Error("a forged repetition was answered")
	}
	if len(send(3)) != 1 {
		t.Error("the next message was not answered")
	}
}

// A changed octet anywhere in an IKE_AUTH request is ignored: no state changes
// before authentication, and the right one is still taken.
func TestForgedAuthChangesNothing(t *testing.T) {
	p := newPair(t, 1)
	var auth *ikev2test.Packet
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange == message.ExchangeIKEAuth && auth == nil {
			auth = &ikev2test.Packet{Data: bytes.Clone(q.Data), From: q.From, To: q.To}
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(100 * time.Millisecond)
	b := p.b.SAs[0]
	for i := range auth.Data {
		bad := bytes.Clone(auth.Data)
		bad[i] ^= 0x11
		b.Receive(p.net.Now, ikev2.Datagram{Local: auth.To, Remote: auth.From, Data: bad})
		if outputs(b) != 0 || b.State() != ikev2.Connecting {
			t.Fatalf("octet %d changed: the SA did something", i)
		}
	}
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
}

// CVE-2015-3991: payload types of IKEv1 are unknown ones here.
func TestCVE_2015_3991_OldPayloads(t *testing.T) {
	for typ := message.PayloadType(1); typ < 33; typ++ {
		p := newPair(t, 1)
		a := p.up(t)
		b := p.b.SA()
		b.Receive(p.net.Now, ikev2.SealRawForTest(a, message.ExchangeInformational, 2, typ, []byte{0, 0, 0, 8, 1, 2, 3, 4}))
		if outputs(b) != 1 || b.State() != ikev2.Established {
			t.Errorf("payload type %d: state %v", typ, b.State())
		}
	}
}

// CVE-2014-9221: every key exchange number in a first request, known or not, is
// answered without harm.
func TestCVE_2014_9221_Groups(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	first := p.net.Flying[0]
	p.net.Flying = nil
	m, err := message.Parse(first.Data)
	if err != nil {
		t.Fatal(err)
	}
	for group := range 65536 {
		if group > 1100 && group%97 != 0 {
			continue
		}
		for _, x := range m.Payloads {
			if k, ok := x.(*message.KE); ok {
				k.Group = uint16(group)
			}
		}
		b, _ := m.Append(nil)
		sa := ikev2.NewResponder(p.b, first.To, first.From, false)
		sa.Receive(p.net.Now, ikev2.Datagram{Local: first.To, Remote: first.From, Data: b})
		if n := outputs(sa); n == 0 {
			t.Errorf("group %d: no answer", group)
		}
		if group != int(suite.KEX25519) && sa.State() != ikev2.Destroying {
			t.Errorf("group %d: state %v", group, sa.State())
		}
	}
}

// CVE-2015-3240: public values that RFC 6989 and RFC 8031 forbid get no answer.
func TestCVE_2015_3240_PublicValues(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	first := p.net.Flying[0]
	m, _ := message.Parse(first.Data)
	for _, bad := range [][]byte{make([]byte, 32), make([]byte, 31), make([]byte, 33), append([]byte{1}, make([]byte, 31)...)} {
		for _, x := range m.Payloads {
			if k, ok := x.(*message.KE); ok {
				k.Data = bad
			}
		}
		b, _ := m.Append(nil)
		sa := ikev2.NewResponder(p.b, first.To, first.From, false)
		sa.Receive(p.net.Now, ikev2.Datagram{Local: first.To, Remote: first.From, Data: b})
		if outputs(sa) != 1 || sa.State() != ikev2.Destroying {
			t.Errorf("value of %d octets: state %v", len(bad), sa.State())
		}
	}
}
