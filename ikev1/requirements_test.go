package ikev1

import (
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/ikev1/offer"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/spd"
)

// headerOf is the header of a packet on the simulated network.
func headerOf(x *packet) isakmp.Header {
	h, _ := isakmp.ParseHeader(x.data)
	return h
}

// quickOf sends b a Quick Mode of a's that is authentic, with any payloads.
func (p *pair) quickOf(list []message.Payload) {
	p.t.Helper()
	a := p.saA
	rest, err := message.AppendPayloads(nil, list)
	if err != nil {
		p.t.Fatal(err)
	}
	h := isakmp.Header{SPIi: a.ckyI, SPIr: a.ckyR, Exchange: uint8(message.ExchangeQuick), MessageID: 4711}
	sealed, _, err := a.keys.seal(a.keys.firstIV(4711), h, append([]message.Payload{&message.Opaque{Kind: message.TypeHash, Data: a.keys.hashOf(idOctets(4711), rest)}}, list...))
	if err != nil {
		p.t.Fatal(err)
	}
	p.inject(sealed)
}

// informOf sends b an authentic Informational exchange of a's.
func (p *pair) informOf(list ...message.Payload) {
	p.saA.inform(p.now, list...)
	p.a.drain(p.saA)
	p.run(time.Second)
}

// RFC 2408, Section 5.1: the waits of a retransmission grow, and at the end of them
// nothing is left of the negotiation.
func TestRetransmissionSchedule(t *testing.T) {
	p := newPair(t)
	p.ca.Retransmit = keyex.Retransmit{Timeout: time.Second, Base: 2, Tries: 6, Jitter: 5}
	var at []time.Time
	p.filter = func(x *packet) []*packet { at = append(at, p.now); return nil }
	p.a.initiate(p.ca, p.b, p.cha)
	p.run(10 * time.Minute)
	if len(at) != 6 || len(p.a.sas)+len(p.a.in)+len(p.a.reserved) != 0 || p.a.closed[0].Reason != keyex.CloseTimeout {
		t.Fatalf("sent at %v, %d SAs left: %s", at, len(p.a.sas), why(p.a))
	}
	for i := 2; i < len(at); i++ {
		if before, now := at[i-1].Sub(at[i-2]), at[i].Sub(at[i-1]); float64(now) < 1.5*float64(before) {
			t.Errorf("wait %d is %v, the one before %v", i, now, before)
		}
	}
}

// RFC 2408, Sections 3.1 and 4.8; RFC 2409, Sections 4, 5.5 and 5.7: message ID 0 in
// phase 1 and never after, one for each exchange; version 1.0; no flag but that of
// encryption, which all have behind the first messages; and the cookies keep their
// order, whoever begins an exchange. What has no answer is sent once.
func TestHeadersOnTheWire(t *testing.T) {
	p := newPair(t)
	p.ca.DPDDelay, p.cb.DPDDelay = 20*time.Second, 20*time.Second
	type exchangeID struct {
		kind uint8
		id   uint32
	}
	began := map[exchangeID]string{}
	counts := map[message.Exchange]int{}
	p.filter = func(x *packet) []*packet {
		h := headerOf(x)
		kind := message.Exchange(h.Exchange)
		counts[kind]++
		if kind == message.ExchangeMain != (h.MessageID == 0) {
			t.Errorf("%v has message ID %08x", kind, h.MessageID)
		}
		if kind != message.ExchangeMain {
			who, ok := began[exchangeID{h.Exchange, h.MessageID}]
			if ok && (who != x.from.String() && kind == message.ExchangeInformational || kind == message.ExchangeInformational) {
				t.Errorf("message ID %08x of an Informational exchange comes twice", h.MessageID)
			}
			began[exchangeID{h.Exchange, h.MessageID}] = x.from.String()
			for k := range began {
				if k.id == h.MessageID && k.kind != h.Exchange {
					t.Errorf("message ID %08x serves two exchanges", h.MessageID)
				}
			}
		}
		encrypted := h.Flags&message.FlagEncryption != 0
		if h.Version != 0x10 || h.Flags&^message.FlagEncryption != 0 || encrypted != (kind != message.ExchangeMain || counts[kind] > 4) {
			t.Errorf("%v: version %02x, flags %02x", kind, h.Version, h.Flags)
		}
		if h.SPIi != p.a.sas[0].ckyI || counts[message.ExchangeMain] > 1 && h.SPIr != p.b.sas[0].ckyR {
			t.Errorf("%v: cookies %x %x", kind, h.SPIi, h.SPIr)
		}
		return []*packet{x}
	}
	p.up().matched(1)
	p.b.start(p.b.established()[0], keyex.RekeyChild{SPI: 0x2001})
	p.run(2 * time.Minute)
	p.matched(1)
	if counts[message.ExchangeMain] != 6 || counts[message.ExchangeQuick] != 6 || counts[message.ExchangeInformational] < 4 {
		t.Errorf("%v", counts)
	}
	// RFC 2408, Sections 5.14 and 5.15: a Delete that gets lost is not repeated.
	deletes := 0
	p.filter = func(x *packet) []*packet {
		if p.dpdOf(x) == nil {
			deletes++
		}
		return nil
	}
	p.a.start(p.saA, keyex.DeleteChild{SPI: slices.Collect(keysOf(p.a.in))[0]})
	p.run(15 * time.Second)
	if deletes != 1 {
		t.Errorf("%d messages for one Delete", deletes)
	}
}

func keysOf(m map[uint32]*keyex.Child) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// RFC 2408, Section 3.1: the commit bit is in no hash, so that anybody on the way
// can set it. It is read over, and a CONNECTED that follows does no harm.
func TestCommitBit(t *testing.T) {
	p := newPair(t)
	p.filter = func(x *packet) []*packet {
		if message.Exchange(headerOf(x).Exchange) == message.ExchangeQuick {
			x.data[19] |= message.FlagCommit
		}
		return []*packet{x}
	}
	p.up().matched(1)
	p.informOf(&message.Notify{DOI: 1, Protocol: message.ProtoESP, SPI: []byte{0, 0, 0x10, 1}, Kind: message.Connected})
	p.matched(1)
}

// RFC 2407, Section 4.6.2: the ID of phase 1 is an identity, with protocol and port
// 0, or UDP and 500; with NAT traversal UDP and 4500, or no port.
func TestIdentityPayload(t *testing.T) {
	addr := []byte{192, 0, 2, 1}
	for _, c := range []struct {
		id message.ID
		ok bool
	}{
		{message.ID{Kind: message.IDIPv4Addr, Data: addr}, true},
		{message.ID{Kind: message.IDIPv4Addr, Proto: 17, Port: 500, Data: addr}, true},
		{message.ID{Kind: message.IDIPv4Addr, Proto: 17, Port: 4500, Data: addr}, true},
		{message.ID{Kind: message.IDIPv4Addr, Proto: 17, Data: addr}, true},
		{message.ID{Kind: 2, Data: []byte("example.org")}, true},
		{message.ID{Kind: message.IDIPv4Addr, Proto: 17, Port: 501, Data: addr}, false},
		{message.ID{Kind: message.IDIPv4Addr, Proto: 6, Port: 500, Data: addr}, false},
		{message.ID{Kind: message.IDIPv4Addr, Port: 500, Data: addr}, false},
		{message.ID{Kind: message.IDIPv4Addr, Data: addr[:3]}, false},
		{message.ID{Kind: 2}, false},
		{message.ID{Kind: message.IDIPv4Subnet, Data: make([]byte, 8)}, false},
		{message.ID{Kind: 12, Data: addr}, false},
		{message.ID{Kind: 200, Data: addr}, false},
	} {
		if _, err := identity(&c.id); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.id, err)
		}
	}
	p := newPair(t)
	p.up()
	if b := idPayload(p.ca.Local.ID); b.Proto != 0 || b.Port != 0 {
		t.Errorf("ours has protocol %d and port %d", b.Proto, b.Port)
	}
}

// RFC 2409, Section 5.5: without identities Quick Mode is about the addresses of the
// peers; behind HASH and SA payloads may have any order; a HASH elsewhere than first
// is none.
func TestQuickModeForms(t *testing.T) {
	payloads := func(p *pair) []message.Payload {
		return []message.Payload{&message.SA{Proposals: offer.Proposals(p.cha.Proposals, 0x5555, offer.Want{Encap: message.EncapTunnel})}, &message.Opaque{Kind: message.TypeNonce, Data: make([]byte, 16)}}
	}
	host := func(p *pair) *pair {
		for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
			c.Local = []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
			c.Remote = c.Local
		}
		return p
	}
	p := host(newPair(t)).up()
	before := len(p.b.in)
	p.quickOf(payloads(p))
	if len(p.b.in) != before+1 {
		t.Errorf("without identities: %d SAs: %s", len(p.b.in)-before, why(p.b))
	}
	for _, c := range p.b.in {
		if c.SPIOut == 0x5555 && (c.Local[0] != spd.Host(p.b.addr) || c.Remote[0] != spd.Host(p.a.addr)) {
			t.Errorf("without identities: %v === %v", c.Local, c.Remote)
		}
	}
	p = newPair(t).up()
	before = len(p.b.in)
	p.quickOf(payloads(p))
	if len(p.b.in) != before || !strings.Contains(why(p.b), "which no child") {
		t.Errorf("without identities, for networks: %s", why(p.b))
	}
	p = newPair(t).up()
	l, _ := offer.IDOf(p.cha.Local[0].TS)
	r, _ := offer.IDOf(p.cha.Remote[0].TS)
	list := payloads(p)
	before = len(p.b.in)
	p.quickOf([]message.Payload{l, list[1], r, list[0]})
	if len(p.b.in) != before+1 {
		t.Errorf("in another order: %s", why(p.b))
	}
}

// RFC 2407, Section 4.6.3: authentic notifies that say nothing we know, or what needs
// no action, as REPLAY-STATUS, change nothing.
func TestOtherNotifies(t *testing.T) {
	p := newPair(t).up()
	events := len(p.b.events)
	for _, k := range []message.NotifyType{24577, 24999, 30000, 40501, 5000, 1, 14, 16384} {
		p.informOf(&message.Notify{DOI: 1, Protocol: message.ProtoESP, SPI: []byte{0, 0, 0x20, 1}, Kind: k, Data: []byte{0, 0, 0, 1}})
	}
	p.matched(1)
	if len(p.b.events) != events {
		t.Errorf("%d events came of it", len(p.b.events)-events)
	}
}

// RFC 2407, Section 4.6.3: INITIAL-CONTACT is in the last message of Main Mode,
// encrypted, or in Quick Mode behind Aggressive Mode; with the cookies and no data.
// In clear it is none, and before the peer is wholly authenticated it waits.
func TestInitialContact(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		p := newPair(t)
		p.ca.InitialContact = true
		p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
		p.up().matched(1)
		said := 0
		for _, u := range happened[keyex.Up](p.b) {
			if u.InitialContact {
				said++
			}
		}
		if said != 1 {
			t.Errorf("aggressive %t: it was said %d times", aggressive, said)
		}
	}
	n := (&SA{}).initialContact().(*message.Notify)
	if n.Protocol != message.ProtoISAKMP || len(n.SPI) != 16 || len(n.Data) != 0 {
		t.Errorf("%+v", n)
	}
	// The third message of Aggressive Mode may come in clear: who is on the way can
	// add to it.
	p := newPair(t)
	p.ca.V1.Aggressive, p.cb.V1 = true, keyex.V1{Aggressive: true, AggressivePSK: true}
	p.filter = func(x *packet) []*packet {
		h := headerOf(x)
		if message.Exchange(h.Exchange) != message.ExchangeAggressive || h.Flags&message.FlagEncryption == 0 {
			return []*packet{x}
		}
		a := p.a.sas[0]
		if p.b.sas[0].p1 == nil {
			return nil // sent along again
		}
		iv := p.b.sas[0].p1.x.iv
		clear, _, err := a.keys.open(iv, x.data[isakmp.HeaderLen:])
		if err != nil {
			t.Fatal(err)
		}
		m, err := message.ParseDecrypted(h, clear)
		if err != nil {
			t.Fatal(err)
		}
		h.Flags = 0
		if x.data, err = message.Append(nil, h, append(m.Payloads, a.initialContact())); err != nil {
			t.Fatal(err)
		}
		return []*packet{x}
	}
	p.up()
	for _, u := range happened[keyex.Up](p.b) {
		if u.InitialContact {
			t.Error("INITIAL-CONTACT in clear was believed")
		}
	}
	if len(happened[keyex.Up](p.b)) != 1 {
		t.Errorf("the message in clear was not read: %s %v", why(p.b), p.b.counts)
	}
	// Before XAuth is over.
	p = newPair(t)
	p.xauth("bob")
	p.a.password = "guess"
	p.filter = func(x *packet) []*packet {
		if x.from.Addr() == p.b.addr && message.Exchange(headerOf(x).Exchange) == message.ExchangeTransaction {
			return nil
		}
		return []*packet{x}
	}
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Second)
	p.informOf(p.saA.initialContact())
	if len(happened[keyex.Up](p.b)) != 0 {
		t.Error("a peer that XAuth has not let in yet counts as up")
	}
}

// RFC 2408, Section 3.10: a certificate is sent to who asks for one, or as the
// configuration says; other encodings than X.509 are read over.
func TestCertificateRequests(t *testing.T) {
	for _, c := range []struct {
		asks bool
		send keyex.SendCert
		up   bool
	}{{true, keyex.CertIfAsked, true}, {false, keyex.CertIfAsked, false}, {false, keyex.CertAlways, true}, {true, keyex.CertNever, false}} {
		for _, aggressive := range []bool{false, true} {
			p := newPair(t)
			p.certificates(0)
			p.ca.SendCertReq, p.cb.SendCert = c.asks, c.send
			p.ca.V1.Aggressive, p.cb.V1.Aggressive = aggressive, aggressive
			p.up()
			if up := len(happened[keyex.Up](p.a)) == 1; up != c.up {
				t.Errorf("asks %t, sends %d, aggressive %t: up %t, expected %t", c.asks, c.send, aggressive, up, c.up)
			}
		}
	}
	var x phase1
	x.takeCertificates(&message.Message{Payloads: []message.Payload{&message.Cert{Encoding: 2, Data: []byte{1}}, &message.Cert{Encoding: message.CertX509Signature, Data: []byte{2}}}})
	if len(x.peerCerts) != 1 {
		t.Errorf("%d certificates", len(x.peerCerts))
	}
}
