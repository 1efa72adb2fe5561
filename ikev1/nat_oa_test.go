package ikev1

import (
	"net/netip"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/ident"
	"iked/internal/isakmp"
	"iked/internal/keyex"
	"iked/spd"
)

// natted is a pair in transport mode with a translator before a, before b, or both.
func natted(t *testing.T, atA, atB bool) (p *pair, outA, outB netip.Addr) {
	p = newPair(t)
	dyn := []keyex.Selector{{TS: spd.TS{PortTo: 65535}, Dynamic: true}}
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Mode, c.Local, c.Remote = spd.Transport, dyn, dyn
	}
	p.ca.Remote.ID, p.cb.Remote.ID = ident.ID{}, ident.ID{}
	outA, outB = p.a.addr, p.b.addr
	if atA {
		outA = netip.MustParseAddr("203.0.113.1")
	}
	if atB {
		outB = netip.MustParseAddr("203.0.113.2")
	}
	p.nat = func(x *packet) {
		for _, m := range [...][2]netip.Addr{{p.a.addr, outA}, {p.b.addr, outB}} {
			if x.from.Addr() == m[0] {
				x.from = netip.AddrPortFrom(m[1], x.from.Port())
			}
			if x.to.Addr() == m[1] {
				x.to = netip.AddrPortFrom(m[0], x.to.Port())
			}
		}
	}
	return p, outA, outB
}

// start initiates to where b is seen.
func (p *pair) upTo(to netip.Addr) {
	p.saA = NewInitiator(p.a, p.ca, netip.AddrPortFrom(p.a.addr, 500), netip.AddrPortFrom(to, 500))
	p.a.sas = append(p.a.sas, p.saA)
	p.a.start(p.saA, keyex.StartInit{Child: p.cha})
	p.run(5 * time.Second)
}

// RFC 3947, Section 5.2: both sides learn what the other's checksums are made with,
// the selectors are the addresses as they are seen, and a rekeying of either side
// keeps both. With one side behind a NAT, and with both.
func TestTransportThroughNAT(t *testing.T) {
	for _, c := range []struct {
		name     string
		atA, atB bool
		draft    bool
	}{{"initiator", true, false, false}, {"responder", false, true, false}, {"both", true, true, false}, {"draft", true, false, true}} {
		t.Run(c.name, func(t *testing.T) {
			p, outA, outB := natted(t, c.atA, c.atB)
			if c.draft {
				p.filter = func(x *packet) []*packet { return []*packet{draftOnly(t, x)} }
			}
			p.upTo(outB)
			check := func(when string, n int) {
				if len(p.a.in) != n || len(p.b.in) != n {
					t.Fatalf("%s: %d and %d pairs, expected %d; %s %s", when, len(p.a.in), len(p.b.in), n, why(p.a), why(p.b))
				}
				for _, x := range p.a.in {
					if x.Mode != spd.Transport || !x.Encap || x.Local[0] != spd.Host(p.a.addr) || x.Remote[0] != spd.Host(outB) || x.NATLocal != outA || x.NATRemote != p.b.addr {
						t.Errorf("%s: a has %v %v %v === %v, checksums of %v and %v", when, x.Mode, x.Encap, x.Local, x.Remote, x.NATLocal, x.NATRemote)
					}
				}
				for _, x := range p.b.in {
					if x.Mode != spd.Transport || !x.Encap || x.Local[0] != spd.Host(p.b.addr) || x.Remote[0] != spd.Host(outA) || x.NATLocal != outB || x.NATRemote != p.a.addr {
						t.Errorf("%s: b has %v %v %v === %v, checksums of %v and %v", when, x.Mode, x.Encap, x.Local, x.Remote, x.NATLocal, x.NATRemote)
					}
				}
			}
			check("first", 1)
			if got := p.saA.vendors.nattDraft; got != c.draft {
				t.Errorf("the draft is spoken: %t", got)
			}
			for _, h := range []*host{p.a, p.b} {
				sa := h.established()[0]
				sa.children[0].RekeyAt = p.now
				p.run(30 * time.Second)
				check("rekeyed by "+h.name, 1)
				if n := len(happened[keyex.ChildReplaced](h)); n == 0 {
					t.Errorf("%s replaced nothing", h.name)
				}
			}
		})
	}
}

// draftOnly takes the vendor ID of RFC 3947 out of a message.
func draftOnly(t *testing.T, x *packet) *packet {
	m, err := message.Parse(x.data)
	if err != nil || len(m.Payloads) == 0 || m.Payloads[0].Type() != message.TypeSA {
		return x
	}
	var list []message.Payload
	for _, p := range m.Payloads {
		if o, ok := p.(*message.Opaque); ok && string(o.Data) == string(message.VendorNATT) {
			continue
		}
		list = append(list, p)
	}
	h, err := isakmp.ParseHeader(x.data)
	if err != nil {
		t.Fatal(err)
	}
	b, err := message.Append(nil, h, list)
	if err != nil {
		t.Fatal(err)
	}
	return &packet{x.from, x.to, x.natt, b, x.extra}
}

// What a peer tells of addresses touches checksums alone, and only what is one
// address of the family of the IKE SA.
func TestOriginalAddresses(t *testing.T) {
	addr := netip.MustParseAddr
	sa := &SA{cfg: &keyex.Config{}, local: netip.MustParseAddrPort("192.0.2.2:4500"), remote: netip.MustParseAddrPort("203.0.113.1:4500"), nat: natState{remote: true}}
	ids := func(i, r string) []message.Payload {
		a, b := addr(i), addr(r)
		return []message.Payload{message.RangeID(a, a, 0, 0), message.RangeID(b, b, 0, 0)}
	}
	oa := func(list ...string) (out []message.Payload) {
		for _, s := range list {
			out = append(out, &message.NATOA{Addr: addr(s)})
		}
		return out
	}
	for _, c := range []struct {
		name          string
		initiator     bool
		list          []message.Payload
		local, remote string // "": not translated
	}{
		{"two of an initiator", true, oa("10.0.0.1", "192.0.2.2"), "192.0.2.2", "10.0.0.1"},
		{"two of a responder", false, oa("192.0.2.7", "10.0.0.1"), "192.0.2.7", "10.0.0.1"},
		{"one is the sender's", true, oa("10.0.0.1"), "192.0.2.2", "10.0.0.1"},
		{"identities of an initiator", true, ids("10.0.0.1", "192.0.2.2"), "192.0.2.2", "10.0.0.1"},
		{"identities of a responder tell nothing", false, ids("10.0.0.1", "10.0.0.2"), "", ""},
		{"before identities", true, append(ids("10.0.0.9", "192.0.2.2"), oa("10.0.0.1", "192.0.2.2")...), "192.0.2.2", "10.0.0.1"},
		{"another family", true, oa("2001:db8::1", "2001:db8::2"), "", ""},
		{"three", true, oa("10.0.0.1", "10.0.0.2", "10.0.0.3"), "", ""},
		{"as seen", true, oa("203.0.113.1", "192.0.2.2"), "", ""},
	} {
		child := &keyex.Child{Mode: spd.Transport}
		sa.tellChecksums(child, &message.Message{Payloads: c.list}, c.initiator)
		want := func(s string) (a netip.Addr) {
			if s != "" {
				a = addr(s)
			}
			return a
		}
		if child.NATLocal != want(c.local) || child.NATRemote != want(c.remote) {
			t.Errorf("%s: %v and %v", c.name, child.NATLocal, child.NATRemote)
		}
		child = &keyex.Child{Mode: spd.Tunnel}
		if sa.tellChecksums(child, &message.Message{Payloads: c.list}, c.initiator); child.NATRemote.IsValid() {
			t.Errorf("%s: a tunnel is translated", c.name)
		}
	}
	if _, _, ok := sa.asSeen(spd.FromPrefix(netip.MustParsePrefix("10.0.0.0/8")), spd.Host(sa.remote.Addr())); ok {
		t.Error("a subnet goes for one address")
	}
}
