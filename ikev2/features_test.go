package ikev2_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/internal/ident"
	"iked/internal/trace"
	"iked/spd"
)

func count(p *pair, what string) int {
	n := 0
	for _, l := range p.net.Trace {
		if strings.Contains(l, what) {
			n++
		}
	}
	return n
}

// RFC 7296, Section 2.6: the initiator repeats its request with the cookie.
func TestCookie(t *testing.T) {
	p := newPair(t, 1)
	p.b.DemandCookies = true
	p.up(t)
	if n := count(p, "b gets IKE_SA_INIT request 0"); n != 2 {
		t.Errorf("b got %d IKE_SA_INIT requests, expected 2", n)
	}
}

// RFC 7296, Section 2.6: a cookie is good for its address, SPI and nonce, and
// for one change of the secret.
func TestCookies(t *testing.T) {
	now := time.Unix(1e9, 0)
	n := byte(0)
	c := ikev2.NewCookies(now, time.Minute, func(b []byte) {
		n++
		for i := range b {
			b[i] = n
		}
	})
	ni := bytes.Repeat([]byte{7}, 32)
	k := c.Make(now, addrA, 1, ni)
	if !c.Check(now, k, addrA, 1, ni) {
		t.Error("a fresh cookie is refused")
	}
	if !c.Check(now.Add(61*time.Second), k, addrA, 1, ni) {
		t.Error("a cookie of the last secret is refused")
	}
	if c.Check(now.Add(125*time.Second), k, addrA, 1, ni) {
		t.Error("a cookie of a forgotten secret is taken")
	}
	k = c.Make(now.Add(125*time.Second), addrA, 1, ni)
	at := now.Add(126 * time.Second)
	for _, bad := range []bool{
		c.Check(at, k, addrB, 1, ni), c.Check(at, k, addrA, 2, ni), c.Check(at, k, addrA, 1, ni[1:]),
		c.Check(at, k[:16], addrA, 1, ni), c.Check(at, nil, addrA, 1, ni), c.Check(at, make([]byte, len(k)), addrA, 1, ni),
	} {
		if bad {
			t.Error("a cookie of another request is taken")
		}
	}
	late := now.Add(time.Hour)
	if c.Check(late, k, addrA, 1, ni) {
		t.Error("a cookie of an hour ago is taken")
	}
}

// RFC 7296, Sections 1.2 and 1.3: INVALID_KE_PAYLOAD names another method, in
// all exchanges that have a KE payload.
func TestInvalidKE(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Proposals = proposals(t, suite.ProtoIKE, "aes128-sha256-modp2048-x25519")
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes128-sha256-x25519")
	p.b.DemandCookies = true
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes128-sha256-ecp256-x25519")
	p.chb.Proposals = proposals(t, suite.ProtoESP, "aes128-sha256-x25519")
	p.up(t)
	if ke, _ := p.a.SA().Status().Proposal.First(suite.KE); ke.ID != suite.KEX25519 {
		t.Errorf("the chosen method is %v", ke)
	}
	rekeyChild(p.a)
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	if c := p.a.SA().Children()[0]; c.KE.ID != suite.KEX25519 {
		t.Errorf("the rekeyed child has method %v, expected x25519", c.KE)
	}
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes128-sha256-modp2048-x25519")
	rekeyIKE(p.a)
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
}

// RFC 7296, Section 2.7: a group that was not offered is no reason to use it
// (downgrade), and two refusals do not make a loop.
func TestInvalidKELoop(t *testing.T) {
	p := newPair(t, 1)
	p.b.Configs = nil
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	sa := p.a.SAs[0]
	hd := message.Header{SPIi: spiOf(sa.SPIi()), Exchange: message.ExchangeIKESAInit, Flags: message.FlagResponse}
	p.net.Flying = nil
	for _, group := range []uint16{suite.KEMODP2048, suite.KEX25519, 1025, 0} {
		b, err := (&message.Message{Header: hd, Payloads: []message.Payload{message.NewInvalidKE(group)}}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		sa.Receive(p.net.Now, ikev2.Datagram{Local: sa.Local(), Remote: sa.Remote(), Data: b})
		for o := range sa.Outputs() {
			if _, ok := o.(ikev2.Send); ok {
				t.Errorf("group %d was taken, which was not offered or is in use", group)
			}
		}
	}
}

func spiOf(s ikev2.SPI) (b message.SPI) {
	for i := range b {
		b[i] = byte(s >> (56 - 8*i))
	}
	return b
}

// RFC 7296, Section 2.21.1: an error in clear is a hint; the right answer may
// still come.
func TestHintIsNoEnd(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	sa := p.a.SAs[0]
	hd := message.Header{SPIi: spiOf(sa.SPIi()), Exchange: message.ExchangeIKESAInit, Flags: message.FlagResponse}
	b, _ := (&message.Message{Header: hd, Payloads: []message.Payload{message.NewNotify(message.NoProposalChosen, nil)}}).Append(nil)
	p.a.Net.Later(0, func() { sa.Receive(p.net.Now, ikev2.Datagram{Local: sa.Local(), Remote: sa.Remote(), Data: b}) })
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	if n := len(ikev2test.Happened[ikev2.Failed](p.a)); n != 1 {
		t.Errorf("%d Failed events tell of the hint, expected 1", n)
	}
}

// Proposals that do not fit: the responder says so with the comparison, the
// initiator tells it at once and gives up with it.
func TestNoProposalChosen(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes256-sha512-ecp384")
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(2 * time.Minute)
	f := p.b.Closed[0].Failure
	if f == nil || f.Stage != trace.StageProposal || len(f.Evidence) == 0 || !strings.Contains(f.Sentence, "encryption") {
		t.Errorf("b tells %+v", f)
	}
	if c := p.a.Closed[0]; c.Reason != ikev2.CloseTimeout || !strings.Contains(c.Failure.Sentence, "NO_PROPOSAL_CHOSEN") {
		t.Errorf("a tells %v: %+v", c.Reason, c.Failure)
	}
}

// RFC 7296, Section 2.15: signatures, PSK one way and signatures the other.
func TestSignatures(t *testing.T) {
	for _, both := range []bool{true, false} {
		p := newPair(t, 1)
		p.cb.Local.Class, p.ca.Remote.Class = ikev2.AuthPubkey, ikev2.AuthPubkey
		if both {
			p.ca.Local.Class, p.cb.Remote.Class = ikev2.AuthPubkey, ikev2.AuthPubkey
		}
		p.ca.SendCertReq, p.cb.SendCertReq = true, true
		p.a.Anchors, p.b.Anchors = bytes.Repeat([]byte{1}, 20), bytes.Repeat([]byte{2}, 40)
		p.up(t)
	}
}

// A PSK from a peer that must sign, or the reverse, is refused.
func TestAuthClass(t *testing.T) {
	p := newPair(t, 1)
	p.cb.Remote.Class = ikev2.AuthPubkey
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if f := p.b.Closed[0].Failure; f == nil || f.Stage != trace.StageIdentity || !strings.Contains(strings.Join(f.Evidence, " "), "demands pubkey") {
		t.Errorf("b tells %+v", f)
	}
	// The initiator refuses the responder in an exchange of its own (RFC 7296,
	// Section 2.21.2), and the responder's SA is gone, too.
	p = newPair(t, 1)
	p.ca.Remote.Class = ikev2.AuthPubkey
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if len(p.a.SAs)+len(p.b.SAs)+len(p.b.In)+len(p.b.Out)+len(p.a.Reserved) != 0 {
		t.Error("something is left of a handshake that failed")
	}
	if c := p.a.Closed[0]; c.Failure == nil || c.Failure.Stage != trace.StageAuth {
		t.Errorf("a tells %+v", c)
	}
	if count(p, "b gets INFORMATIONAL request 2") != 1 {
		t.Error("a did not tell b that it refuses it")
	}
}

// RFC 4301, Section 4.4.3: the responder chooses the configuration by identity.
func TestChoosePeer(t *testing.T) {
	p := newPair(t, 1)
	other := *p.cb
	other.Name, other.Remote.ID = "other", fqdn("c.example")
	wild := *p.cb
	wild.Name, wild.Remote.ID = "wild", fqdn("*.example")
	p.b.Configs = []*ikev2.Config{&other, &wild, p.cb}
	p.up(t)
	if n := p.b.SA().Config().Name; n != "ba" {
		t.Errorf("chosen %s, expected ba", n)
	}
	p = newPair(t, 1)
	p.cb.Remote.ID = fqdn("c.example")
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if f := p.b.Closed[0].Failure; f == nil || f.Stage != trace.StageIdentity || len(f.Evidence) != 1 {
		t.Errorf("b tells %+v", f)
	}
	// The responder is not who was expected.
	p = newPair(t, 1)
	p.ca.Remote.ID = fqdn("*.other")
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(time.Minute)
	if f := p.a.Closed[0].Failure; f == nil || f.Stage != trace.StageIdentity {
		t.Errorf("a tells %+v", f)
	}
	if len(p.b.SAs) != 0 {
		t.Error("b keeps an SA that a refused")
	}
}

// Without identities the addresses are meant.
func TestDefaultIdentity(t *testing.T) {
	p := newPair(t, 1)
	p.ca.Local.ID, p.cb.Local.ID = ident.ID{}, ident.ID{}
	p.ca.Remote.ID, p.cb.Remote.ID = ident.ID{}, ident.FromAddr(addrA)
	p.up(t)
	if id := p.a.SA().RemoteID(); id != ident.FromAddr(addrB) {
		t.Errorf("a takes the peer for %v", id)
	}
}

// RFC 7296, Section 2.23: behind a NAT the initiator floats to 4500, sends
// keepalives, and is followed when its mapping changes.
func TestNAT(t *testing.T) {
	p := newPair(t, 1)
	public := netip.MustParseAddr("198.51.100.1")
	nat := p.net.AddNAT(addrA, public)
	p.up(t)
	a, b := p.a.SA().Status(), p.b.SA().Status()
	if !a.NATT || !a.NATLocal || a.NATRemote || a.Local.Port() != 4500 || a.Remote.Port() != 4500 {
		t.Errorf("a: %+v", a)
	}
	if !b.NATT || b.NATLocal || !b.NATRemote || b.Remote.Addr() != public || b.Local.Port() != 4500 {
		t.Errorf("b: %+v", b)
	}
	if c := p.b.SA().Children()[0]; !c.Encap || c.RemoteAddr != b.Remote {
		t.Errorf("b's child is not encapsulated to %v: %+v", b.Remote, c)
	}
	p.net.Run(time.Minute)
	if p.a.KeepAlive != 2 && p.a.KeepAlive != 3 || p.b.KeepAlive != 0 {
		t.Errorf("%d and %d keepalives in a minute, expected 3 and none", p.a.KeepAlive, p.b.KeepAlive)
	}
	nat.Rebind()
	p.a.Start(p.a.SAs[0], ikev2.Liveness{})
	p.net.Run(time.Second)
	if now := p.b.SA().Remote(); now == b.Remote || now.Addr() != public || p.b.Moves != 1 {
		t.Errorf("b did not follow from %v: %v, %d moves", b.Remote, now, p.b.Moves)
	}
	if len(ikev2test.Happened[ikev2.Moved](p.b)) != 1 {
		t.Error("b does not tell that the peer moved")
	}
	// ESP from another address: the same rule; who is behind the NAT does not
	// follow.
	p.b.Start(p.b.SAs[0], ikev2.PeerMoved{Remote: netip.AddrPortFrom(public, 4711)})
	if p.b.SA().Remote().Port() != 4711 {
		t.Error("b did not follow ESP")
	}
	p.a.Start(p.a.SAs[0], ikev2.PeerMoved{Remote: netip.AddrPortFrom(addrB, 4711)})
	if p.a.SA().Remote().Port() != 4500 {
		t.Error("a followed although it is behind a NAT")
	}
}

// Forced encapsulation makes both sides behave as with a NAT.
func TestForceEncap(t *testing.T) {
	for _, byA := range []bool{true, false} {
		p := newPair(t, 1)
		p.ca.ForceEncap, p.cb.ForceEncap = byA, !byA
		p.up(t)
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			if s := h.SA().Status(); !s.NATT || !s.Children[0].Encap {
				t.Errorf("forced by a %t: %s does not encapsulate", byA, h.Name)
			}
		}
	}
}

// A message that is not authentic moves nothing (RFC 7296, Section 2.23), and an
// authentic one does not without a NAT.
func TestNoMoveWithoutNAT(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	before := p.b.SA().Remote()
	p.b.Start(p.b.SAs[0], ikev2.PeerMoved{Remote: netip.MustParseAddrPort("203.0.113.9:4500")})
	if p.b.SA().Remote() != before {
		t.Error("the peer was followed without a NAT")
	}
}

// RFC 7383: what is longer than the size goes in fragments, in both directions,
// whatever order they take.
func TestFragmentation(t *testing.T) {
	for seed := range uint64(20) {
		p := newPair(t, seed)
		p.net.MTU = 560
		p.net.Jitter = 100 * time.Millisecond
		p.net.Fate = func(*ikev2test.Packet) ikev2test.Verdict {
			switch p.net.Rand.IntN(10) {
			case 0:
				return ikev2test.Lose
			case 1:
				return ikev2test.Double
			}
			return ikev2test.Deliver
		}
		p.ca.Retransmit.Tries, p.cb.Retransmit.Tries = 12, 12
		for i := range 40 {
			n := net4(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24).String())
			p.cha.Local = append(p.cha.Local, n)
			p.chb.Remote = append(p.chb.Remote, n)
		}
		p.cha.Local, p.chb.Remote = p.cha.Local[1:], p.chb.Remote[1:]
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(3 * time.Minute)
		p.consistent(t, 1)
	}
}

// RFC 7296, Sections 2.19 and 3.15: the responder gives a virtual address, to
// which dynamic selectors shrink.
func TestVirtualAddress(t *testing.T) {
	p := newPair(t, 1)
	vip4, vip6 := netip.MustParseAddr("10.9.0.7"), netip.MustParseAddr("2001:db8::7")
	p.ca.VIPs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	p.cb.Pools = []string{"pool"}
	p.b.Pool = []netip.Addr{vip4, vip6}
	p.b.DNS = []netip.Addr{netip.MustParseAddr("10.2.0.53")}
	p.cha.Local, p.chb.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
	p.cha.Remote = []ikev2.Selector{net4("10.2.0.0/16"), net4("2001:db8:2::/48")}
	p.chb.Local = p.cha.Remote
	p.up(t)
	if len(p.a.Addresses) != 2 || p.a.Addresses[0].Addr() != vip4 || p.a.Addresses[1].Addr() != vip6 {
		t.Errorf("a uses %v", p.a.Addresses)
	}
	c := p.a.SA().Children()[0]
	if len(c.Local) != 2 || c.Local[0] != spd.Host(vip4) || c.Local[1] != spd.Host(vip6) {
		t.Errorf("a's selectors are %v", c.Local)
	}
	if s := p.a.SA().Status(); len(s.DNS) != 1 || len(s.LocalVIPs) != 2 {
		t.Errorf("a: %+v", s)
	}
	rekeyIKE(p.a)
	rekeyChild(p.b)
	p.net.Run(10 * time.Second)
	p.consistent(t, 1)
	if len(p.b.Leased) != 2 || len(p.a.Addresses) != 2 {
		t.Error("the addresses did not survive rekeying")
	}
	deleteIKE(p.b)
	p.net.Run(10 * time.Second)
	if len(p.b.Leased) != 0 || p.a.Addresses != nil {
		t.Error("addresses are still in use when the SA is gone")
	}
	// An empty pool fails the child only (RFC 7296, Section 3.15.4).
	p = newPair(t, 1)
	p.ca.VIPs, p.cb.Pools = []netip.Addr{netip.IPv4Unspecified()}, []string{"pool"}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(10 * time.Second)
	p.consistent(t, 0)
}

// RFC 7296, Section 2.9: the responder takes the intersection; what the packet
// needs comes first.
func TestNarrowing(t *testing.T) {
	p := newPair(t, 1)
	p.cha.Local = []ikev2.Selector{net4("10.1.0.0/16"), net4("10.8.0.0/16")}
	p.chb.Remote = []ikev2.Selector{net4("10.1.7.0/24"), net4("10.8.0.0/15")}
	sa := ikev2.NewInitiator(p.a, p.ca, netip.AddrPortFrom(addrA, 500), netip.AddrPortFrom(addrB, 500))
	p.a.SAs = append(p.a.SAs, sa)
	flow := &spd.Flow{Local: netip.MustParseAddr("10.8.1.1"), Remote: netip.MustParseAddr("10.2.3.4"), Proto: 17, LocalPort: 53, RemotePort: 53, HasPorts: true}
	p.a.Start(sa, ikev2.StartInit{Child: p.cha, Flow: flow})
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	c := p.a.SA().Children()[0]
	if len(c.Local) != 2 || !c.Local[0].Contains(flow.Local) || c.Local[1] != net4("10.1.7.0/24").TS {
		t.Errorf("a's selectors are %v", c.Local)
	}
}

// RFC 7296, Section 2.9: a responder that takes single pairs says so, and the
// initiator comes again with the packet's.
func TestSinglePair(t *testing.T) {
	p := newPair(t, 1)
	p.chb.PFP = allFlags
	sa := ikev2.NewInitiator(p.a, p.ca, netip.AddrPortFrom(addrA, 500), netip.AddrPortFrom(addrB, 500))
	p.a.SAs = append(p.a.SAs, sa)
	p.a.Start(sa, ikev2.StartInit{Child: p.cha})
	p.net.Run(5 * time.Second)
	p.consistent(t, 0)
	flow := &spd.Flow{Local: netip.MustParseAddr("10.1.1.1"), Remote: netip.MustParseAddr("10.2.3.4"), Proto: 6, LocalPort: 80, RemotePort: 1024, HasPorts: true}
	p.a.Start(sa, ikev2.CreateChild{Child: p.cha, Flow: flow})
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
	if c := p.a.SA().Children()[0]; len(c.Local) != 1 || c.Local[0] != flow.LocalTS() || c.Remote[0] != flow.RemoteTS() {
		t.Errorf("the pair is %v === %v", c.Local, c.Remote)
	}
	rekeyChild(p.a)
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
}

// RFC 7296, Section 1.2: a CHILD_SA that fails leaves the IKE SA.
func TestChildFailsIKEStays(t *testing.T) {
	for name, change := range map[string]func(p *pair){
		"selectors": func(p *pair) { p.chb.Local = []ikev2.Selector{net4("10.3.0.0/16")} },
		"proposal":  func(p *pair) { p.chb.Proposals = proposals(t, suite.ProtoESP, "aes256-sha512") },
		"install":   func(p *pair) { p.b.RefuseInstall = true },
		"installA":  func(p *pair) { p.a.RefuseInstall = true },
		"none":      func(p *pair) { p.cb.Children = nil },
		"mode": func(p *pair) {
			p.cha.Mode, p.cha.ModeRequired = spd.Transport, true
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 1)
			change(p)
			p.a.Initiate(p.ca, p.b.Addr, p.cha)
			p.net.Run(20 * time.Second)
			p.consistent(t, 0)
			f := ikev2test.Happened[ikev2.Failed](p.a)
			if len(f) != 1 || f[0].Child != p.cha || f[0].Failure.Sentence == "" {
				t.Errorf("a tells %+v", f)
			}
			// The same with CREATE_CHILD_SA.
			p.a.Start(p.a.SA(), ikev2.CreateChild{Child: p.cha})
			p.net.Run(20 * time.Second)
			p.consistent(t, 0)
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				if err := told(h); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// RFC 7296, Section 1.3.1: transport mode is asked for and confirmed.
func TestTransportMode(t *testing.T) {
	p := newPair(t, 1)
	for _, c := range []*ikev2.ChildConfig{p.cha, p.chb} {
		c.Mode = spd.Transport
		c.Local, c.Remote = []ikev2.Selector{{Dynamic: true}}, []ikev2.Selector{{Dynamic: true}}
	}
	p.up(t)
	rekeyChild(p.b)
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
	for _, h := range []*ikev2test.Host{p.a, p.b} {
		if m := h.SA().Children()[0].Mode; m != spd.Transport {
			t.Errorf("%s has mode %v", h.Name, m)
		}
	}
}

// ESN is used only when it was negotiated.
func TestESN(t *testing.T) {
	for _, item := range []string{"aes128gcm16-esn", "aes128gcm16-noesn", "aes128gcm16"} {
		p := newPair(t, 1)
		p.cha.Proposals = proposals(t, suite.ProtoESP, item)
		p.chb.Proposals = proposals(t, suite.ProtoESP, "aes128gcm16-esn-noesn")
		p.up(t)
		if c := p.b.SA().Children()[0]; c.ESN != strings.HasSuffix(item, "-esn") {
			t.Errorf("%s: ESN is %t", item, c.ESN)
		}
	}
}

// RFC 7296, Section 2.4: INITIAL_CONTACT is told once authenticated.
func TestInitialContact(t *testing.T) {
	p := newPair(t, 1)
	p.ca.InitialContact = true
	p.up(t)
	if up := ikev2test.Happened[ikev2.Up](p.b); !up[0].InitialContact {
		t.Error("b does not tell of INITIAL_CONTACT")
	}
}

// RFC 6023: without a child the IKE SA comes up alone.
func TestChildless(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, nil)
	p.net.Run(5 * time.Second)
	p.consistent(t, 0)
	p.b.Start(p.b.SA(), ikev2.CreateChild{Child: p.chb})
	p.net.Run(5 * time.Second)
	p.consistent(t, 1)
}

// RFC 7296, Section 2.25.2: when both close, each keeps its own reason.
func TestBothClose(t *testing.T) {
	p := newPair(t, 1)
	p.up(t)
	p.a.Start(p.a.SAs[0], ikev2.Delete{Why: ikev2.CloseReplaced})
	p.b.Start(p.b.SAs[0], ikev2.Delete{Why: ikev2.CloseAsked})
	p.net.Run(5 * time.Second)
	if len(p.a.Closed) != 1 || len(p.b.Closed) != 1 || p.a.Closed[0].Reason != ikev2.CloseReplaced || p.b.Closed[0].Reason != ikev2.CloseAsked {
		t.Errorf("a: %v, b: %v", p.a.Closed, p.b.Closed)
	}
}
