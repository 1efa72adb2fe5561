package ikev2_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"iked/crypto/suite"
	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/spd"
)

// compresses sets compression on both sides or one.
func (p *pair) compresses(a, b bool) { p.cha.IPComp, p.chb.IPComp = a, b }

// compressed tells whether both ends have the numbers of the other; nothing else is
// reserved.
func (p *pair) compressed(t testing.TB) bool {
	t.Helper()
	p.consistent(t, 1)
	a, b := child(t, p.a), child(t, p.b)
	if a.CPIIn != b.CPIOut || a.CPIOut != b.CPIIn || (a.CPIIn != 0) != (a.CPIOut != 0) {
		t.Fatalf("CPIs %04x %04x of a, %04x %04x of b", a.CPIIn, a.CPIOut, b.CPIIn, b.CPIOut)
	}
	if n := len(p.a.Reserved) + len(p.b.Reserved); n != 0 {
		t.Errorf("%d numbers are reserved", n)
	}
	return a.CPIIn != 0
}

// RFC 7296, Section 2.22: there is compression when both sides name a number, in
// either mode, and not when one does not want it, nor where the protocol has none.
// Rekeying by either side gives new numbers.
func TestIPComp(t *testing.T) {
	for _, mode := range []spd.Mode{spd.Tunnel, spd.Transport, spd.BEET} {
		for _, c := range []struct{ a, b bool }{{true, true}, {true, false}, {false, true}} {
			p := newPair(t, 1)
			p.compresses(c.a, c.b)
			if mode != spd.Tunnel {
				p.hosts(mode)
			}
			p.up(t)
			if got, want := p.compressed(t), c.a && c.b && mode != spd.BEET; got != want {
				t.Errorf("%v in mode %v: compression is %t", c, mode, got)
			}
			if !c.a || !c.b || mode == spd.BEET {
				continue
			}
			before := child(t, p.a).CPIIn
			for _, h := range []*ikev2test.Host{p.a, p.b} {
				h.Start(h.SA(), ikev2.RekeyChild{SPI: child(t, h).SPIIn})
				p.net.Run(20 * time.Second)
				if now := child(t, p.a).CPIIn; !p.compressed(t) || now == before {
					t.Errorf("after rekeying by %s the CPI is %04x, before it was %04x", h.Name, now, before)
				} else {
					before = now
				}
			}
		}
	}
	p := newPair(t, 1)
	p.compresses(true, true)
	p.cha.Proposals, p.chb.Proposals = proposals(t, suite.ProtoAH, "sha256"), proposals(t, suite.ProtoAH, "sha256")
	p.up(t)
	if p.compressed(t) {
		t.Error("AH is compressed")
	}
}

// The notify has the CPI and the transform, 2 for DEFLATE, in request and answer.
func TestIPCompNotify(t *testing.T) {
	for _, response := range []bool{false, true} {
		p := newPair(t, 1)
		p.compresses(true, true)
		all := p.seen(t, message.ExchangeIKEAuth, response)
		p.up(t)
		cpi := child(t, p.a).CPIIn
		if response {
			cpi = child(t, p.b).CPIIn
		}
		n := (*all)[0].Notifies().Find(message.IPCompSupported)
		if n == nil || !bytes.Equal(n.Data, []byte{byte(cpi >> 8), byte(cpi), 2}) || n.Protocol != 0 || len(n.SPI) != 0 {
			t.Errorf("response %t: %+v, the CPI is %04x", response, n, cpi)
		}
	}
}

// What a responder makes of notifies: DEFLATE among others, with a number that may be
// given out; the rest is as if it was not there.
func TestIPCompOffers(t *testing.T) {
	for name, c := range map[string]struct {
		data [][]byte
		want uint16
	}{
		"DEFLATE":           {[][]byte{{0x12, 0x34, 2}}, 0x1234},
		"the well known":    {[][]byte{{0, 2, 2}}, 0},
		"behind LZS":        {[][]byte{{0x12, 0x34, 3}, {0x23, 0x45, 2}}, 0x2345},
		"LZS alone":         {[][]byte{{0x12, 0x34, 3}}, 0},
		"reserved":          {[][]byte{{0, 200, 2}}, 0},
		"private":           {[][]byte{{0xff, 0xff, 2}}, 0},
		"with attributes":   {[][]byte{{0x12, 0x34, 2, 0x80, 1, 0, 1}}, 0},
		"without transform": {[][]byte{{0x12, 0x34}}, 0},
		"empty":             {[][]byte{nil}, 0},
	} {
		p := newPair(t, 1)
		p.compresses(false, true)
		var add []message.Payload
		for _, d := range c.data {
			add = append(add, message.NewNotify(message.IPCompSupported, d))
		}
		a := p.up(t)
		m := p.ask(t, a, message.ExchangeCreateChildSA, 2, append(p.childRequest(1), add...)...)
		if m == nil {
			t.Fatalf("%s: no answer", name)
		}
		cs := p.b.SA().Children()
		if len(cs) != 2 || cs[1].CPIOut != c.want || (cs[1].CPIIn != 0) != (c.want != 0) || m.Notifies().Has(message.IPCompSupported) != (c.want != 0) || len(p.b.Reserved) != 0 {
			t.Errorf("%s: %d CHILD_SAs, %v", name, len(cs), types(m))
		}
	}
}

// An answer with compression that was not offered is refused, and what the peer made
// is deleted: what it sends could not be read.
func TestIPCompThatWasNotOffered(t *testing.T) {
	for _, c := range []struct {
		offered bool
		data    []byte
	}{{false, []byte{0x12, 0x34, 2}}, {true, []byte{0x12, 0x34, 3}}, {true, []byte{0x12}}} {
		p := newPair(t, 1)
		p.compresses(c.offered, false)
		p.rewrite(t, message.ExchangeIKEAuth, true, also(message.NewNotify(message.IPCompSupported, c.data)))
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(10 * time.Second)
		p.consistent(t, 0)
		if n := len(p.a.Reserved) + len(p.b.Reserved); n != 0 || !strings.Contains(fmt.Sprint(failures(p.a)), "compression that was not offered") {
			t.Errorf("%+v: %d numbers are reserved; %v", c, n, failures(p.a))
		}
	}
}

func failures(h *ikev2test.Host) (out []string) {
	for _, f := range ikev2test.Happened[ikev2.Failed](h) {
		out = append(out, f.Failure.Sentence)
	}
	return out
}

// The backend refuses, on either side: no number stays reserved.
func TestIPCompInstallRefused(t *testing.T) {
	for _, who := range []string{"a", "b"} {
		p := newPair(t, 1)
		p.compresses(true, true)
		map[string]*ikev2test.Host{"a": p.a, "b": p.b}[who].RefuseInstall = true
		p.a.Initiate(p.ca, p.b.Addr, p.cha)
		p.net.Run(20 * time.Second)
		if n := len(p.a.In) + len(p.a.Out) + len(p.b.In) + len(p.b.Out) + len(p.a.Reserved) + len(p.b.Reserved); n != 0 {
			t.Errorf("%s refuses: %d SAs and numbers are left", who, n)
		}
	}
}
