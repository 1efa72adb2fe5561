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
	"iked/internal/ident"
	"iked/internal/trace"
	"iked/spd"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

func fqdn(s string) ident.ID { return ident.ID{Type: ident.FQDN, Data: s} }

func proposals(t testing.TB, proto suite.Protocol, items ...string) []suite.Proposal {
	t.Helper()
	ps, err := suite.ParseProposals(proto, items)
	if err != nil {
		t.Fatal(err)
	}
	return ps
}

func net4(s string) ikev2.Selector {
	return ikev2.Selector{TS: spd.FromPrefix(netip.MustParsePrefix(s))}
}

// pair is two hosts with mirrored configurations.
type pair struct {
	net      *ikev2test.Net
	a, b     *ikev2test.Host
	ca, cb   *ikev2.Config
	cha, chb *ikev2.ChildConfig
}

func newPair(t testing.TB, seed uint64) *pair {
	p := &pair{net: ikev2test.New(t, seed)}
	p.a, p.b = p.net.AddHost("a", addrA.String()), p.net.AddHost("b", addrB.String())
	esp := proposals(t, suite.ProtoESP, "aes128gcm16")
	p.cha = &ikev2.ChildConfig{Name: "net", Proposals: esp, Local: []ikev2.Selector{net4("10.1.0.0/16")}, Remote: []ikev2.Selector{net4("10.2.0.0/16")}}
	p.chb = &ikev2.ChildConfig{Name: "net", Proposals: esp, Local: []ikev2.Selector{net4("10.2.0.0/16")}, Remote: []ikev2.Selector{net4("10.1.0.0/16")}}
	ike := proposals(t, suite.ProtoIKE, "aes128gcm16-prfsha256-x25519")
	psk := func(id string) ikev2.AuthConfig { return ikev2.AuthConfig{Class: ikev2.AuthPSK, ID: fqdn(id)} }
	p.ca = &ikev2.Config{Name: "ab", Proposals: ike, Local: psk("a.example"), Remote: psk("b.example"), Children: []*ikev2.ChildConfig{p.cha}}
	p.cb = &ikev2.Config{Name: "ba", Proposals: ike, Local: psk("b.example"), Remote: psk("a.example"), Children: []*ikev2.ChildConfig{p.chb}}
	p.a.Configs, p.b.Configs = []*ikev2.Config{p.ca}, []*ikev2.Config{p.cb}
	return p
}

// up makes the IKE SA with its first child.
func (p *pair) up(t testing.TB) *ikev2.SA {
	t.Helper()
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(5 * time.Second)
	if err := ikev2test.Consistent(p.a, p.b, 1); err != nil {
		t.Fatalf("%v\n%s%s", err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
	}
	return p.a.SA()
}

// story is what the hosts told, for a failing test.
func story(hosts ...*ikev2test.Host) string {
	var b strings.Builder
	for _, h := range hosts {
		for _, l := range ikev2test.Happened[ikev2.Log](h) {
			b.WriteString("\n" + h.Name + ": " + l.Msg)
		}
		for _, c := range h.Closed {
			b.WriteString("\n" + h.Name + " closed: " + c.Reason.String())
			if c.Failure != nil {
				b.WriteString(": " + c.Failure.Sentence)
			}
		}
	}
	return b.String()
}

func (p *pair) consistent(t testing.TB, want int) {
	t.Helper()
	if err := ikev2test.Consistent(p.a, p.b, want); err != nil {
		t.Fatalf("%v\n%s%s", err, strings.Join(p.net.Trace, "\n"), story(p.a, p.b))
	}
}

// RFC 7296, Section 1.2: two exchanges make an IKE SA and a CHILD_SA.
//
//	a                                  b
//	IKE_SA_INIT request 0   -->
//	                        <--  IKE_SA_INIT response 0
//	IKE_AUTH request 1      -->
//	                        <--  IKE_AUTH response 1
func TestHandshakePSK(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	want := []string{"b gets IKE_SA_INIT request 0", "a gets IKE_SA_INIT response 0", "b gets IKE_AUTH request 1", "a gets IKE_AUTH response 1"}
	if !slices.Equal(p.net.Trace, want) {
		t.Errorf("messages %v, expected %v", p.net.Trace, want)
	}
	for _, h := range []*ikev2test.Host{p.a, p.b} {
		if n := len(ikev2test.Happened[ikev2.Up](h)); n != 1 {
			t.Errorf("%s: %d Up events, expected 1", h.Name, n)
		}
		if n := len(ikev2test.Happened[ikev2.ChildUp](h)); n != 1 {
			t.Errorf("%s: %d ChildUp events, expected 1", h.Name, n)
		}
		s := h.SA().Status()
		if s.NATT || s.NATLocal || s.NATRemote || s.Children[0].Encap {
			t.Errorf("%s: without a NAT nothing floats, found %+v", h.Name, s)
		}
	}
	if id := p.b.SA().RemoteID(); id != fqdn("a.example") {
		t.Errorf("b takes the peer for %v", id)
	}
}

// RFC 7296, Section 2.15: another secret is AUTHENTICATION_FAILED, and no SA is
// left on either side.
func TestHandshakeWrongPSK(t *testing.T) {
	p := newPair(t, 1)
	p.b.Key = "another"
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if len(p.a.SAs)+len(p.b.SAs)+len(p.a.In)+len(p.b.In)+len(p.a.Reserved)+len(p.b.Reserved) != 0 {
		t.Fatal("something is left of a handshake that failed")
	}
	if f := p.b.Closed[0].Failure; f == nil || f.Stage != trace.StageAuth || !strings.Contains(f.Sentence, "another shared secret") {
		t.Errorf("b does not tell why: %+v", f)
	}
	if f := p.a.Closed[0].Failure; f == nil || f.Stage != trace.StageRefused || !strings.Contains(f.Sentence, "AUTHENTICATION_FAILED") {
		t.Errorf("a does not tell why: %+v", f)
	}
}
