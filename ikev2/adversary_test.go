package ikev2_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/secret"
	"iked/spd"
)

// sends collects what an SA sends, and drops its other outputs.
func sends(sa *ikev2.SA) (out []ikev2.Datagram) {
	for o := range sa.Outputs() {
		if s, ok := o.(ikev2.Send); ok {
			out = append(out, s.Datagram)
		}
	}
	return out
}

// CVE-2016-5361 class: a responder must not be made to send more to an address
// than came from there. Copies of one IKE_SA_INIT request are answered a bounded
// number of times.
func TestCVE_2016_5361_Amplification(t *testing.T) {
	p := newPair(t, 1)
	var request []byte
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if request == nil {
			request = bytes.Clone(q.Data)
		}
		if q.Header().Exchange == message.ExchangeIKEAuth {
			return ikev2test.Lose
		}
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(100 * time.Millisecond)
	b := p.b.SAs[0]
	n := 0
	for range 1000 {
		b.Receive(p.net.Now, ikev2.Datagram{Local: b.Local(), Remote: b.Remote(), Data: bytes.Clone(request)})
		n += len(sends(b))
	}
	if n == 0 || n > 16 {
		t.Errorf("1000 copies of a request were answered %d times", n)
	}
}

// RFC 7296, Section 2.23: before its AUTH is verified, a peer may float to other
// ports, and to no other address: it got our answer at the first one only.
func TestNoMoveBeforeAuth(t *testing.T) {
	for _, natted := range []bool{false, true} {
		p := newPair(t, 1)
		if natted {
			p.net.AddNAT(addrA, netip.MustParseAddr("198.51.100.1"))
		}
		var auth *ikev2test.Packet
		p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
			if q.Header().Exchange == message.ExchangeIKEAuth && auth == nil {
				c := *q
				c.Data = bytes.Clone(q.Data)
				auth = &c
			}
			if q.Header().Exchange == message.ExchangeIKEAuth {
				return ikev2test.Lose
			}
			return ikev2test.Deliver
		}
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(100 * time.Millisecond)
		b := p.b.SAs[0]
		before := b.Remote().Addr()
		victim := netip.MustParseAddrPort("203.0.113.9:4500")
		b.Receive(p.net.Now, ikev2.Datagram{Local: netip.AddrPortFrom(addrB, 4500), Remote: victim, NATT: true, Data: auth.Data})
		if b.Remote().Addr() != before {
			t.Errorf("NAT %t: the SA moved from %v to %v before authentication", natted, before, b.Remote())
		}
	}
}

// A peer behind a NAT that sends from another address on every message is
// followed a bounded number of times, so that it cannot make work without end.
func TestMovesAreBounded(t *testing.T) {
	p := newPair(t, 1)
	p.net.AddNAT(addrA, netip.MustParseAddr("198.51.100.1"))
	p.up(t)
	b := p.b.SA()
	for i := range 1000 {
		p.b.Start(b, ikev2.PeerMoved{Remote: netip.AddrPortFrom(netip.MustParseAddr("198.51.100.1"), uint16(10000+i))})
	}
	if n := p.b.Moves; n == 0 || n > 20 {
		t.Errorf("followed %d times at once", n)
	}
	p.net.Run(time.Minute)
	before := p.b.Moves
	p.b.Start(b, ikev2.PeerMoved{Remote: netip.MustParseAddrPort("198.51.100.1:4711")})
	if p.b.Moves != before+1 {
		t.Error("later the peer is not followed any more")
	}
}

// RFC 4301, Section 4.4.3: what a peer may claim is what its entry says. "dynamic"
// is the address that it began with; being followed to another one, where nothing
// shows that it receives, does not make that its own.
func TestDynamicIsTheFirstAddress(t *testing.T) {
	p := newPair(t, 1)
	public, victim := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.9")
	p.net.AddNAT(addrA, public)
	p.cha.Local, p.chb.Remote = []ikev2.Selector{{TS: spd.Host(public)}}, []ikev2.Selector{{Dynamic: true}}
	a := p.up(t)
	b := p.b.SA()
	p.b.Start(b, ikev2.PeerMoved{Remote: netip.AddrPortFrom(victim, 4500)})
	claim := func(id uint32, host netip.Addr) int {
		ts := message.TrafficSelectors{TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535, Start: host, End: host}}}
		tsr := message.TrafficSelectors{Responder: true, TS: []message.TS{{Type: message.TSIPv4, EndPort: 65535,
			Start: netip.MustParseAddr("10.2.0.0"), End: netip.MustParseAddr("10.2.255.255")}}}
		before := len(b.Children())
		d := ikev2.SealForTest(a, message.ExchangeCreateChildSA, id, false,
			&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 1, 9, byte(id)}, Proposal: p.cha.Proposals[0]}}},
			&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, &ts, &tsr)
		d.Local, d.Remote = b.Local(), b.Remote()
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose }
		b.Receive(p.net.Now, d)
		p.b.Start(b, ikev2.PeerMoved{Remote: b.Remote()}) // drains
		return len(b.Children()) - before
	}
	if n := claim(2, victim); n != 0 {
		t.Errorf("the peer got %d CHILD_SAs for an address that it only sent from", n)
	}
	if n := claim(3, public); n != 1 {
		t.Errorf("the peer got %d CHILD_SAs for its own address", n)
	}
}

// CVE-2023-23009 class and the PAD: selectors outside of the configured ones are
// never granted, in IKE_AUTH or later, in whatever order, type or number they
// come.
func TestCVE_2023_23009_ClaimedSelectors(t *testing.T) {
	any4 := message.TS{Type: message.TSIPv4, EndPort: 65535, Start: netip.IPv4Unspecified(), End: netip.MustParseAddr("255.255.255.255")}
	any6 := message.TS{Type: message.TSIPv6, EndPort: 65535, Start: netip.IPv6Unspecified(), End: netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")}
	mapped := message.TS{Type: message.TSIPv6, EndPort: 65535, Start: netip.MustParseAddr("::ffff:10.1.0.0"), End: netip.MustParseAddr("::ffff:10.1.255.255")}
	list := func(n int, t message.TS) (l []message.TS) {
		for range n {
			l = append(l, t)
		}
		return l
	}
	for name, offer := range map[string][]message.TS{
		"any": {any4}, "any of both": {any6, any4}, "255 times any": list(255, any4), "v6 only": {any6}, "mapped": {mapped},
	} {
		p := newPair(t, 1)
		a := p.up(t)
		b := p.b.SA()
		d := ikev2.SealForTest(a, message.ExchangeCreateChildSA, 2, false,
			&message.SA{Proposals: []message.Proposal{{Number: 1, SPI: []byte{0, 1, 9, 9}, Proposal: p.cha.Proposals[0]}}},
			&message.Nonce{Data: bytes.Repeat([]byte{1}, 32)}, &message.TrafficSelectors{TS: offer}, &message.TrafficSelectors{Responder: true, TS: offer})
		b.Receive(p.net.Now, d)
		for range 4 {
			p.b.Start(b, ikev2.PeerMoved{Remote: b.Remote()}) // drains
		}
		for _, c := range b.Children() {
			if !spd.Subset(c.Remote, []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))}) ||
				!spd.Subset(c.Local, []spd.TS{spd.FromPrefix(netip.MustParsePrefix("10.2.0.0/16"))}) {
				t.Errorf("%s: granted %v === %v", name, c.Local, c.Remote)
			}
		}
	}
}

// A peer that asks for hundreds of virtual addresses does not get a whole pool
// (RFC 7296, Section 3.15.1: fewer than asked for may be given).
func TestPoolIsNotDrained(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Pools = []string{"pool"}
	for i := range 200 {
		p.b.Pool = append(p.b.Pool, netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}))
		p.ca.VIPs = append(p.ca.VIPs, netip.IPv4Unspecified())
	}
	p.cha.Local, p.chb.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
	p.up(t)
	if n := len(p.b.Leased); n == 0 || n > 4 {
		t.Errorf("one peer holds %d addresses", n)
	}
}

// A gateway, authenticated as it is, can give a client no more addresses than it
// asked for, and none that is not a host's; and its selectors cannot reach beyond
// the address that it gave.
func TestGatewayCannotTakeTheClient(t *testing.T) {
	give := func(addrs ...string) *pair {
		p := newPair(t, 1)
		p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"pool"}
		p.cb.Pools = []string{"pool"}
		for _, a := range addrs {
			p.b.Pool = append(p.b.Pool, netip.MustParseAddr(a))
		}
		p.cha.Local = []ikev2.Selector{{Dynamic: true}}
		p.chb.Remote = []ikev2.Selector{net4("0.0.0.0/0")} // its selectors say: everything of the client's
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(5 * time.Second)
		return p
	}
	for _, bad := range []string{"127.0.0.1", "224.0.0.5", "255.255.255.255", "0.0.0.0"} {
		if p := give(bad); len(p.a.Addresses) != 0 {
			t.Errorf("the client uses %s", bad)
		}
	}
	p := give("10.9.0.7")
	if len(p.a.Addresses) != 1 {
		t.Fatalf("the client uses %v%s", p.a.Addresses, story(p.a, p.b))
	}
	for _, c := range p.a.SA().Children() {
		if !spd.Subset(c.Local, []spd.TS{spd.Host(netip.MustParseAddr("10.9.0.7"))}) {
			t.Errorf("the client's traffic from %v goes to the gateway", c.Local)
		}
	}
}

// CVE-2020-16088 and identity confusion: a peer that has a secret of its own does
// not become another by claiming that one's identity, an identity that is a
// pattern, or none.
func TestClaimedIdentities(t *testing.T) {
	run := func(claim ident.ID, key string) *pair {
		p := newPair(t, 1)
		p.cb.Remote.ID = ident.ID{} // any
		p.b.KeyFor = func(local, remote ident.ID) (string, bool) {
			switch remote {
			case fqdn("alice.example"):
				return "alice's", true
			case fqdn("bob.example"):
				return "bob's", true
			}
			return "", false
		}
		p.ca.Local.ID, p.a.Key = claim, key
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(10 * time.Second)
		return p
	}
	if p := run(fqdn("alice.example"), "alice's"); p.b.SA() == nil || p.b.SA().RemoteID() != fqdn("alice.example") {
		t.Fatalf("alice is refused%s", story(p.b))
	}
	for _, claim := range []ident.ID{fqdn("bob.example"), fqdn("*.example"), fqdn("*"), fqdn(""), fqdn("alice.example\x00"), fqdn("bob.example."),
		{Type: ident.KeyID, Data: "alice.example"}, {Type: ident.RFC822, Data: "alice.example"}, {Type: ident.NullID},
		{Type: ident.IPv4Subnet, Data: "\x00\x00\x00\x00\x00\x00\x00\x00"}} {
		if p := run(claim, "alice's"); p.b.SA() != nil {
			t.Errorf("alice is taken for %v", claim)
		}
	}
}

// AUTH methods: what is configured is demanded; a shared key where certificates
// are expected, and every number that is not a signature, is refused. AUTH data
// of any length is compared without harm.
func TestAuthMethods(t *testing.T) {
	for method := range 256 {
		for _, class := range []ikev2.AuthClass{ikev2.AuthPSK, ikev2.AuthPubkey} {
			if class == ikev2.AuthPSK && method == int(message.AuthPSK) {
				continue
			}
			p, b := halfway(t)
			p.cb.Remote.Class = class
			a := p.a.SAs[0]
			b.Receive(p.net.Now, ikev2.SealForTest(a, message.ExchangeIKEAuth, 1, false, &message.ID{Value: fqdn("a.example")},
				&message.Auth{Method: message.AuthMethod(method), Data: make([]byte, 32)}))
			for range 3 {
				p.b.Start(b, ikev2.Liveness{}) // drains
			}
			if b.State() == ikev2.Established {
				t.Errorf("method %d was accepted where class %d is demanded", method, class)
			}
		}
	}
	for _, n := range []int{0, 1, 31, 33, 64, 4096} {
		p, b := halfway(t)
		b.Receive(p.net.Now, ikev2.SealForTest(p.a.SAs[0], message.ExchangeIKEAuth, 1, false, &message.ID{Value: fqdn("a.example")},
			&message.Auth{Method: message.AuthPSK, Data: make([]byte, n)}))
		if sends(b); b.State() == ikev2.Established {
			t.Errorf("AUTH data of %d octets was accepted", n)
		}
	}
}

// CVE-2021-45079 class: EAP is not offered; an EAP message of any kind, success
// among them, ends the handshake and never completes it.
func TestCVE_2021_45079_EAPSuccess(t *testing.T) {
	for code := range 6 {
		p, b := halfway(t)
		ps := []message.Payload{&message.EAP{Data: []byte{byte(code), 1, 0, 4}}}
		if code%2 == 0 {
			ps = append([]message.Payload{&message.ID{Value: fqdn("a.example")}}, ps...)
		}
		b.Receive(p.net.Now, ikev2.SealForTest(p.a.SAs[0], message.ExchangeIKEAuth, 1, false, ps...))
		if sends(b); b.State() == ikev2.Established || b.State() == ikev2.Connecting {
			t.Errorf("EAP code %d: state %v", code, b.State())
		}
		// And towards the initiator.
		p, b = halfway(t)
		a := p.a.SAs[0]
		a.Receive(p.net.Now, ikev2.SealForTest(b, message.ExchangeIKEAuth, 1, true, &message.EAP{Data: []byte{byte(code), 1, 0, 4}}))
		if sends(a); a.State() == ikev2.Established || len(a.Children()) != 0 {
			t.Errorf("EAP code %d of the responder: state %v", code, a.State())
		}
	}
}

// INITIAL_CONTACT and Deletes in IKE_AUTH of a peer whose AUTH is wrong do
// nothing: there is no Up event to act upon.
func TestInitialContactOfStrangers(t *testing.T) {
	p, b := halfway(t)
	b.Receive(p.net.Now, ikev2.SealForTest(p.a.SAs[0], message.ExchangeIKEAuth, 1, false, &message.ID{Value: fqdn("a.example")},
		message.NewNotify(message.InitialContact, nil), &message.Delete{Protocol: suite.ProtoIKE},
		&message.Auth{Method: message.AuthPSK, Data: make([]byte, 32)}))
	for o := range b.Outputs() {
		if e, ok := o.(ikev2.Event); ok {
			if _, up := e.Event.(ikev2.Up); up {
				t.Error("the SA is up")
			}
		}
		if c, ok := o.(ikev2.Closed); ok && c.Reason != ikev2.CloseFailed {
			t.Errorf("closed as %v", c.Reason)
		}
	}
}

// A reflected message, our own sent back to us, is never taken for the peer's:
// request, response, and the AUTH of the other direction.
func TestReflection(t *testing.T) {
	p := newPair(t, 1)
	var seen []*ikev2test.Packet
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		c := *q
		c.Data = bytes.Clone(q.Data)
		seen = append(seen, &c)
		return ikev2test.Deliver
	}
	a := p.up(t)
	b := p.b.SA()
	for _, q := range seen {
		for _, sa := range []*ikev2.SA{a, b} {
			if q.From.Addr() != sa.Local().Addr() {
				continue
			}
			sa.Receive(p.net.Now, ikev2.Datagram{Local: q.From, Remote: q.To, NATT: q.NATT, Data: bytes.Clone(q.Data)})
			if n := outputs(sa); n != 0 || sa.State() != ikev2.Established {
				t.Errorf("%v sent back: %d outputs, state %v", q.Header(), n, sa.State())
			}
		}
	}
}

// What a stranger sends reaches logs and failures in a harmless form and at a
// bounded size (CVE-2020-1763 and CVE-2022-23094: the log path is an attack
// surface of its own).
func TestCVE_2022_23094_LogPath(t *testing.T) {
	evil := "a\nlevel=error msg=\"x\"\x1b[2J\x00" + strings.Repeat("A", message.MaxID-40)
	for _, typ := range []ident.Type{ident.FQDN, ident.RFC822, ident.KeyID, ident.DERDN, ident.DERGN, ident.NullID, 200} {
		p, b := halfway(t)
		b.Receive(p.net.Now, ikev2.SealForTest(p.a.SAs[0], message.ExchangeIKEAuth, 1, false, &message.ID{Value: ident.ID{Type: typ, Data: evil}},
			&message.Auth{Method: message.AuthPSK, Data: make([]byte, 32)}))
		check := func(s string) {
			if len(s) > 8*message.MaxID || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
				t.Errorf("type %d: a text of %d octets, %.60q", typ, len(s), s)
			}
		}
		for o := range b.Outputs() {
			switch o := o.(type) {
			case ikev2.Event:
				if l, ok := o.Event.(ikev2.Log); ok {
					check(l.Msg)
				}
			case ikev2.Closed:
				if f := o.Failure; f != nil {
					check(f.Sentence)
					check(f.RemoteID)
					for _, e := range f.Evidence {
						check(e)
					}
				}
			}
		}
	}
}

// Refusals that nobody authenticated are told a bounded number of times, and
// make no labels of counters.
func TestForgedRefusals(t *testing.T) {
	p := newPair(t, 1)
	p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict { return ikev2test.Lose }
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	a := p.a.SAs[0]
	failed, labels := 0, map[string]bool{}
	for kind := range 10000 {
		h := message.Header{SPIi: spiOf(a.SPIi()), Exchange: message.ExchangeIKESAInit, Flags: message.FlagResponse}
		b, err := (&message.Message{Header: h, Payloads: []message.Payload{message.NewNotify(message.NotifyType(kind), nil)}}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		a.Receive(p.net.Now, ikev2.Datagram{Local: a.Local(), Remote: a.Remote(), Data: b})
		for o := range a.Outputs() {
			if e, ok := o.(ikev2.Event); ok {
				switch e := e.Event.(type) {
				case ikev2.Failed:
					failed++
				case ikev2.Count:
					labels[e.Reason] = true
				}
			}
		}
	}
	if failed == 0 || failed > 8 || len(labels) > 100 {
		t.Errorf("10000 forged refusals: %d events, %d labels of counters", failed, len(labels))
	}
	if a.State() != ikev2.Connecting {
		t.Errorf("state %v", a.State())
	}
}

// CVE-2024-2357 class: without a secret of our own the handshake ends at once,
// and the same request again finds nothing half-done.
func TestCVE_2024_2357_NoOwnSecret(t *testing.T) {
	p := newPair(t, 1)
	p.b.Key = ""
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if len(p.b.SAs)+len(p.b.In)+len(p.b.Out)+len(p.b.Reserved) != 0 {
		t.Errorf("left: %d SAs, %d inbound, %d outbound, %d reserved", len(p.b.SAs), len(p.b.In), len(p.b.Out), len(p.b.Reserved))
	}
}

// Keys reach no verb: an IKE SA, its configuration and its children print without
// any of them.
func TestNothingPrintsKeys(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	c := p.a.SA().Children()[0]
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q"} {
		text := fmt.Sprintf(verb, *c)
		for _, k := range []secret.Bytes{c.EncrIn, c.EncrOut} {
			raw := k.Reveal()
			if len(raw) == 0 {
				continue
			}
			for _, form := range []string{string(raw), fmt.Sprintf("%x", raw), fmt.Sprint(raw), strings.Trim(fmt.Sprintf("%#v", raw), "[]byte{}")} {
				if strings.Contains(text, form) {
					t.Errorf("%s shows a key", verb)
				}
			}
		}
	}
}
