package ikev1

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/internal/keyex"
	"iked/spd"
)

func udp(local, remote string, lp, rp uint16) *spd.Flow {
	return &spd.Flow{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Proto: 17, LocalPort: lp, RemotePort: rp, HasPorts: true}
}

// RFC 4301, Section 4.4.1.2: one pair of SAs for each value of what is flagged, as
// identities of Quick Mode; what is not flagged stays the policy's.
func TestPFP(t *testing.T) {
	p := newPair(t)
	p.cha.PFP = spd.PFPRemoteAddr | spd.PFPProtocol | spd.PFPRemotePort
	p.chb.PFP = spd.PFPLocalAddr | spd.PFPProtocol | spd.PFPLocalPort
	p.saA = p.a.initiate(p.ca, p.b, nil)
	p.run(time.Second)
	for i, f := range []*spd.Flow{udp("10.1.0.1", "10.2.0.1", 1000, 53), udp("10.1.0.9", "10.2.0.1", 1001, 123), udp("10.1.0.1", "10.2.0.2", 1000, 53)} {
		p.a.start(p.saA, keyex.CreateChild{Child: p.cha, Flow: f})
		p.run(time.Second)
		p.matched(i + 1)
		c := p.a.in[0x1001+uint32(i)]
		if c.Remote[0].From != f.Remote || !c.Remote[0].IsHost() || c.Remote[0].PortFrom != f.RemotePort || c.Remote[0].PortTo != f.RemotePort || c.Remote[0].Proto != 17 {
			t.Errorf("flow %d: remote selector %v", i, c.Remote)
		}
		if l := c.Local[0]; l.IsHost() || !l.AnyPort() {
			t.Errorf("flow %d: the local selector is not flagged, and narrowed to %v", i, l)
		}
	}
	// Rekeying keeps the selectors.
	p.a.start(p.saA, keyex.RekeyChild{SPI: 0x1001})
	p.run(time.Minute)
	p.matched(3)
}

// A responder with flags takes one value of each and no more, up to its limit; an
// initiator with flags asks for nothing without a packet.
func TestPFPLimits(t *testing.T) {
	p := newPair(t)
	p.chb.PFP = spd.PFPLocalAddr
	p.up().matched(0)
	if !strings.Contains(why(p.a), "INVALID-ID-INFORMATION") {
		t.Error("a whole network was taken where the policy takes one address: " + why(p.b))
	}
	p = newPair(t)
	p.cha.PFP, p.chb.PFP, p.chb.Limit = spd.PFPRemoteAddr, spd.PFPLocalAddr, 1
	p.saA = p.a.initiate(p.ca, p.b, nil)
	p.run(time.Second)
	for _, remote := range []string{"10.2.0.1", "10.2.0.2"} {
		p.a.start(p.saA, keyex.CreateChild{Child: p.cha, Flow: udp("10.1.0.1", remote, 1, 2)})
		p.run(time.Second)
	}
	p.matched(1)
	if f := happened[keyex.Failed](p.a); len(f) != 1 || f[0].Flow == nil || !strings.Contains(why(p.b), "pfp_limit") {
		t.Errorf("%s %s", why(p.a), why(p.b))
	}
	p = newPair(t)
	p.cha.PFP = spd.PFPRemoteAddr
	p.up().matched(0)
	if !strings.Contains(why(p.a), "no packet") {
		t.Error(why(p.a))
	}
}

// BEET mode goes by a private number, between peers that both announced it, for
// one pair of addresses.
func TestBEETMode(t *testing.T) {
	p := newPair(t)
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Mode = spd.BEET
	}
	p.cha.Local, p.cha.Remote = []keyex.Selector{net("10.9.0.1/32")}, []keyex.Selector{net("10.9.0.2/32")}
	p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
	p.up().matched(1)
	if p.a.in[0x1001].Mode != spd.BEET {
		t.Errorf("mode %v", p.a.in[0x1001].Mode)
	}
	// A peer that does not know it.
	p.chb.Mode = spd.Tunnel
	q := newPair(t)
	q.cha.Mode, q.cha.Local, q.cha.Remote = spd.BEET, p.cha.Local, p.cha.Remote
	q.chb.Local, q.chb.Remote = p.chb.Local, p.chb.Remote
	q.up().matched(0)
	if !strings.Contains(why(q.a), "BEET") {
		t.Error(why(q.a))
	}
}
