package ikev2_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/spd"
)

const allFlags = spd.PFPLocalAddr | spd.PFPRemoteAddr | spd.PFPProtocol | spd.PFPLocalPort | spd.PFPRemotePort

// packet is TCP from a's side of the pair to b's.
func packet(local string, lport uint16, remote string, rport uint16) *spd.Flow {
	return &spd.Flow{Local: netip.MustParseAddr(local), Remote: netip.MustParseAddr(remote), Proto: 6, LocalPort: lport, RemotePort: rport, HasPorts: true}
}

func (p *pair) create(flow *spd.Flow) {
	p.a.Start(p.a.SA(), ikev2.CreateChild{Child: p.cha, Flow: flow})
	p.net.Run(5 * time.Second)
}

func parse(t testing.TB, list ...string) (out []spd.TS) {
	t.Helper()
	for _, s := range list {
		ts, _, err := spd.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, ts)
	}
	return out
}

// RFC 4301, Section 4.4.1.2: each flag takes its selector from the packet and leaves
// the others as they are configured. On the wire the packet's selectors are first
// (RFC 7296, Section 2.9).
func TestPFPOfTheInitiator(t *testing.T) {
	const l, r = "10.1.0.5/32", "10.2.0.7/32"
	for _, x := range []struct {
		flags         spd.PFP
		local, remote string
	}{
		{spd.PFPLocalAddr, l, "10.2.0.0/16"},
		{spd.PFPRemoteAddr, "10.1.0.0/16", r},
		{spd.PFPLocalAddr | spd.PFPRemoteAddr, l, r},
		{spd.PFPProtocol, "10.1.0.0/16[tcp]", "10.2.0.0/16[tcp]"},
		{spd.PFPRemotePort, "10.1.0.0/16", "10.2.0.0/16[tcp/80]"},
		{spd.PFPLocalPort | spd.PFPProtocol, "10.1.0.0/16[tcp/4001]", "10.2.0.0/16[tcp]"},
		{allFlags, "10.1.0.5/32[tcp/4001]", "10.2.0.7/32[tcp/80]"},
	} {
		p := newPair(t, 1)
		p.cha.PFP = x.flags
		all := p.seen(t, message.ExchangeIKEAuth, false)
		sa := ikev2.NewInitiator(p.a, p.ca, netip.AddrPortFrom(addrA, 500), netip.AddrPortFrom(addrB, 500))
		p.a.SAs = append(p.a.SAs, sa)
		flow := packet("10.1.0.5", 4001, "10.2.0.7", 80)
		p.a.Start(sa, ikev2.StartInit{Child: p.cha, Flow: flow})
		p.net.Run(5 * time.Second)
		p.consistent(t, 1)
		c := child(t, p.a)
		// Of the packet and the rest, the rest has both.
		if !slices.Equal(c.Local, parse(t, x.local)) || !slices.Equal(c.Remote, parse(t, x.remote)) {
			t.Errorf("flags %05b: %v === %v, expected %s === %s", x.flags, c.Local, c.Remote, x.local, x.remote)
		}
		if c.Flow == nil || *c.Flow != *flow {
			t.Errorf("flags %05b: the CHILD_SA does not tell which packet asked for it", x.flags)
		}
		for _, pl := range (*all)[0].Payloads {
			ts, ok := pl.(*message.TrafficSelectors)
			if !ok {
				continue
			}
			first := ts.TS[0]
			want := flow.LocalTS()
			if ts.Responder {
				want = flow.RemoteTS()
			}
			if first.Start != want.From || first.End != want.To || first.Proto != 6 || first.StartPort != want.PortFrom || first.EndPort != want.PortTo {
				t.Errorf("flags %05b: the first selector is %+v, expected the packet's %v", x.flags, first, want)
			}
			if len(ts.TS) > 2 || x.flags == allFlags && len(ts.TS) != 1 {
				t.Errorf("flags %05b: %d selectors are offered", x.flags, len(ts.TS))
			}
		}
	}
}

// A child whose SAs take values of packets is not made without a packet, nor for a
// packet that is none of its traffic.
func TestPFPNeedsItsPacket(t *testing.T) {
	for want, flow := range map[string]*spd.Flow{
		"no packet asks for this one": nil,
		"is none of its traffic":      packet("10.7.0.1", 1, "10.2.0.7", 80),
	} {
		p := newPair(t, 1)
		p.a.Initiate(p.ca, p.b.Addr, nil)
		p.net.Run(5 * time.Second)
		p.cha.PFP = spd.PFPRemotePort
		p.create(flow)
		p.consistent(t, 0)
		if f := ikev2test.Happened[ikev2.Failed](p.a); len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, want) || f[0].Flow != flow {
			t.Errorf("expected %q, told %+v", want, f)
		}
	}
}

// RFC 7296, Section 2.9; RFC 4301, Section 4.4.1.2: a responder whose SAs take
// values of packets takes those of the first selectors, says that there can be more,
// and asks for single values when there are none.
func TestPFPOfTheResponder(t *testing.T) {
	flow := packet("10.1.0.5", 4001, "10.2.0.7", 80)
	for _, x := range []struct {
		flags         spd.PFP // of b, whose local side is a's remote one
		flow          *spd.Flow
		local, remote string // of a
		more          bool
	}{
		{spd.PFPLocalPort, flow, "10.1.0.0/16", "10.2.0.0/16[tcp/80]", true},
		{spd.PFPRemoteAddr, flow, "10.1.0.5/32", "10.2.0.0/16", true},
		{spd.PFPRemoteAddr | spd.PFPProtocol, flow, "10.1.0.5/32[tcp]", "10.2.0.0/16[tcp]", true},
		{allFlags, flow, "10.1.0.5/32[tcp/4001]", "10.2.0.7/32[tcp/80]", true},
		{allFlags, nil, "", "", false},
		{spd.PFPLocalPort, nil, "", "", false},
	} {
		p := newPair(t, 1)
		p.a.Initiate(p.ca, p.b.Addr, nil)
		p.net.Run(5 * time.Second)
		p.chb.PFP = x.flags
		all := p.seen(t, message.ExchangeCreateChildSA, true)
		p.create(x.flow)
		first := (*all)[0].Notifies()
		if x.local == "" {
			p.consistent(t, 0)
			if !first.Has(message.SinglePairRequired) {
				t.Errorf("flags %05b without a packet: %v", x.flags, types((*all)[0]))
			}
			continue
		}
		p.consistent(t, 1)
		if c := child(t, p.a); !slices.Equal(c.Local, parse(t, x.local)) || !slices.Equal(c.Remote, parse(t, x.remote)) || first.Has(message.AdditionalTSPossible) != x.more {
			t.Errorf("flags %05b: %v === %v, more %v, expected %s === %s", x.flags, c.Local, c.Remote, first.Has(message.AdditionalTSPossible), x.local, x.remote)
		}
	}
}

// A packet without ports, and an ICMP message, are values as well.
func TestPFPOfOtherProtocols(t *testing.T) {
	for want, flow := range map[string]*spd.Flow{
		"10.2.0.7/32[gre]":        {Local: netip.MustParseAddr("10.1.0.5"), Remote: netip.MustParseAddr("10.2.0.7"), Proto: 47},
		"10.2.0.7/32[icmp/8(0)]":  {Local: netip.MustParseAddr("10.1.0.5"), Remote: netip.MustParseAddr("10.2.0.7"), Proto: 1, LocalPort: 8 << 8, RemotePort: 8 << 8, HasPorts: true},
		"10.2.0.7/32[tcp/22]":     packet("10.1.0.5", 4001, "10.2.0.7", 22),
		"10.2.0.7/32[udp/domain]": {Local: netip.MustParseAddr("10.1.0.5"), Remote: netip.MustParseAddr("10.2.0.7"), Proto: 17, LocalPort: 4, RemotePort: 53, HasPorts: true},
	} {
		p := newPair(t, 1)
		p.a.Initiate(p.ca, p.b.Addr, nil)
		p.net.Run(5 * time.Second)
		p.cha.PFP, p.chb.PFP = allFlags, allFlags
		p.create(flow)
		p.consistent(t, 1)
		if c := child(t, p.a); !slices.Equal(c.Remote, parse(t, want)) {
			t.Errorf("the CHILD_SA is for %v, expected %s", c.Remote, want)
		}
	}
}

// Rekeying keeps the selectors that a packet gave, whoever does it.
func TestPFPRekey(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, nil)
	p.net.Run(5 * time.Second)
	p.cha.PFP, p.chb.PFP = allFlags, allFlags
	flow := packet("10.1.0.5", 4001, "10.2.0.7", 80)
	p.create(flow)
	for _, h := range []*ikev2test.Host{p.a, p.b} {
		before := child(t, h).SPIIn
		rekeyChild(h)
		p.net.Run(20 * time.Second)
		p.consistent(t, 1)
		if c := child(t, p.a); c.Remote[0] != flow.RemoteTS() || len(c.Remote) != 1 || c.Flow == nil || child(t, h).SPIIn == before {
			t.Errorf("rekeyed by %s: %v === %v", h.Name, c.Local, c.Remote)
		}
	}
}

// A peer gets no more CHILD_SAs of a child than its limit: NO_ADDITIONAL_SAS, and
// another one once one is gone.
func TestPFPLimit(t *testing.T) {
	p := newPair(t, 1)
	p.a.Initiate(p.ca, p.b.Addr, nil)
	p.net.Run(5 * time.Second)
	p.cha.PFP, p.chb.PFP, p.chb.Limit = allFlags, allFlags, 2
	for i := range 3 {
		p.create(packet("10.1.0.5", 4001, "10.2.0.7", uint16(80+i)))
	}
	p.consistent(t, 2)
	f := ikev2test.Happened[ikev2.Failed](p.a)
	if len(f) != 1 || !strings.Contains(f[0].Failure.Sentence, "NO_ADDITIONAL_SAS") || f[0].Flow.RemotePort != 82 {
		t.Errorf("a tells %+v", f)
	}
	if s := story(p.b); !strings.Contains(s, "the peer wants more than 2 CHILD_SAs of net") {
		t.Errorf("b does not say why:%s", s)
	}
	rekeyChild(p.a) // is none more
	p.net.Run(20 * time.Second)
	p.consistent(t, 2)
	p.b.Start(p.b.SA(), ikev2.DeleteChild{SPI: p.b.SA().Children()[0].SPIIn})
	p.net.Run(5 * time.Second)
	p.create(packet("10.1.0.5", 4001, "10.2.0.7", 82))
	p.consistent(t, 2)
}

// RFC 7296, Section 2.9: ADDITIONAL_TS_POSSIBLE and SINGLE_PAIR_REQUIRED make the
// initiator come again for the other selectors, one CHILD_SA for each pair; what is
// refused on the way does not end it.
func TestAdditionalTSPossible(t *testing.T) {
	three := []ikev2.Selector{net4("10.2.0.1/32"), net4("10.2.0.2/32"), net4("10.2.0.3/32")}
	for name, x := range map[string]struct {
		flags spd.PFP
		b     []ikev2.Selector
		want  int
	}{
		"one address in each":           {spd.PFPLocalAddr, three, 3},
		"a pair is refused":             {spd.PFPLocalAddr, []ikev2.Selector{three[0], three[2]}, 2},
		"single pairs are demanded":     {spd.PFPLocalAddr | spd.PFPRemoteAddr, three, 3},
		"all of it is in the first one": {0, three, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, 1)
			p.cha.Remote, p.chb.Local, p.chb.PFP = three, x.b, x.flags
			if x.flags&spd.PFPRemoteAddr != 0 {
				// The first offer is of a subnet.
				p.cha.Local = []ikev2.Selector{net4("10.1.0.1/32")}
				p.cha.Remote = append([]ikev2.Selector{net4("10.2.1.0/24")}, three...)
				p.chb.Local = append([]ikev2.Selector{net4("10.2.1.0/24")}, three...)
			}
			p.a.Initiate(p.ca, p.b.Addr, p.cha)
			p.net.Run(20 * time.Second)
			p.consistent(t, x.want)
			var got []string
			for _, c := range p.a.SA().Children() {
				got = append(got, fmt.Sprint(c.Remote))
			}
			slices.Sort(got)
			if len(slices.Compact(got)) != x.want {
				t.Errorf("CHILD_SAs for %v", got)
			}
		})
	}
	// Without the notify there is no more to be had.
	p := newPair(t, 1)
	p.cha.Remote, p.chb.Local, p.chb.PFP = three, three, spd.PFPLocalAddr
	p.rewrite(t, message.ExchangeIKEAuth, true, func(ps []message.Payload) []message.Payload {
		return slices.DeleteFunc(ps, func(x message.Payload) bool {
			n, ok := x.(*message.Notify)
			return ok && n.Kind == message.AdditionalTSPossible
		})
	})
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
	// A part of each selector is no split between them: it is not asked for again.
	p = newPair(t, 1)
	p.rewrite(t, message.ExchangeIKEAuth, true, also(message.NewNotify(message.AdditionalTSPossible, nil)))
	p.chb.Local = []ikev2.Selector{net4("10.2.3.0/24")}
	p.a.Initiate(p.ca, p.b.Addr, p.cha)
	p.net.Run(20 * time.Second)
	p.consistent(t, 1)
}
