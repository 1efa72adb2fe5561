package ikev1

import (
	"bytes"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/isakmp"
	"iked/internal/keyex"
)

// inject gives b a message as if it came from a.
func (p *pair) inject(data []byte) {
	sa := p.b.sas[0]
	sa.Receive(p.now, keyex.Datagram{Local: sa.local, Remote: sa.remote, NATT: sa.natt, Data: bytes.Clone(data)})
	p.b.drain(sa)
	p.run(time.Second)
}

// recorded is up with all packets to b kept.
func (p *pair) recorded() (all [][]byte) {
	p.filter = func(x *packet) []*packet {
		if x.to.Addr() == p.b.addr {
			all = append(all, bytes.Clone(x.data))
		}
		return []*packet{x}
	}
	p.up().matched(1)
	return all
}

// CVE-2015-3991 and CVE-2011-4073 classes: messages that were seen before, in any
// state, change nothing and end nothing.
func TestReplays(t *testing.T) {
	p := newPair(t)
	all := p.recorded()
	p.run(2 * time.Minute) // longer than answers are kept
	events := len(p.b.events)
	for range 3 {
		for _, m := range all {
			p.inject(m)
		}
	}
	p.matched(1)
	if len(p.b.events) != events {
		t.Errorf("replays made %d events", len(p.b.events)-events)
	}
}

// Nothing in clear and nothing with a wrong HASH has an effect once there are keys
// (RFC 2408, Section 5.15; RFC 2409, Section 5.7): CVE-2013-6466 and
// CVE-2003-0989 classes among them.
func TestUnauthenticatedMessages(t *testing.T) {
	p := newPair(t).up()
	p.matched(1)
	a, b := p.saA, p.b.established()[0]
	events := len(p.b.events)
	del := &message.Delete{Protocol: message.ProtoISAKMP, SPIs: [][]byte{b.cookies()}}
	esp := &message.Delete{Protocol: message.ProtoESP, SPIs: [][]byte{{0, 0, 0x10, 1}}}
	contact := &message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: message.InitialContact}
	refused := &message.Notify{DOI: 1, Protocol: message.ProtoISAKMP, SPI: b.cookies(), Kind: message.NoProposalChosen}
	for _, list := range [][]message.Payload{{del}, {esp}, {contact}, {refused}, {esp, del, contact}} {
		clear, err := message.Append(nil, isakmp.Header{SPIi: b.ckyI, SPIr: b.ckyR, Exchange: uint8(message.ExchangeInformational), MessageID: 77}, list)
		if err != nil {
			t.Fatal(err)
		}
		p.inject(clear)
		for _, hash := range [][]byte{bytes.Repeat([]byte{1}, 32), {}, a.keys.hashOf(idOctets(78))} {
			withHash := append([]message.Payload{&message.Opaque{Kind: message.TypeHash, Data: hash}}, list...)
			sealed, _, err := a.keys.seal(a.keys.firstIV(78), isakmp.Header{SPIi: b.ckyI, SPIr: b.ckyR, Exchange: uint8(message.ExchangeInformational), MessageID: 78}, withHash)
			if err != nil {
				t.Fatal(err)
			}
			p.inject(sealed)
		}
		// The hash in another place than the first.
		sealed, _, _ := a.keys.seal(a.keys.firstIV(79), isakmp.Header{SPIi: b.ckyI, SPIr: b.ckyR, Exchange: uint8(message.ExchangeInformational), MessageID: 79}, append(list, &message.Opaque{Kind: message.TypeHash, Data: a.keys.hashOf(idOctets(79))}))
		p.inject(sealed)
	}
	p.matched(1)
	if len(p.b.events) != events {
		t.Errorf("%d events came of it", len(p.b.events)-events)
	}
}

// A Quick Mode whose HASH is right but whose content is hostile is refused, and
// leaves nothing.
func TestHostileQuickMode(t *testing.T) {
	for name, change := range map[string]func(list []message.Payload) []message.Payload{
		"no SA":    func(l []message.Payload) []message.Payload { return l[1:] },
		"two SAs":  func(l []message.Payload) []message.Payload { return append(l, l[0]) },
		"no nonce": func(l []message.Payload) []message.Payload { return append(l[:1:1], l[2:]...) },
		"reserved SPI": func(l []message.Payload) []message.Payload {
			l[0].(*message.SA).Proposals[0].SPI = []byte{0, 0, 0, 1}
			return l
		},
		"short SPI": func(l []message.Payload) []message.Payload { l[0].(*message.SA).Proposals[0].SPI = []byte{9}; return l },
		"ESP without integrity": func(l []message.Payload) []message.Payload {
			t := &l[0].(*message.SA).Proposals[0].Transforms[0]
			t.Attributes = []message.Attribute{message.Basic(message.P2KeyLength, 256), message.Basic(message.P2Encapsulation, 1)}
			return l
		},
		"a group without a value": func(l []message.Payload) []message.Payload {
			t := &l[0].(*message.SA).Proposals[0].Transforms[0]
			t.Attributes = append(t.Attributes, message.Basic(message.P2Group, suite.KEMODP2048))
			return l
		},
		"an attribute of nobody": func(l []message.Payload) []message.Payload {
			t := &l[0].(*message.SA).Proposals[0].Transforms[0]
			t.Attributes = append(t.Attributes, message.Basic(99, 1))
			return l
		},
		"a subnet with holes": func(l []message.Payload) []message.Payload {
			l[2] = &message.ID{Kind: message.IDIPv4Subnet, Data: []byte{10, 1, 0, 0, 255, 0, 255, 0}}
			return l
		},
		"a name for a selector": func(l []message.Payload) []message.Payload {
			l[2] = &message.ID{Kind: 2, Data: []byte("example.org")}
			return l
		},
		"everything": func(l []message.Payload) []message.Payload {
			l[2] = &message.ID{Kind: message.IDIPv4Subnet, Data: make([]byte, 8)}
			return l
		},
	} {
		p := newPair(t).up()
		p.a.start(p.saA, keyex.DeleteChild{SPI: 0x1001})
		p.run(time.Second)
		a, b := p.saA, p.b.established()[0]
		proposals := offer.Proposals(p.cha.Proposals, 0x5555, offer.Want{Encap: message.EncapTunnel})
		l, _ := offer.IDOf(p.cha.Local[0].TS)
		r, _ := offer.IDOf(p.cha.Remote[0].TS)
		list := change([]message.Payload{&message.SA{Proposals: proposals}, &message.Opaque{Kind: message.TypeNonce, Data: make([]byte, 16)}, l, r})
		rest, err := message.AppendPayloads(nil, list)
		if err != nil {
			t.Fatal(err)
		}
		h := isakmp.Header{SPIi: b.ckyI, SPIr: b.ckyR, Exchange: uint8(message.ExchangeQuick), MessageID: 4711}
		sealed, _, err := a.keys.seal(a.keys.firstIV(4711), h, append([]message.Payload{&message.Opaque{Kind: message.TypeHash, Data: a.keys.hashOf(idOctets(4711), rest)}}, list...))
		if err != nil {
			t.Fatal(err)
		}
		p.inject(sealed)
		if len(p.b.in)+len(p.b.out)+len(p.b.reserved) != 0 || b.closed {
			t.Errorf("%s: %d inbound, %d outbound SAs, %d SPIs", name, len(p.b.in), len(p.b.out), len(p.b.reserved))
		}
	}
}

// RFC 2409, Section 5: a public value of another length, or one that gives the
// secret away, ends the negotiation and nothing else.
func TestHostileKE(t *testing.T) {
	for name, value := range map[string][]byte{"empty": {}, "short": {1, 2, 3}, "zero": make([]byte, 64), "long": make([]byte, 4000)} {
		p := newPair(t)
		p.filter = func(x *packet) []*packet {
			m, err := message.Parse(x.data)
			if err != nil || x.from.Addr() != p.a.addr {
				return []*packet{x}
			}
			for _, pl := range m.Payloads {
				if o, ok := pl.(*message.Opaque); ok && o.Kind == message.TypeKE {
					o.Data = value
				}
			}
			if b, err := message.Append(nil, m.Header, m.Payloads); err == nil {
				x.data = b
			}
			return []*packet{x}
		}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(5 * time.Minute)
		if len(happened[keyex.Up](p.a))+len(happened[keyex.Up](p.b)) != 0 || len(p.b.sas) != 0 {
			t.Errorf("%s: something is up or left", name)
		}
	}
}

// A message of IKEv2 inside an ISAKMP SA is dropped, and so is one of an exchange
// that is not spoken: Base, New Group, Authentication Only.
func TestOtherMessages(t *testing.T) {
	p := newPair(t).up()
	b := p.b.established()[0]
	for _, x := range []struct {
		version  uint8
		exchange uint8
	}{{0x20, 37}, {0x20, 34}, {0x10, uint8(message.ExchangeBase)}, {0x10, uint8(message.ExchangeNewGroup)}, {0x10, uint8(message.ExchangeAuthOnly)}, {0x10, 99}, {0x10, uint8(message.ExchangeMain)}, {0x10, uint8(message.ExchangeAggressive)}} {
		m, err := message.Append(nil, isakmp.Header{SPIi: b.ckyI, SPIr: b.ckyR, Exchange: x.exchange, MessageID: 5}, []message.Payload{&message.Opaque{Kind: message.TypeVendorID, Data: []byte{1}}})
		if err != nil {
			t.Fatal(err)
		}
		m[17] = x.version
		p.inject(m)
	}
	p.matched(1)
}

// RFC 2409, Section 5.6: an authentic New Group Mode is answered by a hashed refusal,
// one without a hash by nothing; neither changes what is there, and a refusal ends
// no pair of the side that gets it.
func TestNewGroupMode(t *testing.T) {
	for _, authentic := range []bool{true, false} {
		p := newPair(t).up()
		a, sent := p.saA, 0
		p.filter = func(x *packet) []*packet {
			if x.from.Addr() == p.b.addr {
				sent++
				if message.Exchange(x.data[18]) != message.ExchangeInformational || x.data[19]&message.FlagEncryption == 0 {
					t.Errorf("the answer has exchange %d and flags %x", x.data[18], x.data[19])
				}
			}
			return []*packet{x}
		}
		x := a.newExchange(message.ExchangeNewGroup, "NEW_GROUP")
		list := []message.Payload{&message.SA{Proposals: []message.Proposal{{Number: 1, Protocol: message.ProtoISAKMP,
			Transforms: []message.Transform{{Number: 1, ID: 1, Attributes: []message.Attribute{message.Basic(message.P1Group, 32768)}}}}}}}
		var err error
		if authentic {
			err = a.sendHashed(p.now, x, false, nil, list...)
		} else {
			err = a.send(p.now, x, true, false, append([]message.Payload{&message.Opaque{Kind: message.TypeHash, Data: make([]byte, 32)}}, list...)...)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.a.drain(a)
		p.run(5 * time.Second)
		want := map[bool]int{true: 1}[authentic]
		if sent != want || p.b.counts["ike-drop:unsupported-exchange"] != want || p.b.counts["ike-drop:hash"] != 1-want {
			t.Errorf("authentic %t: %d answers, counters %v", authentic, sent, p.b.counts)
		}
		p.matched(1)
	}
}

// FuzzReceive: whatever comes, in each state of a responder and an initiator,
// nobody panics, and nothing is established that was not authenticated.
func FuzzReceive(f *testing.F) {
	p := newPair(f)
	for i, m := range p.recorded() {
		f.Add(uint8(i), uint16(30), uint8(1), m)
	}
	f.Fuzz(func(t *testing.T, at uint8, pos uint16, bit uint8, raw []byte) {
		p := newPair(t)
		n := uint8(0)
		changed := false
		p.filter = func(x *packet) []*packet {
			n++
			if n-1 != at%9 {
				return []*packet{x}
			}
			changed = true
			y := *x
			y.data = bytes.Clone(x.data)
			y.data[int(pos)%len(y.data)] ^= 1 << (bit % 8)
			z := *x
			z.data = append(bytes.Clone(x.data[:min(16, len(x.data))]), raw...)
			return []*packet{&y, &z, x}
		}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(10 * time.Minute)
		if changed && len(p.a.established()) == 1 && len(p.b.established()) == 1 {
			p.matched(len(p.a.in))
		}
	})
}
