package ikev1

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/crypto/kdf"
	"iked/crypto/prf"
	"iked/crypto/suite"
	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/internal/secret"
	"iked/spd"
)

// suites makes both children of a pair a suite of ESP in AH.
func (p *pair) suites(esp, ah string) *pair {
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Proposals, c.AH = proposals(p.t, suite.ProtoESP, esp), proposals(p.t, suite.ProtoAH, ah)
	}
	return p
}

// between makes both children ones of transport mode.
func (p *pair) between() *pair {
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Mode, c.ModeRequired = spd.Transport, true
	}
	a, b := net("192.0.2.1/32"), net("192.0.2.2/32")
	p.cha.Local, p.cha.Remote = []keyex.Selector{a}, []keyex.Selector{b}
	p.chb.Local, p.chb.Remote = []keyex.Selector{b}, []keyex.Selector{a}
	return p
}

// RFC 2407, Section 4.6.1: AH and ESP in one suite, with SPIs and keys of their own,
// in both modes, with and without perfect forward secrecy, extended numbers in one
// of them.
func TestSuite(t *testing.T) {
	for _, c := range []struct{ esp, ah string }{
		{"aes256-sha256", "sha256"}, {"aes128gcm16", "sha384"}, {"aes128-sha256-modp2048", "sha1"}, {"aes128-sha256-modp2048", "sha256-modp2048"},
		{"aes128-sha1-esn", "sha1"}, {"aes128-sha1", "sha512-esn"}, {"null-sha256", "sha256-esn"},
	} {
		for _, mode := range []spd.Mode{spd.Tunnel, spd.Transport} {
			p := newPair(t).suites(c.esp, c.ah)
			if mode == spd.Transport {
				p.between()
			}
			p.up().matched(1)
			got := p.a.in[0x1001]
			if got == nil || got.Proto != suite.ProtoESP || got.AH == nil || got.Mode != mode {
				t.Fatalf("%v: %+v", c, got)
			}
			if got.ESN != strings.HasSuffix(c.esp, "esn") || got.AH.ESN != strings.HasSuffix(c.ah, "esn") {
				t.Errorf("%v: extended sequence numbers of ESP %t, of AH %t", c, got.ESN, got.AH.ESN)
			}
			if pfs := got.KE.ID != 0; pfs != strings.Contains(c.esp, "modp") {
				t.Errorf("%v: forward secrecy is %t", c, pfs)
			}
		}
	}
}

// RFC 2409, Section 5.5: KEYMAT of each protocol has its number and its SPI.
func TestSuiteKeys(t *testing.T) {
	f, err := prf.New(suite.PRFHMACSHA256)
	if err != nil {
		t.Fatal(err)
	}
	d := bytes.Repeat([]byte{7}, 32)
	sa := &SA{keys: &keys{prf: f, all: kdf.IKEv1Keys{SKEYIDd: secret.New(slices.Clone(d))}}}
	integ := suite.Transform{Type: suite.INTEG, ID: suite.IntegHMACSHA256}
	c := &keyex.Child{Config: &keyex.ChildConfig{}, Proto: suite.ProtoESP, SPIIn: 0x1001, SPIOut: 0x2001,
		Encr: suite.Transform{Type: suite.ENCR, ID: suite.EncrAESCBC, KeyBits: 128}, Integ: integ,
		AH: &keyex.Around{SPIIn: 0x1002, SPIOut: 0x2002, Integ: integ}}
	if err := sa.childKeys(c, secret.Bytes{}, []byte("ni"), []byte("nr")); err != nil {
		t.Fatal(err)
	}
	keymat := func(proto byte, spi uint32, n int) []byte {
		var out, last []byte
		for len(out) < n {
			m := hmac.New(sha256.New, d)
			m.Write(last)
			m.Write([]byte{proto})
			m.Write(binary.BigEndian.AppendUint32(nil, spi))
			m.Write([]byte("ninr"))
			last = m.Sum(nil)
			out = append(out, last...)
		}
		return out[:n]
	}
	for name, x := range map[string][2][]byte{
		"ESP in":  {append(slices.Clone(c.EncrIn.Reveal()), c.IntegIn.Reveal()...), keymat(3, 0x1001, 48)},
		"ESP out": {append(slices.Clone(c.EncrOut.Reveal()), c.IntegOut.Reveal()...), keymat(3, 0x2001, 48)},
		"AH in":   {c.AH.IntegIn.Reveal(), keymat(2, 0x1002, 32)},
		"AH out":  {c.AH.IntegOut.Reveal(), keymat(2, 0x2002, 32)},
	} {
		if !bytes.Equal(x[0], x[1]) {
			t.Errorf("%s: %x, expected %x", name, x[0], x[1])
		}
	}
}

// A suite and a single protocol do not meet, whoever begins, and both sides say why.
func TestSuiteAgainstOne(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*keyex.ChildConfig)
	}{
		{"ESP alone", func(c *keyex.ChildConfig) { c.AH = nil }},
		{"AH alone", func(c *keyex.ChildConfig) { c.Proposals, c.AH = c.AH, nil }},
	} {
		for _, responder := range []bool{false, true} {
			p := newPair(t).suites("aes256-sha256", "sha256")
			if responder {
				c.change(p.chb)
			} else {
				c.change(p.cha)
			}
			p.up()
			if len(p.a.in)+len(p.b.in)+len(p.a.reserved)+len(p.b.reserved) != 0 {
				t.Fatalf("%s: %d and %d SAs", c.name, len(p.a.in), len(p.b.in))
			}
			if !strings.Contains(why(p.b), "AH and ESP together") || !strings.Contains(why(p.a), "NO-PROPOSAL-CHOSEN") {
				t.Errorf("%s: %s %s", c.name, why(p.a), why(p.b))
			}
		}
	}
}

// A suite whose AH has no algorithm in common is refused as a whole.
func TestSuiteWithoutCommonAH(t *testing.T) {
	p := newPair(t).suites("aes256-sha256", "sha256")
	p.chb.AH = proposals(t, suite.ProtoAH, "sha512")
	p.up()
	if len(p.a.in)+len(p.b.in) != 0 || !strings.Contains(why(p.b), "ah_proposals") {
		t.Fatal(why(p.b))
	}
	// The second of our alternatives fits.
	p = newPair(t).suites("aes256-sha256", "sha256")
	p.cha.AH = proposals(t, suite.ProtoAH, "sha384", "sha256")
	p.up().matched(1)
	if got := p.b.in[0x2001].AH.Integ.ID; got != suite.IntegHMACSHA256 {
		t.Errorf("AH has %d", got)
	}
}

// Rekeying replaces the whole suite, and nothing of the old one stays.
func TestSuiteRekey(t *testing.T) {
	p := newPair(t).suites("aes256-sha256", "sha256")
	p.chb.Time = keyex.Lifetime{Rekey: 2 * time.Hour, Hard: 3 * time.Hour}
	p.up().matched(1)
	first := *p.a.in[0x1001].AH
	p.run(3*time.Hour + 50*time.Minute)
	p.matched(1)
	if n := len(happened[keyex.ChildReplaced](p.a)); n < 3 || n != len(happened[keyex.ChildReplaced](p.b)) {
		t.Errorf("%d and %d rekeyings", n, len(happened[keyex.ChildReplaced](p.b)))
	}
	for _, c := range p.a.in {
		if c.AH.SPIIn == first.SPIIn || c.AH.SPIOut == first.SPIOut {
			t.Error("the AH of the first suite is in the last one")
		}
	}
	if len(happened[keyex.ChildDown](p.a))+len(happened[keyex.ChildDown](p.b)) != 0 {
		t.Error("a rekeying was told as an end")
	}
}

// RFC 2408, Section 3.15: there is a Delete for each protocol. A peer that deletes
// one of the two ends the suite.
func TestSuiteDelete(t *testing.T) {
	p := newPair(t).suites("aes256-sha256", "sha256").up()
	p.matched(1)
	p.b.start(p.b.established()[0], keyex.DeleteChild{SPI: 0x2001})
	p.run(time.Second)
	if len(p.a.in)+len(p.b.in)+len(p.a.out)+len(p.b.out) != 0 || len(happened[keyex.ChildDown](p.a)) != 1 {
		t.Fatal("the suite is not gone on both sides")
	}
	if gone := happened[keyex.PeerDeletes](p.a); len(gone) != 0 || len(p.saA.parts) != 0 {
		t.Errorf("other SAs are searched for %v, and %v is expected yet", gone, p.saA.parts)
	}
	for _, proto := range []suite.Protocol{suite.ProtoESP, suite.ProtoAH} {
		p = newPair(t).suites("aes256-sha256", "sha256").up()
		p.matched(1)
		b := p.b.established()[0]
		for _, x := range b.children[0].Protocols() {
			if x.Proto == proto {
				b.inform(p.now, &message.Delete{Protocol: message.Protocol(proto), SPIs: [][]byte{binary.BigEndian.AppendUint32(nil, x.SPIIn)}})
				p.b.drain(b)
			}
		}
		p.run(time.Second)
		if len(p.a.in)+len(p.a.out) != 0 {
			t.Errorf("a Delete of protocol %v alone left %d SAs", proto, len(p.a.in))
		}
	}
}

// The backend refuses: nothing of the suite is left, reservations neither.
func TestSuiteInstallRefused(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		p := newPair(t).suites("aes256-sha256", "sha256")
		map[string]*host{"a": p.a, "b": p.b}[who].refuse = true
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(2 * time.Minute)
		if len(p.a.in)+len(p.a.out)+len(p.b.out)+len(p.a.reserved)+len(p.b.reserved) != 0 {
			t.Errorf("%s refuses: %d %d %d SAs, %d %d SPIs are left", who, len(p.a.in), len(p.a.out), len(p.b.out), len(p.a.reserved), len(p.b.reserved))
		}
	}
}

// A responder with shorter lifetimes tells so for each protocol (RFC 2407, Section
// 4.6.3.1).
func TestSuiteLifetimes(t *testing.T) {
	p := newPair(t).suites("aes256-sha256", "sha256")
	p.chb.Time = keyex.Lifetime{Hard: 20 * time.Minute}
	p.up().matched(1)
	if d := p.a.in[0x1001].ExpireAt.Sub(p.a.in[0x1001].Installed); d != 20*time.Minute {
		t.Errorf("the initiator's suite lives for %v", d)
	}
}

// RFC 3948, Section 1: AH does not go through a NAT, alone or around ESP; both roles
// say so.
func TestAHThroughNAT(t *testing.T) {
	for _, alone := range []bool{false, true} {
		for _, both := range []bool{false, true} {
			p := newPair(t).suites("aes256-sha256", "sha256")
			if alone {
				p.cha.Proposals, p.cha.AH = p.cha.AH, nil
				p.chb.Proposals, p.chb.AH = p.chb.AH, nil
			}
			p.cb.ForceEncap = true
			p.ca.ForceEncap = both
			p.up()
			if len(p.a.in)+len(p.b.in)+len(p.a.reserved) != 0 || !strings.Contains(why(p.a), "NAT") {
				t.Errorf("alone %t: %d and %d SAs; %s", alone, len(p.a.in), len(p.b.in), why(p.a))
			}
			// An initiator that does not care.
			p.saA.nat = natState{}
			p.a.start(p.saA, keyex.CreateChild{Child: p.cha})
			p.run(5 * time.Second)
			if len(p.a.in)+len(p.b.in)+len(p.b.reserved) != 0 || !strings.Contains(why(p.b), "NAT") {
				t.Errorf("alone %t: %d and %d SAs; %s", alone, len(p.a.in), len(p.b.in), why(p.b))
			}
		}
	}
}

// compresses sets compression on both sides or one.
func (p *pair) compresses(a, b bool) *pair {
	p.cha.IPComp, p.chb.IPComp = a, b
	return p
}

// RFC 2407, Section 4.6.1: compression in a suite, alone with ESP and with AH around
// it, in both modes and in UDP, when both sides want it; else ESP is had without it,
// and nothing stays reserved. Rekeying gives new numbers.
func TestCompression(t *testing.T) {
	for _, mode := range []spd.Mode{spd.Tunnel, spd.Transport} {
		for _, c := range []struct{ a, b, both, nat bool }{
			{true, true, false, false}, {true, true, true, false}, {true, true, false, true},
			{true, false, false, false}, {false, true, false, false}, {true, false, true, false},
		} {
			p := newPair(t).compresses(c.a, c.b)
			if c.both {
				p.suites("aes256-sha256", "sha256")
			}
			if mode == spd.Transport {
				p.between()
			}
			p.ca.ForceEncap = c.nat
			p.up().matched(1)
			got := p.a.in[0x1001]
			if want := c.a && c.b; (got.CPIIn != 0) != want || (got.CPIOut != 0) != want || (got.AH != nil) != c.both || got.Mode != mode {
				t.Fatalf("%+v, mode %v: CPIs %04x and %04x, AH %v", c, mode, got.CPIIn, got.CPIOut, got.AH)
			}
			if !c.a || !c.b {
				continue
			}
			p.a.start(p.saA, keyex.RekeyChild{SPI: 0x1001})
			p.run(time.Minute)
			p.matched(1)
			for _, x := range p.a.in {
				if x.CPIIn == got.CPIIn || x.CPIIn == 0 {
					t.Errorf("after rekeying the CPI is %04x, before it was %04x", x.CPIIn, got.CPIIn)
				}
			}
		}
	}
}

// The backend refuses: no number of compression stays reserved.
func TestCompressionInstallRefused(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		p := newPair(t).compresses(true, true)
		map[string]*host{"a": p.a, "b": p.b}[who].refuse = true
		p.a.initiate(p.ca, p.b, p.cha)
		p.run(2 * time.Minute)
		if len(p.a.in)+len(p.a.out)+len(p.b.out)+len(p.a.reserved)+len(p.b.reserved) != 0 {
			t.Errorf("%s refuses: %d %d %d SAs, %d %d numbers are left", who, len(p.a.in), len(p.a.out), len(p.b.out), len(p.a.reserved), len(p.b.reserved))
		}
	}
}
