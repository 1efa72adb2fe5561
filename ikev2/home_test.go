package ikev2_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"iked/ikev2"
	"iked/ikev2/ikev2test"
	"iked/ikev2/message"
	"iked/internal/keyex"
	"iked/spd"
)

var (
	homeOfA   = netip.MustParseAddr("2001:db8:1::5")
	homeOfB   = netip.MustParseAddr("2001:db8:1::6")
	agentAddr = netip.MustParseAddr("2001:db8::1")
	careOf1   = netip.MustParseAddr("2001:db8:aa::5")
	careOf2   = netip.MustParseAddr("2001:db8:bb::5")
)

func sel(t testing.TB, s string) ikev2.Selector {
	t.Helper()
	ts, dynamic, err := spd.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ikev2.Selector{TS: ts, Dynamic: dynamic}
}

func homeTS(t testing.TB, list ...string) (out []spd.TS) {
	t.Helper()
	for _, s := range list {
		out = append(out, sel(t, s).TS)
	}
	return out
}

// newHome is a mobile node a away from home and its home agent b. Binding Updates and
// Acknowledgements are protected in transport mode between home address and home agent
// (RFC 4877, Section 5.1).
//
//	a  home address 2001:db8:1::5
//	   care-of address 2001:db8:aa::5 ---------- b  home agent 2001:db8::1
func newHome(t testing.TB) *pair {
	p := newPair(t, 1)
	p.a.Addr, p.b.Addr = careOf1, agentAddr
	p.a.More = []netip.Addr{homeOfA}
	p.a.Routes = func(x ikev2.Path) bool { return x.Local != homeOfA || p.a.Addr == homeOfA }
	p.ca.Role, p.cb.Role = keyex.RoleMobile, keyex.RoleAgent
	p.cha.Name, p.chb.Name = "bu", "bu"
	p.cha.Mode, p.chb.Mode, p.cha.ModeRequired, p.chb.ModeRequired = spd.Transport, spd.Transport, true, true
	p.cha.Local, p.cha.Remote = []ikev2.Selector{sel(t, "2001:db8:1::5[135/5]")}, []ikev2.Selector{sel(t, "dynamic[135/6]")}
	p.chb.Local, p.chb.Remote = []ikev2.Selector{sel(t, "2001:db8::1[135/6]")}, []ikev2.Selector{sel(t, "2001:db8:1::/64[135/5]")}
	p.cb.Homes = []keyex.Home{{ID: fqdn("a.example"), Addrs: homeTS(t, "2001:db8:1::5")}}
	return p
}

// atHome checks that both sides have one CHILD_SA between the home address and the
// home agent.
func (p *pair) atHome(t testing.TB, when string) {
	t.Helper()
	p.consistent(t, 1)
	for _, x := range []struct {
		h             *ikev2test.Host
		local, remote netip.Addr
		l, r          string
	}{{p.a, homeOfA, agentAddr, "2001:db8:1::5[135/5]", "2001:db8::1[135/6]"}, {p.b, agentAddr, homeOfA, "2001:db8::1[135/6]", "2001:db8:1::5[135/5]"}} {
		c := child(t, x.h)
		if c.Mode != spd.Transport || !c.OwnEnds || c.Encap || c.LocalAddr != netip.AddrPortFrom(x.local, 0) || c.RemoteAddr != netip.AddrPortFrom(x.remote, 0) {
			t.Errorf("%s: %s has mode %v, encap %v, own %v, %v === %v, expected transport, %v === %v", when, x.h.Name, c.Mode, c.Encap, c.OwnEnds, c.LocalAddr, c.RemoteAddr, x.local, x.remote)
		}
		if !slices.Equal(c.Local, homeTS(t, x.l)) || !slices.Equal(c.Remote, homeTS(t, x.r)) {
			t.Errorf("%s: %s has %v === %v, expected %s === %s", when, x.h.Name, c.Local, c.Remote, x.l, x.r)
		}
	}
}

// RFC 4877, Sections 3 and 5.1: the SAs of Binding Updates are between the home address
// and the home agent although IKE is between the care-of address and it, in the first
// exchange and in a later one; rekeying by either side and of the IKE SA keeps them.
func TestTransportBetweenHomeAddressAndAgent(t *testing.T) {
	for _, later := range []bool{false, true} {
		p := newHome(t)
		var at []netip.Addr
		p.a.OnWork = func(w ikev2.Work) {
			if x, ok := w.(ikev2.AllocSPI); ok {
				at = append(at, x.Local)
			}
		}
		if later {
			tunnel := *p.cha
			tunnel.Name, tunnel.Mode, tunnel.ModeRequired, tunnel.Local, tunnel.Remote = "payload", spd.Tunnel, false, []ikev2.Selector{sel(t, "2001:db8:1::5")}, []ikev2.Selector{sel(t, "::/0")}
			of := tunnel
			of.Local, of.Remote = tunnel.Remote, []ikev2.Selector{sel(t, "dynamic")}
			p.ca.Children, p.cb.Children = append(p.ca.Children, &tunnel), append(p.cb.Children, &of)
			p.a.Initiate(p.ca, agentAddr, &tunnel)
			p.net.Run(5 * time.Second)
			if c := child(t, p.b); c.Mode != spd.Tunnel || c.OwnEnds || c.LocalAddr.Addr() != agentAddr || c.RemoteAddr.Addr() != careOf1 || !slices.Equal(c.Remote, homeTS(t, "2001:db8:1::5")) {
				t.Fatalf("the tunnel is %+v", c)
			}
			p.a.Start(p.a.SA(), ikev2.DeleteChild{SPI: child(t, p.a).SPIIn})
			p.net.Run(5 * time.Second)
			at = nil
			p.a.Start(p.a.SA(), ikev2.CreateChild{Child: p.cha})
		} else {
			p.a.Initiate(p.ca, agentAddr, p.cha)
		}
		asked := p.seen(t, message.ExchangeIKEAuth, false)
		p.net.Run(5 * time.Second)
		p.atHome(t, "at first")
		if !later {
			// RFC 4301, Section 4.4.1.1; RFC 7296, Section 3.13.1: the type is the high octet
			// of both ports.
			for _, x := range (*asked)[0].Payloads {
				if s, ok := x.(*message.TrafficSelectors); ok {
					port := map[bool]uint16{false: 0x0500, true: 0x0600}[s.Responder]
					if len(s.TS) != 1 || s.TS[0].Proto != 135 || s.TS[0].StartPort != port || s.TS[0].EndPort != port {
						t.Errorf("on the wire: %+v", s.TS)
					}
				}
			}
		}
		if !slices.Equal(at, []netip.Addr{homeOfA}) {
			t.Errorf("the SPI is reserved at %v, expected the home address", at)
		}
		if sa := p.a.SA(); sa.Local().Addr() != careOf1 || sa.Remote().Addr() != agentAddr {
			t.Errorf("IKE is between %v and %v", sa.Local(), sa.Remote())
		}
		for _, h := range []*ikev2test.Host{p.a, p.b} {
			before := child(t, h).SPIIn
			rekeyChild(h)
			p.net.Run(20 * time.Second)
			p.atHome(t, "rekeyed by "+h.Name)
			if child(t, h).SPIIn == before {
				t.Errorf("%s did not rekey", h.Name)
			}
			rekeyIKE(h)
			p.net.Run(20 * time.Second)
			p.atHome(t, "IKE SA rekeyed by "+h.Name)
		}
	}
}

// RFC 4877, Section 4.3; RFC 4555, Section 3.5: when the IKE SA moves, by MOBIKE, by a
// mobility manager, or home and away again, the SAs of transport mode stay, and a tunnel
// moves. No message is about them.
func TestTransportStaysWhenIKEMoves(t *testing.T) {
	for _, mobike := range []bool{true, false} {
		p := newHome(t)
		p.ca.Mobike, p.cb.Mobike = mobike, mobike
		p.a.Initiate(p.ca, agentAddr, p.cha)
		p.net.Run(5 * time.Second)
		p.atHome(t, "at first")
		spi := child(t, p.a).SPIIn
		for _, to := range []netip.Addr{careOf2, homeOfA, careOf1} {
			switch mobike {
			case true:
				p.a.Move(to.String(), homeOfA.String())
			case false:
				p.a.Addr = to
				p.a.Start(p.a.SA(), ikev2.Relocated{Local: to, Remote: agentAddr})
				p.b.Start(p.b.SA(), ikev2.Relocated{Local: agentAddr, Remote: to})
				for _, h := range []*ikev2test.Host{p.a, p.b} {
					c := child(t, h)
					h.Start(h.SA(), ikev2.ChildRelocated{SPI: c.SPIIn, Local: to, Remote: to})
				}
			}
			p.net.Run(30 * time.Second)
			p.atHome(t, "at "+to.String())
			if got := p.b.SA().Remote().Addr(); got != to {
				t.Errorf("the agent has IKE at %v, expected %v", got, to)
			}
		}
		if child(t, p.a).SPIIn != spi || p.a.Moves+p.b.Moves != 0 {
			t.Errorf("the CHILD_SA is another one, or was moved %d and %d times", p.a.Moves, p.b.Moves)
		}
	}
}

// RFC 4877, Section 6.1; RFC 4301, Section 4.4.3: a peer that wants somebody else's home
// address gets TS_UNACCEPTABLE, in transport and in tunnel mode, and the home agent says
// who, which address and which key. Without an entry there is none.
func TestForeignHomeAddress(t *testing.T) {
	for name, x := range map[string]struct {
		mode  spd.Mode
		homes []keyex.Home
		role  keyex.MobilityRole
		want  string
	}{
		"another's":     {spd.Transport, []keyex.Home{{ID: fqdn("a.example"), Addrs: homeTS(t, "2001:db8:1::6")}, {ID: fqdn("c.example"), Addrs: homeTS(t, "2001:db8:1::5")}}, keyex.RoleAgent, "it may have 2001:db8:1::6"},
		"in a tunnel":   {spd.Tunnel, []keyex.Home{{ID: fqdn("a.example"), Addrs: homeTS(t, "2001:db8:1::6")}}, keyex.RoleAgent, "it may have 2001:db8:1::6"},
		"nobody's":      {spd.Transport, nil, keyex.RoleAgent, "no home address is permitted to it"},
		"correspondent": {spd.Transport, []keyex.Home{{ID: fqdn("c.example"), Addrs: homeTS(t, "::/0")}}, keyex.RoleCorrespondent, "no home address is permitted to it"},
		"of many":       {spd.Tunnel, []keyex.Home{{ID: fqdn("*.example"), Addrs: homeTS(t, "2001:db8:1::6")}}, keyex.RoleAgent, "each of its kind may have one of 2001:db8:1::6"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHome(t)
			p.cb.Homes, p.cb.Role = x.homes, x.role
			p.cha.Mode, p.chb.Mode = x.mode, x.mode
			got := p.seen(t, message.ExchangeIKEAuth, true)
			p.a.Initiate(p.ca, agentAddr, p.cha)
			p.net.Run(5 * time.Second)
			p.consistent(t, 0)
			if len(*got) != 1 || !(*got)[0].Notifies().Has(message.TSUnacceptable) {
				t.Errorf("the answer has no TS_UNACCEPTABLE")
			}
			s := story(p.b)
			for _, want := range []string{"the peer a.example may not have 2001:db8:1::5/128[mobility-header/5]", x.want} {
				if !strings.Contains(s, want) {
					t.Errorf("the agent does not say %q:%s", want, s)
				}
			}
			if f := ikev2test.Happened[ikev2.Failed](p.b); len(f) != 1 || !strings.Contains(f[0].Failure.Advice, "home_addresses") {
				t.Errorf("the failure %+v does not name the key", f)
			}
		})
	}
}

// RFC 4301, Section 4.4.1.2: the entry for all mobile nodes gives each its own address,
// and none of them the prefix.
func TestEntryOfAllMobileNodes(t *testing.T) {
	p := newHome(t)
	p.cb.Remote.ID = fqdn("*.example")
	p.cb.Homes = []keyex.Home{{ID: fqdn("*.example"), Addrs: homeTS(t, "2001:db8:1::/64")}}
	for _, remote := range []string{"2001:db8:1::/64[135/5]", "dynamic[135/5]"} {
		p.chb.Remote = []ikev2.Selector{sel(t, remote)}
		p.a.Initiate(p.ca, agentAddr, p.cha)
		p.net.Run(5 * time.Second)
		p.atHome(t, remote)
		p.a.Start(p.a.SA(), ikev2.Delete{})
		p.net.Run(5 * time.Second)
	}
	p.cha.Mode, p.chb.Mode, p.cha.Local = spd.Tunnel, spd.Tunnel, []ikev2.Selector{sel(t, "2001:db8:1::/64[135/5]")}
	p.a.Initiate(p.ca, agentAddr, p.cha)
	p.net.Run(5 * time.Second)
	p.consistent(t, 0)
	if s := story(p.b); !strings.Contains(s, "may not have 2001:db8:1::/64") {
		t.Errorf("the agent does not refuse the prefix:%s", s)
	}
}

// The home agent that begins offers what the mobile node may have, and takes nothing
// else from whoever answers: who that is, it learns with the answer.
func TestHomeAgentBegins(t *testing.T) {
	p := newHome(t)
	p.cha.Remote = []ikev2.Selector{sel(t, "2001:db8::1[135/6]")}
	p.b.Initiate(p.cb, careOf1, p.chb)
	p.net.Run(5 * time.Second)
	p.atHome(t, "begun by the agent")
	p = newHome(t)
	p.cb.Remote.ID = fqdn("*.example")
	p.cb.Homes = []keyex.Home{{ID: fqdn("*.example"), Addrs: homeTS(t, "2001:db8:1::/64")}, {ID: fqdn("a.example"), Addrs: homeTS(t, "2001:db8:1::6")}}
	p.b.Initiate(p.cb, careOf1, p.chb)
	p.net.Run(20 * time.Second)
	p.consistent(t, 0)
	if s := story(p.b); !strings.Contains(s, "the peer a.example may not have 2001:db8:1::5") {
		t.Errorf("the agent does not refuse the answer:%s", s)
	}
	p = newHome(t)
	p.cb.Homes = nil
	p.b.Initiate(p.cb, careOf1, p.chb)
	p.net.Run(20 * time.Second)
	if s := story(p.b); !strings.Contains(s, "none of its addresses is one that the peer a.example may have") {
		t.Errorf("the agent does not say what lacks:%s", s)
	}
}

// RFC 5026, Section 3.2: the home address is one that the home agent assigns; it may be
// used although no entry has it, and dynamic stands for it.
func TestAssignedHomeAddress(t *testing.T) {
	p := newHome(t)
	p.ca.VIPs = []netip.Addr{netip.IPv6Unspecified()}
	p.cb.Pools, p.b.Pool = []string{"homes"}, []netip.Addr{homeOfA}
	p.cb.Homes = nil
	p.cha.Local, p.chb.Remote = []ikev2.Selector{sel(t, "dynamic[135/5]")}, []ikev2.Selector{sel(t, "dynamic[135/5]")}
	p.a.Initiate(p.ca, agentAddr, p.cha)
	p.net.Run(5 * time.Second)
	p.atHome(t, "with an assigned address")
	if !slices.Equal(p.a.Addresses, []netip.Prefix{netip.PrefixFrom(homeOfA, 128)}) {
		t.Errorf("the addresses in use are %v", p.a.Addresses)
	}
}

// RFC 5026, Sections 3.2 and 5.2; 3GPP TS 24.302: a mobile node asks for the prefix of
// its home link and for the home agent's address with the home address, and the home
// agent tells them; nobody else asks, is told or believes what it did not ask for.
func TestHomeLinkInConfiguration(t *testing.T) {
	prefix := message.HomePrefix{Lifetime: 3600, Prefix: netip.MustParsePrefix("2001:db8:1::/64")}
	agent := message.HomeAgent{Addr: agentAddr, Addr4: netip.MustParseAddr("192.0.2.1")}
	for name, x := range map[string]struct{ a, b keyex.MobilityRole }{
		"mobile and agent": {keyex.RoleMobile, keyex.RoleAgent}, "no mobile node": {keyex.RoleNone, keyex.RoleAgent}, "no home agent": {keyex.RoleMobile, keyex.RoleNone},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHome(t)
			p.ca.Role, p.cb.Role = x.a, x.b
			p.ca.VIPs = []netip.Addr{netip.IPv6Unspecified()}
			p.cb.Pools, p.b.Pool = []string{"homes"}, []netip.Addr{homeOfA}
			for _, o := range []message.CPAttribute{prefix.Attribute(), prefix.Attribute(), agent.Attribute(), {Type: message.MIP6HomePrefix, Value: []byte{1}}} {
				p.b.Others = append(p.b.Others, ikev2.Attribute{Type: uint16(o.Type), Value: o.Value})
			}
			for _, c := range []*ikev2.ChildConfig{p.cha, p.chb} {
				c.Mode, c.ModeRequired, c.Local, c.Remote = spd.Tunnel, false, []ikev2.Selector{sel(t, "dynamic")}, []ikev2.Selector{sel(t, "dynamic")}
			}
			asked, told := p.seen(t, message.ExchangeIKEAuth, false), p.net.Fate
			answered := p.seen(t, message.ExchangeIKEAuth, true)
			also := p.net.Fate
			p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict { told(q); return also(q) }
			p.a.Initiate(p.ca, agentAddr, p.cha)
			p.net.Run(5 * time.Second)
			p.consistent(t, 1)
			has := func(list *[]*message.Message, kind message.CPAttributeType) bool {
				cp, ok := payload[*message.CP]((*list)[0])
				if !ok {
					return false
				}
				_, ok = cp.Find(kind)
				return ok
			}
			mobile, both := x.a == keyex.RoleMobile, x.a == keyex.RoleMobile && x.b == keyex.RoleAgent
			for _, kind := range []message.CPAttributeType{message.MIP6HomePrefix, message.HomeAgentAddress} {
				if has(asked, kind) != mobile || has(answered, kind) != both {
					t.Errorf("attribute %d: asked %t, answered %t", kind, has(asked, kind), has(answered, kind))
				}
			}
			rekeyIKE(p.a)
			p.net.Run(5 * time.Second)
			home := p.a.SA().Status().Home
			want := keyex.HomeLink{}
			if both {
				want = keyex.HomeLink{Prefixes: []netip.Prefix{prefix.Prefix}, Agent: agent.Addr, Agent4: agent.Addr4}
			}
			if !slices.Equal(home.Prefixes, want.Prefixes) || home.Agent != want.Agent || home.Agent4 != want.Agent4 {
				t.Errorf("the node has %+v, expected %+v", home, want)
			}
		})
	}
	// A node with a home address of its own asks for the prefix alone, and gets no lease.
	p := newHome(t)
	p.cb.Pools, p.b.Pool = []string{"homes"}, []netip.Addr{homeOfB}
	p.b.Others = []ikev2.Attribute{{Type: uint16(message.MIP6HomePrefix), Value: prefix.Attribute().Value}}
	answers := 0
	p.net.Fate = func(q *ikev2test.Packet) ikev2test.Verdict {
		if q.Header().Exchange != message.ExchangeIKEAuth {
			return ikev2test.Deliver
		}
		m := p.read(t, q)
		if !isResponse(q) {
			query := &message.CP{Kind: message.CFGRequest, Attributes: []message.CPAttribute{{Type: message.MIP6HomePrefix}}}
			q.Data = ikev2.SealForTest(p.holder(q, true), message.ExchangeIKEAuth, 1, false, append(m.Payloads, query)...).Data
			return ikev2test.Deliver
		}
		answers++
		if cp, ok := payload[*message.CP](m); !ok || len(cp.Attributes) != 1 || cp.Attributes[0].Type != message.MIP6HomePrefix || len(p.b.Leased) != 0 {
			t.Errorf("the answer is %+v, leases %v", cp, p.b.Leased)
		}
		return ikev2test.Deliver
	}
	p.a.Initiate(p.ca, agentAddr, p.cha)
	p.net.Run(5 * time.Second)
	p.atHome(t, "with a home address of its own")
	if answers != 1 {
		t.Errorf("%d answers", answers)
	}
}

// A new CHILD_SA in transport mode is refused where a NAT is found: its packets have no
// UDP to pass it. A tunnel is not.
func TestHomeAddressThroughNAT(t *testing.T) {
	for _, by := range []string{"a", "b"} {
		p := newHome(t)
		tunnel, of := *p.cha, *p.chb
		for _, c := range []*ikev2.ChildConfig{&tunnel, &of} {
			c.Name, c.Mode, c.ModeRequired = "hot", spd.Tunnel, false
		}
		p.ca.Children, p.cb.Children = append(p.ca.Children, &tunnel), append(p.cb.Children, &of)
		p.ca.ForceEncap = true
		if by == "b" {
			// The initiator does not see it: it takes itself for one without role.
			p.ca.Role = keyex.RoleNone
			p.cha.Local = []ikev2.Selector{sel(t, "2001:db8:aa::5[135/5]")}
			p.cb.Homes[0].Addrs = homeTS(t, "2001:db8:aa::5")
			p.chb.Remote = []ikev2.Selector{sel(t, "dynamic[135/5]")}
			of.Remote = nil
			p.a.Initiate(p.ca, agentAddr, p.cha)
		} else {
			p.a.Initiate(p.ca, agentAddr, &tunnel)
			p.net.Run(5 * time.Second)
			if c := child(t, p.b); c.Mode != spd.Tunnel || !c.Encap {
				t.Errorf("the tunnel has mode %v, encap %v", c.Mode, c.Encap)
			}
			p.a.Start(p.a.SA(), ikev2.CreateChild{Child: p.cha})
		}
		p.net.Run(5 * time.Second)
		h := map[string]*ikev2test.Host{"a": p.a, "b": p.b}[by]
		if s := story(h); !strings.Contains(s, "a NAT between the addresses of IKE lets no such packet through") {
			t.Errorf("%s does not refuse:%s", by, s)
		}
		for _, c := range p.b.In {
			if c.Mode == spd.Transport {
				t.Errorf("there is an SA in transport mode: %v === %v", c.LocalAddr, c.RemoteAddr)
			}
		}
	}
}

// A side of transport mode that does not come down to one address is no home address:
// the responder takes none of it, and the initiator takes no answer with more.
func TestHomeAddressIsOne(t *testing.T) {
	p := newHome(t)
	p.cha.Local = []ikev2.Selector{sel(t, "2001:db8:1::/64[135/5]")}
	p.cb.Homes[0].Addrs = homeTS(t, "2001:db8:1::/64")
	p.a.Initiate(p.ca, agentAddr, p.cha)
	p.net.Run(20 * time.Second)
	p.consistent(t, 0)
	if s := story(p.b); !strings.Contains(s, "child bu demands transport mode, and the selectors do not allow it") {
		t.Errorf("the agent does not say why:%s", s)
	}
}

// Without a role all is as ever: transport mode is between the addresses of IKE.
func TestNoRoleNoHomeAddress(t *testing.T) {
	p := newHome(t)
	p.ca.Role, p.cb.Role = keyex.RoleNone, keyex.RoleNone
	p.a.Initiate(p.ca, agentAddr, p.cha)
	p.net.Run(20 * time.Second)
	if s := story(p.a); !strings.Contains(s, "leave out the addresses of the two hosts") {
		t.Errorf("a does not tell what is wrong:%s", s)
	}
}

// RFC 4301, Sections 4.4.1.2 and 4.4.1.3: a Binding Update and a solicitation that ask for
// an SA give it their home address, also where the peer's side has another type, which
// no packet of this side has.
func TestHomeAddressFromPacket(t *testing.T) {
	for name, x := range map[string]struct {
		local, remote string
		flow          spd.Flow
	}{
		"a Binding Update": {"2001:db8:1::/64[135/5]", "2001:db8::1[135/6]", spd.Flow{Local: homeOfA, Remote: agentAddr, Proto: 135, LocalPort: 5 << 8, HasPorts: true}},
		"a solicitation":   {"2001:db8:1::/64[ipv6-icmp/146]", "2001:db8::1[ipv6-icmp/147]", spd.Flow{Local: homeOfA, Remote: agentAddr, Proto: 58, LocalPort: 146 << 8, RemotePort: 146 << 8, HasPorts: true}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newHome(t)
			p.cha.PFP, p.chb.PFP = spd.PFPLocalAddr, spd.PFPRemoteAddr
			p.cha.Local, p.cha.Remote = []ikev2.Selector{sel(t, x.local)}, []ikev2.Selector{sel(t, x.remote)}
			p.chb.Local, p.chb.Remote = p.cha.Remote, p.cha.Local
			sa := ikev2.NewInitiator(p.a, p.ca, netip.AddrPortFrom(careOf1, 500), netip.AddrPortFrom(agentAddr, 500))
			p.a.SAs = append(p.a.SAs, sa)
			p.a.Start(sa, ikev2.StartInit{Child: p.cha, Flow: &x.flow})
			p.net.Run(5 * time.Second)
			p.consistent(t, 1)
			c := child(t, p.a)
			if c.LocalAddr.Addr() != homeOfA || c.RemoteAddr.Addr() != agentAddr || len(c.Remote) != 1 || c.Remote[0] != sel(t, x.remote).TS || !x.flow.Match(c.Local, c.Remote) {
				t.Errorf("the SA is between %v and %v for %v === %v", c.LocalAddr, c.RemoteAddr, c.Local, c.Remote)
			}
		})
	}
}
