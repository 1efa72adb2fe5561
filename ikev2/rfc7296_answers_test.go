package ikev2_test

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
)

// What an initiator does with answers that a right responder does not give.

// RFC 7296, Sections 2.7 and 3.3.6: what the responder chose must have been
// offered. In clear such an answer is ignored; else the CHILD_SA fails and is
// deleted, the IKE SA stays.
func TestChoiceMustBeOffered(t *testing.T) {
	for name, change := range map[string]func(*message.Proposal){
		"key length": func(p *message.Proposal) { p.Transforms[0].KeyBits = 256 },
		"algorithm": func(p *message.Proposal) {
			p.Transforms[0] = suite.Transform{Type: suite.ENCR, ID: suite.EncrChaCha20Poly1305}
		},
		"number": func(p *message.Proposal) { p.Number = 2 },
		"ESN": func(p *message.Proposal) {
			p.Transforms = append(p.Transforms[:1:1], suite.Transform{Type: suite.SN, ID: 1})
		},
		"unknown type": func(p *message.Proposal) { p.Transforms = append(p.Transforms, suite.Transform{Type: 99, ID: 1}) },
		"zero SPI":     func(p *message.Proposal) { p.SPI = make([]byte, 4) },
	} {
		lie := func(ps []message.Payload) []message.Payload {
			for _, pl := range ps {
				if sa, ok := pl.(*message.SA); ok {
					change(&sa.Proposals[0])
				}
			}
			return ps
		}
		p := newPair(t, 1)
		p.rewrite(t, message.ExchangeIKEAuth, true, lie)
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(10 * time.Second)
		if len(p.a.SAs) != 1 || len(p.a.In)+len(p.a.Out)+len(p.a.Reserved) != 0 {
			t.Errorf("%s in IKE_AUTH: %d IKE SAs, %d SAs", name, len(p.a.SAs), len(p.a.In)+len(p.a.Out))
		}
		if len(p.b.In)+len(p.b.Out) != 0 {
			t.Errorf("%s in IKE_AUTH: the responder's SAs are not deleted", name)
		}
		p = newPair(t, 1)
		a := p.up(t)
		old := a.Children()[0].SPIIn
		p.rewrite(t, message.ExchangeCreateChildSA, true, lie)
		rekeyChild(p.a)
		p.net.Run(5 * time.Second)
		if cs := p.a.SA().Children(); len(cs) != 1 || cs[0].SPIIn != old || len(p.a.In) != 1 || len(p.a.Reserved) != 0 {
			t.Errorf("%s at rekeying: %d children", name, len(cs))
		}
	}

	// IKE_SA_INIT: the right answer comes after the wrong one.
	for name, change := range map[string]func(ps []message.Payload){
		"key length": func(ps []message.Payload) { ps[0].(*message.SA).Proposals[0].Transforms[0].KeyBits = 256 },
		"group":      func(ps []message.Payload) { ps[1].(*message.KE).Group = suite.KEECP256 },
		"point":      func(ps []message.Payload) { ps[1].(*message.KE).Data = make([]byte, 32) },
		"nonce":      func(ps []message.Payload) { ps[2] = raw{message.TypeNonce, make([]byte, 15)} },
	} {
		p := newPair(t, 1)
		wrong := 0
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if q.Header().Exchange == message.ExchangeIKESAInit && isResponse(q) && wrong == 0 {
				m, err := message.Parse(q.Data)
				if err != nil {
					t.Fatal(err)
				}
				change(m.Payloads)
				q.Data = encode(t, m)
				wrong++
			}
			return ikev2test.Deliver
		}
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(20 * time.Second)
		if wrong != 1 {
			t.Fatal("no response was changed")
		}
		t.Run(name, func(t *testing.T) { p.consistent(t, 1) })
	}
}

// RFC 7296, Section 2.19: a CFG_REPLY that was not asked for is ignored.
func TestUnaskedAddressIsIgnored(t *testing.T) {
	p := newPair(t, 1)
	n := p.rewrite(t, message.ExchangeIKEAuth, true, also(&message.CP{Kind: message.CFGReply, Attributes: []message.CPAttribute{
		message.NewCPAddr(message.InternalIP4Address, netip.MustParseAddr("10.9.0.7")), message.NewCPAddr(message.InternalIP4DNS, netip.MustParseAddr("10.9.0.1"))}}))
	p.up(t)
	if s := p.a.SA().Status(); *n != 1 || p.a.Addresses != nil || len(s.LocalVIPs)+len(s.DNS) != 0 {
		t.Errorf("a uses %v, %v and %v", p.a.Addresses, s.LocalVIPs, s.DNS)
	}
}

// RFC 7296, Section 2.23: of several NAT_DETECTION_SOURCE_IP notifies one that
// fits is enough; with none that fits there is a NAT; without the notifies NATs are
// not traversed, and the response has none either.
func TestSeveralSourceAddresses(t *testing.T) {
	other := message.NewNotify(message.NATDetectionSourceIP, bytes.Repeat([]byte{1}, 20))
	for name, c := range map[string]struct {
		change    func(ps []message.Payload) []message.Payload
		nat, tell bool
	}{
		"the right one between others": {func(ps []message.Payload) []message.Payload {
			return append(append([]message.Payload{other}, ps...), other)
		}, false, true},
		"wrong ones": {func(ps []message.Payload) []message.Payload {
			return append([]message.Payload{other, other}, without(ps, message.NATDetectionSourceIP)...)
		}, true, true},
		"none": {func(ps []message.Payload) []message.Payload {
			return without(without(ps, message.NATDetectionSourceIP), message.NATDetectionDestinationIP)
		}, false, false},
	} {
		p := newPair(t, 1)
		m, q := firstRequest(t, p)
		m.Payloads = c.change(m.Payloads)
		sa := ikev2.NewResponder(p.b, q.To, q.From, false)
		sa.Receive(p.net.Now, ikev2.Datagram{Local: q.To, Remote: q.From, Data: encode(t, m)})
		tells := false
		for o := range sa.Outputs() {
			if s, ok := o.(ikev2.Send); ok {
				r, err := message.Parse(s.Data)
				if err != nil {
					t.Fatal(err)
				}
				tells = r.Notifies().Has(message.NATDetectionSourceIP) && r.Notifies().Has(message.NATDetectionDestinationIP)
			}
		}
		if s := sa.Status(); s.State != ikev2.Connecting || s.NATRemote != c.nat || s.NATLocal || tells != c.tell {
			t.Errorf("%s: NAT at the peer %t, here %t, told %t", name, s.NATRemote, s.NATLocal, tells)
		}
	}
}

func without(ps []message.Payload, kind message.NotifyType) (rest []message.Payload) {
	for _, pl := range ps {
		if n, ok := pl.(*message.Notify); !ok || n.Kind != kind {
			rest = append(rest, pl)
		}
	}
	return rest
}
