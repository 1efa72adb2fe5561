package ikev2_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/spd"
)

var (
	inside  = netip.MustParseAddr("10.9.0.5")
	outside = netip.MustParseAddr("192.0.2.99")
)

// hosts gives both children a mode and the traffic of the hosts themselves.
func (p *pair) hosts(m spd.Mode) {
	for _, c := range []*ikev2.ChildConfig{p.cha, p.chb} {
		c.Mode = m
		c.Local, c.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
	}
}

// child is the only CHILD_SA of a host.
func child(t testing.TB, h *ikev2test.Host) *ikev2.Child {
	t.Helper()
	if h.SA() == nil || len(h.SA().Children()) != 1 {
		t.Fatalf("%s has not one CHILD_SA\n%s", h.Name, story(h))
	}
	return h.SA().Children()[0]
}

// seen is the first message of an exchange and direction that goes by, decrypted.
func (p *pair) seen(t testing.TB, x message.Exchange, response bool) *[]*message.Message {
	all := new([]*message.Message)
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.KeepAlive || q.Header().Exchange != x || isResponse(q) != response {
			return ikev2test.Deliver
		}
		var m *message.Message
		if x == message.ExchangeIKESAInit {
			var err error
			if m, err = message.Parse(slices.Clone(q.Data)); err != nil {
				t.Fatal(err)
			}
		} else {
			m = p.read(t, &ikev2test.Packet{From: q.From, To: q.To, Data: slices.Clone(q.Data)})
		}
		*all = append(*all, m)
		return ikev2test.Deliver
	}
	return all
}

func payload[T message.Payload](m *message.Message) (found T, ok bool) {
	for _, p := range m.Payloads {
		if x, is := p.(T); is {
			return x, true
		}
	}
	return found, false
}

// RFC 7296, Section 1.3.1: who does not take transport mode answers without the
// notify, and tunnel mode it is; a child that demands its mode is deleted by the
// initiator and refused by the responder.
func TestTransportModeFallsBack(t *testing.T) {
	for name, x := range map[string]struct {
		a, b   spd.Mode
		demand byte
		up     int
		want   string
	}{
		"the responder wants a tunnel":                    {spd.Transport, spd.Tunnel, 0, 1, "does not take transport mode"},
		"the initiator wants a tunnel":                    {spd.Tunnel, spd.Transport, 0, 1, ""},
		"the initiator demands transport":                 {spd.Transport, spd.Tunnel, 'a', 0, "insists on tunnel mode for net, which has transport mode"},
		"the responder demands transport":                 {spd.Tunnel, spd.Transport, 'b', 0, "child net demands transport mode, and the peer asks for tunnel mode"},
		"transport against BEET":                          {spd.Transport, spd.BEET, 0, 1, "does not take transport mode"},
		"BEET against transport, which is demanded":       {spd.BEET, spd.Transport, 'b', 0, "child net demands transport mode, and the peer asks for BEET mode"},
		"BEET against a tunnel":                           {spd.BEET, spd.Tunnel, 0, 1, "does not take BEET mode"},
		"BEET against a tunnel, demanded by the initator": {spd.BEET, spd.Tunnel, 'a', 0, "insists on tunnel mode for net, which has BEET mode"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 1)
			p.hosts(spd.Tunnel)
			p.cha.Mode, p.chb.Mode = x.a, x.b
			p.cha.ModeRequired, p.chb.ModeRequired = x.demand == 'a', x.demand == 'b'
			p.a.Initiate(p.ca, p.b.Addr, p.cha)
			p.net.Run(20 * time.Second)
			p.consistent(t, x.up)
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				if x.up == 1 && child(t, h).Mode != spd.Tunnel {
					t.Errorf("%s has mode %v, expected tunnel", h.Name, child(t, h).Mode)
				}
			}
			if s := story(p.a, p.b); !strings.Contains(s, x.want) {
				t.Errorf("nobody says %q:%s", x.want, s)
			}
		})
	}
}

// RFC 4301, Section 4.1; RFC 7296, Section 2.23.1: the selectors of transport mode
// are the addresses of the IKE SA's ends, whatever else the configuration allows.
func TestTransportModeIsForHosts(t *testing.T) {
	p := newPair(t, 1)
	p.hosts(spd.Transport)
	p.chb.Remote = []ikev2.Selector{net4("192.0.2.0/24")} // all of a subnet, each by itself
	p.up(t)
	if c := child(t, p.b); c.Mode != spd.Transport || !slices.Equal(c.Remote, []spd.TS{spd.Host(addrA)}) || !slices.Equal(c.Local, []spd.TS{spd.Host(addrB)}) {
		t.Errorf("b has %v mode for %v === %v, expected the traffic of the two hosts", c.Mode, c.Local, c.Remote)
	}
	// A peer that claims its neighbour's traffic gets nothing.
	p = newPair(t, 1)
	p.hosts(spd.Transport)
	p.chb.Remote = []ikev2.Selector{net4("192.0.2.0/24")}
	p.cha.Mode, p.cha.Local = spd.Tunnel, []ikev2.Selector{net4("192.0.2.0/24")}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(5 * time.Second)
	if c := child(t, p.b); !slices.Equal(c.Remote, []spd.TS{spd.Host(addrA)}) {
		t.Errorf("the peer got %v", c.Remote)
	}
	// Selectors that are not the hosts' are told before anything is sent.
	p = newPair(t, 1)
	p.hosts(spd.Transport)
	p.cha.Local = []ikev2.Selector{net4("10.1.0.1/32")}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(20 * time.Second)
	if s := story(p.a); !strings.Contains(s, "leave out the addresses of the two hosts") {
		t.Errorf("a does not tell what is wrong:%s", s)
	}
}

// RFC 7296, Section 2.23.1: through a NAT both sides put the addresses of the IKE SA
// into the selectors, keep those that the peer wrote for the checksums, and use UDP
// encapsulation; rekeying by either side keeps it so.
//
//	a 10.9.0.5 -- NAT 192.0.2.99 -- [NAT 192.0.2.98 --] b
func TestTransportModeThroughNAT(t *testing.T) {
	front := netip.MustParseAddr("192.0.2.98")
	for name, both := range map[string]bool{"before the initiator": false, "before both": true} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 1)
			p.hosts(spd.Transport)
			p.cha.ModeRequired, p.chb.ModeRequired = true, true
			p.a.Addr = inside
			p.net.AddNAT(inside, outside)
			to := addrB
			if both {
				x := p.net.AddNAT(addrB, front)
				x.Forward(500)
				x.Forward(4500)
				to = front
			}
			p.a.Initiate(p.ca, to, p.cha)
			p.net.Run(5 * time.Second)
			check := func(when string) {
				t.Helper()
				a, b := child(t, p.a), child(t, p.b)
				for _, x := range []struct {
					h             string
					c             *ikev2.Child
					local, remote netip.Addr
				}{{"a", a, inside, to}, {"b", b, addrB, outside}} {
					if x.c.Mode != spd.Transport || !x.c.Encap || !slices.Equal(x.c.Local, []spd.TS{spd.Host(x.local)}) || !slices.Equal(x.c.Remote, []spd.TS{spd.Host(x.remote)}) {
						t.Errorf("%s: %s has mode %v, encap %v, %v === %v, expected transport, %v === %v", when, x.h, x.c.Mode, x.c.Encap, x.c.Local, x.c.Remote, x.local, x.remote)
					}
				}
				// What the peer's packets were summed with: the addresses as the peer knows them.
				if a.NATLocal != outside || a.NATRemote != addrB {
					t.Errorf("%s: a sums with %v and %v, expected %v and %v", when, a.NATLocal, a.NATRemote, outside, addrB)
				}
				if b.NATLocal != to || b.NATRemote != inside {
					t.Errorf("%s: b sums with %v and %v, expected %v and %v", when, b.NATLocal, b.NATRemote, to, inside)
				}
				if !a.IntegOut.Equal(b.IntegIn) || !a.EncrOut.Equal(b.EncrIn) || a.SPIOut != b.SPIIn {
					t.Errorf("%s: the halves do not fit", when)
				}
			}
			check("at first")
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				before := child(t, h).SPIIn
				rekeyChild(h)
				p.net.Run(20 * time.Second)
				check("rekeyed by " + h.Name)
				if child(t, h).SPIIn == before {
					t.Errorf("%s did not rekey", h.Name)
				}
			}
		})
	}
}

// RFC 7296, Section 2.23.1: when the responder's policy is a tunnel, the substitution
// is undone and the selectors as written count.
func TestTransportModeThroughNATFallsBack(t *testing.T) {
	p := newPair(t, 1)
	p.hosts(spd.Transport)
	p.chb.Mode, p.chb.Remote = spd.Tunnel, []ikev2.Selector{net4("10.9.0.0/16")}
	p.a.Addr = inside
	p.net.AddNAT(inside, outside)
	p.a.Initiate(p.ca, addrB, p.cha)
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	if c := child(t, p.b); c.Mode != spd.Tunnel || !slices.Equal(c.Remote, []spd.TS{spd.Host(inside)}) || c.NATRemote.IsValid() || c.NATLocal.IsValid() {
		t.Errorf("b has mode %v for %v, checksums of %v", c.Mode, c.Remote, c.NATRemote)
	}
}

// RFC 7296, Section 2.23.1: each side has exactly one address. A responder gives
// others a tunnel, an initiator refuses such an answer.
func TestTransportModeHasOneAddress(t *testing.T) {
	two := func(ps []message.Payload) []message.Payload {
		for _, x := range ps {
			if ts, ok := x.(*message.TrafficSelectors); ok && !ts.Responder {
				more := ts.TS[0]
				more.Start, more.End = netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("192.0.2.77")
				ts.TS = append(ts.TS, more)
			}
		}
		return ps
	}
	p := newPair(t, 1)
	p.hosts(spd.Transport)
	p.chb.Mode = spd.Transport
	p.rewrite(t, message.ExchangeIKEAuth, false, two)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Second)
	if c := child(t, p.b); c.Mode != spd.Tunnel {
		t.Errorf("the responder has mode %v for an offer with two addresses", c.Mode)
	}
	p = newPair(t, 1)
	p.hosts(spd.Transport)
	p.rewrite(t, message.ExchangeIKEAuth, true, two)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(20 * time.Second)
	p.consistent(t, 0)
	if s := story(p.a); !strings.Contains(s, "transport mode with more than one address on a side") {
		t.Errorf("the initiator does not say what is wrong:%s", s)
	}
}

// Forced UDP encapsulation is not a translation: transport mode works, and the
// checksums are those of the addresses.
func TestTransportModeWithForcedEncapsulation(t *testing.T) {
	p := newPair(t, 1)
	p.hosts(spd.Transport)
	p.ca.ForceEncap = true
	p.up(t)
	for _, h := range []*ikev2test.Host{p.a, p.b} {
		if c := child(t, h); c.Mode != spd.Transport || !c.Encap || c.NATLocal.IsValid() || c.NATRemote.IsValid() {
			t.Errorf("%s: mode %v, encap %v, checksums of %v and %v", h.Name, c.Mode, c.Encap, c.NATLocal, c.NATRemote)
		}
	}
}

// RFC 7296, Section 2.23: a NAT that gives the peer another port is followed; with
// another address the selectors of transport mode would be somebody else's, so the
// CHILD_SA ends and says why.
func TestTransportModeEndsWithItsAddress(t *testing.T) {
	p := newPair(t, 1)
	p.hosts(spd.Transport)
	p.a.Addr = inside
	nat := p.net.AddNAT(inside, outside)
	p.a.Initiate(p.ca, addrB, p.cha)
	p.net.Run(5 * time.Second)
	child(t, p.b)
	nat.Rebind()
	p.a.Start(p.a.SA(), ikev2.Liveness{})
	p.net.Run(5 * time.Second)
	if p.b.Moves != 1 || child(t, p.b).Mode != spd.Transport {
		t.Errorf("b moved %d times after another port", p.b.Moves)
	}
	nat.Outside = netip.MustParseAddr("192.0.2.97")
	nat.Rebind()
	p.a.Start(p.a.SA(), ikev2.Liveness{})
	p.net.Run(20 * time.Second)
	p.consistent(t, 0)
	if s := story(p.b); !strings.Contains(s, "does not outlive other addresses") {
		t.Errorf("b does not say why:%s", s)
	}
}

// Rekeying keeps the mode: a peer that leaves the notify out is refused, by both
// roles, and the old CHILD_SA stays.
func TestRekeyKeepsTheMode(t *testing.T) {
	strip := func(ps []message.Payload) []message.Payload {
		return slices.DeleteFunc(ps, func(x message.Payload) bool {
			n, ok := x.(*message.Notify)
			return ok && (n.Kind == message.UseTransportMode || n.Kind == message.UseBEETMode)
		})
	}
	for _, m := range []spd.Mode{spd.Transport, spd.BEET} {
		for _, response := range []bool{false, true} {
			p := newPair(t, 1)
			p.hosts(m)
			p.up(t)
			before := child(t, p.b).SPIIn
			n := p.rewrite(t, message.ExchangeCreateChildSA, response, strip)
			rekeyChild(p.a)
			p.net.Run(5 * time.Second)
			p.net.Fate = nil
			p.net.Run(2 * time.Second)
			if *n == 0 {
				t.Fatal("nothing was rewritten")
			}
			if c := child(t, p.b); c.SPIIn != before || c.Mode != m {
				t.Errorf("response %v: b has %08x in mode %v, expected %08x in mode %v", response, c.SPIIn, c.Mode, before, m)
			}
			if s := story(p.a, p.b); !response && !strings.Contains(s, "mode, and the peer asks for tunnel mode") || response && !strings.Contains(s, "insists on tunnel mode") {
				t.Errorf("response %v: nobody says why:%s", response, s)
			}
		}
	}
}

// strongSwan's Vendor ID is sent by both roles where a child wants BEET mode, which
// that implementation demands, and by nobody else.
func TestVendorIDIsForBEET(t *testing.T) {
	const want = "\x88\x2f\xe5\x6d\x6f\xd2\x0d\xbc\x22\x51\x61\x3b\x2e\xbe\x5b\xeb" // MD5 of "strongSwan"
	for _, m := range []spd.Mode{spd.Tunnel, spd.Transport, spd.BEET} {
		for _, response := range []bool{false, true} {
			p := newPair(t, 1)
			p.hosts(m)
			all := p.seen(t, message.ExchangeIKESAInit, response)
			p.up(t)
			v, ok := payload[*message.VendorID]((*all)[0])
			if ok != (m == spd.BEET) || ok && string(v.Data) != want {
				t.Errorf("%v, response %v: vendor ID %x", m, response, v)
			}
		}
	}
}

// BEET mode by strongSwan's notify, both ways, through a NAT as well: the inner
// addresses are the SA's, and not those of the IKE SA.
func TestBEET(t *testing.T) {
	for _, nat := range []bool{false, true} {
		p := newPair(t, 1)
		p.hosts(spd.BEET)
		p.cha.Local, p.cha.Remote = []ikev2.Selector{net4("10.1.0.1/32")}, []ikev2.Selector{net4("10.2.0.1/32")}
		p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
		p.cha.ModeRequired, p.chb.ModeRequired = true, true
		if nat {
			p.a.Addr = inside
			p.net.AddNAT(inside, outside)
		}
		p.up(t)
		rekeyChild(p.b)
		p.net.Run(20 * time.Second)
		p.consistent(t, 1)
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			if c := child(t, h); c.Mode != spd.BEET || c.Encap != nat || c.NATLocal.IsValid() {
				t.Errorf("nat %v: %s has mode %v, encap %v", nat, h.Name, c.Mode, c.Encap)
			}
		}
	}
}

// BEET mode has one pair of inner addresses: an offer of more is a tunnel, or
// refused where BEET is demanded.
func TestBEETHasOnePair(t *testing.T) {
	for _, demand := range []bool{false, true} {
		p := newPair(t, 1) // the subnets of the pair
		p.cha.Mode, p.chb.Mode, p.chb.ModeRequired = spd.BEET, spd.BEET, demand
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(20 * time.Second)
		if demand {
			p.consistent(t, 0)
			if s := story(p.b); !strings.Contains(s, "child net demands BEET mode, and the selectors do not allow it") {
				t.Errorf("b does not say why:%s", s)
			}
			continue
		}
		p.consistent(t, 1)
		if c := child(t, p.b); c.Mode != spd.Tunnel {
			t.Errorf("b has mode %v for subnets", c.Mode)
		}
	}
}

// AH (RFC 4302) is negotiated like ESP, with protocol 2 and keys for integrity
// alone (RFC 7296, Section 2.17), with ESN or without, in tunnel and transport mode.
func TestAH(t *testing.T) {
	for _, item := range []string{"sha256", "sha256-esn", "sha1", "sha512-x25519"} {
		for _, m := range []spd.Mode{spd.Tunnel, spd.Transport} {
			p := newPair(t, 1)
			p.hosts(m)
			p.cha.Proposals, p.chb.Proposals = proposals(t, suite.ProtoAH, item), proposals(t, suite.ProtoAH, item)
			all := p.seen(t, message.ExchangeIKEAuth, false)
			p.up(t)
			sa, _ := payload[*message.SA]((*all)[0])
			if sa.Proposals[0].Protocol != suite.ProtoAH || len(sa.Proposals[0].SPI) != 4 {
				t.Errorf("%s: offered %+v", item, sa.Proposals[0])
			}
			rekeyChild(p.b)
			p.net.Run(20 * time.Second)
			p.consistent(t, 1)
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				c := child(t, h)
				if c.Proto != suite.ProtoAH || c.Mode != m || c.EncrIn.Len()+c.EncrOut.Len() != 0 || c.IntegIn.Len() < 20 || c.IntegIn.Len() != c.IntegOut.Len() ||
					c.ESN != strings.HasSuffix(item, "-esn") || c.Encap {
					t.Errorf("%s, %v: %s has %v, mode %v, %d and %d octets of keys, ESN %v", item, m, h.Name, c.Proto, c.Mode, c.EncrIn.Len(), c.IntegIn.Len(), c.ESN)
				}
			}
		}
	}
}

// AH against ESP: the proposals have nothing in common.
func TestAHAgainstESP(t *testing.T) {
	p := newPair(t, 1)
	p.cha.Proposals = proposals(t, suite.ProtoAH, "sha256")
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(20 * time.Second)
	p.consistent(t, 0)
	if s := story(p.a); !strings.Contains(s, "NO_PROPOSAL_CHOSEN") {
		t.Errorf("a got no reason:%s", s)
	}
}

// AH covers the addresses, so with a NAT it is not offered and not accepted, and
// both sides say so (RFC 3948 encapsulates ESP alone).
func TestAHThroughNAT(t *testing.T) {
	p := newPair(t, 1)
	p.cha.Proposals, p.chb.Proposals = proposals(t, suite.ProtoAH, "sha256"), proposals(t, suite.ProtoAH, "sha256")
	p.a.Addr = inside
	p.net.AddNAT(inside, outside)
	esp := *p.cha
	esp.Name, esp.Proposals, esp.Local = "esp", proposals(t, suite.ProtoESP, "aes128gcm16"), []ikev2.Selector{net4("10.5.0.0/16")}
	espB := *p.chb
	espB.Name, espB.Proposals, espB.Remote = "esp", esp.Proposals, esp.Local
	p.cb.Children = append(p.cb.Children, &espB)
	p.a.Initiate(p.ca, addrB, &esp)
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	p.a.Start(p.a.SA(), ikev2.CreateChild{Child: p.cha})
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
	if f := ikev2test.Happened[ikev2.Failed](p.a); len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, "child net wants AH, which covers the addresses of its packets, and there is a NAT before this side") {
		t.Errorf("the initiator does not refuse AH: %+v", f)
	}
	// The responder refuses what a peer offers all the same.
	spi := []byte{0, 0, 0x77, 0x77}
	m := p.ask(t, p.a.SA(), message.ExchangeCreateChildSA, 2, &message.SA{Proposals: []message.Proposal{{Number: 1, SPI: spi, Proposal: p.cha.Proposals[0]}}},
		&message.Nonce{Data: make([]byte, 32)}, tsOf(false, "10.1.0.0/16"), tsOf(true, "10.2.0.0/16"))
	only(t, m, message.NoProposalChosen)
	if s := story(p.b); !strings.Contains(s, "there is a NAT before the peer") {
		t.Errorf("the responder does not say why:%s", s)
	}
}

func tsOf(responder bool, prefixes ...string) *message.TrafficSelectors {
	p := &message.TrafficSelectors{Responder: responder}
	for _, s := range prefixes {
		t := spd.FromPrefix(netip.MustParsePrefix(s))
		p.TS = append(p.TS, message.TS{Type: message.TSIPv4, Proto: t.Proto, StartPort: t.PortFrom, EndPort: t.PortTo, Start: t.From, End: t.To})
	}
	return p
}

// Inter-family: the selectors need not have the family of the IKE SA (RFC 7296,
// Section 2.9): IPv6 in IPv4 and the other way round, in tunnel and BEET mode, not
// in transport mode.
func TestInterFamily(t *testing.T) {
	v6 := func(s string) ikev2.Selector {
		return ikev2.Selector{TS: spd.FromPrefix(netip.MustParsePrefix(s))}
	}
	for _, m := range []spd.Mode{spd.Tunnel, spd.BEET, spd.Transport} {
		p := newPair(t, 1)
		p.cha.Mode, p.chb.Mode = m, m
		p.cha.Local, p.cha.Remote = []ikev2.Selector{v6("fd01::1/128")}, []ikev2.Selector{v6("fd02::1/128")}
		p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(5 * time.Second)
		if m == spd.Transport {
			if s := story(p.a); !strings.Contains(s, "leave out the addresses of the two hosts") {
				t.Errorf("transport between families:%s", s)
			}
			continue
		}
		p.consistent(t, 1)
		if c := child(t, p.b); c.Mode != m || c.Local[0].Is4() || !c.LocalAddr.Addr().Is4() {
			t.Errorf("b has mode %v for %v over %v", c.Mode, c.Local, c.LocalAddr)
		}
	}
	p := &pair{net: ikev2test.New(t, 1)}
	q := newPair(t, 1)
	p.a, p.b = p.net.AddHost("a", "2001:db8::1"), p.net.AddHost("b", "2001:db8::2")
	p.ca, p.cb, p.cha, p.chb = q.ca, q.cb, q.cha, q.chb
	p.a.Configs, p.b.Configs = []*ikev2.Config{p.ca}, []*ikev2.Config{p.cb}
	p.up(t)
	if c := child(t, p.b); !c.Local[0].Is4() || c.LocalAddr.Addr().Is4() {
		t.Errorf("b has %v over %v, expected IPv4 in IPv6", c.Local, c.LocalAddr)
	}
}
