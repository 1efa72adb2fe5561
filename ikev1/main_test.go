package ikev1

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/spd"
)

// RFC 2409, Section 5.4: Main Mode with a pre-shared key, and a Quick Mode under
// it.
func TestMainModePSK(t *testing.T) { newPair(t).up().matched(1) }

// RFC 2409, Section 5: every cipher, hash and group that IKEv1 has a number for.
func TestPhase1Algorithms(t *testing.T) {
	for _, p := range []string{"aes128-sha1-modp2048", "aes192-sha256-modp3072", "aes256-sha384-ecp384", "aes256-sha512-ecp521", "3des-sha1-modp1024", "aes128-sha256-modp1536"} {
		t.Run(p, func(t *testing.T) {
			x := newPair(t)
			x.ca.Proposals, x.cb.Proposals = proposals(t, suite.ProtoIKE, p), proposals(t, suite.ProtoIKE, p)
			x.up().matched(1)
		})
	}
}

func (p *pair) certificates(curve int) {
	for _, c := range []*keyex.Config{p.ca, p.cb} {
		c.Local.Class, c.Remote.Class = keyex.AuthPubkey, keyex.AuthPubkey
	}
	p.ca.Local.ID, p.ca.Remote.ID = id(p.t, "a.example.org"), id(p.t, "b.example.org")
	p.cb.Local.ID, p.cb.Remote.ID = id(p.t, "b.example.org"), id(p.t, "a.example.org")
	p.a.curve, p.b.curve = curve, curve
	p.a.key = func(_, _ ident.ID) (string, bool) { return "", false }
	p.b.key = p.a.key
}

// RFC 2409, Section 5.1, and RFC 4754: signatures by keys of either kind, in both
// modes.
func TestSignatures(t *testing.T) {
	for _, curve := range []int{0, 256, 384, 521} {
		for _, aggressive := range []bool{false, true} {
			p := newPair(t)
			p.certificates(curve)
			p.ca.V1.Aggressive, p.cb.V1.Aggressive = aggressive, aggressive
			p.up().matched(1)
			want := methods(p.ca, curve)[0]
			if p.saA.auth != want || p.b.established()[0].auth != want {
				t.Errorf("authenticated by %v, expected %v", p.saA.auth, want)
			}
		}
	}
}

// RFC 2409, Section 5: both sides use one method.
func TestKeysOfTwoKinds(t *testing.T) {
	p := newPair(t)
	p.certificates(0)
	p.b.curve = 256
	p.up()
	if len(p.a.established())+len(p.b.established()) != 0 || !strings.Contains(why(p.b), "one method") {
		t.Fatal(why(p.b))
	}
}

// RFC 2409, Section 5.4: Aggressive Mode with a pre-shared key. A responder takes
// it only with consent of its own.
func TestAggressivePSK(t *testing.T) {
	p := newPair(t)
	p.ca.V1.Aggressive = true
	p.cb.V1.Aggressive = true
	p.up()
	if len(p.b.established()) != 0 || len(p.b.closed) == 0 {
		t.Fatal("Aggressive Mode with a pre-shared key was answered without consent")
	}
	p = newPair(t)
	p.ca.V1.Aggressive, p.cb.V1 = true, keyex.V1{Aggressive: true, AggressivePSK: true}
	p.up().matched(1)
	// And who does not accept Aggressive Mode at all does not answer it.
	p = newPair(t)
	p.ca.V1.Aggressive = true
	p.up()
	if len(p.b.established()) != 0 {
		t.Fatal("Aggressive Mode was accepted without configuration")
	}
}

// A wrong secret shows as octets that make no sense; both sides say so, and
// nothing is established.
func TestWrongPSK(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		p := newPair(t)
		p.b.key = func(_, _ ident.ID) (string, bool) { return "another", true }
		p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(5 * time.Minute)
		if len(p.a.sas)+len(p.b.sas) != 0 || len(happened[keyex.Up](p.a))+len(happened[keyex.Up](p.b)) != 0 {
			t.Fatalf("aggressive %t: an SA is left or was up", aggressive)
		}
		if !strings.Contains(why(p.a)+why(p.b), "secret") && !strings.Contains(why(p.a)+why(p.b), "pre-shared keys differ") {
			t.Errorf("aggressive %t: %s %s", aggressive, why(p.a), why(p.b))
		}
	}
}

// RFC 4301, Section 4.4.3: the identity must be the expected one, on both sides.
func TestWrongIdentity(t *testing.T) {
	p := newPair(t)
	p.cb.Remote.ID = id(t, "other.example.org")
	p.up()
	if len(p.b.established()) != 0 || !strings.Contains(why(p.b), "expected") || !strings.Contains(why(p.b), "other.example.org") {
		t.Fatal(why(p.b))
	}
	p = newPair(t)
	p.cb.Local.ID = id(t, "b.example.org")
	p.up()
	if len(p.a.established()) != 0 || !strings.Contains(why(p.a), "b.example.org") {
		t.Fatal(why(p.a))
	}
}

// Main Mode finds the secret by address. Who proves that of an address must not
// show an identity that has another one.
func TestIdentityOfAnotherSecret(t *testing.T) {
	p := newPair(t)
	p.cb.Remote.ID = id(t, "boss.example.org")
	p.ca.Local.ID = id(t, "boss.example.org")
	p.b.key = func(_, remote ident.ID) (string, bool) {
		if ident.Equal(remote, id(t, "boss.example.org")) {
			return "the boss's own", true
		}
		return "secret", true
	}
	// The configuration expects an identity, so its secret is used: wrong for the peer.
	p.a.initiate(p.ca, p.b, p.cha)
	p.run(3 * time.Minute)
	if len(happened[keyex.Up](p.b)) != 0 {
		t.Fatal("the boss was impersonated")
	}
	// The same when the configuration accepts anybody.
	p = newPair(t)
	p.cb.Remote.ID = ident.ID{}
	p.ca.Local.ID = id(t, "boss.example.org")
	p.b.key = func(_, remote ident.ID) (string, bool) {
		if ident.Equal(remote, id(t, "boss.example.org")) {
			return "the boss's own", true
		}
		return "secret", true
	}
	p.up()
	if len(happened[keyex.Up](p.b)) != 0 || !strings.Contains(why(p.b), "another one") {
		t.Fatal(why(p.b))
	}
}

// The explanation of proposals that differ names what differs, and the peer is
// told NO-PROPOSAL-CHOSEN in clear, which it believes only after a while.
func TestPhase1Mismatch(t *testing.T) {
	p := newPair(t)
	p.cb.Proposals = proposals(t, suite.ProtoIKE, "aes256-sha256-ecp256")
	p.a.initiate(p.ca, p.b, p.cha)
	p.run(time.Second)
	if len(p.a.sas) != 1 || len(p.b.sas) != 0 {
		t.Fatal("a refusal in clear ended the initiator at once")
	}
	p.run(5 * time.Second)
	if len(p.a.sas) != 0 || !strings.Contains(why(p.a), "NO-PROPOSAL-CHOSEN") || !strings.Contains(why(p.b), "256") {
		t.Fatal(why(p.a), why(p.b))
	}
	if f := p.b.closed[0].Failure; len(f.Evidence) == 0 {
		t.Error("no proposals side by side")
	}
}

// RFC 2409, Section 5.5: perfect forward secrecy in Quick Mode, and what does not
// match.
func TestPFS(t *testing.T) {
	p := newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "aes256-sha256-modp2048")
	p.chb.Proposals = p.cha.Proposals
	p.up().matched(1)
	if p.a.in[0x1001].KE.ID != suite.KEMODP2048 {
		t.Errorf("the group is %v", p.a.in[0x1001].KE)
	}
	p = newPair(t)
	p.chb.Proposals = proposals(t, suite.ProtoESP, "aes256-sha256-modp2048")
	p.up()
	p.matched(0)
	if !strings.Contains(why(p.a), "NO-PROPOSAL-CHOSEN") || len(happened[keyex.Failed](p.b)) != 1 {
		t.Fatal(why(p.a), why(p.b))
	}
}

// RFC 2407, Sections 4.4 and 4.5; RFC 4106, 4304, 4543, 4868: what phase 2 can say.
func TestPhase2Algorithms(t *testing.T) {
	for _, e := range []string{"aes128-sha1", "aes128-sha256", "aes192-sha384", "aes256-sha512", "aes128ctr-sha256", "aes128gcm16", "aes256gcm12", "aes128gmac", "null-sha256", "3des-sha1", "aes128-sha256-esn"} {
		p := newPair(t)
		p.cha.Proposals = proposals(t, suite.ProtoESP, e)
		p.chb.Proposals = p.cha.Proposals
		p.up().matched(1)
		if esn := strings.HasSuffix(e, "esn"); p.a.in[0x1001].ESN != esn {
			t.Errorf("%s: extended sequence numbers are %t", e, p.a.in[0x1001].ESN)
		}
	}
	for _, a := range []string{"sha1", "sha256", "sha384", "sha512"} {
		p := newPair(t)
		p.cha.Proposals = proposals(t, suite.ProtoAH, a)
		p.chb.Proposals = p.cha.Proposals
		p.up().matched(1)
		if c := p.a.in[0x1001]; c.Proto != suite.ProtoAH || c.IntegIn.Len() == 0 || c.EncrIn.Len() != 0 {
			t.Errorf("%s: %v", a, c.Proto)
		}
	}
}

// IKEv1 has no number for ChaCha20-Poly1305: that is said, and nothing is sent.
func TestNothingToOffer(t *testing.T) {
	p := newPair(t)
	p.ca.Proposals = proposals(t, suite.ProtoIKE, "chacha20poly1305-prfsha256-x25519")
	p.up()
	if len(p.a.sas) != 0 || !strings.Contains(why(p.a), "IKEv1") {
		t.Fatal(why(p.a))
	}
	p = newPair(t)
	p.cha.Proposals = proposals(t, suite.ProtoESP, "chacha20poly1305")
	p.up().matched(0)
	if !strings.Contains(why(p.a), "IKEv1") {
		t.Fatal(why(p.a))
	}
}

// RFC 2407, Section 4.5: transport mode, between the hosts themselves.
func TestTransportMode(t *testing.T) {
	p := newPair(t)
	dyn := []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Mode, c.Local, c.Remote = spd.Transport, dyn, dyn
	}
	p.up().matched(1)
	if c := p.a.in[0x1001]; c.Mode != spd.Transport || c.Local[0].From != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("%v %v", c.Mode, c.Local)
	}
	// A peer that wants a tunnel gets one, unless transport mode is demanded.
	for _, required := range []bool{false, true} {
		p := newPair(t)
		p.cha.Local, p.cha.Remote = dyn, dyn
		p.chb.Mode, p.chb.Local, p.chb.Remote, p.chb.ModeRequired = spd.Transport, dyn, dyn, required
		p.up().matched(map[bool]int{false: 1, true: 0}[required])
	}
}

// RFC 2409, Section 5.5: nothing is narrowed. What lies within the policy is
// taken as it is, all else is refused with the selectors side by side.
func TestSelectors(t *testing.T) {
	p := newPair(t)
	p.chb.Remote = []keyex.Selector{net("10.0.0.0/8")}
	p.up().matched(1)
	if c := p.b.in[0x2001]; c.Remote[0] != spd.FromPrefix(netip.MustParsePrefix("10.1.0.0/16")) {
		t.Errorf("%v", c.Remote)
	}
	p = newPair(t)
	p.chb.Remote = []keyex.Selector{net("10.1.0.0/24")}
	p.up().matched(0)
	if f := happened[keyex.Failed](p.b); len(f) != 1 || len(f[0].Failure.Evidence) == 0 || !strings.Contains(why(p.a), "INVALID-ID-INFORMATION") {
		t.Fatal(why(p.a), why(p.b))
	}
	// Several selectors make several Quick Modes.
	p = newPair(t)
	p.cha.Local = []keyex.Selector{net("10.1.0.0/16"), net("10.3.0.0/16")}
	p.chb.Remote = p.cha.Local
	p.up().matched(2)
	// Ports that IKEv1 cannot say are named.
	p = newPair(t)
	p.cha.Local[0].Proto, p.cha.Local[0].PortFrom, p.cha.Local[0].PortTo = 6, 80, 90
	p.up().matched(0)
	if !strings.Contains(why(p.a), "one port") {
		t.Fatal(why(p.a))
	}
}

// Any single packet may get lost, come twice, or come late.
func TestEveryPacketLostOnce(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		for _, what := range []string{"lost", "doubled", "late"} {
			for k := range 9 {
				p := newPair(t)
				p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
				n := 0
				p.filter = func(x *packet) []*packet {
					n++
					switch {
					case n-1 != k:
						return []*packet{x}
					case what == "lost":
						return nil
					case what == "doubled":
						return []*packet{x, x}
					}
					x.extra = 5 * time.Second
					return []*packet{x}
				}
				p.a.initiate(p.ca, p.b, p.cha)
				p.run(2 * time.Minute)
				p.matched(1)
			}
		}
	}
}

// A third of all packets gets lost, for a while.
func TestHeavyLoss(t *testing.T) {
	for seed := range uint64(10) {
		p := newPair(t)
		p.ca.Retransmit = keyex.Retransmit{Tries: 12, Max: 10 * time.Second}
		p.cb.Retransmit, p.cb.HalfOpen = p.ca.Retransmit, 4*time.Minute
		count := seed
		p.filter = func(x *packet) []*packet {
			if count = count*6364136223846793005 + 1442695040888963407; count>>33%3 == 0 {
				return nil
			}
			return []*packet{x}
		}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(4 * time.Minute)
		p.matched(1)
	}
}

// CVE-2016-5361: a responder repeats nothing before the peer's address is proven.
func TestNoAmplification(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		p := newPair(t)
		p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
		sent := map[string]int{}
		first := true
		p.filter = func(x *packet) []*packet {
			if x.from.Addr() == p.a.addr {
				if first {
					first = false
					return []*packet{x}
				}
				return nil
			}
			sent["b"]++
			return nil
		}
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(time.Minute)
		if sent["b"] != 1 || len(p.b.sas) != 0 {
			t.Errorf("aggressive %t: the responder sent %d messages for one, %d SAs are left", aggressive, sent["b"], len(p.b.sas))
		}
	}
}

// RFC 3947: behind a NAT the initiator floats, ESP goes in UDP, and keepalives go
// out.
func TestNAT(t *testing.T) {
	for _, aggressive := range []bool{false, true} {
		p := newPair(t)
		p.ca.V1.Aggressive, p.cb.V1 = aggressive, keyex.V1{Aggressive: aggressive, AggressivePSK: true}
		outside := netip.MustParseAddr("203.0.113.1")
		p.nat = func(x *packet) {
			if x.from.Addr() == p.a.addr {
				x.from = netip.AddrPortFrom(outside, x.from.Port()+10000)
			}
			if x.to.Addr() == outside {
				x.to = netip.AddrPortFrom(p.a.addr, x.to.Port()-10000)
			}
		}
		p.cb.Remote.ID = ident.ID{}
		p.up().matched(1)
		a, b := p.a.established()[0], p.b.established()[0]
		if !a.nat.local || a.nat.remote || b.nat.local || !b.nat.remote || a.local.Port() != 4500 || b.remote != netip.AddrPortFrom(outside, 14500) || !p.a.in[0x1001].Encap {
			t.Errorf("aggressive %t: %+v %+v %v %v", aggressive, a.nat, b.nat, a.local, b.remote)
		}
		p.run(time.Minute)
		if p.a.pings < 2 || p.b.pings != 0 {
			t.Errorf("%d and %d keepalives in a minute", p.a.pings, p.b.pings)
		}
	}
}

// Encapsulation can be forced; without a NAT nothing floats.
func TestForcedEncapsulation(t *testing.T) {
	p := newPair(t)
	p.ca.ForceEncap = true
	p.up().matched(1)
	if !p.a.in[0x1001].Encap || p.saA.local.Port() != 4500 {
		t.Error("nothing was encapsulated")
	}
	p = newPair(t).up()
	p.matched(1)
	if p.a.in[0x1001].Encap || p.saA.local.Port() != 500 {
		t.Error("it floated without a NAT")
	}
}

// RFC 3706: a peer that does not answer is given up; one that does is not.
func TestDPD(t *testing.T) {
	p := newPair(t)
	p.ca.DPDDelay = 30 * time.Second
	p.up().matched(1)
	p.run(10 * time.Minute)
	p.matched(1)
	p.filter = func(x *packet) []*packet { return nil }
	p.run(10 * time.Minute)
	if len(p.a.sas) != 0 || p.a.closed[0].Reason != keyex.CloseTimeout || len(p.a.in) != 0 {
		t.Fatal(why(p.a))
	}
}

// A pair of SAs is rekeyed before its time is over, without a gap, and the old one
// goes (RFC 2409, Section 5.5).
func TestRekeyChild(t *testing.T) {
	p := newPair(t)
	p.chb.Time = keyex.Lifetime{Rekey: 2 * time.Hour, Hard: 3 * time.Hour}
	p.up().matched(1)
	p.run(3*time.Hour + 50*time.Minute)
	p.matched(1)
	if n := len(happened[keyex.ChildReplaced](p.a)); n < 3 || n != len(happened[keyex.ChildReplaced](p.b)) {
		t.Errorf("%d and %d rekeyings", n, len(happened[keyex.ChildReplaced](p.b)))
	}
	if len(happened[keyex.ChildDown](p.a))+len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Error("a rekeying was told as an end")
	}
}

// Both sides rekey at once: what is left works, and ends in one pair.
func TestSimultaneousRekey(t *testing.T) {
	p := newPair(t).up()
	p.matched(1)
	p.a.start(p.a.established()[0], keyex.RekeyChild{SPI: 0x1001})
	p.b.start(p.b.established()[0], keyex.RekeyChild{SPI: 0x2001})
	p.run(time.Minute)
	if len(p.a.in) == 0 || len(p.a.in) != len(p.b.out) {
		t.Fatalf("%d inbound, %d outbound SAs", len(p.a.in), len(p.b.out))
	}
	for spi, c := range p.a.in {
		if o := p.b.out[spi]; o == nil || !o.EncrOut.Equal(c.EncrIn) {
			t.Errorf("SA %08x has no other side", spi)
		}
	}
}

// A new phase 1 takes over what was made under the old one; nothing is made anew.
func TestRekeyISAKMP(t *testing.T) {
	p := newPair(t)
	p.cb.Rekey = keyex.Lifetime{}
	p.b.other = true
	p.up().matched(1)
	before := len(happened[keyex.ChildUp](p.b))
	p.a.start(p.saA, keyex.RekeyIKE{})
	p.run(time.Minute)
	if len(p.a.established()) != 1 || p.a.established()[0] == p.saA || len(p.a.in) != 1 || len(p.a.sas) != 1 {
		t.Fatalf("%d established, %d SAs: %s", len(p.a.established()), len(p.a.in), why(p.a))
	}
	if len(p.b.in) != 1 || len(happened[keyex.ChildUp](p.b)) != before || len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Fatalf("the responder has %d SAs; %s", len(p.b.in), why(p.b))
	}
	// The next Quick Mode is under the new one, and the old pair can be deleted there.
	p.a.start(p.a.established()[0], keyex.RekeyChild{SPI: 0x1001})
	p.run(time.Minute)
	if n := len(happened[keyex.PeerDeletes](p.b)); n != 1 {
		t.Errorf("%d deletions of pairs of the old ISAKMP SA were told", n)
	}
}

// A rekeying of phase 1 that fails is tried again; the old ISAKMP SA stays.
func TestRekeyISAKMPFails(t *testing.T) {
	p := newPair(t).up()
	p.filter = func(x *packet) []*packet {
		if h, _ := isakmp.ParseHeader(x.data); message.Exchange(h.Exchange) == message.ExchangeMain {
			return nil
		}
		return []*packet{x}
	}
	p.a.start(p.saA, keyex.RekeyIKE{})
	p.run(2 * time.Minute)
	if p.saA.closed || len(p.a.in) != 1 {
		t.Fatal(why(p.a))
	}
	p.filter = nil
	p.run(10 * time.Minute)
	if !p.saA.closed || len(p.a.established()) != 1 {
		t.Fatal(why(p.a))
	}
}

// RFC 2408, Section 3.15: deletes of a pair and of all.
func TestDelete(t *testing.T) {
	p := newPair(t).up()
	p.b.start(p.b.established()[0], keyex.DeleteChild{SPI: 0x2001})
	p.run(time.Second)
	if len(p.a.in)+len(p.b.in) != 0 || len(happened[keyex.ChildDown](p.a)) != 1 || !happened[keyex.ChildDown](p.a)[0].Peer {
		t.Fatal("the pair is not gone on both sides")
	}
	p = newPair(t).up()
	p.a.start(p.saA, keyex.Delete{})
	p.run(time.Second)
	if len(p.a.sas)+len(p.b.sas)+len(p.b.in)+len(p.b.out) != 0 || p.b.closed[0].Reason != keyex.ClosePeerDeleted {
		t.Fatal(why(p.b))
	}
}

// The shorter lifetime counts on both sides (RFC 2407, Section 4.5.4), and a
// responder with the shorter one says so (RESPONDER-LIFETIME, Section 4.6.3.1).
func TestLifetimes(t *testing.T) {
	p := newPair(t)
	p.chb.Time = keyex.Lifetime{Hard: 20 * time.Minute}
	p.up().matched(1)
	if d := p.a.in[0x1001].ExpireAt.Sub(p.a.in[0x1001].Installed); d != 20*time.Minute {
		t.Errorf("the initiator's pair lives for %v", d)
	}
	p = newPair(t)
	p.cha.Time = keyex.Lifetime{Hard: 20 * time.Minute}
	p.up().matched(1)
	if d := p.b.in[0x2001].ExpireAt.Sub(p.b.in[0x2001].Installed); d != 20*time.Minute {
		t.Errorf("the responder's pair lives for %v", d)
	}
}

// The backend refuses: both sides know, and nothing is left.
func TestInstallRefused(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		p := newPair(t)
		map[string]*host{"a": p.a, "b": p.b}[who].refuse = true
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(2 * time.Minute)
		if len(p.a.in)+len(p.a.out)+len(p.b.out)+len(p.a.reserved)+len(p.b.reserved) != 0 {
			t.Errorf("%s refuses: %d %d %d SAs, %d %d SPIs are left", who, len(p.a.in), len(p.a.out), len(p.b.out), len(p.a.reserved), len(p.b.reserved))
		}
		if len(p.a.established()) != 1 {
			t.Errorf("%s refuses: the ISAKMP SA is gone: %s", who, why(p.a))
		}
	}
}

// Long messages are cut when both sides announced it, and only then.
func TestFragmentation(t *testing.T) {
	for _, frag := range []keyex.Fragmentation{keyex.FragYes, keyex.FragNo} {
		p := newPair(t)
		p.certificates(0)
		p.ca.FragmentSize, p.cb.FragmentSize, p.ca.Fragmentation, p.cb.Fragmentation = 200, 200, frag, frag
		cut := 0
		p.filter = func(x *packet) []*packet {
			if h, _ := isakmp.ParseHeader(x.data); message.PayloadType(h.NextPayload) == message.TypeFragment {
				cut++
			}
			return []*packet{x}
		}
		p.up().matched(1)
		if (cut > 0) != (frag == keyex.FragYes) {
			t.Errorf("fragmentation %v: %d fragments", frag, cut)
		}
	}
}

// 1,000 Quick Modes under one Main Mode: nothing grows.
func TestThousandQuickModes(t *testing.T) {
	p := newPair(t)
	p.ca.Rekey, p.cb.Rekey = keyex.Lifetime{}, keyex.Lifetime{}
	p.up()
	for i := range 1000 {
		p.a.start(p.saA, keyex.RekeyChild{SPI: uint32(0x1001 + i)})
		p.run(15 * time.Second)
	}
	p.run(2 * time.Minute)
	p.matched(1)
	if n := len(p.saA.exchanges) + len(p.b.established()[0].exchanges); n > 8 {
		t.Errorf("%d exchanges are kept", n)
	}
	if !slices.Contains(p.a.sas, p.saA) {
		t.Error("the ISAKMP SA is another one")
	}
}
