package ikev1

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/spd"
)

// xauth makes a the client and b the server.
func (p *pair) xauth(user string) {
	p.ca.V1.XAuth, p.ca.V1.User, p.cb.V1.XAuth = keyex.XAuthClient, user, keyex.XAuthServer
}

// XAuth behind Main and Aggressive Mode, with a pre-shared key and RSA, and hybrid
// authentication, where the client has a password only.
func TestXAuth(t *testing.T) {
	for _, kind := range []string{"psk", "rsa", "hybrid"} {
		for _, aggressive := range []bool{false, true} {
			p := newPair(t)
			if kind != "psk" {
				p.certificates(0)
			}
			p.xauth("bob")
			if kind == "hybrid" {
				p.ca.V1.Hybrid, p.cb.V1.Hybrid = true, true
			}
			p.ca.V1.Aggressive, p.cb.V1.Aggressive, p.cb.V1.AggressivePSK = aggressive, aggressive, true
			p.up().matched(1)
			if p.b.established()[0].user != "bob" {
				t.Errorf("%s: the user is %q", kind, p.b.established()[0].user)
			}
			if len(happened[keyex.Up](p.a)) != 1 || len(happened[keyex.Up](p.b)) != 1 {
				t.Errorf("%s: told up %d and %d times", kind, len(happened[keyex.Up](p.a)), len(happened[keyex.Up](p.b)))
			}
		}
	}
}

// A wrong password, an unknown user, a client without either: nothing is up, and
// both sides say why.
func TestXAuthRefused(t *testing.T) {
	for name, change := range map[string]func(p *pair){
		"wrong password":  func(p *pair) { p.a.password = "guess" },
		"unknown user":    func(p *pair) { p.ca.V1.User = "eve" },
		"no client":       func(p *pair) { p.ca.V1.XAuth = keyex.NoXAuth },
		"no server":       func(p *pair) { p.cb.V1.XAuth = keyex.NoXAuth },
		"no own password": func(p *pair) { p.a.password = "" },
	} {
		p := newPair(t)
		p.xauth("bob")
		change(p)
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(3 * time.Minute)
		if len(p.a.sas)+len(p.b.sas)+len(p.a.in)+len(p.b.in) != 0 || len(happened[keyex.Up](p.b)) != 0 {
			t.Errorf("%s: something is up or left: %s %s", name, why(p.a), why(p.b))
		}
	}
	p := newPair(t)
	p.xauth("bob")
	p.a.password = "guess"
	p.up()
	if !strings.Contains(why(p.a), "refused the user bob") || !strings.Contains(why(p.b), "the user \"bob\" of the peer 192.0.2.1 is refused") || strings.Contains(why(p.b)+why(p.a), "guess") {
		t.Errorf("%s %s", why(p.a), why(p.b))
	}
}

// No Quick Mode and no address before XAuth is over (CVE-2010-2628 class: state
// that a peer reaches without having proved what it must).
func TestNothingBeforeXAuth(t *testing.T) {
	p := newPair(t)
	p.xauth("bob")
	p.ca.VIPs = []netip.Addr{netip.IPv4Unspecified()}
	p.cb.Pools = []string{"p"}
	// The client behaves as if XAuth were over.
	p.filter = func(x *packet) []*packet {
		if h, _ := isakmp.ParseHeader(x.data); message.Exchange(h.Exchange) == message.ExchangeTransaction && x.from.Addr() == p.b.addr {
			return nil
		}
		return []*packet{x}
	}
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Second)
	if p.saA.p1 != nil || p.saA.state != keyex.Connecting {
		t.Fatalf("phase 1 is not over: %s", why(p.a))
	}
	p.saA.pull(p.now)
	p.saA.ready(p.now)
	p.saA.pump(p.now)
	p.a.drain(p.saA)
	p.run(10 * time.Second)
	if len(p.b.in)+p.b.leases != 0 || len(happened[keyex.Up](p.b)) != 0 || p.b.counts["ike-drop:wrong-state"] == 0 {
		t.Fatalf("%d SAs, %d leases, %d drops", len(p.b.in), p.b.leases, p.b.counts["ike-drop:wrong-state"])
	}
}

// Mode Config, pulled by the client or pushed by the server: addresses of both
// families and name servers; the selectors follow.
func TestModeConfig(t *testing.T) {
	for _, push := range []bool{false, true} {
		for _, withXAuth := range []bool{false, true} {
			p := newPair(t)
			if withXAuth {
				p.xauth("bob")
			}
			p.ca.VIPs = []netip.Addr{netip.IPv4Unspecified()}
			p.cb.Pools = []string{"p"}
			p.ca.V1.Push, p.cb.V1.Push = push, push
			p.cha.Local = []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
			p.chb.Remote = p.cha.Local
			p.up().matched(1)
			c := p.a.in[0x1001]
			if c.Local[0].From != netip.MustParseAddr("10.9.0.1") || !slices.Equal(p.a.addresses, []netip.Prefix{netip.MustParsePrefix("10.9.0.1/32")}) {
				t.Errorf("push %t, XAuth %t: selectors %v, addresses %v", push, withXAuth, c.Local, p.a.addresses)
			}
			p.a.start(p.saA, keyex.Delete{})
			p.run(time.Second)
			if len(p.a.addresses) != 0 || p.b.leases != 0 {
				t.Errorf("push %t: %v in use, %d leases left", push, p.a.addresses, p.b.leases)
			}
		}
	}
}

// The peer has no pool, or gives what nobody asked for.
func TestModeConfigRefused(t *testing.T) {
	p := newPair(t)
	p.ca.VIPs = []netip.Addr{netip.IPv4Unspecified()}
	p.up()
	if len(p.a.in)+len(p.a.sas) != 0 || !strings.Contains(why(p.a), "no virtual address") {
		t.Fatal(why(p.a))
	}
	p = newPair(t)
	p.ca.VIPs = []netip.Addr{netip.IPv6Unspecified()}
	p.cb.Pools = []string{"p"}
	p.up()
	if len(p.a.addresses) != 0 {
		t.Fatalf("an IPv4 address was taken, IPv6 was asked for: %v", p.a.addresses)
	}
}

// A server that asks for a one-time password, a challenge or a new PIN gets the
// status of failure and no password; a client that writes C's zero octet behind its
// password is the one it is.
func TestXAuthKinds(t *testing.T) {
	for name, list := range map[string][]message.Attribute{
		"one-time password": {message.Basic(xauthType, 2), message.Variable(xauthUser, nil), message.Variable(xauthPassword, nil)},
		"challenge":         {message.Variable(xauthUser, nil), message.Variable(xauthChallenge, []byte("?")), message.Variable(xauthPassword, nil)},
		"passcode":          {message.Variable(xauthPasscode, nil)},
		"new PIN":           {message.Variable(xauthUser, nil), message.Variable(xauthNextPIN, nil), message.Variable(xauthMessage, []byte("[2Jnew"))},
	} {
		p := newPair(t)
		p.xauth("bob")
		p.filter = func(x *packet) []*packet {
			if h, _ := isakmp.ParseHeader(x.data); message.Exchange(h.Exchange) == message.ExchangeTransaction && x.from.Addr() == p.b.addr {
				return nil
			}
			return []*packet{x}
		}
		sa := p.a.initiate(p.ca, p.b, p.cha)
		p.run(time.Second)
		var got []message.Attribute
		sa.answerUser(p.now, list, func(_ time.Time, l []message.Attribute) { got = append(got, l...) })
		p.a.drain(sa)
		if len(got) != 1 || !got[0].Equal(message.Basic(xauthStatus, 0)) || !sa.closed || !strings.Contains(why(p.a), "one-time password") {
			t.Errorf("%s: answered %v, %s", name, got, why(p.a))
		}
	}
	p := newPair(t)
	p.xauth("bob")
	p.a.password = "sesame\x00"
	p.up().matched(1)
}

// The request for an address overtakes the acknowledgement that ends XAuth: it is
// answered when it comes again, and not with nothing.
func TestRequestOvertakes(t *testing.T) {
	p := newPair(t)
	p.xauth("bob")
	p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"p"}
	p.cha.Local = []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
	p.chb.Remote = p.cha.Local
	held := 0
	p.filter = func(x *packet) []*packet {
		// The client's second Transaction message is the acknowledgement.
		if h, _ := isakmp.ParseHeader(x.data); message.Exchange(h.Exchange) == message.ExchangeTransaction && x.from.Addr() == p.a.addr {
			if held++; held == 2 {
				x.extra = 100 * time.Millisecond
			}
		}
		return []*packet{x}
	}
	p.up().matched(1)
	if held < 4 || p.b.counts["ike-drop:wrong-state"] == 0 {
		t.Errorf("nothing overtook: %d messages, %v", held, p.b.counts)
	}
}

// A new phase 1 keeps the addresses, and asks the user again.
func TestRekeyWithXAuth(t *testing.T) {
	p := newPair(t)
	p.xauth("bob")
	p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"p"}
	p.cha.Local = []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
	p.chb.Remote = p.cha.Local
	p.up().matched(1)
	p.a.start(p.saA, keyex.RekeyIKE{})
	p.run(time.Minute)
	if len(p.a.established()) != 1 || p.a.established()[0] == p.saA || len(p.a.in) != 1 || len(p.a.addresses) != 1 {
		t.Fatalf("%s: %d SAs, addresses %v", why(p.a), len(p.a.in), p.a.addresses)
	}
	if p.a.established()[0].proposal.Protocol != suite.ProtoIKE {
		t.Error("no proposal")
	}
}
