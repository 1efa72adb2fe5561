package ikev2_test

import (
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// After a refusal in clear the patience is short: who waits is told the reason
// within seconds, not after all retransmissions, and a peer that goes on with a
// cookie gets the whole time again.
func TestHintCutsPatience(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes256-sha512-ecp384")
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(6 * time.Second)
	if len(p.a.Closed) != 1 || p.a.Closed[0].Reason != ikev2.CloseTimeout || !strings.Contains(p.a.Closed[0].Failure.Sentence, "NO_PROPOSAL_CHOSEN") {
		t.Fatalf("6 s after a refusal: %+v", p.a.Closed)
	}

	p = newPair(t, 1)
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose } // only what is forged below arrives
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	sa := p.a.SAs[0]
	hd := message.Header{SPIi: spiOf(sa.SPIi()), Exchange: message.ExchangeIKESAInit, Flags: message.FlagResponse}
	for _, n := range []*message.Notify{message.NewNotify(message.NoProposalChosen, nil), message.NewNotify(message.Cookie, []byte("cookie"))} {
		b, _ := (&message.Message{Header: hd, Payloads: []message.Payload{n}}).Append(nil)
		p.a.Net.Later(0, func() { sa.Receive(p.net.Now, ikev2.Datagram{Local: sa.Local(), Remote: sa.Remote(), Data: b}) })
	}
	p.net.Run(10 * time.Second)
	if len(p.a.Closed) != 0 {
		t.Errorf("given up after a cookie: %+v", p.a.Closed[0])
	}
}
