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

// What the tests that are named after RFCs share: a man in the middle who has
// the keys of both sides.

// holder is the SA of the host that a protected packet goes to, or comes from.
func (p *pair) holder(q *ikev2test.Packet, sender bool) *ikev2.SA {
	h := q.Header()
	want := ikev2.SPI(h.SPIi.Uint64())
	if (h.Flags&message.FlagInitiator != 0) != sender {
		want = ikev2.SPI(h.SPIr.Uint64())
	}
	for _, host := range []*ikev2test.Host{p.a, p.b} {
		for _, sa := range host.SAs {
			if sa.OwnSPI() == want && ikev2.HasKeysForTest(sa) {
				return sa
			}
		}
	}
	return nil
}

// read decrypts a packet; nil when it has no keys.
func (p *pair) read(t testing.TB, q *ikev2test.Packet) *message.Message {
	t.Helper()
	sa := p.holder(q, false)
	if sa == nil {
		return nil
	}
	m, err := ikev2.OpenForTest(sa, q.Data)
	if err != nil {
		t.Fatalf("%v cannot be read: %v", q, err)
	}
	return m
}

func isResponse(q *ikev2test.Packet) bool { return q.Header().Flags&message.FlagResponse != 0 }

// rewrite changes the payloads of every message of an exchange and direction on
// its way; the ICV stays right. It replaces Fate and tells how many it changed.
func (p *pair) rewrite(t testing.TB, x message.Exchange, response bool, change func([]message.Payload) []message.Payload) *int {
	n := new(int)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.KeepAlive || q.Header().Exchange != x || isResponse(q) != response {
			return ikev2test.Deliver
		}
		m := p.read(t, q)
		d := ikev2.SealForTest(p.holder(q, true), x, m.Header.MessageID, response, change(m.Payloads)...)
		q.Data = d.Data
		*n++
		return ikev2test.Deliver
	}
	return n
}

// also puts payloads before those of a message.
func also(add ...message.Payload) func([]message.Payload) []message.Payload {
	return func(ps []message.Payload) []message.Payload { return append(add[:len(add):len(add)], ps...) }
}

// instead puts payloads in place of those of a message.
func instead(ps ...message.Payload) func([]message.Payload) []message.Payload {
	return func([]message.Payload) []message.Payload { return ps }
}

// inject sends a datagram of from to the other side and gives its answer, nil
// when there is none within a second. from does not see the answer.
func (p *pair) inject(t testing.TB, from *ikev2.SA, d ikev2.Datagram) *message.Message {
	t.Helper()
	var got *message.Message
	id := (&ikev2test.Packet{Data: d.Data}).Header().MessageID
	before := p.net.Fate
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if isResponse(q) && q.Header().MessageID == id && q.To == d.Remote {
			m, err := ikev2.OpenForTest(from, q.Data)
			if err != nil {
				t.Fatalf("the answer cannot be read: %v", err)
			}
			got = m
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.net.Flying = append(p.net.Flying, &ikev2test.Packet{From: d.Remote, To: d.Local, NATT: d.NATT, Data: d.Data, At: p.net.Now})
	p.net.Run(time.Second)
	p.net.Fate = before
	return got
}

// ask sends a request with the keys of from.
func (p *pair) ask(t testing.TB, from *ikev2.SA, x message.Exchange, id uint32, ps ...message.Payload) *message.Message {
	t.Helper()
	return p.inject(t, from, ikev2.SealForTest(from, x, id, false, ps...))
}

// only is the one notify that an answer consists of.
func only(t testing.TB, m *message.Message, kind message.NotifyType) *message.Notify {
	t.Helper()
	if m == nil {
		t.Fatalf("no answer, expected %v", kind)
	}
	if len(m.Payloads) != 1 || m.Notifies().Find(kind) == nil {
		t.Fatalf("the answer has %v, expected %v alone", types(m), kind)
	}
	return m.Notifies()[0]
}

func types(m *message.Message) (all []string) {
	for _, p := range m.Payloads {
		if n, ok := p.(*message.Notify); ok {
			all = append(all, n.Kind.Name())
			continue
		}
		all = append(all, p.Type().String())
	}
	return all
}

// childRequest is what asks for another CHILD_SA of the pair.
func (p *pair) childRequest(spi byte) []message.Payload {
	ts := func(s string, responder bool) *message.TrafficSelectors {
		x := net4(s).TS
		return &message.TrafficSelectors{Responder: responder, TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535, Start: x.From, End: x.To}}}
	}
	return []message.Payload{
		&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 1, 2, spi}, Proposal: p.cha.Proposals[0]}}},
		&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, ts("10.1.0.0/16", false), ts("10.2.0.0/16", true),
	}
}

// firstRequest is an IKE_SA_INIT request of a as it is sent, which does not
// arrive.
func firstRequest(t testing.TB, p *pair) (*message.Message, *ikev2test.Packet) {
	t.Helper()
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	q := p.net.Flying[0]
	p.net.Flying = nil
	m, err := message.Parse(q.Data)
	if err != nil {
		t.Fatal(err)
	}
	return m, q
}

// initAnswer is what a fresh responder of b says to an IKE_SA_INIT request; nil:
// nothing.
func initAnswer(t testing.TB, p *pair, q *ikev2test.Packet, data []byte) *message.Message {
	t.Helper()
	sa := ikev2.NewResponder(p.b, q.To, q.From, false)
	sa.Receive(p.net.Now, ikev2.Datagram{Local: q.To, Remote: q.From, Data: bytes.Clone(data)})
	for o := range sa.Outputs() {
		if s, ok := o.(ikev2.Send); ok {
			m, err := message.Parse(s.Data)
			if err != nil {
				t.Fatal(err)
			}
			return m
		}
	}
	return nil
}

func encode(t testing.TB, m *message.Message) []byte {
	t.Helper()
	b, err := m.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// closedBy is the last Closed of a host.
func closedBy(t testing.TB, h *ikev2test.Host) ikev2.Closed {
	t.Helper()
	if len(h.Closed) == 0 {
		t.Fatalf("%s closed nothing", h.Name)
	}
	return h.Closed[len(h.Closed)-1]
}

// raw is a payload with any type and content.
type raw struct {
	typ  message.PayloadType
	body []byte
}

func (r raw) Type() message.PayloadType { return r.typ }
func (r raw) Append(b []byte) []byte    { return append(b, r.body...) }

func esp(ps []suite.Proposal, spi byte) *message.SA {
	sa := &message.SA{}
	for i, p := range ps {
		sa.Proposals = append(sa.Proposals, message.Proposal{Number: uint8(i + 1), SPI: []byte{0, 1, 2, spi}, Proposal: p})
	}
	return sa
}
