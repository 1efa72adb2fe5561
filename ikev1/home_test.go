package ikev1

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev1/message"
	"iked/internal/keyex"
	"iked/spd"
)

const (
	homeAddr, careOf, otherCareOf, homeAgent = "2001:db8:1::5", "2001:db8:aa::5", "2001:db8:bb::5", "2001:db8::1"
)

func ts(t testing.TB, s string) spd.TS {
	t.Helper()
	x, _, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// newHome is a mobile node a and its home agent b (RFC 3776).
//
//	a  home address 2001:db8:1::5
//	   care-of address 2001:db8:aa::5 ---------- b  home agent 2001:db8::1
func newHome(t testing.TB) *pair {
	p := newPair(t)
	p.a.addr, p.b.addr = netip.MustParseAddr(careOf), netip.MustParseAddr(homeAgent)
	p.ca.Local.ID, p.cb.Remote.ID = id(t, "mn.example.org"), id(t, "mn.example.org")
	p.cb.Local.ID, p.ca.Remote.ID = id(t, "ha.example.org"), id(t, "ha.example.org")
	p.ca.Role, p.cb.Role = keyex.RoleMobile, keyex.RoleAgent
	for _, c := range []*keyex.ChildConfig{p.cha, p.chb} {
		c.Name, c.Mode, c.ModeRequired = "bu", spd.Transport, true
	}
	p.cha.Local, p.cha.Remote = []keyex.Selector{{TS: ts(t, homeAddr+"[135/5]")}}, []keyex.Selector{{TS: spd.TS{Proto: 135, PortFrom: 6 << 8, PortTo: 6 << 8}, Dynamic: true}}
	p.chb.Local, p.chb.Remote = []keyex.Selector{{TS: ts(t, homeAgent+"[135/6]")}}, []keyex.Selector{{TS: ts(t, "2001:db8:1::/64[135/5]")}}
	p.cb.Homes = []keyex.Home{{ID: id(t, "mn.example.org"), Addrs: []spd.TS{ts(t, homeAddr)}}}
	return p
}

func (p *pair) atHome(when string) {
	p.t.Helper()
	home, agent := netip.MustParseAddr(homeAddr), netip.MustParseAddr(homeAgent)
	for _, x := range []struct {
		h             *host
		local, remote netip.Addr
	}{{p.a, home, agent}, {p.b, agent, home}} {
		n := 0
		for _, c := range x.h.in {
			if c.State == keyex.ChildRekeyed || c.State == keyex.ChildDeleted {
				continue
			}
			n++
			if c.Mode != spd.Transport || !c.OwnEnds || c.Encap || c.LocalAddr != netip.AddrPortFrom(x.local, 0) || c.RemoteAddr != netip.AddrPortFrom(x.remote, 0) {
				p.t.Errorf("%s: %s has mode %v, encap %v, own %v, %v === %v, expected transport, %v === %v", when, x.h.name, c.Mode, c.Encap, c.OwnEnds, c.LocalAddr, c.RemoteAddr, x.local, x.remote)
			}
		}
		if n != 1 {
			p.t.Fatalf("%s: %s has %d SAs; %s %s", when, x.h.name, n, why(p.a), why(p.b))
		}
	}
}

// RFC 3776, Section 4.1: Quick Mode names the home address, which is not that of phase
// 1; the SAs are there, by a first negotiation and by rekeying of either side. They stay when the ISAKMP SA moves.
func TestTransportBetweenHomeAddressAndAgent(t *testing.T) {
	p := newHome(t).up()
	p.matched(1)
	p.atHome("at first")
	for _, h := range []*host{p.a, p.b} {
		before := slices.Collect(spisOf(h.in))
		h.start(h.established()[0], keyex.RekeyChild{SPI: before[0]})
		p.run(30 * time.Second)
		p.atHome("rekeyed by " + h.name)
		if slices.Equal(before, slices.Collect(spisOf(h.in))) {
			t.Errorf("%s did not rekey", h.name)
		}
	}
	for _, to := range []string{otherCareOf, homeAddr} {
		p.a.addr = netip.MustParseAddr(to)
		p.a.start(p.a.established()[0], keyex.Relocated{Local: p.a.addr, Remote: p.b.addr})
		p.b.start(p.b.established()[0], keyex.Relocated{Local: p.b.addr, Remote: p.a.addr})
		for _, h := range []*host{p.a, p.b} {
			for spi := range h.in {
				h.start(h.established()[0], keyex.ChildRelocated{SPI: spi, Local: h.addr, Remote: h.addr})
			}
		}
		p.atHome("at " + to)
		spi := slices.Collect(spisOf(p.a.in))[0]
		p.a.start(p.a.established()[0], keyex.RekeyChild{SPI: spi})
		p.run(30 * time.Second)
		p.atHome("rekeyed at " + to)
	}
}

func spisOf[V any](m map[uint32]V) func(func(uint32) bool) {
	return func(yield func(uint32) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// RFC 3776, Section 4.1; RFC 4301, Section 4.4.3: the home agent takes the home address
// of an identity of phase 1 from it alone, and says who wants which, and the key.
func TestForeignHomeAddress(t *testing.T) {
	for name, x := range map[string]struct {
		homes []keyex.Home
		want  string
	}{
		"another's": {[]keyex.Home{{ID: id(t, "mn.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:1::6")}}, {ID: id(t, "other.example.org"), Addrs: []spd.TS{ts(t, homeAddr)}}}, "it may have 2001:db8:1::6"},
		"nobody's":  {nil, "no home address is permitted to it"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHome(t)
			p.cb.Homes = x.homes
			p.up()
			p.matched(0)
			f := happened[keyex.Failed](p.b)
			if len(f) != 1 {
				t.Fatalf("the agent says %+v", f)
			}
			if !strings.Contains(f[0].Failure.Sentence, "the peer mn.example.org may not have 2001:db8:1::5/128[mobility-header/5]") ||
				!strings.Contains(f[0].Failure.Sentence, x.want) || !strings.Contains(f[0].Failure.Advice, "home_addresses") {
				t.Errorf("the agent says %q; %q", f[0].Failure.Sentence, f[0].Failure.Advice)
			}
		})
	}
	// Without a role, it is none of the hosts' traffic, as ever.
	p := newHome(t)
	p.cb.Role = keyex.RoleNone
	p.chb.Remote = []keyex.Selector{{Dynamic: true}}
	p.up()
	p.matched(0)
}

// The entry of all mobile nodes gives each its own address, and none of them more than
// one (RFC 4301, Section 4.4.1.2).
func TestEntryOfAllMobileNodes(t *testing.T) {
	p := newHome(t)
	p.cb.Remote.ID = id(t, "*.example.org")
	p.cb.Homes = []keyex.Home{{ID: id(t, "*.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:1::/64")}}}
	p.chb.Remote = []keyex.Selector{{TS: spd.TS{Proto: 135, PortFrom: 5 << 8, PortTo: 5 << 8}, Dynamic: true}}
	p.up()
	p.matched(1)
	p.atHome("with a generic entry")
	p = newHome(t)
	p.cb.Remote.ID, p.cb.Homes = id(t, "*.example.org"), []keyex.Home{{ID: id(t, "*.example.org"), Addrs: []spd.TS{ts(t, "2001:db8:1::/64")}}}
	p.cha.Mode, p.chb.Mode, p.cha.ModeRequired, p.chb.ModeRequired = spd.Tunnel, spd.Tunnel, false, false
	p.cha.Local = []keyex.Selector{{TS: ts(t, "2001:db8:1::/64[135/5]")}}
	p.up()
	p.matched(0)
	if f := happened[keyex.Failed](p.b); len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, "each of its kind may have one of 2001:db8:1::/64") {
		t.Errorf("the agent says %+v", f)
	}
}

// Where a NAT is found no SA between a home address and its peer is made.
func TestHomeAddressThroughNAT(t *testing.T) {
	for _, first := range []bool{true, false} {
		p := newHome(t)
		p.ca.ForceEncap = true
		h := p.a
		if !first {
			p.ca.Role, h = keyex.RoleNone, p.b
			p.cha.Local = []keyex.Selector{{TS: ts(t, careOf+"[135/5]")}}
			p.chb.Remote = []keyex.Selector{{TS: ts(t, careOf+"[135/5]")}}
			p.cb.Homes[0].Addrs = []spd.TS{ts(t, careOf)}
		}
		p.up()
		p.matched(0)
		f := happened[keyex.Failed](h)
		if len(f) == 0 || !strings.Contains(f[0].Failure.Sentence, "a NAT between the addresses of IKE lets no such packet through") {
			t.Errorf("%s says %+v", h.name, f)
		}
	}
}

// A side of transport mode that is no single address is refused before anything is sent,
// and so is a tunnel in its place by who answers.
func TestHomeAddressIsOne(t *testing.T) {
	p := newHome(t)
	p.cb.Homes[0].Addrs = []spd.TS{ts(t, "2001:db8:1::/64")}
	p.b.initiate(p.cb, p.a, p.chb)
	p.run(5 * time.Second)
	p.matched(0)
	if f := happened[keyex.Failed](p.b); len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, "more than one address on a side") {
		t.Errorf("the agent says %+v", f)
	}
	p = newHome(t)
	p.chb.Mode, p.chb.ModeRequired = spd.Tunnel, false
	p.up()
	p.matched(0)
}

// The type of a mobility header is a plain number in the place of the port.
func TestMobilityHeaderInQuickMode(t *testing.T) {
	p := newHome(t)
	p.up()
	c := p.b.in[slices.Collect(spisOf(p.b.in))[0]]
	if c.Remote[0] != ts(t, homeAddr+"[135/5]") || c.Local[0] != ts(t, homeAgent+"[135/6]") {
		t.Errorf("the agent has %v === %v", c.Local, c.Remote)
	}
}

// RFC 2407, Section 4.6.3.3: the peer has no other SA when it says so; a Quick Mode that
// overtakes the one with the notify is no SA of before.
func TestFirstContactOvertaken(t *testing.T) {
	p := newPair(t)
	p.ca.V1.Aggressive, p.cb.V1.Aggressive, p.cb.V1.AggressivePSK = true, true, true
	p.ca.InitialContact = true
	second := *p.cha
	second.Name, second.Local = "second", []keyex.Selector{net("10.3.0.0/16")}
	of := *p.chb
	of.Name, of.Remote = "second", second.Local
	p.ca.Children, p.cb.Children = append(p.ca.Children, &second), append(p.cb.Children, &of)
	held := 0
	p.filter = func(q *packet) []*packet {
		if q.from.Addr() == p.a.addr && q.data[18] == uint8(message.ExchangeQuick) && held == 0 {
			held++
			q.extra = 5 * time.Millisecond
		}
		return []*packet{q}
	}
	p.saA = p.a.initiate(p.ca, p.b, p.cha)
	p.a.start(p.saA, keyex.CreateChild{Child: &second})
	p.run(5 * time.Second)
	p.matched(2)
	if held != 1 || len(happened[keyex.Up](p.b)) != 2 || !happened[keyex.Up](p.b)[1].InitialContact {
		t.Errorf("held %d, %d times up", held, len(happened[keyex.Up](p.b)))
	}
}
